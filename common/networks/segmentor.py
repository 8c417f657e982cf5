"""A network that was trained to tell classes apart, frozen, as the judge of anatomy: its features are compared."""

from pathlib import Path

import numpy as np

from medi2i.common.compat import ArrayOrVariable, F, chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.checkpoint import Generator, load_generator
from medi2i.common.networks.network import constant_weights
from medi2i.common.options import PairedOptions


class Segmentor:
    """Callable on images (N, C, H, W) in [-1, 1] -> the features of a segmentation network, from the skips of its
    encoder to the class probabilities.

    The gradient flows to the image; weights and statistics are constants, and nothing is drawn (test mode).

    Args: generator: of a pix2pix run with classes. clip: the values that are -1 and 1 in the images, of their own unit;
    they are brought to the clip that the network was trained with. Raises UserError, naming --segmentor.
    """

    def __init__(self, generator: Generator, clip: tuple[float, float], channels: int) -> None:
        trained = generator.options
        where = generator.files[0].parent if generator.files else "this network"
        if not isinstance(trained, PairedOptions) or not trained.class_num:
            raise UserError(f"--segmentor: {where} tells no classes apart; a pix2pix run with --class_num would")
        if trained.ch != channels:
            raise UserError(f"--segmentor: {where} takes images of {trained.ch} channels, these have {channels}")
        low, high = getattr(trained, trained.clip_names[0]) or clip
        self.generator = generator
        self.scale = np.float32((clip[1] - clip[0]) / (high - low))
        self.shift = np.float32(((clip[0] - low) + (clip[1] - high)) / (high - low))

    @classmethod
    def load(cls, run: str | Path | None, clip: tuple[float, float] | None, channels: int) -> "Segmentor":
        """That of the best epoch of a run folder, else of its last. Raises UserError."""
        if run is None:
            raise UserError("--lambda_anatomy: needs --segmentor RUN, a pix2pix run with --class_num")
        if clip is None:
            raise UserError(
                "--lambda_anatomy: images have no clip; --clipB LOW HIGH would say which values -1 and 1 are"
            )
        try:
            generator = load_generator(run, epoch="best")
        except UserError:
            generator = load_generator(run)
        return cls(generator, clip, channels)

    def to_device(self, device: chainer.backend.Device) -> None:
        """Move the weights to a Chainer device."""
        self.generator.encoder.to_device(device)
        self.generator.decoder.to_device(device)

    def __call__(self, image: ArrayOrVariable) -> list[chainer.Variable]:
        encoder, decoder = self.generator.encoder, self.generator.decoder
        # What lies outside of its clip the segmentor has never seen.
        seen = F.clip(self.scale * chainer.as_variable(image) + self.shift, -1.0, 1.0)
        with chainer.using_config("train", False), constant_weights(encoder), constant_weights(decoder):
            features = encoder(seen)
            scores = decoder(list(features))
        return [*features, F.softmax(scores, axis=1)]
