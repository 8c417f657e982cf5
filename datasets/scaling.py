"""Between units of measurement (HU, grey levels) and the networks' [-1, 1]."""

import dataclasses
import math

import numpy as np

from medi2i.common.errors import UserError


@dataclasses.dataclass(frozen=True)
class Clip:
    """The range of values that becomes [-1, 1]; ``Clip()`` leaves values as they are.

    ``lower`` and ``upper`` are in the image's own unit: HU for CT, grey levels for pictures.
    Raises UserError unless lower < upper.
    """

    lower: float | None = None
    upper: float | None = None

    def __post_init__(self):
        if (self.lower is None) != (self.upper is None):
            raise UserError(f"--clipA/--clipB: lower {self.lower} and upper {self.upper}: give both ends or none")
        if self.lower is None:
            return
        if not (math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower < self.upper):
            raise UserError(f"--clipA/--clipB: lower {self.lower} must be below upper {self.upper}")
        object.__setattr__(self, "lower", float(self.lower))
        object.__setattr__(self, "upper", float(self.upper))

    @property
    def scales(self):
        """False for the clip that leaves values alone."""
        return self.lower is not None

    @property
    def width(self):
        """upper - lower, in the image's unit: a difference of 2 in [-1, 1] is this much."""
        return self.upper - self.lower if self.scales else 2.0

    def to_unit(self, values):
        """Clip to [lower, upper] and map to [-1, 1]. Any shape and number type -> the same shape, float32."""
        values = np.asarray(values, dtype=np.float32)
        if not self.scales:
            return values.copy()
        unit = np.clip(values, self.lower, self.upper)
        unit -= self.lower
        unit /= self.width / 2.0  # not times 2/width: the ends must be -1 and 1 exactly
        unit -= 1.0
        return unit

    def from_unit(self, unit, overwrite=False):
        """The way back, for arrays or floats. Values outside [-1, 1] go outside [lower, upper]: nothing is clipped.

        ``overwrite``: an array of float32 that may be written to is used for the result.
        """
        unit = np.asarray(unit, dtype=np.float32)
        if overwrite and unit.ndim and unit.flags.writeable:
            if self.scales:
                unit += 1.0
                unit *= self.width / 2.0
                unit += self.lower
            return unit
        if not self.scales:
            return unit.copy()
        return (unit + 1.0) * (self.width / 2.0) + self.lower
