"""A and Aᵀ as functions of Chainer: networks between images and sinograms, with gradients of every order."""

from collections.abc import Callable

from medi2i.common.compat import Array, chainer
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


def project(image: Array | chainer.Variable, operator: Operator) -> chainer.Variable:
    """A·image, (N, 1, H, W) -> (N, 1, views, bins)."""
    return Projection(operator).apply((image,))[0]


def back_project(sinogram: Array | chainer.Variable, operator: Operator) -> chainer.Variable:
    """Aᵀ·sinogram, (N, 1, views, bins) -> (N, 1, H, W)."""
    return BackProjection(operator).apply((sinogram,))[0]


def _each(function: Callable[[Array], Array], batch: Array) -> Array:
    xp = chainer.backend.get_array_module(batch)
    return xp.stack([function(item[0]) for item in batch])[:, None].astype(batch.dtype, copy=False)
