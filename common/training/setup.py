"""From options to what a training needs, where both applications do the same."""
from medi2i.common.compat import chainer
from medi2i.common.training.optimizers import make_controls, make_optimizer


def make_optimizers(links, options):
    """(optimizers, controls): dicts name -> optimizer and name -> RateControl for the dict ``links`` name -> network.

    Names that begin with ``dis`` learn at the discriminator's rate. A pretrained part learns at its own ratio.
    """
    generator_rate, discriminator_rate = options.rates
    optimizers = {
        name: make_optimizer(options.optimizer, link,
                             discriminator_rate if name.startswith("dis") else generator_rate, options.weight_decay,
                             getattr(options, "weight_decay_norm", "l2"))
        for name, link in links.items()}
    controls = make_controls(options.optimizer, optimizers)
    for name, link in links.items():
        if getattr(link.spec, "pretrained", None) is not None:
            kind = "dis" if name.startswith("dis") else "gen"
            controls[name].slow_down(link.base, getattr(options, f"{kind}_pretrained_lr_ratio"))
    return optimizers, controls


def workspace(device):
    """Let cuDNN use more than its 8 MiB to choose fast algorithms. Nothing to do on the CPU."""
    if device.xp.__name__ == "cupy":
        chainer.cuda.set_max_workspace_size(512 << 20)
