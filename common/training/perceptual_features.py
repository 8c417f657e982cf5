"""One layer of VGG16 as a fixed function, for the perceptual loss."""
from medi2i.common.compat import F, chainer
from medi2i.common.networks.pretrained import VGG16_WIDTHS, VGG16Features, load_pretrained
from medi2i.common.networks.spec import Pretrained, PretrainedSpec


class PerceptualFeatures:
    """Callable (N, 3, H, W) -> the layer's answer after its ReLU (N, C, h, w).

    The gradient flows to the image; the weights are constants.

    Args:
        layer: conv1_1 ... conv5_3 (Simonyan and Zisserman, arXiv 1409.1556).
        widths: channels of the blocks; the published ones unless a test builds a thin copy.
    """

    def __init__(self, layer, widths=VGG16_WIDTHS):
        blocks = int(layer.removeprefix("conv").partition("_")[0])
        self.layer = layer
        self.link = VGG16Features(PretrainedSpec(Pretrained.VGG16, tuple(widths[:blocks]), frozen=True))

    @classmethod
    def load(cls, path, layer, widths=VGG16_WIDTHS):
        """With the weights of the npz file ``path``. Raises UserError, naming --perceptual_weights."""
        features = cls(layer, widths)
        load_pretrained(features.link, path, "--perceptual_weights")
        return features

    def to_device(self, device):
        """Move the weights to a Chainer device."""
        self.link.to_device(device)

    def __call__(self, x):
        x = chainer.as_variable(x)
        for block, names in enumerate(self.link.block_names):
            if block:
                x = F.max_pooling_2d(x, 2, 2)
            for name in names:
                convolution = self.link[name]
                x = F.relu(F.convolution_2d(x, convolution.W.array, convolution.b.array, 1, 1))
                if name == self.layer:
                    return x
        raise ValueError(f"VGG16 has no layer {self.layer!r}")
