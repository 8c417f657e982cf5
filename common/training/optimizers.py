"""The optimizers that options can name, set up as the released codes do, with Eve and Muon, which Chainer has not; how
their rates fall; and what they need beside their own ``serialize`` so that a run resumes exactly.

A Chainer optimizer is one entry of ``OPTIMIZERS`` in medi2i.common.choices; one that Chainer has not is a class
here besides.
"""

import contextlib
import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np

from medi2i.common.choices import OPTIMIZERS
from medi2i.common.compat import Array, ArrayOrVariable, chainer
from medi2i.common.options.shared import TrainingOptions


class EveRule(chainer.optimizers.adam.AdamRule):
    """One parameter's update; see :class:`Eve`."""

    def __init__(self, parent: "Eve") -> None:
        super().__init__(parent.hyperparam)
        self.parent = parent

    def update_core(self, param: chainer.Parameter) -> None:
        grad = param.grad
        if grad is None:
            return
        hp, m, v = self.hyperparam, self.state["m"], self.state["v"]
        m += (1 - hp.beta1) * (grad - m)
        v += (1 - hp.beta2) * (grad * grad - v)
        correction = 1 - math.pow(hp.beta1, self.t), 1 - math.pow(hp.beta2, self.t)
        rate = hp.alpha / self.parent.d_tilde.astype(param.dtype)
        step = rate * (m / correction[0]) / (param.device.xp.sqrt(v / correction[1]) + hp.eps)
        param.data -= hp.eta * (step + hp.weight_decay_rate * param.data)


class Eve(chainer.optimizers.Adam):
    """Adam, its step divided by a running mean of how much the loss f changes (Koushik and Hayashi,
    arXiv 1611.01505v3).

    With m^, v^ the bias-corrected moments of Adam:
    d_t = clip(|f_t - f_{t-1}| / (min(f_t, f_{t-1}) - f*), 1/c, c),  D_t = beta3 D_{t-1} + (1 - beta3) d_t,  D_1 = 1,
    theta -= eta (alpha / D_t  m^ / (sqrt(v^) + eps) + weight_decay_rate theta).

    The weight decay is decoupled, as in Chainer's Adam. Call ``update(loss=value)`` after the gradients are there; the
    value stays on its device. f* is the least value the loss can have. Where the loss comes below it (a
    Wasserstein loss can), the change is counted as large: d_t = c.
    """

    beta3, c, f_star = 0.999, 10.0, 0.0

    def __init__(self, **hyperparameters: float) -> None:
        super().__init__(**hyperparameters)
        self.d_tilde = np.ones((), dtype=np.float64)
        self.f = np.zeros((), dtype=np.float64)

    def create_update_rule(self) -> EveRule:
        return EveRule(self)

    def update(self, lossfun: None = None, *, loss: ArrayOrVariable) -> None:
        """Update from gradients and the value ``loss`` (Variable or array of one element).

        lossfun: is Chainer's; the gradients are there already.
        """
        self._follow(chainer.as_array(loss).reshape(()).astype(np.float64))
        super().update()

    def _follow(self, loss: Array) -> None:
        if self.t > 0:
            xp = chainer.backend.get_array_module(loss)
            last, feedback = xp.asarray(self.f), xp.asarray(self.d_tilde)
            least = xp.minimum(loss, last) - self.f_star
            change = xp.where(least > 0, abs(loss - last) / xp.maximum(least, 1e-30), self.c)
            self.d_tilde = self.beta3 * feedback + (1 - self.beta3) * xp.clip(change, 1 / self.c, self.c)
        else:
            self.d_tilde = chainer.backend.get_array_module(loss).ones_like(loss)
        self.f = loss

    def serialize(self, serializer: chainer.AbstractSerializer) -> None:
        super().serialize(serializer)
        for name in ("d_tilde", "f"):
            value = np.array(chainer.backends.cuda.to_cpu(getattr(self, name)), dtype=np.float64)
            setattr(self, name, serializer(name, value))


class MuonRule(chainer.optimizers.adam.AdamRule):
    """One parameter's update; see :class:`Muon`."""

    def init_state(self, param: chainer.Parameter) -> None:
        super().init_state(param)
        if param.ndim > 1:
            self.state["v"] = self.state["v"].ravel()[:0].copy()  # Chainer reads the same names for all parameters

    def update_core(self, param: chainer.Parameter) -> None:
        hp, m = self.hyperparam, self.state["m"]
        if param.grad is None:
            return
        if param.ndim < 2:
            if self.t > Muon.known:
                usual = (self.state["v"].sum() / (1 - hp.beta2 ** (self.t - 1))) ** 0.5
                limit(param.grad, Muon.times_usual * usual)
            super().update_core(param)
            return
        limit(param.grad, norm(m))
        m *= Muon.momentum
        m += param.grad
        step = orthogonal((param.grad + Muon.momentum * m).reshape(len(m), -1))
        scale = hp.alpha * Muon.like_adam * max(step.shape) ** 0.5
        param.data -= hp.eta * (scale * step.reshape(m.shape) + hp.weight_decay_rate * param.data)


class Muon(chainer.optimizers.Adam):
    """The step of a matrix is the nearest orthogonal one to its Nesterov momentum (Jordan, "Muon", 2024).

    M_t = mu M_{t-1} + G_t,  O = orthogonal(G_t + mu M_t),  W -= eta (alpha 0.2 sqrt(max(rows, columns)) O + decay W),
    so that elements move by as much as with Adam, whose rates hold (Liu et al., arXiv 2502.16982, equation 4). Weights
    of a convolution are a matrix of a row for each output channel. What has one axis, a bias, moves by Adam.

    G_t is no longer than M_{t-1}, and of a bias, after ten steps, no longer than three times the root of Adam's mean
    square: one batch on which a network without normalisation answers a thousand times too much would be all that the
    momentum consists of, for a hundred steps of full length, and all that a bias divides by, for thousands.
    """

    momentum, like_adam, times_usual, known = 0.95, 0.2, 3.0, 10

    def create_update_rule(self) -> MuonRule:
        return MuonRule(self.hyperparam)


def norm(array: Array) -> Array:
    """The root of the sum of squares of all elements, float32."""
    return (array.astype(np.float32) ** 2).sum() ** 0.5


def limit(gradient: Array, length: Array) -> None:
    """Shorten ``gradient`` in place to the norm ``length`` where it is longer, and both are finite and not 0."""
    xp, own = chainer.backend.get_array_module(gradient), norm(gradient)
    shorter = (own > length) & (length > 0) & xp.isfinite(own)
    gradient *= xp.where(shorter, length / xp.maximum(own, 1e-30), 1.0).astype(gradient.dtype)


def orthogonal(matrix: Array) -> Array:
    """A matrix of the same singular vectors, whose singular values are from 0.68 to 1.21, but for those that were below
    a fiftieth of the root of the sum of their squares.

    By five of Jordan's iterations X = a X + (b X X' + c (X X')^2) X, float32 within.
    """
    xp = chainer.backend.get_array_module(matrix)
    x = matrix.astype(np.float32)
    x = x.T if len(x) > x.shape[1] else x
    x = x / (xp.sqrt(xp.square(x).sum()) + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return (x.T if len(matrix) > matrix.shape[1] else x).astype(matrix.dtype)


OWN = {"Eve": Eve, "Muon": Muon}
BETA1, BETA2 = TrainingOptions().adam_beta1, 0.999


def make_optimizer(
    name: str,
    link: chainer.Link,
    learning_rate: float,
    weight_decay: float,
    weight_decay_norm: str = "l2",
    beta1: float = BETA1,
    beta2: float = BETA2,
) -> chainer.Optimizer:
    """An optimizer set up on ``link``.

    Args:
        name: SGD and Momentum (both momentum SGD, 0.9), AdaDelta (which has no learning rate: ``learning_rate`` is its
            rho, how much of the mean squares stays at each step, as in the released codes), AdaGrad, Adam and AdaBound,
            RMSprop, NesterovAG (as Chainer has it: v = mu v - lr g, then p = p + mu^2 v - (1 + mu) lr g; the paper has
            the v before that), Eve, Muon.
        link: Chain or Link.
        learning_rate: alpha of the Adam family, else lr.
        weight_decay: decoupled from the gradient for the Adam family (Loshchilov and Hutter, 2019): each step also
            takes ``eta * weight_decay`` of the parameter. Else it is added to the gradient, times the parameter
            ("l2") or times its sign ("l1").
        weight_decay_norm: "l1" or "l2".
        beta1, beta2: of Adam, AdaBound, Eve and Muon: how much of the mean gradient so far stays at each step, and of
            the mean squares.

    float16 parameters are updated through float32 copies: their own steps would be lost in rounding, and the squares
    of their gradients that Adam keeps would be 0.
    """
    kind = OPTIMIZERS[name]
    more = {"beta1": beta1, "beta2": beta2} if kind.rate == "alpha" else {}
    optimizer = (OWN.get(kind.name) or getattr(chainer.optimizers, kind.name))(**{kind.rate: learning_rate}, **more)
    optimizer.use_fp32_update()
    optimizer.setup(link)
    if weight_decay > 0:
        if isinstance(optimizer, chainer.optimizers.Adam):
            optimizer.weight_decay_rate = weight_decay
        elif weight_decay_norm == "l2":
            optimizer.add_hook(chainer.optimizer_hooks.WeightDecay(weight_decay))
        else:
            optimizer.add_hook(chainer.optimizer_hooks.Lasso(weight_decay))
    return optimizer


def begin_anew(optimizer: chainer.Optimizer) -> None:
    """Forget what an optimizer keeps of gradients so far: its next step is a first one."""
    for param in optimizer.target.params():
        if param.update_rule is not None:
            param.update_rule.t = 0
            param.update_rule._state = None


class RateControl:
    """The learning rate of one optimizer as (its full rate) x (a factor), with other rates for some parameters.

    The factor is ``eta`` for the Adam family, so that it also scales the decoupled weight decay; else it scales ``lr``.
    AdaDelta has no rate: a factor does nothing there.

    optimizer: as ``make_optimizer`` returned it; it must still have its full rate.
    """

    def __init__(self, optimizer: chainer.Optimizer) -> None:
        self.optimizer = optimizer
        adam = isinstance(optimizer, chainer.optimizers.Adam)
        self._attribute = "eta" if adam else "lr" if hasattr(optimizer, "lr") else None
        self._full: float = float("nan") if self._attribute is None else getattr(optimizer, self._attribute)
        self._alpha = optimizer.alpha if adam else None
        self._ratios: list[tuple[Any, float]] = []
        self._factor = 1.0

    @property
    def rate(self) -> float:
        """The learning rate at this moment, for logs; nan for AdaDelta."""
        return self._factor * (self._full if self._alpha is None else self._alpha)

    def slow_down(self, link: chainer.Link, ratio: float) -> None:
        """Update the parameters of ``link`` (a part of the target) at ``ratio`` times the rate; 0 freezes them."""
        if ratio == 0:
            link.disable_update()
        elif self._attribute is None:
            raise ValueError("AdaDelta has no learning rate; a pretrained part can only be frozen (ratio 0)")
        else:
            self._ratios.extend((param.update_rule.hyperparam, ratio) for param in link.params())
            self.set_factor(self._factor)

    def set_factor(self, factor: float) -> None:
        """Set the rate to ``factor`` times the full rate, everywhere."""
        self._factor = float(factor)
        if self._attribute is None:
            return
        setattr(self.optimizer, self._attribute, self._full * self._factor)
        for hyperparam, ratio in self._ratios:
            setattr(hyperparam, self._attribute, self._full * self._factor * ratio)


def cosine_factor(epoch: int, epochs: int, restarts: int) -> float:
    """(1 + cos(pi s / S)) / 2, S = max(epochs // restarts, 1), s = epoch mod S (Loshchilov and Hutter, 2017).

    From 1 towards 0, ``restarts`` times in ``epochs``; ``epoch`` is the number of epochs completed. (In the released
    code the first epoch of each restart but the first ran at rate 0, because the end of one period overwrote the start
    of the next; here it runs at the full rate.)
    """
    period = max(epochs // restarts, 1)
    return 0.5 * (1.0 + math.cos(math.pi * (epoch % period) / period))


def linear_factor(epoch_detail: float, epochs: float) -> float:
    """1 for the first half of ``epochs``, then linear to 0. ``epoch_detail`` is the fraction of epochs seen."""
    return min(1.0, max(0.0, 2.0 * (1.0 - epoch_detail / epochs)))


def timed_factor(fraction: float, restarts: int) -> float:
    """The same schedules by time: ``fraction`` of it is over. restarts: as ``lr_drop``, 0 for the linear one."""
    if restarts == 0:
        return linear_factor(fraction, 1.0)
    return 0.5 * (1.0 + math.cos(math.pi * (fraction * restarts % 1.0))) if fraction < 1.0 else 0.0


@dataclasses.dataclass(eq=False)
class LearningRateSchedule(chainer.training.Extension):
    """Trainer extension that sets the rate of several optimizers before training and after each iteration.

    It keeps no state of its own: a resumed run knows how far it is, so it has the same rate as one that never stopped.

    Args:
        controls: of :class:`RateControl`.
        options: of the training. lr_drop n > 0: cosine with n periods, stepped once an epoch; 0: constant, then linear
            to 0 at each iteration. With minutes, which count in place of the epochs, the cosine, too, goes down each
            iteration.
    """

    controls: Collection[RateControl]
    options: TrainingOptions

    # Loggers (PRIORITY_WRITER) come first, so that a logged rate is the one that was used.
    priority = chainer.training.PRIORITY_READER
    name = "learning_rate_schedule"

    def factor(self, updater: chainer.training.Updater) -> float:
        """The factor on the full rate for the next update."""
        s = self.options
        if s.minutes is not None:
            return timed_factor(updater.elapsed() / (60 * s.minutes), s.lr_drop)
        if s.lr_drop > 0:
            return cosine_factor(updater.epoch, s.epoch, s.lr_drop)
        return linear_factor(updater.epoch_detail, s.epoch)

    def initialize(self, trainer: chainer.training.Trainer) -> None:
        self(trainer)

    def __call__(self, trainer: chainer.training.Trainer) -> None:
        factor = self.factor(trainer.updater)
        for control in self.controls:
            control.set_factor(factor)


@contextlib.contextmanager
def missing_states_allowed(optimizers: Iterable[chainer.Optimizer]) -> Iterator[None]:
    """While reading: a parameter that was never updated has no saved state, and gets a fresh one at its first update.

    Chainer takes that for an error unless the parameter is frozen. (A discriminator waits for ``dis_warmup``.)
    Raises ValueError where a parameter was updated and its state is missing all the same.
    """
    rules = [
        (name, param.update_rule)
        for optimizer in optimizers
        for name, param in optimizer.target.namedparams()
        if param.update_rule is not None and param.update_rule.enabled
    ]
    for _, rule in rules:
        rule.enabled = False
    try:
        yield
    finally:
        for _, rule in rules:
            rule.enabled = True
    for name, rule in rules:
        if rule.t > 0 and rule.state is None:
            raise ValueError(f"the optimizer's state of {name} is missing")


def serialize_float32_copies(serializer: chainer.AbstractSerializer, optimizer: chainer.Optimizer) -> None:
    """Save or restore the float32 copies of float16 parameters, which Chainer would make anew from the rounded ones."""
    for name, param in optimizer.target.namedparams():
        rule = param.update_rule
        if rule is None or not rule._use_fp32_update or param.dtype != np.float16:
            continue
        if isinstance(serializer, chainer.Serializer):
            if rule._fp32_param is not None:
                serializer(name, rule._fp32_param.array)
        elif rule.t > 0:
            copy = chainer.Parameter(np.array(serializer(name, None), dtype=np.float32), name=param.name)
            copy.to_device(param.device)
            rule._fp32_param = copy
