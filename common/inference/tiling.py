"""Images of any size through a network that wants multiples: pad and crop back, or overlapping tiles with blending.

A tile sees zeros where its neighbour's pixels would be, so what the network says near a tile's inner edges is wrong, as
far in as its receptive field reaches. Those margins are thrown away; between them neighbouring tiles are blended
linearly. With a margin of the receptive field's radius the result is the whole image's, up to rounding, as long as
every layer is local (instance and layer normalisation and attention are not: they look at all they are given).
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from types import ModuleType

import numpy as np

from medi2i.common.compat import Array, chainer
from medi2i.common.networks.blocks import doubled_by
from medi2i.common.networks.receptive import Fitting

ANY = Fitting(1)


@dataclasses.dataclass(frozen=True)
class Frame:
    """Where a tile lies in the image that the network is meant to see; all in pixels of its input.

    Layers that depend on the position need it: corner-aligned upsampling maps a row by its place in the whole image.
    """

    top: int
    left: int
    height: int
    width: int


def pad(x: np.ndarray, height: int, width: int) -> tuple[np.ndarray, tuple[int, int]]:
    """``x`` (…, H, W) enlarged to (…, height, width) as evenly as possible: the array, and the image's (top, left).

    The picture is mirrored outwards (air stays air, a cut body does not end in a step); where it is too small for that,
    its last row or column is repeated. The image is no larger than what is asked for.
    """
    top, left = (height - x.shape[-2]) // 2, (width - x.shape[-1]) // 2
    for axis, before, total in ((-2, top, height), (-1, left, width)):
        size = x.shape[axis]
        after = total - size - before
        if before or after:
            widths = [(0, 0)] * x.ndim
            widths[axis] = (before, after)
            x = np.pad(x, widths, mode="reflect" if max(before, after) < size else "edge")
    return x, (top, left)


def pad_to_fit(x: np.ndarray, fit: Fitting, least: int = 1) -> tuple[np.ndarray, tuple[int, int]]:
    """``pad`` to the next size of ``fit`` that is not below ``least``."""
    height, width = (fit.above(max(size, least)) for size in x.shape[-2:])
    return pad(x, height, width)


def run_whole(
    function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, fit: Fitting = ANY, least: int = 1
) -> np.ndarray:
    """``function`` on ``x`` (N, C, H, W), padded as ``pad_to_fit``; its result (N, C', H, W), cropped."""
    height, width = x.shape[-2:]
    padded, (top, left) = pad_to_fit(x, fit, least)
    y = _same_size(padded, function(padded))
    return np.ascontiguousarray(y[..., top : top + height, left : left + width])


def run_tiled(
    function: Callable[[np.ndarray, Frame], np.ndarray],
    x: np.ndarray,
    tile: int,
    margin: int,
    fit: Fitting = ANY,
    blend: int = 0,
    least: int = 1,
) -> np.ndarray:
    """``function(x, frame)`` on overlapping tiles of ``x`` (N, C, H, W); their blended results (N, C', H, W).

    tile: side of the squares, a size of ``fit``; ``margin`` pixels at each inner edge are
    thrown away and at least ``blend`` more are shared with the neighbour. ``frame`` says where in the padded image the
    tile lies.
    Raises ValueError if a tile is too small for its margins (the message names the smallest that would do).
    """

    def tiled(padded: np.ndarray) -> np.ndarray:
        rows, columns = (spans(length, tile, margin, fit, blend) for length in padded.shape[-2:])
        result = np.zeros(0, np.float32)  # the first tile tells its channels
        for row in rows:
            for column in columns:
                part = np.ascontiguousarray(padded[..., row.start : row.stop, column.start : column.stop])
                y = _same_size(part, function(part, Frame(row.start, column.start, *padded.shape[-2:])))
                if not result.size:
                    result = np.zeros((*y.shape[:-2], *padded.shape[-2:]), np.float32)
                # Pixels of the margins are not multiplied by 0 but left out: 0 times an infinity would be kept as NaN.
                a, b = row.inner
                c, d = column.inner
                place = result[..., row.start + a : row.start + b, column.start + c : column.start + d]
                place += row.weight[a:b, None] * column.weight[c:d] * y[..., a:b, c:d]
        return result

    return run_whole(tiled, x, fit, least)


@dataclasses.dataclass(frozen=True)
class Span:
    """One tile along one axis: it reads [start, stop); ``weight`` (float32) says how much each position counts."""

    start: int
    stop: int
    weight: np.ndarray

    @property
    def inner(self) -> tuple[int, int]:
        """First and last + 1 of the positions, counted from ``start``, that count at all."""
        counts = np.flatnonzero(self.weight)
        return int(counts[0]), int(counts[-1]) + 1


def spans(length: int, tile: int, margin: int, fit: Fitting = ANY, blend: int = 0) -> list[Span]:
    """The tiles along an axis of ``length`` positions, a size of ``fit``: Spans whose weights add up to 1 everywhere.

    They start at multiples of ``fit.multiple``; the last one ends at the end. Raises ValueError as ``run_tiled``.
    """
    if tile >= length:
        return [Span(0, length, np.ones(length, np.float32))]
    step = (tile - 2 * margin - blend) // fit.multiple * fit.multiple
    if step < 1:
        raise ValueError(f"a tile of {tile} is all overlap; it must be at least {smallest_tile(margin, fit, blend)}")
    starts = [*range(0, length - tile, step), length - tile]
    positions = np.arange(length)
    table = np.zeros((len(starts), length))
    for row, start in zip(table, starts, strict=True):
        # How far inside its trusted part a tile sees each position; the image's own ends are no inner edges.
        rise = positions - (start + margin) + 1 if start else np.full(length, tile)
        fall = start + tile - margin - positions if start + tile < length else np.full(length, tile)
        row[start : start + tile] = np.minimum(rise, fall).clip(0, tile)[start : start + tile]
    table /= table.sum(0)
    return [
        Span(start, start + tile, row[start : start + tile].astype(np.float32))
        for row, start in zip(table, starts, strict=True)
    ]


def smallest_tile(margin: int, fit: Fitting = ANY, blend: int = 0) -> int:
    """The smallest tile that moves on by at least one multiple."""
    return fit.above(2 * margin + blend + fit.multiple)


def _same_size(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if y.shape[-2:] != x.shape[-2:]:
        raise ValueError(
            f"the network made {y.shape[-2]}x{y.shape[-1]} out of {x.shape[-2]}x{x.shape[-1]}; "
            "its result must have the size of its input"
        )
    return y


def framed_upsampling(shape: tuple[int, ...], frame: Frame | None) -> contextlib.AbstractContextManager[None]:
    """``shape``: (N, C, H, W) of the tile that networks get; ``frame``: its Frame, None for a whole image."""
    return doubled_by(None if frame is None else functools.partial(double_in_frame, shape=shape, frame=frame))


def double_in_frame(x: chainer.Variable, shape: tuple[int, ...], frame: Frame) -> chainer.Variable:
    """(N, C, h, w) of a tile -> (N, C, 2h, 2w): the part of the doubled whole image that lies there.

    Next to the tile's inner edges, where the neighbour's pixels are missing, the last row or column is repeated.
    """
    xp = chainer.backend.get_array_module(x)
    scale = shape[2] / x.shape[2]
    rows = _weights(xp, x.shape[2], round(frame.top / scale), round(frame.height / scale), x.dtype)
    columns = _weights(xp, x.shape[3], round(frame.left / scale), round(frame.width / scale), x.dtype)
    return chainer.as_variable(_along(xp, _along(xp, x.array, rows, 2), columns, 3))


def _weights(xp: ModuleType, size: int, offset: int, whole: int, dtype: np.dtype) -> tuple[Array, Array, Array]:
    place = (xp.arange(2 * size) + 2 * offset) * ((whole - 1) / max(2 * whole - 1, 1)) - offset
    place = place.clip(0, size - 1)
    low = xp.floor(place).astype(int)
    high = xp.minimum(low + 1, size - 1)
    return low, high, (place - low).astype(dtype)


def _along(xp: ModuleType, x: Array, weights: tuple[Array, Array, Array], axis: int) -> Array:
    low, high, share = weights
    share = share.reshape((-1, 1) if axis == 2 else (1, -1))
    return xp.take(x, low, axis=axis) * (1 - share) + xp.take(x, high, axis=axis) * share
