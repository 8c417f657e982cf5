"""Between units of measurement (HU, grey levels) and the networks' [-1, 1]; which clip images have by default."""

import dataclasses
import logging
import math
from collections.abc import Sequence

import numpy as np

from medi2i.common.errors import UserError
from medi2i.datasets.catalogue import Source
from medi2i.datasets.file_names import PLAIN_NUMBERS

log = logging.getLogger(__name__)

SOFT_TISSUE = -160, 240  # HU: the window that noise and soft tissue are looked at in
FAR = 1.5  # beyond, a network whose output ends in tanh is far from the truth


@dataclasses.dataclass(frozen=True)
class Clip:
    """The range of values that becomes [-1, 1]; ``Clip()`` leaves values as they are.

    ``lower`` and ``upper`` are in the image's own unit: HU for CT, grey levels for pictures.
    Raises UserError unless lower < upper.
    """

    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        if self.lower is None and self.upper is None:
            return
        if self.lower is None or self.upper is None:
            raise UserError(f"--clipA/--clipB: lower {self.lower} and upper {self.upper}: give both ends or none")
        if not (math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower < self.upper):
            raise UserError(f"--clipA/--clipB: lower {self.lower} must be below upper {self.upper}")
        object.__setattr__(self, "lower", float(self.lower))
        object.__setattr__(self, "upper", float(self.upper))

    @property
    def scales(self) -> bool:
        """False for the clip that leaves values alone."""
        return self.lower is not None

    @property
    def width(self) -> float:
        """upper - lower, in the image's unit: a difference of 2 in [-1, 1] is this much."""
        return 2.0 if self.lower is None or self.upper is None else self.upper - self.lower

    def to_unit(self, values: np.ndarray) -> np.ndarray:
        """Clip to [lower, upper] and map to [-1, 1]. Any shape and number type -> the same shape, float32."""
        values = np.asarray(values, dtype=np.float32)
        if self.lower is None:
            return values.copy()
        unit = np.clip(values, self.lower, self.upper)
        unit -= self.lower
        unit /= self.width / 2.0  # not times 2/width: the ends must be -1 and 1 exactly
        unit -= 1.0
        return unit

    def from_unit(self, unit: np.ndarray | float, overwrite: bool = False) -> np.ndarray:
        """The way back, for arrays or floats. Values outside [-1, 1] go outside [lower, upper]: nothing is clipped.

        ``overwrite``: an array of float32 that may be written to is used for the result.
        """
        values = np.asarray(unit, dtype=np.float32)
        if not (overwrite and values.flags.writeable):
            values = values.copy()
        if self.lower is not None:
            values += 1.0
            values *= self.width / 2.0
            values += self.lower
        return values


PAIRED_HU = Clip(-1024, 2000)  # the released pix2pix's
UNPAIRED_HU = Clip(-1024, 176)  # the released CycleGAN's: base -1024, width 1200


def default_clip(kind: str, bits: int | None) -> Clip:
    """The clip of a kind of image when none is given (``bits`` as in ``Image``)."""
    if kind == "dcm":
        return PAIRED_HU
    if kind in PLAIN_NUMBERS or bits is None:
        return Clip()
    return Clip(0, 2**bits - 1)


def choose_clip(given: Sequence[float | None] | None, sources: Sequence[Source], option: str, dicom_clip: Clip) -> Clip:
    """The clip of a domain: ``given`` [lower, upper], else the default of its images' kind. Raises UserError."""
    if given is not None and list(given) != [None, None]:
        return Clip(*given)
    defaults: dict[Clip, Source] = {}
    for source in sources:
        clip = dicom_clip if source.kind == "dcm" else default_clip(source.kind, source.bits)
        defaults.setdefault(clip, source)
    if len(defaults) > 1:
        (one, first), (two, second), *_ = defaults.items()
        raise UserError(
            f"--{option}: {first.path} has the range {_shown(one)} and {second.path} {_shown(two)}; "
            f"--{option} LOWER UPPER would say which to take"
        )
    others = {source.modality for source in sources if source.kind == "dcm"} - {"CT"}
    if others:
        log.warning(
            "--%s: the images are %s, whose values are not HU; the default %s is made for CT, and --%s LOWER "
            "UPPER, or --normalise%s percentiles where each series has its own range, would fit better",
            option,
            ", ".join(sorted(others)),
            _shown(dicom_clip),
            option,
            option[-1],
        )
    clip = next(iter(defaults))
    if not clip.scales:
        _tell_range(sources, option)
    return clip


def _tell_range(sources: Sequence[Source], option: str) -> None:
    """Warn of values that stay as they are and are far from what networks take and give."""
    extents = [source.extent for source in sources if source.extent is not None]
    low, high = min((e[0] for e in extents), default=0.0), max((e[1] for e in extents), default=0.0)
    if low >= -FAR and high <= FAR:
        return
    low, high = _short(low, -1), _short(high, 1)
    if low == high:
        high = low + 1
    log.warning(
        "--%s: the images have no range of their own and hold values from %g to %g, far outside of the [-1, 1] "
        "that networks work with; -c%s %g %g would scale them (they are taken as they are)",
        option,
        low,
        high,
        option[-1].lower(),
        low,
        high,
    )


def _short(value: float, direction: int) -> float:
    """``value`` with four digits, rounded up (``direction`` 1) or down (-1)."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 3)
    return float(f"{direction * math.ceil(direction * value / unit - 1e-9) * unit:.6g}")


def _shown(clip: Clip) -> str:
    return f"{clip.lower:g} to {clip.upper:g}" if clip.scales else "of no limits"
