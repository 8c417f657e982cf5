"""What encoder, decoder and discriminator share: numbered children, their order, and how they are shown."""
import numpy

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError


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

    def check_size(self, size):
        """UserError unless an image of ``size`` (height, width) fits the encoder's levels."""
        spec = self.spec
        if (spec.fc_layers or spec.latent_dim > 0) and tuple(size) != tuple(spec.size):
            raise UserError(f"image of {size[0]}x{size[1]} (height x width): with --gen_fc or --latent_dim it must be "
                            f"exactly {spec.size[0]}x{spec.size[1]}, the crop of the training")
        refuse_unless_divisible(size, spec.factor)

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


def refuse_unless_divisible(size, multiple: int):
    """UserError, naming the sizes that would work, unless height and width are multiples of ``multiple``."""
    if any(n % multiple or n == 0 for n in size):
        raise UserError(f"image of {size[0]}x{size[1]} (height x width): this network needs multiples of {multiple}; "
                        + " or ".join(f"{h}x{w}" for h, w in nearest_sizes(size, multiple)) + " would work")


def nearest_sizes(size, multiple: int) -> list[tuple[int, int]]:
    """The nearest (height, width) of multiples of ``multiple`` below (where there is one) and above ``size``."""
    below = tuple(n // multiple * multiple for n in size)
    above = tuple(-(-n // multiple) * multiple for n in size)
    return [s for s in dict.fromkeys((below, above)) if min(s) > 0]


def padded(x: numpy.ndarray, multiple: int) -> numpy.ndarray:
    """(N, C, H, W) mirrored at the bottom and right up to the next multiples of ``multiple``; crop the result to undo.

    An image too small to mirror is continued by its last row and column.
    """
    for axis in (2, 3):
        missing = -x.shape[axis] % multiple
        if missing:
            width = [(0, 0)] * x.ndim
            width[axis] = (0, missing)
            x = numpy.pad(x, width, mode="reflect" if missing < x.shape[axis] else "edge")
    return x
