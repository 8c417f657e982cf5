"""One update of what learns to reconstruct."""

from medi2i.common import losses
from medi2i.common.compat import F, chainer
from medi2i.common.training.adversarial import AdversarialUpdater, Term


class PrimalDualUpdater(AdversarialUpdater):
    """The mean squared difference from the truth, water = 1, reported as ``net/loss_L2``."""

    def update_core(self) -> None:
        sinogram, start, truth = self.next_batch()
        image = self.networks.reconstruct(sinogram, start)
        self.minimise(("net",), [Term("net/loss_L2", 1.0, losses.mean_squared(image, truth))])


class CriticUpdater(AdversarialUpdater):
    """E[Ψ(true)] - E[Ψ(back-projected)] + weight·E[(|∇Ψ| - 1)₊²] on mixtures (Lunz et al., 2018, equation 7).

    Reported: ``critic/loss_real``, ``critic/loss_fake``, and with its weight ``critic/loss_gp``.
    """

    def update_core(self) -> None:
        _, start, truth = self.next_batch()
        critic = self.networks.critic
        mix = self.random.uniform_array(len(truth)).reshape(-1, 1, 1, 1)
        middle = chainer.Variable(mix * truth + (1 - mix) * start)
        (gradient,) = chainer.grad([F.sum(critic(middle))], [middle], enable_double_backprop=True)
        steep = F.relu(F.sqrt(F.batch_l2_norm_squared(gradient) + 1e-6) - 1)
        self.minimise(
            ("critic",),
            [
                Term("critic/loss_real", 1.0, F.mean(critic(truth))),
                Term("critic/loss_fake", 1.0, -F.mean(critic(start))),
                Term("critic/loss_gp", 1.0, self.options.lambda_gp * F.mean(F.square(steep))),
            ],
        )
