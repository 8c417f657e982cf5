"""Adam on the CPU in pieces that stay in the cache, with the very operations, and so the bits, of Chainer's own."""
import threading

import numpy

from medi2i.common.kernels import workers

PIECE = 1 << 15
SMALLEST = 1 << 17  # numbers that are worth another thread

_scratch = threading.local()


def update(param, grad, m, v, step, hyperparam):
    """One step for float32 arrays of one shape, all C-contiguous; ``param``, ``m`` and ``v`` change in place.

    step: alpha_t, the rate with its bias correction. hyperparam: of ``chainer.optimizers.Adam``, without amsgrad and
    adabound (Kingma and Ba, arXiv 1412.6980; weight decay decoupled, arXiv 1711.05101).
    """
    arrays = [a.reshape(-1) for a in (param, grad, m, v)]
    factors = (1.0 - hyperparam.beta1, 1.0 - hyperparam.beta2, hyperparam.eps, -hyperparam.eta,
               1.0 - hyperparam.eta * hyperparam.weight_decay_rate, step)
    workers.spread(lambda start, stop: _update([a[start:stop] for a in arrays], *factors), param.size, SMALLEST)


def _update(arrays, keep1, keep2, eps, minus_eta, shrink, step):
    if not hasattr(_scratch, "piece"):
        _scratch.piece = numpy.empty(PIECE, numpy.float32)
    for start in range(0, arrays[0].size, PIECE):
        p, g, m, v = (a[start:start + PIECE] for a in arrays)
        t = _scratch.piece[:len(p)]
        numpy.subtract(g, m, out=t)
        numpy.multiply(t, keep1, out=t)
        numpy.add(m, t, out=m)
        numpy.multiply(g, g, out=t)
        numpy.subtract(t, v, out=t)
        numpy.multiply(t, keep2, out=t)
        numpy.add(v, t, out=v)
        numpy.sqrt(v, out=t)
        numpy.add(t, eps, out=t)
        numpy.divide(step, t, out=t)
        numpy.multiply(t, m, out=t)
        numpy.multiply(t, minus_eta, out=t)
        if shrink != 1:
            numpy.multiply(p, shrink, out=p)
        numpy.add(p, t, out=p)
