"""The deep image prior: an untrained network whose output is fitted to the rays of one scan.

x = x_0 + f_w(z), argmin over w of ½ Σ w (A x - y)² + part·λ Σ |∇x| (Ulyanov, Vedaldi and Lempitsky, CVPR 2018; with
total variation: Baguer, Leuschner and Schmidt, Inverse Problems 36, 2020). x_0 is what total variation of strength λ
makes of the rays on finer pixels, as it is and flipped, where the papers have none: the network, whose last layer
begins at zero, has only to find what that took away, which is some hundred updates in place of ten thousand. It would
fit the noise in the end, so some rays are held out: what is kept is the average of outputs that explains these best.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medi2i.common import losses
from medi2i.common.compat import F, chainer
from medi2i.common.networks.from_options import decoder_spec, encoder_spec, fitting_sizes
from medi2i.common.networks.generator import Decoder, Encoder
from medi2i.common.options import PairedOptions
from medi2i.common.training.snapshot import Reader, Writer, read_npz, weights_of, write_npz
from medi2i.reconstruction.nodes import project
from medi2i.reconstruction.solvers import FLIPS, Problem, even_variation

HELD_OUT = 0.05  # of the rays
AVERAGE = 0.99  # how much of the average of outputs stays at each step
LOOK = 25  # steps between two looks at the rays that were held out
SMOOTH = 300  # iterations of total variation to begin with
EDGE = 1e-4  # of water: a difference that total variation takes for none while the network is fitted
KEEP = 50  # steps between two states in the file


@dataclasses.dataclass
class Prior:
    """How the network is fitted.

    strength: λ. part: of it, while the network is fitted, which is a prior itself. reach: what the network's output is
    scaled by, of the brightest pixel. jitter: standard deviation of what is added to its input, anew at each step.
    patience: steps without a better average that end it.
    """

    strength: float
    steps: int = 500
    channels: int = 24
    levels: int = 5
    part: float = 0.3
    reach: float = 0.3
    jitter: float = 0.05
    rate: float = 3e-3
    patience: int = 400
    seed: int = 0


class DeepImagePrior:
    """The fit of one scan; ``run`` goes on from the state in ``file``, if it is there, and keeps it there.

    start: an image (H, W) in 1/mm, which is the network's input, beside that of total variation and noise.
    """

    def __init__(self, problem: Problem, start: np.ndarray, prior: Prior, file: Path | None = None) -> None:
        self.problem, self.prior, self.file = problem, prior, file
        rng = np.random.default_rng(prior.seed)
        options = PairedOptions(
            gen_chs=[prior.channels] * prior.levels,
            gen_nblock=0,
            gen_sample="none",
            gen_norm="group",
            gen_activation="lrelu",
            gen_out_activation="none",
            unet="conv",
            skipdim=4,
        )
        np.random.seed(int(rng.integers(2**32)))
        self.network = chainer.ChainList(Encoder(encoder_spec(options, 3)), Decoder(decoder_spec(options, 1)))
        self.network[1].ul.c1.c.W.array[...] = 0
        self.optimizer = chainer.optimizers.Adam(alpha=prior.rate).setup(self.network)
        self.optimizer.add_hook(chainer.optimizer_hooks.GradientClipping(1))
        geometry = problem.operator.geometry
        fitting = fitting_sizes(options)
        self._shape = geometry.shape if fitting is None else tuple(fitting.above(size) for size in geometry.shape)
        smooth = even_variation(problem, prior.strength, SMOOTH, start) / np.float32(problem.water)
        top = np.float32(max(float(smooth.max()), 1e-3))
        edges = [(0, whole - part) for whole, part in zip(self._shape, geometry.shape, strict=True)]
        images = [np.pad(image / top, edges, mode="edge") for image in (np.maximum(start / problem.water, 0), smooth)]
        self._input = np.stack([*images, 0.1 * rng.standard_normal(self._shape)])[None].astype(np.float32)
        self._smooth, self._reach = smooth, prior.reach * top
        self._held = rng.random(geometry.sinogram_shape) < HELD_OUT
        weights = np.ones(geometry.sinogram_shape, np.float32) if problem.weights is None else problem.weights
        self._weights = np.where(self._held, 0, weights).astype(np.float32)
        self._check = np.where(self._held, weights, 0).astype(np.float32)
        self.step, self.best_step, self.best_error = 0, 0, np.inf
        off = problem.project(smooth) - problem.sinogram
        self._unit = np.float32(1 / max(float(np.sum(self._weights * off * off)) / 2, 1e-12))
        self.average = smooth.copy()
        self.best = self.average.copy()

    def run(self, watch: Callable[[int, np.ndarray], bool | None] | None = None) -> np.ndarray:
        """Fit until the steps are over or the held-out rays have been explained no better for ``patience`` steps.

        watch: called each ``LOOK`` steps with their number and the average, (H, W) in 1/mm; True ends the fit, whose
        state is then in the file. Returns the image in 1/mm.
        """
        if self.file is not None and self.file.exists():
            self._serialize(Reader(read_npz(self.file, 3 * weights_of([self.optimizer]))))
        while self.step < self.prior.steps and self.step - self.best_step < self.prior.patience:
            self._update()
            if self.step % LOOK == 0:
                self._look()
                if watch is not None and watch(self.step, self.average * np.float32(self.problem.water)):
                    self.save()
                    break
            if self.step % KEEP == 0:
                self.save()
        return self.best * np.float32(self.problem.water)

    def save(self) -> None:
        """Write the state, whole or not at all."""
        if self.file is not None:
            arrays: dict[str, np.ndarray] = {}
            self._serialize(Writer(arrays))
            write_npz(self.file, arrays)

    def _update(self) -> None:
        encoder, decoder = self.network
        rows, columns = self.average.shape
        noise = np.random.default_rng([self.prior.seed, self.step]).standard_normal(self._input.shape, np.float32)
        images = self._input + np.float32(self.prior.jitter) * noise
        image = self._smooth + self._reach * decoder(encoder(images))[:, :, :rows, :columns]
        rays = np.float32(1 / self.problem.pixel) * project(image, self.problem.operator)
        off = rays - self.problem.sinogram[None, None]
        loss = F.sum(self._weights * F.square(off)) / 2
        if strength := self.prior.part * self.prior.strength:
            axes = FLIPS[self.step % len(FLIPS)]
            turned = image[:, :, :: -1 if 0 in axes else 1, :: -1 if 1 in axes else 1]
            loss += strength * image.size * losses.total_variation(turned, "usual", EDGE)
        loss *= self._unit  # 1 to begin with: Adam takes gradients of 1e-8 for nothing
        self.network.cleargrads()
        loss.backward()
        self.optimizer.update()
        self.step += 1
        # The first outputs know nothing: their average begins where the network does.
        keep = min(AVERAGE, (self.step - 1) / (self.step + 9))
        output = np.maximum(image.array[0, 0], 0)
        self.average = (keep * self.average + (1 - keep) * output).astype(np.float32)

    def _look(self) -> None:
        off = self.problem.project(self.average) - self.problem.sinogram
        error = float(np.sum(self._check * off * off))
        if error < self.best_error:
            self.best_error, self.best_step, self.best = error, self.step, self.average.copy()

    def _serialize(self, serializer: chainer.AbstractSerializer) -> None:
        self.network.serialize(serializer["network"])
        self.optimizer.serialize(serializer["optimizer"])
        for name in ("step", "best_step", "best_error", "average", "best"):
            value = serializer(name, getattr(self, name))
            setattr(self, name, type(getattr(self, name))(value) if np.ndim(value) == 0 else np.asarray(value))
