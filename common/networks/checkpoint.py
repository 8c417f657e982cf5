"""The weights of a training, by the released file names (``enc_x50.npz dec_y50.npz gen_50.npz``), and their generator,
which with classes may judge other images.

The ``args`` file beside the weights describes the networks; no option is needed to load them.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from medi2i.common.bounded_files import read_json
from medi2i.common.compat import ArrayOrVariable, F, chainer
from medi2i.common.errors import UserError
from medi2i.common.losses import class_probabilities
from medi2i.common.networks.files import arrays_of, frozen_file, load_arrays, split_generator, stored_arrays
from medi2i.common.networks.from_options import AnyOptions, decoder_spec, encoder_spec
from medi2i.common.networks.generator import Decoder, Encoder
from medi2i.common.networks.network import Network, constant_weights, using_dtype
from medi2i.common.networks.pretrained import load_pretrained
from medi2i.common.options import PairedOptions, load_args
from medi2i.common.registry import known_names, located

DIRECTIONS = {"xy": ("enc_x", "dec_y"), "yx": ("enc_y", "dec_x")}
ALONE = "net", "critic"  # of reconstruction
BEST = "best.json"
_DATED = re.compile(r"(\d{8}_\d{6})(?:_(\d{1,3}))?")
_NUMBERED = re.compile(r"(?P<name>(?:enc|dec|dis)_[xyz]|dis|net|critic|gen_?\w*?)(?P<epoch>\d*)\.npz")


@dataclass(frozen=True)
class Run:
    """A folder of a training: its ``args`` and the epochs whose whole network is there.

    ``best``: the epoch that ``best.json`` names, None without that file.
    """

    folder: Path
    args: Path
    epochs: tuple[int, ...]
    best: int | None

    def epoch(self, which: int | str) -> int:
        """The number of ``which``: "last", "best" or a number. Raises UserError for one that is not there."""
        named: dict[int | str, int | str | None] = {"best": self.best, "last": self.epochs[-1]}
        number = named.get(which, which)
        if number is None:
            raise UserError(f"{self.folder}: it has no {BEST}, so no best epoch; the last one is {self.epochs[-1]}")
        if not isinstance(number, int) or number not in self.epochs:
            raise UserError(
                f"{self.folder}: no weights of epoch {number}; there are those of "
                + ", ".join(str(n) for n in self.epochs)
            )
        return number


def find_run(path: str | Path) -> Run:
    """The run at ``path``: its folder, a file in it, a model by name, or a folder of runs, whose newest with weights is
    taken."""
    path = located(path)
    if not path.exists():
        raise UserError(
            f"{path}: no such file or folder; it should be the folder of a training, or args in it, {known_names()}"
        )
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() or (folder / "args").is_file():
        run = _run(folder, path if path.is_file() and path.suffix != ".npz" else folder / "args")
        if run is None:
            where = "in this folder" if path.is_dir() else "beside it"
            raise UserError(f"{path}: no weights (enc_x50.npz dec_y50.npz) {where}")
        return run
    subfolders = [sub for sub in folder.iterdir() if (sub / "args").is_file()]
    runs = [run for sub in subfolders if (run := _run(sub, sub / "args")) is not None]
    if not runs:
        raise UserError(f"{folder}: neither a training's folder (args, enc_x50.npz …) nor a folder of such folders")
    return max(runs, key=_began)


def _began(run: Run) -> tuple[float, int, str]:
    """Sort key: when a run began, by its args, else by its name (local time), else by the date of its args file."""
    with contextlib.suppress(UserError, OSError, AttributeError, TypeError, ValueError):
        return datetime.fromisoformat(read_json(run.args, "")["started"]).timestamp(), 0, run.folder.name
    if match := _DATED.fullmatch(run.folder.name):
        with contextlib.suppress(ValueError, OverflowError):
            return datetime.strptime(match[1], "%Y%m%d_%H%M%S").timestamp(), int(match[2] or 1), run.folder.name
    return run.args.stat().st_mtime, 0, run.folder.name


def _run(folder: Path, args: Path) -> Run | None:
    found: dict[int, set[str]] = {}
    for file in folder.glob("*.npz"):
        match = _NUMBERED.fullmatch(file.name)
        if match and match["epoch"]:
            found.setdefault(int(match["epoch"]), set()).add(match["name"])
    whole = [
        epoch
        for epoch, names in found.items()
        if any(set(pair) <= names for pair in DIRECTIONS.values())
        or any(n in ALONE or n.startswith("gen") for n in names)
    ]
    if not whole:
        return None
    best = None
    if (folder / BEST).is_file():
        values = read_json(folder / BEST, "it should hold epoch and value", what="readable")
        try:
            best = int(values["epoch"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError(f"{folder / BEST}: names no epoch; it should hold epoch and value") from None
    return Run(folder, args, tuple(sorted(whole)), best)


@dataclass(frozen=True)
class Generator:
    """A translation: X → Y ("xy") or Y → X ("yx").

    options: of the training. files: where the weights came from; sha256: hex digest of the contents of these files, one
    after the other.
    """

    encoder: Encoder
    decoder: Decoder
    options: AnyOptions
    direction: str
    files: tuple[Path, ...]
    sha256: str


def load_generator(
    model: str | Path | None = None,
    args: str | Path | None = None,
    epoch: int | str = "last",
    direction: str | None = None,
    pretrained: str | None = None,
) -> Generator:
    """The generator of a run.

    model: a file ``enc_x50.npz`` (its partner ``dec_y50.npz`` lies beside it), ``gen_…npz`` (both in one file), a run's
        folder, a model by name, or None for the run that ``args`` belongs to. A bare file name is looked for here, then
        beside ``args``.
    args: its ``args`` file (or folder); None: the one beside ``model``.
    epoch: "last", "best" or a number, where ``model`` is not a file.
    direction: "xy" or "yx"; None: as the file's name says (``enc_y50.npz`` translates Y → X, and so does ``gen_f``),
        else "xy".
    pretrained: file with the ImageNet layers that the weights lack because they were not trained; None: ``base.npz``
        beside the weights, else what args names.
    Raises UserError naming the file and what would be right.
    """
    args, model = (None if one is None else located(one) for one in (args, model))
    chosen = args if model is None else model
    if chosen is None:
        raise UserError("--model_gen, --argfile: one of them is needed to know which weights to use")
    if model is None or Path(chosen).is_dir():
        run = find_run(chosen)
        args, folder, direction = run.args if args is None else args, run.folder, direction or "xy"
        number = str(run.epoch(epoch))
        files = _files_of(folder, number, direction)
    else:
        file = _beside(Path(chosen), args)
        match = _NUMBERED.fullmatch(file.name)
        if not file.exists() and (file.suffix != ".npz" or match is None):
            raise UserError(
                f"{file}: no such file or folder; a run's folder, or its enc_x50.npz, would be right, {known_names()}"
            )
        if match is None or match["name"].startswith("dis"):
            raise UserError(f"{file}: not named like a generator's weights: enc_x50.npz, enc_y50.npz or gen_50.npz")
        folder, direction = file.parent, direction or _direction(match["name"])
        args = folder / "args" if args is None else args
        files = (
            (file,) if match["name"].startswith("gen") else _files_of(folder, match["epoch"], direction, whole=False)
        )
    options = load_args(args)
    encoder, decoder = build_generator(options, direction, args)
    stored = [stored_arrays(file) for file in files]
    names: tuple[Mapping[str, str] | None, ...] = None, None
    if len(files) == 1:
        names = split_generator(stored[0], arrays_of(encoder), arrays_of(decoder), files[0])
    load_arrays(stored[0], encoder, files[0], names[0])
    load_arrays(stored[-1], decoder, files[-1], names[1])
    if encoder.frozen is not None and not any(name.startswith("base/") for name in names[0] or stored[0]):
        fill_frozen(encoder, "enc", folder, pretrained or options.gen_pretrained_weights, bool(pretrained))
    return Generator(encoder, decoder, options, direction, files, digest(files))


class Segmentor(chainer.Chain):
    """A segmentation network that looks at images (N, C, H, W) in [-1, 1]: what it tells of anatomy is compared.

    Called, it gives its features, from the skips of its encoder on, and at last the probabilities of the classes of
    each slice (N * stack, classes, H, W). Args: generator: of a pix2pix run with classes. clip: the values that are -1
    and 1 in the images, of their own unit; they are brought to the clip that the network was trained with. channels: of
    the images. Raises UserError, naming --segmentor.
    """

    def __init__(self, generator: Generator, clip: tuple[float, float], channels: int) -> None:
        super().__init__()
        trained = generator.options
        where = generator.files[0].parent if generator.files else "this network"
        if not isinstance(trained, PairedOptions) or not trained.class_num:
            raise UserError(f"--segmentor: {where} tells no classes apart; a pix2pix run with --class_num would")
        if trained.ch != channels:
            raise UserError(f"--segmentor: {where} takes images of {trained.ch} channels, these have {channels}")
        low, high = getattr(trained, trained.clip_names[0]) or clip
        if low >= clip[1] or high <= clip[0]:
            raise UserError(
                f"--segmentor: {where} was trained on values from {low:g} to {high:g}, and these images have none of "
                f"them: {clip[0]:g} to {clip[1]:g}"
            )
        self.trained = trained
        self.scale = np.float32((clip[1] - clip[0]) / (high - low))
        self.shift = np.float32(((clip[0] - low) + (clip[1] - high)) / (high - low))
        with self.init_scope():
            self.encoder, self.decoder = generator.encoder, generator.decoder

    @classmethod
    def load(cls, run: str | Path, clip: Sequence[float] | None, channels: int, clip_option: str) -> "Segmentor":
        """That of the best epoch of a run folder, else of its last. clip_option: where the clip would come from, for
        messages. Raises UserError."""
        if clip is None:
            raise UserError(
                f"--segmentor: images have no clip; --{clip_option} LOW HIGH would say which values -1 and 1 are"
            )
        try:
            generator = load_generator(run, epoch="best")
        except UserError:
            generator = load_generator(run)
        return cls(generator, (clip[0], clip[1]), channels)

    def forward(self, image: ArrayOrVariable) -> list[chainer.Variable]:
        # What lies outside of its clip it has never seen.
        features = self.encoder(F.clip(self.scale * chainer.as_variable(image) + self.shift, -1.0, 1.0))
        return [*features, class_probabilities(self.decoder(list(features)), self.trained.stack)]

    def judge(self, image: ArrayOrVariable) -> list[chainer.Variable]:
        """The same, frozen: the gradient flows to the image, weights and statistics are constants, and nothing is drawn
        (test mode)."""
        with chainer.using_config("train", False), constant_weights(self):
            return self(image)


def epoch_of(model: str | Path) -> int | None:
    """The epoch in the name of a file of weights (``enc_x50.npz``), None where there is none."""
    match = _NUMBERED.fullmatch(Path(model).name)
    return int(match["epoch"]) if match and match["epoch"] else None


def fill_frozen(link: Network, name: str, folder: str | Path, file: str | Path | None, given: bool = False) -> None:
    """Fill the pretrained layers of the network ``name``, which its own file in ``folder`` does not hold.

    file: what the options name; only where it is ``given`` on the command line it counts before the one in ``folder``.
    Raises UserError.
    """
    beside = frozen_file(folder, name)
    load_pretrained(
        link.frozen,
        beside if beside.is_file() and not given else file,
        "--dis_pretrained_weights" if name.startswith("dis") else "--gen_pretrained_weights",
    )


def _beside(model: Path, args: str | Path | None) -> Path:
    """The file of ``-a results/args -m enc_x50.npz``: a bare name that is not here is that of weights beside args."""
    if args is None or model.parent != Path() or model.exists():
        return model
    folder = Path(args) if Path(args).is_dir() else Path(args).parent
    return folder / model if (folder / model).is_file() else model


def build_generator(options: AnyOptions, direction: str = "xy", source: str | Path = "args") -> tuple[Encoder, Decoder]:
    """(encoder, decoder) of ``direction`` with random weights; ``source`` names the options in errors.

    In fp32, which holds weights of fp16 exactly and is much faster on a CPU.
    """
    if options.ch is None or options.out_ch is None:
        raise UserError(
            f"{source}: it has no ch and out_ch, the channels of input and output; "
            "the args file that training writes beside the weights has them"
        )
    ch, out_ch = (options.ch, options.out_ch) if direction == "xy" else (options.out_ch, options.ch)
    with using_dtype("fp32"):
        return Encoder(encoder_spec(options, ch)), Decoder(decoder_spec(options, out_ch))


def digest(files: Iterable[str | Path]) -> str:
    """SHA-256 (hex) of the contents of ``files``, one after the other."""
    total = hashlib.sha256()
    for file in files:
        with open(file, "rb") as opened:
            hashlib.file_digest(opened, lambda: total)
    return total.hexdigest()


def _direction(name: str) -> str:
    return "yx" if name in (*DIRECTIONS["yx"], "gen_f", "gen_yx") else "xy"


def _files_of(folder: Path, number: str, direction: str, whole: bool = True) -> tuple[Path, ...]:
    """The weight files of an epoch: (encoder, decoder), else, with ``whole``, the one whole generator."""
    encoder, decoder = (folder / f"{part}{number}.npz" for part in DIRECTIONS[direction])
    missing = [file.name for file in (encoder, decoder) if not file.is_file()]
    if missing and whole:
        for file in sorted(folder.glob(f"gen*{number}.npz")):
            match = _NUMBERED.fullmatch(file.name)
            if match and match["epoch"] == number and _direction(match["name"]) == direction:
                return (file,)
    if missing:
        raise UserError(
            f"{folder}: {' and '.join(missing)} missing; translating {direction[0].upper()} to "
            f"{direction[1].upper()} needs {encoder.name} and {decoder.name}"
        )
    return encoder, decoder
