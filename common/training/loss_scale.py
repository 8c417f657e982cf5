"""Dynamic loss scaling for half precision (Micikevicius et al., 2018)."""
from medi2i.common.compat import chainer

_LARGEST = 65536.0
_SMALLEST = 1.0 / 65536.0


class LossScale:
    """A factor on the loss that keeps small float16 gradients from vanishing.

    Gradients that are not finite make it half as large and the update is left out; after ``interval`` updates without
    one it is doubled. Looking at the gradients waits for the device, so float32 training does without.

    Args: initial: first factor; interval: updates between two doublings.
    """

    def __init__(self, initial=1024.0, interval=1000):
        self.value = float(initial)
        self.interval = interval
        self.good = 0

    def accept(self, links, everywhere=bool):
        """Whether all gradients of ``links`` are finite; adapts the factor for the next update.

        everywhere: makes of the answer of one rank that of all (medi2i.common.training.distributed).
        """
        gradients = [p.grad for link in links for p in link.params() if p.grad is not None]
        xp = chainer.backend.get_array_module(*gradients)
        # One number for all: the only one in an update for which the CPU waits.
        if gradients and not everywhere(xp.stack([xp.isfinite(gradient).all() for gradient in gradients]).all()):
            self.value = max(self.value / 2.0, _SMALLEST)
            self.good = 0
            return False
        self.good += 1
        if self.good == self.interval:
            self.value = min(self.value * 2.0, _LARGEST)
            self.good = 0
        return True

    def serialize(self, serializer):
        self.value = serializer("value", self.value)
        self.good = serializer("good", self.good)
