"""What Chainer's optimizers need beside their own ``serialize`` so that a run resumes exactly."""
import contextlib

import numpy

from medi2i.common.compat import chainer


@contextlib.contextmanager
def missing_states_allowed(optimizers):
    """While reading: a parameter that was never updated has no saved state, and gets a fresh one at its first update.

    Chainer takes that for an error unless the parameter is frozen. (A discriminator waits for ``dis_warmup``.)
    Raises ValueError where a parameter was updated and its state is missing all the same.
    """
    rules = [(name, param.update_rule) for optimizer in optimizers
             for name, param in optimizer.target.namedparams() if param.update_rule is not None]
    enabled = [rule.enabled for _, rule in rules]
    for _, rule in rules:
        rule.enabled = False
    try:
        yield
    finally:
        for (_, rule), was in zip(rules, enabled, strict=True):
            rule.enabled = was
    for name, rule in rules:
        if rule.enabled and rule.t > 0 and rule.state is None:
            raise ValueError(f"the optimizer's state of {name} is missing")


def serialize_float32_copies(serializer, optimizer):
    """Save or restore the float32 copies of float16 parameters, which Chainer would make anew from the rounded ones."""
    for name, param in optimizer.target.namedparams():
        rule = param.update_rule
        if rule is None or not rule._use_fp32_update or param.dtype != numpy.float16:
            continue
        if isinstance(serializer, chainer.Serializer):
            if rule._fp32_param is not None:
                serializer(name, rule._fp32_param.array)
        elif rule.t > 0:
            copy = chainer.Parameter(numpy.array(serializer(name, None), dtype=numpy.float32), name=param.name)
            copy.to_device(param.device)
            rule._fp32_param = copy
