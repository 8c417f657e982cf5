"""What encoder, decoder and discriminator are built from: one plan of each network, which all that ask of it follow.

A plan lists its steps once, in the order they run, and says once how they are connected. The network follows it with
images, ``receptive`` with rows, the ONNX exporter with names of values.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, TypeAlias

import numpy as np

from medi2i.common.compat import F, chainer
from medi2i.common.errors import UserError
from medi2i.common.kernels.replacing import Replaced
from medi2i.common.networks.spec import DecoderSpec, DiscriminatorSpec, EncoderSpec

DTYPES = {"fp32": np.float32, "fp16": np.float16, "mixed16": chainer.mixed16}
MOST_PARAMETERS = 2**30
"""Of one network: 4 GiB in float32. Those of the released codes have some 10⁷, AUTOMAP for 128² pixels 2.7·10⁸."""

Spec: TypeAlias = EncoderSpec | DecoderSpec | DiscriminatorSpec
Interval: TypeAlias = tuple[int, int]  # first and last row


class Misfit(UserError):
    """Two images that are to be joined have different sizes."""


@dataclass(frozen=True)
class Rows:
    """Rows (or columns, which are alike) of a feature: how many, and which of the image's each is made from.

    size: of the feature. image: that of the image at the start. needs: interval of rows here → interval there; layers
    that see the whole image are left out.
    """

    size: int
    image: int
    needs: Callable[[Interval], Interval]

    @classmethod
    def of(cls, size: int) -> "Rows":
        """Those of an image of ``size`` rows itself."""
        return cls(size, size, lambda interval: interval)

    def made(self, size: int, back: Callable[[Interval], Interval]) -> "Rows":
        """``size`` rows of which an interval is made from the interval ``back`` of these."""
        return Rows(size, self.image, lambda interval: self.needs(back(interval)))

    def windows(self, ksize: int, stride: int = 1, pad: int = 0, covers_all: bool = False) -> "Rows":
        """After a convolution or pooling. covers_all: with a last window that the rows do not fill."""
        steps = Fraction(self.size + 2 * pad - ksize, stride)
        return self.made(
            (math.ceil(steps) if covers_all else math.floor(steps)) + 1,
            lambda i: (i[0] * stride - pad, i[1] * stride - pad + ksize - 1),
        )

    def spread(self, ksize: int, pad: int) -> "Rows":
        """After a transposed convolution with stride 2, which with kernels of 3 appends a row."""
        return self.made(
            2 * (self.size - 1) - 2 * pad + ksize + (ksize == 3),
            lambda i: (-((ksize - 1 - pad - i[0]) // 2), (i[1] + pad) // 2),
        )

    def doubled(self) -> "Rows":
        """Each row twice, and what depth to space makes."""
        return self.made(2 * self.size, lambda i: (i[0] // 2, i[1] // 2))

    def stretched(self) -> "Rows":
        """Twice as many by bilinear interpolation, the corners on the corners."""
        scale = Fraction(self.size - 1, 2 * self.size - 1)
        return self.made(2 * self.size, lambda i: (math.floor(i[0] * scale), math.ceil(i[1] * scale)))

    def joined(self, other: "Rows") -> "Rows":
        """With those of ``other``, as many."""

        def needs(interval: Interval) -> Interval:
            (a, b), (c, d) = self.needs(interval), other.needs(interval)
            return min(a, c), max(b, d)

        return Rows(self.size, self.image, needs)


def unchanged(rows: Rows) -> Rows:
    """What layers that see the whole image make of rows, in whose intervals they are left out."""
    return rows


@dataclass(frozen=True)
class Step:
    """One child of a network. build: makes the link. through: what it makes of rows; a list where it has levels."""

    build: Callable[[], chainer.Link]
    through: Callable[[Rows], Any]


def numbered(prefix: str, steps: Sequence[Step], start: int = 0) -> dict[str, Step]:
    """The steps by the names of the released files: ``prefix`` and number."""
    return {f"{prefix}{i}": step for i, step in enumerate(steps, start)}


class Plan(Protocol):
    """The steps of a network of ``spec``, in the order they run, and how they are connected."""

    spec: Any
    steps: dict[str, Step]

    def follow(self, way: "Way", x: Any) -> Any:
        """What becomes of ``x`` on ``way``."""


class Way(Protocol):
    """What follows a plan with values of its own kind."""

    def step(self, name: str, value: Any) -> Any:
        """``value`` after the child ``name``."""

    def shaped(self, value: Any, shape: tuple[int, int, int]) -> Any:
        """(N, …) as (N, *shape)."""

    def joined(self, value: Any, skip: Any, level: int) -> Any:
        """A value of the decoder with the skip of the encoder's level ``level``, as ``spec.unet`` says."""


@dataclass(frozen=True)
class RowsWay:
    """Follows a plan of ``steps`` with Rows. Raises Misfit."""

    steps: Mapping[str, Step]

    def step(self, name: str, value: Rows) -> Any:
        """See Way."""
        return self.steps[name].through(value)

    def shaped(self, value: Rows, shape: tuple[int, int, int]) -> Rows:
        """See Way."""
        return value

    def joined(self, value: Rows, skip: Rows, level: int) -> Rows:
        """See Way."""
        if value.size != skip.size:
            raise Misfit(f"level {level} of the encoder has {skip.size} rows where the decoder has {value.size}")
        return value.joined(skip)


class Network(chainer.Chain):
    """A Chain of the steps of a plan, by name and in the order they run, which ``repr`` shows.

    Children are always looked up by name: Chainer's ``copy`` gives the copy children of its own.
    Raises UserError, before anything large is allocated, where it would be too large.
    """

    spec: Any  # each subclass knows which

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan, self.spec = plan, plan.spec
        check_budget(plan.steps.values())
        with self.init_scope():
            for name, step in plan.steps.items():
                setattr(self, name, step.build())

    def step(self, name: str, value: Any) -> Any:
        """See Way."""
        return self[name](value)

    def shaped(self, value: chainer.Variable, shape: tuple[int, int, int]) -> chainer.Variable:
        """See Way."""
        return F.reshape(value, (len(value), *shape))

    @property
    def frozen(self) -> chainer.Chain | None:
        """The pretrained layers, if this network has some that are not trained."""
        pretrained = getattr(self.spec, "pretrained", None)
        return self.base if pretrained is not None and pretrained.frozen else None

    def serialize(self, serializer: Any) -> None:
        """As Chainer's, without layers that are not trained: as in the released code, no file holds them."""
        frozen = self.frozen
        super(chainer.Chain, self).serialize(serializer)
        for child in self.children():
            if child is not frozen:
                child.serialize(serializer[child.name])

    def __repr__(self) -> str:
        children = [f"  {name}: {describe(self[name])}" for name in self.plan.steps]
        return "\n".join([f"{type(self).__name__}(", *children, ")"])

    __str__ = __repr__


def describe(link: chainer.Link) -> str:
    """One line on a child: its own ``describe``, or what Chainer says."""
    own = getattr(link, "describe", link.__str__)
    return " ".join(own().split())


@contextlib.contextmanager
def constant_weights(network: chainer.Link) -> Iterator[chainer.Link]:
    """In the block, the parameters of ``network`` are constants: results have gradients by its input and by nothing
    inside, and gradients by its weights are not even computed.

    Values, running statistics and all that else is kept in the network are as without the block. The graph may be
    used after it. Parameters that are not initialised yet are left alone: the first call has to make them.
    """
    held = [
        (vars(link), name, value)
        for link in network.links()
        for name, value in vars(link).items()
        if isinstance(value, chainer.Parameter) and value.array is not None
    ]
    for attributes, name, value in held:
        attributes[name] = chainer.Variable(value.array, requires_grad=False)
    try:
        yield network
    finally:
        for attributes, name, value in held:
            attributes[name] = value


def using_dtype(name: str) -> contextlib.AbstractContextManager[None]:
    """Context in which networks are built with the number format ``name`` of ``--dtype``.

    fp32, fp16, or mixed16: fp16 weights with fp32 statistics and fp32 copies to update.
    """
    return chainer.using_config("dtype", DTYPES[name])


_one_at_a_time = threading.RLock()


def check_budget(steps: Iterable[Step]) -> None:
    """Raises UserError where the steps of a network have more parameters than any may, before memory is taken.

    Each option alone is bounded; together they can still ask for a network that no machine holds.
    """
    counted = 0

    def without_elements(initializer: Any, shape: Any, xp: Any, dtype: Any = None, device: Any = None) -> np.ndarray:
        nonlocal counted
        shape = tuple(int(n) for n in np.atleast_1d(shape)) if shape != () else ()
        counted += math.prod(shape)
        if counted > MOST_PARAMETERS:
            raise UserError(
                f"--gen_chs, --gen_nblock, --dis_chs …: a network of over {MOST_PARAMETERS} parameters "
                f"({MOST_PARAMETERS >> 28} GiB); fewer or smaller levels, blocks and layers would do"
            )
        dtype = dtype or getattr(initializer, "dtype", None) or chainer.get_dtype()
        return np.zeros((0, *shape[1:]) if shape else (), dtype)

    replaced = Replaced()
    with _one_at_a_time, replaced.kept():
        replaced.replace([(chainer.initializers, "generate_array", lambda original: without_elements)])
        for step in steps:
            step.build()
