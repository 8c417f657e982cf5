"""Eve: Adam whose step also follows the loss (Koushik and Hayashi, arXiv 1611.01505v3)."""
import math

import numpy

from medi2i.common.compat import chainer

_HyperparameterProxy = chainer.optimizer.HyperparameterProxy


class EveRule(chainer.optimizer.UpdateRule):
    """One parameter's update; see :class:`Eve`."""

    parent = None

    def init_state(self, param):
        xp = param.device.xp
        with chainer.using_device(param.device):
            self.state["m"] = xp.zeros_like(param.data)
            self.state["v"] = xp.zeros_like(param.data)

    def update_core(self, param):
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


class Eve(chainer.optimizer.GradientMethod):
    """Adam, its step divided by a running mean of how much the loss f changes.

    With m^, v^ the bias-corrected moments of Adam:
    d_t = clip(|f_t - f_{t-1}| / (min(f_t, f_{t-1}) - f*), 1/c, c),  D_t = beta3 D_{t-1} + (1 - beta3) d_t,  D_1 = 1,
    theta -= eta (alpha / D_t  m^ / (sqrt(v^) + eps) + weight_decay_rate theta).

    The weight decay is decoupled, as in Chainer's Adam. Call ``update(loss=value)`` after the gradients are there; the
    value stays on its device. ``f_star`` is the least value the loss can have. Where the loss comes below it (a
    Wasserstein loss can), the change is counted as large: d_t = c.
    """

    alpha = _HyperparameterProxy("alpha")
    beta1 = _HyperparameterProxy("beta1")
    beta2 = _HyperparameterProxy("beta2")
    beta3 = _HyperparameterProxy("beta3")
    c = _HyperparameterProxy("c")
    eps = _HyperparameterProxy("eps")
    eta = _HyperparameterProxy("eta")
    f_star = _HyperparameterProxy("f_star")
    weight_decay_rate = _HyperparameterProxy("weight_decay_rate")

    def __init__(self, alpha=0.001, beta1=0.9, beta2=0.999, beta3=0.999, c=10.0, eps=1e-8, eta=1.0, f_star=0.0,
                 weight_decay_rate=0.0):
        super().__init__()
        self.hyperparam.alpha = alpha
        self.hyperparam.beta1 = beta1
        self.hyperparam.beta2 = beta2
        self.hyperparam.beta3 = beta3
        self.hyperparam.c = c
        self.hyperparam.eps = eps
        self.hyperparam.eta = eta
        self.hyperparam.f_star = f_star
        self.hyperparam.weight_decay_rate = weight_decay_rate
        self.d_tilde = numpy.ones((), dtype=numpy.float64)
        self.f = numpy.zeros((), dtype=numpy.float64)

    def create_update_rule(self):
        rule = EveRule(self.hyperparam)
        rule.parent = self
        return rule

    def update(self, lossfun=None, *args, loss=None, **kwargs):
        """Update from gradients and the value ``loss`` (Variable or array of one element), or from ``lossfun``."""
        if lossfun is not None:
            value = lossfun(*args, **kwargs)
            self.target.cleargrads()
            value.backward(loss_scale=self._loss_scale)
            loss = value
        if loss is None:
            raise ValueError("Eve needs the loss: update(loss=value)")
        self._follow(chainer.as_array(loss).reshape(()).astype(numpy.float64))
        super().update()

    def _follow(self, loss):
        if self.t > 0:
            xp = chainer.backend.get_array_module(loss)
            last, feedback = xp.asarray(self.f), xp.asarray(self.d_tilde)
            least = xp.minimum(loss, last) - self.f_star
            change = xp.where(least > 0, abs(loss - last) / xp.maximum(least, 1e-30), self.c)
            self.d_tilde = self.beta3 * feedback + (1 - self.beta3) * xp.clip(change, 1 / self.c, self.c)
        else:
            self.d_tilde = chainer.backend.get_array_module(loss).ones_like(loss)
        self.f = loss

    def serialize(self, serializer):
        super().serialize(serializer)
        for name in ("d_tilde", "f"):
            setattr(self, name, serializer(name, _host(getattr(self, name))))


def _host(value):
    return numpy.array(chainer.backends.cuda.to_cpu(value), dtype=numpy.float64)
