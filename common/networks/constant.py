"""Networks whose weights count as constants: judged with, but not learned from."""
import contextlib

from medi2i.common.compat import chainer


@contextlib.contextmanager
def constant(network: chainer.Link):
    """In the block, the parameters of ``network`` are constants: results have gradients by its input and by nothing
    inside, and gradients by its weights are not even computed.

    Values, running statistics and all that else is kept in the network are as without the block. The graph may be
    used after it. Parameters that are not initialised yet are left alone: the first call has to make them.
    """
    held = []
    for link in network.links():
        attributes = vars(link)
        for name, value in list(attributes.items()):
            if isinstance(value, chainer.Parameter) and value.array is not None:
                held.append((attributes, name, value))
                attributes[name] = chainer.Variable(value.array, requires_grad=False)
    try:
        yield network
    finally:
        for attributes, name, value in held:
            attributes[name] = value
