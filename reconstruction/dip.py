"""The deep image prior: an untrained network whose output is fitted to the rays of one scan.

x = f_w(z), argmin over w of the mean of (A f_w(z) - y)² + strength·mean|∇f_w(z)| (Ulyanov, Vedaldi and Lempitsky, CVPR
2018; with total variation: Baguer, Leuschner and Schmidt, Inverse Problems 36, 2020). It would fit the noise in the
end, so some rays are held out: what is kept is the average of outputs that explains these best.
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
from medi2i.reconstruction.solvers import Problem

HELD_OUT = 0.05  # of the rays
AVERAGE = 0.99  # how much of the average of outputs stays at each step
LOOK = 25  # steps between two looks at the rays that were held out
KEEP = 250  # steps between two states in the file


@dataclasses.dataclass
class Prior:
    """How the network is fitted. strength: of total variation. patience: steps without a better average that end it."""

    steps: int = 3000
    channels: int = 32
    levels: int = 5
    strength: float = 1e-4
    rate: float = 1e-3
    patience: int = 1000
    seed: int = 0


class DeepImagePrior:
    """The fit of one scan; ``run`` goes on from the state in ``file``, if it is there, and keeps it there.

    start: an image (H, W) in 1/mm, which is the network's input (beside noise) and says how bright its output can be.
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
            gen_out_activation="sigmoid",
            unet="conv",
            skipdim=4,
        )
        np.random.seed(int(rng.integers(2**32)))
        self.network = chainer.ChainList(Encoder(encoder_spec(options, 2)), Decoder(decoder_spec(options, 1)))
        self.optimizer = chainer.optimizers.Adam(alpha=prior.rate).setup(self.network)
        self.optimizer.add_hook(chainer.optimizer_hooks.GradientClipping(1))
        geometry = problem.operator.geometry
        fitting = fitting_sizes(options)
        self._shape = geometry.shape if fitting is None else tuple(fitting.above(size) for size in geometry.shape)
        relative = np.maximum(start / problem.water, 0)
        self.top = np.float32(1.2 * max(float(relative.max()), 1e-3))
        edges = [(0, whole - part) for whole, part in zip(self._shape, geometry.shape, strict=True)]
        image = np.pad(relative / self.top, edges, mode="edge")
        self._input = np.stack([image, 0.1 * rng.standard_normal(self._shape)])[None].astype(np.float32)
        self._held = rng.random(geometry.sinogram_shape) < HELD_OUT
        weights = np.ones(geometry.sinogram_shape, np.float32) if problem.weights is None else problem.weights
        self._weights = np.where(self._held, 0, weights).astype(np.float32)
        self._check = np.where(self._held, weights, 0).astype(np.float32)
        self.step, self.best_step, self.best_error = 0, 0, np.inf
        self.average = relative.astype(np.float32)
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
        image = self.top * decoder(encoder(self._input))[:, :, :rows, :columns]
        scale = np.float32(1 / (self.problem.pixel * self.problem.norm))
        rays = scale * project(image, self.problem.operator)
        off = rays - (self.problem.sinogram / np.float32(self.problem.norm))[None, None]
        loss = F.mean(self._weights * F.square(off))
        if self.prior.strength:
            loss += self.prior.strength * losses.total_variation(image, "abs")
        self.network.cleargrads()
        loss.backward()
        self.optimizer.update()
        self.step += 1
        # The first outputs know nothing: their average begins where the network does.
        keep = min(AVERAGE, (self.step - 1) / (self.step + 9))
        self.average = (keep * self.average + (1 - keep) * image.array[0, 0]).astype(np.float32)

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
