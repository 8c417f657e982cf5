"""Non-local block with spectrally normalised 1×1 convolutions (Zhang et al., arXiv 1805.08318; Miyato, 1802.05957)."""

import numpy

from medi2i.common.compat import F, chainer

NORM_EPS = 1e-12


class SpectralConvolution(chainer.Link):
    """1×1 convolution without bias whose weight W (out, in, 1, 1) is divided by its largest singular value.

    One power iteration from ``u`` (1, out) estimates that value in each call; the new ``u`` is kept, and saved, only
    while training, so that a network at test time gives the same answer twice.
    """

    def __init__(self, in_ch: int, out_ch: int):
        super().__init__()
        self.in_ch, self.out_ch = in_ch, out_ch
        with self.init_scope():
            self.W = chainer.Parameter(chainer.initializers.LeCunNormal(), (out_ch, in_ch, 1, 1))
        self.u = numpy.random.standard_normal((1, out_ch)).astype(self.W.dtype)
        self.register_persistent("u")

    def normalized_weight(self):
        """W / σ with σ = u W v; u and v count as constants in the gradient."""
        W = F.reshape(self.W, (self.out_ch, self.in_ch))
        matrix = W.array
        # Norms of fp16 vectors overflow; the iteration is tiny, so it always runs wider.
        wide = matrix if matrix.dtype == numpy.float64 else matrix.astype(numpy.float32)
        v = _unit(self.u.astype(wide.dtype) @ wide)
        u = _unit(v @ wide.T)
        if chainer.config.train:
            self.u[...] = u
        sigma = F.sum(F.matmul(u.astype(matrix.dtype), W) * v.astype(matrix.dtype))
        return F.reshape(W / F.broadcast_to(sigma, W.shape), self.W.shape)

    def forward(self, x):
        return F.convolution_2d(x, self.normalized_weight())


def _unit(vector):
    xp = chainer.backend.get_array_module(vector)
    return vector / (xp.sqrt((vector * vector).sum()) + NORM_EPS).astype(vector.dtype)


class Scalar(chainer.Link):
    """One learned number ``W`` of shape ()."""

    def __init__(self, value: float):
        super().__init__()
        with self.init_scope():
            self.W = chainer.Parameter(value, ())


class Attention(chainer.Chain):
    """x + gamma · o_conv(attended g), shape kept; gamma starts at 0, so the block does nothing at first.

    theta: every pixel, ch/8 channels; phi: 2×2 max-pooled, ch/8; g: 2×2 max-pooled, ch/2. Each pixel takes the mean of
    g over the pooled positions, weighted by softmax(theta · phi).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        with self.init_scope():
            self.theta = SpectralConvolution(channels, channels // 8)
            self.phi = SpectralConvolution(channels, channels // 8)
            self.g = SpectralConvolution(channels, channels // 2)
            self.o_conv = SpectralConvolution(channels // 2, channels)
            self.gamma = Scalar(0)

    def forward(self, x):
        n, _, height, width = x.shape
        theta = F.reshape(self.theta(x), (n, self.channels // 8, height * width))
        phi = self._pooled(self.phi(x))
        g = self._pooled(self.g(x))
        weight = F.softmax(F.matmul(theta, phi, transa=True), axis=2)
        attended = F.reshape(F.matmul(g, weight, transb=True), (n, self.channels // 2, height, width))
        h = self.o_conv(attended)
        return x + F.broadcast_to(F.cast(self.gamma.W, h.dtype), h.shape) * h

    @staticmethod
    def _pooled(x):
        pooled = F.max_pooling_2d(x, 2, 2)
        return F.reshape(pooled, (*pooled.shape[:2], -1))

    def describe(self) -> str:
        """One line: channels."""
        return f"Attention {self.channels}"
