"""The Python interface: networks trained, loaded, used on arrays and folders, and measured.

What cannot be done is a UserError of one line, as the commands print it; nothing here ends the process.
"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medi2i.common.device import use_cpu_engine, use_gpu_engine
from medi2i.common.errors import UserError, as_user_errors
from medi2i.common.inference.conversion import open_networks, run_conversion, translate
from medi2i.common.inference.generator import IDENTITY, Model, load_model
from medi2i.common.inference.graph_engines import ENOUGH
from medi2i.common.inference.jobs import Networks
from medi2i.common.inference.plan import Plan
from medi2i.common.inference.uncertainty import sampled
from medi2i.common.networks.checkpoint import find_run
from medi2i.common.options import PairedOptions, UnpairedOptions, load_args
from medi2i.common.options.conversion import PairedConversionOptions, UnpairedConversionOptions
from medi2i.common.options.machinery import Checked, default_of
from medi2i.common.options.presets import preset_values
from medi2i.common.training.distributed import joined
from medi2i.cyclegan import convert as cyclegan_convert
from medi2i.cyclegan import train as cyclegan_train
from medi2i.datasets.catalogue import Catalogue
from medi2i.datasets.reading import Image
from medi2i.pix2pix import convert as pix2pix_convert
from medi2i.pix2pix import train as pix2pix_train
from medi2i.series import Series
from medi2i.tools import evaluate as evaluation
from medi2i.tools.evaluation.measure import Evaluation

TrainingOptions = PairedOptions | UnpairedOptions
Options = TypeVar("Options", bound=Checked)


class Translator:
    """A trained network, ready for arrays and folders; ``load`` makes it.

    options: of a conversion, the same for all that it does. model: its network, weights and training options.
    """

    def __init__(self, options: PairedConversionOptions | UnpairedConversionOptions, model: Model) -> None:
        self.options, self.model = options, model
        self._application: Any = pix2pix_convert if model.trained.APPLICATION == "pix2pix" else cyclegan_convert
        self._open: tuple[object, Networks] | None = None

    @as_user_errors()
    def translate(self, volume: np.ndarray | Series, spacing: Sequence[float] | None = None) -> np.ndarray:
        """What ``convert`` writes for a DICOM series with the values of ``volume``, but not rounded to whole numbers.

        volume: HU (or the scanner's units), (Z, Y, X) in the order of the slices, one slice (Y, X), or what
        ``read_series`` gives. spacing: mm between rows and columns, or between slices, rows and columns; only networks
        that work at a pixel size of their own need it. Returns float32 of the same shape, in HU (super-resolution: of
        more rows and columns; several results: (Z, N, Y, X); classes: their numbers). Raises UserError.
        """
        padding, modality = None, "CT"
        if isinstance(volume, Series):
            padding, modality = volume.padding, volume.modality
            spacing, volume = spacing or volume.spacing, volume.hu
        try:
            hu = np.asarray(volume, np.float32)
        except (TypeError, ValueError) as error:
            raise UserError(f"volume: is no array of numbers ({error}); HU, or a Series, are needed") from None
        if hu.ndim not in (2, 3) or not hu.size:
            raise UserError(f"volume: has shape {hu.shape}; it should be (slices, rows, columns), or one slice")
        if bad := hu.size - int(np.count_nonzero(np.isfinite(hu))):
            raise UserError(f"volume: {bad} of {hu.size} values are not finite numbers; HU are needed everywhere")
        if spacing is not None and (len(spacing) not in (2, 3) or not all(mm > 0 for mm in spacing)):
            raise UserError(f"spacing: {tuple(spacing)} is no pixel size; mm between rows and columns are needed")
        slices = hu.reshape(-1, 1, *hu.shape[-2:])
        masks = [None] * len(slices) if padding is None else [mask if mask.any() else None for mask in padding]
        use_cpu_engine(self.options.cpu_engine)
        use_gpu_engine(self.options.gpu_engine)

        def plan_of(images: Catalogue) -> Any:
            return self._application.plan_of(self.options, self.model, images)

        images = [Image(one, mask) for one, mask in zip(slices, masks, strict=True)]
        found = translate(
            images, None if spacing is None else (spacing[-2], spacing[-1]), plan_of, modality, self._networks
        )
        return found if hu.ndim == 3 else found[0]

    def _networks(self, plan: Plan) -> Networks:
        """What the plan's model is run by: that of the call before, where it would be the same."""
        if sampled(plan.options) or plan.options.precision == "int8":  # draws, and ranges of the images themselves
            return open_networks(plan)
        key = repr(plan.options), plan.hu_clip, len(plan.images.sources) >= ENOUGH
        if self._open is None or self._open[0] != key:
            self._open = key, open_networks(plan)
        return self._open[1]

    @as_user_errors()
    def convert(self, folder: Path | str, out: Path | str, **options: object) -> Path:
        """Convert the images in a folder (or one file) and write them below ``out``, as the command does.

        options: of ``medi2i convert``, as ``force=True``. Returns ``out``. Raises UserError.
        """
        known = {**dataclasses.asdict(self.options), "root": [folder], "out": out}
        chosen = make_options(type(self.options), {**known, **options})
        done = run_conversion(
            chosen,
            {},
            type(self.model.trained),
            self._application.images_of,
            self._application.plan_of,
            self.model,
        )
        if done.status:
            raise KeyboardInterrupt
        return Path(out)


@as_user_errors()
def load(run: Path | str, **options: object) -> Translator:
    """The network of a run folder, or of its weights (``enc_y50.npz`` translates back); "identity" for none.

    options: of ``medi2i convert``, as ``engine="chainer"``, ``epoch=50`` or ``ensemble=True``. Raises UserError.
    """
    args: Any = options.get("argfile")
    if args is None and str(run) != IDENTITY:
        args = find_run(run).args
    paired = args is None or isinstance(load_args(args), PairedOptions)
    cls: type[PairedConversionOptions] | type[UnpairedConversionOptions]
    cls = PairedConversionOptions if paired else UnpairedConversionOptions
    chosen = make_options(cls, {"model_gen": run, **options})
    return Translator(chosen, load_model(chosen, {}, PairedOptions if paired else UnpairedOptions))


@as_user_errors()
def train(options: TrainingOptions) -> Path:
    """Train with the ``options``, of ``pix2pix_options`` or ``cyclegan_options``. Returns the run folder.

    Raises UserError.
    """
    if options.resume is not None:
        raise UserError(f"resume: medi2i train {options.APPLICATION} --resume {options.resume} goes on with a run")
    given = [field.name for field in dataclasses.fields(options) if getattr(options, field.name) != default_of(field)]
    words = [f"{name}={getattr(options, name)}" for name in given]
    with joined(options.communicator) as ranks:
        if isinstance(options, PairedOptions):
            status, folder = pix2pix_train.train(options, None, words, ranks)
        else:
            status, folder = cyclegan_train.train(options, None, words, ranks)
    if status or folder is None:
        raise UserError(f"training: ended early, with status {status}; {folder or options.out} has what was done")
    return folder


@as_user_errors()
def pix2pix_options(**given: object) -> PairedOptions:
    """The options of a pix2pix: as given, else of ``preset``, else the released ones. Raises UserError."""
    return make_options(PairedOptions, {**preset_values(PairedOptions, given), **given})


@as_user_errors()
def cyclegan_options(**given: object) -> UnpairedOptions:
    """The options of a CycleGAN: as given, else of ``preset``, else the released ones. Raises UserError."""
    return make_options(UnpairedOptions, {**preset_values(UnpairedOptions, given), **given})


@as_user_errors()
def evaluate(converted: Mapping[str, Path | str] | None = None, **options: object) -> Evaluation:
    """Measure converted folders (name → folder) beside doing nothing, and write tables, pictures and the report.

    options: of ``medi2i evaluate``, as ``input``, ``truth`` and ``out``. Raises UserError.
    """
    named = [f"{name}={folder}" for name, folder in (converted or {}).items()]
    return evaluation.compare(make_options(evaluation.EvaluateOptions, {"converted": named or None, **options}))


def make_options(cls: type[Options], given: Mapping[str, object]) -> Options:
    """An object of ``cls`` with the options ``given``; UserError for a name or a value that there is not."""
    names = [field.name for field in dataclasses.fields(cls)]
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            raise UserError(f"{name}: is no option here" + (f"; did you mean {close[0]}?" if close else ""))
    return cls(**given)
