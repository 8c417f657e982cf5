"""Adam on the CPU in pieces that stay in the cache, with the very operations, and so the bits, of Chainer's own."""
import threading

import numpy

PIECE = 1 << 15

_scratch = threading.local()


def update(param, grad, m, v, step, hyperparam):
    """One step for float32 arrays of one shape, all C-contiguous; ``param``, ``m`` and ``v`` change in place.

    step: alpha_t, the rate with its bias correction. hyperparam: of ``chainer.optimizers.Adam``, without amsgrad and
    adabound (Kingma and Ba, arXiv 1412.6980; weight decay decoupled, arXiv 1711.05101).
    """
    param, grad, m, v = (a.reshape(-1) for a in (param, grad, m, v))
    keep1, keep2, eps, eta = 1.0 - hyperparam.beta1, 1.0 - hyperparam.beta2, hyperparam.eps, hyperparam.eta
    shrink = 1.0 - eta * hyperparam.weight_decay_rate
    if not hasattr(_scratch, "piece"):
        _scratch.piece = numpy.empty(PIECE, numpy.float32)
    for start in range(0, param.size, PIECE):
        p, g, m_, v_ = (a[start:start + PIECE] for a in (param, grad, m, v))
        t = _scratch.piece[:len(p)]
        numpy.subtract(g, m_, out=t)
        numpy.multiply(t, keep1, out=t)
        numpy.add(m_, t, out=m_)
        numpy.multiply(g, g, out=t)
        numpy.subtract(t, v_, out=t)
        numpy.multiply(t, keep2, out=t)
        numpy.add(v_, t, out=v_)
        numpy.sqrt(v_, out=t)
        numpy.add(t, eps, out=t)
        numpy.divide(step, t, out=t)
        numpy.multiply(t, m_, out=t)
        numpy.multiply(t, -eta, out=t)
        if shrink != 1:
            numpy.multiply(p, shrink, out=p)
        numpy.add(p, t, out=p)
