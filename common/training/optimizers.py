"""The optimizers that options can name, set up as the released codes do."""
from medi2i.common.compat import chainer
from medi2i.common.training.eve import Eve

# The released codes' 0.1 where Adam's paper has 0.9: with an adversary the gradient of some steps ago is of little use.
BETA1 = 0.1

_MAKERS = {
    "SGD": lambda rate, beta1: chainer.optimizers.MomentumSGD(lr=rate),
    "Momentum": lambda rate, beta1: chainer.optimizers.MomentumSGD(lr=rate),
    "AdaDelta": lambda rate, beta1: chainer.optimizers.AdaDelta(rho=rate),
    "AdaGrad": lambda rate, beta1: chainer.optimizers.AdaGrad(lr=rate),
    "Adam": lambda rate, beta1: chainer.optimizers.Adam(alpha=rate, beta1=beta1),
    "AdaBound": lambda rate, beta1: chainer.optimizers.Adam(alpha=rate, beta1=beta1, adabound=True),
    "RMSprop": lambda rate, beta1: chainer.optimizers.RMSprop(lr=rate),
    "NesterovAG": lambda rate, beta1: chainer.optimizers.NesterovAG(lr=rate),
    "Eve": lambda rate, beta1: Eve(alpha=rate, beta1=beta1),
}
_ADAM_FAMILY = ("Adam", "AdaBound", "Eve")
_NO_RATE = ("AdaDelta",)


def make_optimizer(name, link, learning_rate, weight_decay, weight_decay_norm="l2", beta1=BETA1):
    """An optimizer set up on ``link``.

    Args:
        name: SGD and Momentum (both momentum SGD, 0.9), AdaDelta (which has no learning rate: ``learning_rate`` is its
            rho, how much of the mean squares stays at each step, as in the released codes), AdaGrad, Adam and AdaBound,
            RMSprop, NesterovAG (as Chainer has it: v = mu v - lr g, then p = p + mu^2 v - (1 + mu) lr g; the paper has
            the v before that), Eve.
        link: Chain or Link.
        learning_rate: alpha of the Adam family, else lr.
        weight_decay: decoupled from the gradient for the Adam family (Loshchilov and Hutter, 2019): each step also
            takes ``eta * weight_decay`` of the parameter. Else it is added to the gradient, times the parameter
            ("l2") or times its sign ("l1").
        weight_decay_norm: "l1" or "l2".
        beta1: of Adam, AdaBound and Eve: how much of the mean gradient so far stays at each step.

    float16 parameters are updated through float32 copies: their own steps would be lost in rounding, and the squares
    of their gradients that Adam keeps would be 0.

    Raises ValueError for a name that is not known.
    """
    if name not in _MAKERS:
        raise ValueError(f"optimizer {name!r} is unknown; it can be {', '.join(_MAKERS)}")
    if weight_decay_norm not in ("l1", "l2"):
        raise ValueError(f"weight decay norm {weight_decay_norm!r} is unknown; it can be l1, l2")
    optimizer = _MAKERS[name](learning_rate, beta1)
    optimizer.use_fp32_update()
    optimizer.setup(link)
    if weight_decay > 0:
        if name in _ADAM_FAMILY:
            optimizer.weight_decay_rate = weight_decay
        elif weight_decay_norm == "l2":
            optimizer.add_hook(chainer.optimizer_hooks.WeightDecay(weight_decay))
        else:
            optimizer.add_hook(chainer.optimizer_hooks.Lasso(weight_decay))
    return optimizer


class RateControl:
    """The learning rate of one optimizer as (its full rate) x (a factor), with other rates for some parameters.

    The factor is ``eta`` for the Adam family, so that it also scales the decoupled weight decay; else it scales ``lr``.
    AdaDelta has no rate: a factor does nothing there.

    Args:
        name: of the optimizer, as for :func:`make_optimizer`; it must still have its full rate.
        optimizer: what that returned.
    """

    def __init__(self, name, optimizer):
        self.optimizer = optimizer
        self._attribute = None if name in _NO_RATE else "eta" if name in _ADAM_FAMILY else "lr"
        self._full = None if self._attribute is None else getattr(optimizer, self._attribute)
        self._alpha = optimizer.alpha if name in _ADAM_FAMILY else None
        self._ratios = []
        self._factor = 1.0

    @property
    def rate(self):
        """The learning rate at this moment, for logs; nan for AdaDelta."""
        if self._attribute is None:
            return float("nan")
        return self._factor * (self._full if self._alpha is None else self._alpha)

    def slow_down(self, link, ratio):
        """Update the parameters of ``link`` (a part of the target) at ``ratio`` times the rate; 0 freezes them."""
        if ratio == 0:
            link.disable_update()
        elif self._attribute is None:
            raise ValueError("AdaDelta has no learning rate; a pretrained part can only be frozen (ratio 0)")
        else:
            self._ratios.extend((param.update_rule.hyperparam, ratio) for param in link.params())
            self.set_factor(self._factor)

    def set_factor(self, factor):
        """Set the rate to ``factor`` times the full rate, everywhere."""
        self._factor = float(factor)
        if self._attribute is None:
            return
        setattr(self.optimizer, self._attribute, self._full * self._factor)
        for hyperparam, ratio in self._ratios:
            setattr(hyperparam, self._attribute, self._full * self._factor * ratio)


def make_controls(optimizer_name, optimizers):
    """dict name -> :class:`RateControl` for a dict name -> optimizer, all of the kind ``optimizer_name``."""
    return {key: RateControl(optimizer_name, optimizer) for key, optimizer in optimizers.items()}
