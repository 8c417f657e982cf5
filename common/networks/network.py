"""What encoder, decoder and discriminator share: numbered children, their order, and how they are shown."""

import contextlib

from medi2i.common.compat import chainer


class Network(chainer.Chain):
    """A Chain made from a ``spec``; ``order`` names its children in the order they run, which is what ``repr`` shows.

    Children are always looked up by name: Chainer's ``copy`` gives the copy children of its own.
    """

    order: tuple[str, ...] = ()

    def __init__(self, spec):
        super().__init__()
        self.spec = spec

    def add_all(self, prefix: str, links, start: int = 0) -> tuple[str, ...]:
        """Add ``links`` as children ``prefix + number``, as the released files name them. Returns the names."""
        names = tuple(f"{prefix}{i}" for i in range(start, start + len(links)))
        for name, link in zip(names, links, strict=True):
            setattr(self, name, link)
        return names

    @property
    def frozen(self) -> chainer.Chain | None:
        """The pretrained layers, if this network has some that are not trained."""
        pretrained = getattr(self.spec, "pretrained", None)
        return self.base if pretrained is not None and pretrained.frozen else None

    def serialize(self, serializer):
        """As Chainer's, without layers that are not trained: as in the released code, no file holds them."""
        frozen = self.frozen
        super(chainer.Chain, self).serialize(serializer)
        for child in self.children():
            if child is not frozen:
                child.serialize(serializer[child.name])

    def __repr__(self):
        lines = [f"{type(self).__name__}("]
        for name, child in self.named_children():
            lines.append(f"  {name}: {describe(child)}")
        return "\n".join([*lines, ")"])

    def named_children(self):
        """(name, child) pairs, in the order of the children."""
        children = {child.name: child for child in self.children()}
        return [(name, children[name]) for name in self.order]

    __str__ = __repr__


def describe(link) -> str:
    """One line on a child: its own ``describe``, or what Chainer's ``repr`` says."""
    own = getattr(link, "describe", None)
    return own() if own is not None else " ".join(repr(link).split())


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
