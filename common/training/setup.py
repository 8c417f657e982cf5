"""From options to what a training needs, where both applications do the same."""
import logging

from medi2i.common.compat import chainer
from medi2i.common.kernels.gpu.cudnn_graphs import WORKSPACE
from medi2i.common.training.averaging import WeightAverage
from medi2i.common.training.optimizers import make_controls, make_optimizer
from medi2i.common.training.reestimation import Reestimation, has_batch_statistics, training_crops

log = logging.getLogger(__name__)


def make_optimizers(links, options):
    """(optimizers, controls): dicts name -> optimizer and name -> RateControl for the dict ``links`` name -> network.

    Names that begin with ``dis`` learn at the discriminator's rate. A pretrained part learns at its own ratio.
    """
    generator_rate, discriminator_rate = options.rates
    optimizers = {
        name: make_optimizer(options.optimizer, link,
                             discriminator_rate if name.startswith("dis") else generator_rate, options.weight_decay,
                             getattr(options, "weight_decay_norm", "l2"), options.adam_beta1)
        for name, link in links.items()}
    controls = make_controls(options.optimizer, optimizers)
    for name, link in links.items():
        if getattr(link.spec, "pretrained", None) is not None:
            kind = "dis" if name.startswith("dis") else "gen"
            controls[name].slow_down(link.base, getattr(options, f"{kind}_pretrained_lr_ratio"))
    return optimizers, controls


def averaged(networks, options):
    """(networks to validate, to draw and to save, WeightAverage or None): with ``--ema`` those of averaged weights."""
    if not options.ema:
        return networks, None
    average = WeightAverage(networks, options.ema)
    return average.averaged, average


def reestimation_of(forward, datasets, networks, options, device, ending):
    """The Reestimation of ``--bn_reestimate``, or None; with a warning where no network has batch statistics.

    forward: runs ``networks`` (a dataclass of links) on one array for each of ``datasets``.
    """
    if not options.bn_reestimate:
        return None
    if not has_batch_statistics(link for name, link in networks.as_dict().items() if not name.startswith("dis")):
        log.warning("--bn_reestimate: the generator has no batch normalisation (--gen_norm %s); nothing to estimate",
                    options.gen_norm)
        return None
    return Reestimation(forward, lambda: [training_crops(dataset, options.bn_reestimate, options.seed)
                                          for dataset in datasets], device, ending)


def workspace(device, convolutions=None):
    """Let cuDNN use more than its 8 MiB to choose fast algorithms, and say what ``convolutions`` run on.

    Nothing on the CPU.
    """
    if device.xp.__name__ == "cupy":
        chainer.cuda.set_max_workspace_size(WORKSPACE)
        if convolutions is not None:
            print(f"convolutions on the GPU: {convolutions}")
