"""A, Aᵀ and the ramp filter as functions of Chainer, with gradients of every order, for networks between both."""

from collections.abc import Callable

from medi2i.common.compat import Array, chainer
from medi2i.reconstruction.fbp import filtered
from medi2i.reconstruction.operator import Operator


class Projection(chainer.FunctionNode):
    """(N, 1, H, W) in 1/mm -> (N, 1, views, bins), line integrals. Its gradient is ``BackProjection``."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        return (_each(self.operator, inputs[0]),)

    def backward(self, indexes: tuple[int, ...], grads: tuple[chainer.Variable, ...]) -> tuple[chainer.Variable, ...]:
        return BackProjection(self.operator).apply(grads)


class BackProjection(chainer.FunctionNode):
    """(N, 1, views, bins) -> (N, 1, H, W), the transpose. Its gradient is ``Projection``."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        return (_each(self.operator.transposed, inputs[0]),)

    def backward(self, indexes: tuple[int, ...], grads: tuple[chainer.Variable, ...]) -> tuple[chainer.Variable, ...]:
        return Projection(self.operator).apply(grads)


class Filtering(chainer.FunctionNode):
    """(N, 1, views, bins) through the ramp filter with a Hann window. It is symmetric: its gradient is itself."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        rays = filtered(self.operator.geometry, inputs[0], "hann", xp=self.operator.xp)
        return (rays.astype(inputs[0].dtype, copy=False),)

    def backward(self, indexes: tuple[int, ...], grads: tuple[chainer.Variable, ...]) -> tuple[chainer.Variable, ...]:
        return Filtering(self.operator).apply(grads)


def project(image: Array | chainer.Variable, operator: Operator) -> chainer.Variable:
    """A·image, (N, 1, H, W) -> (N, 1, views, bins)."""
    return Projection(operator).apply((image,))[0]


def back_project(sinogram: Array | chainer.Variable, operator: Operator) -> chainer.Variable:
    """Aᵀ·sinogram, (N, 1, views, bins) -> (N, 1, H, W)."""
    return BackProjection(operator).apply((sinogram,))[0]


def ramp(sinogram: Array | chainer.Variable, operator: Operator) -> chainer.Variable:
    """The ramp filter along the bins, with a Hann window: (N, 1, views, bins) -> the same shape."""
    return Filtering(operator).apply((sinogram,))[0]


def _each(function: Callable[[Array], Array], batch: Array) -> Array:
    xp = chainer.backend.get_array_module(batch)
    return xp.stack([function(item[0]) for item in batch])[:, None].astype(batch.dtype, copy=False)
