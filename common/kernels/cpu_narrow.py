"""Convolutions between many channels and one or two, where oneDNN computes sixteen because its vectors are that long.

With one output channel a k x k convolution is k^2 maps, each a weighted sum of the input's channels, which are shifted
and added: a product of two matrices and k^2 additions of rows. The same holds for the gradient by a narrow input, and
the gradient by the weights is a product with shifted copies of the narrow image. All go in bands of rows that stay in
the cache. Images are (N, C, H, W), channels last; stride and dilation 1, one group.
"""
import numpy

from medi2i.common.kernels.cpu_matmul import matmul
from medi2i.common.kernels.layout import channels_last, empty_images

NARROW, WIDE, TAPS = 2, 16, 9
BAND = 1 << 18  # numbers in a band's maps: 1 MB, half of a core's cache


def fits(geometry, narrow_axis):
    """Whether the channels on one side of the weights (0: output, 1: input) are few, on the other many."""
    out_ch, in_ch, kh, kw = geometry.weights
    few, many = (out_ch, in_ch) if narrow_axis == 0 else (in_ch, out_ch)
    return (geometry.stride == geometry.dilate == (1, 1) and geometry.groups == 1 and few <= NARROW and many >= WIDE
            and kh * kw >= TAPS)


def forward(x, weights, bias, geometry):
    """As ``cpu_convolution.forward``, for few output channels."""
    out_ch, in_ch, kh, kw = geometry.weights
    taps = numpy.ascontiguousarray(weights.transpose(0, 2, 3, 1)).reshape(-1, in_ch)
    top, left = geometry.pad
    shifts = [(top - i, left - j) for i in range(kh) for j in range(kw)]
    y = _spread(channels_last(x), taps, shifts, geometry.out_shape)
    if bias is not None:
        y += bias[:, None, None]
    return _with_channels_last(y)


def backward_data(gy, weights, geometry):
    """As ``cpu_convolution.backward_data``, for few input channels."""
    out_ch, in_ch, kh, kw = geometry.weights
    taps = numpy.ascontiguousarray(weights.transpose(1, 2, 3, 0)).reshape(-1, out_ch)
    top, left = geometry.pad
    shifts = [(i - top, j - left) for i in range(kh) for j in range(kw)]
    return _with_channels_last(_spread(channels_last(gy), taps, shifts, geometry.shape))


def backward_weights(x, gy, geometry):
    """As ``cpu_convolution.backward_weights``, for few output channels."""
    out_ch, in_ch, kh, kw = geometry.weights
    top, left = geometry.pad
    x = channels_last(x)
    n, _, h, w = x.shape
    gw = numpy.zeros((out_ch * kh * kw, in_ch), numpy.float32)
    for start, stop in _bands(h, w, out_ch * kh * kw):
        copies = numpy.empty((out_ch, kh, kw, stop - start, w), numpy.float32)
        for sample in range(n):
            # Of the pixels around the image, which are none, only zeros may be left.
            copies.fill(0)
            for i in range(kh):
                for j in range(kw):
                    _shift(gy[sample], copies[:, i, j], (i - top - start, j - left), add=False)
            pixels = x[sample, :, start:stop].transpose(1, 2, 0).reshape(-1, in_ch)
            gw += matmul(copies.reshape(out_ch * kh * kw, -1), pixels)
    return numpy.ascontiguousarray(gw.reshape(out_ch, kh, kw, in_ch).transpose(0, 3, 1, 2))


def _spread(x, taps, shifts, out_shape):
    """y[o] = the sum over t of (taps[o, t] x) shifted by shifts[t]; taps (O T, C). A dense (N, O, H', W') array."""
    n, channels, h, w = x.shape
    y = numpy.zeros(out_shape, numpy.float32)
    for start, stop in _bands(h, w, len(taps)):
        for sample in range(n):
            pixels = x[sample, :, start:stop].transpose(1, 2, 0).reshape(-1, channels)
            maps = matmul(taps, pixels.T).reshape(-1, len(shifts), stop - start, w)
            for t, (down, right) in enumerate(shifts):
                _shift(maps[:, t], y[sample], (down + start, right), add=True)
    return y


def _bands(h, w, maps):
    rows = max(1, BAND // (maps * w))
    return [(start, min(start + rows, h)) for start in range(0, h, rows)]


def _shift(source, target, by, add):
    """Add (or write) ``source`` (O, h, w) to ``target`` (O, H, W), moved down and right by ``by``; the rest is cut."""
    rows, columns = (_overlap(source.shape[axis], target.shape[axis], d) for axis, d in zip((1, 2), by, strict=True))
    if rows is None or columns is None:
        return
    part = source[:, rows[0], columns[0]]
    if add:
        target[:, rows[1], columns[1]] += part
    else:
        target[:, rows[1], columns[1]] = part


def _overlap(size, target_size, by):
    first, last = max(0, by), min(target_size, size + by)
    return None if first >= last else (slice(first - by, last - by), slice(first, last))


def _with_channels_last(y):
    if y.shape[1] == 1:
        return y
    z = empty_images(y.shape)
    z[...] = y
    return z
