"""Options that the released codes spell otherwise, folded into the names used here."""
import argparse
import dataclasses

from medi2i.common.errors import UserError


@dataclasses.dataclass(frozen=True)
class BaseAndWidth:
    """``--HU_baseA -1024 --HU_rangeA 1200`` of the released CycleGAN: a lower end and a width instead of two ends.

    ``target`` is the option with (lower, upper); one of the two given alone takes the other's released default.
    """

    target: str
    base: str
    width: str
    base_flag: str
    width_flag: str
    default_base: int
    default_width: int

    def add_to(self, parser):
        """Add both spellings to an argparse parser, out of sight in its help."""
        parser.add_argument(self.base_flag, "--" + self.base, dest=self.base, help=argparse.SUPPRESS)
        parser.add_argument(self.width_flag, "--" + self.width, dest=self.width, help=argparse.SUPPRESS)

    def fold(self, values):
        """Replace both in the dict ``values`` by ``target``. A width of 0 means: not set."""
        if self.base not in values and self.width not in values:
            return
        base, width = values.pop(self.base, None), values.pop(self.width, None)
        if self.target in values:
            raise UserError(f"--{self.target}: given together with --{self.base}/--{self.width}; one of them is enough")
        try:
            lower = float(self.default_base if base is None else base)
            extent = float(self.default_width if width is None else width)
        except (TypeError, ValueError):
            raise UserError(f"--{self.base}/--{self.width}: {base!r} {width!r} are not numbers") from None
        if extent < 0:
            raise UserError(f"--{self.width}: {width} is negative; it is the width of the range in HU")
        values[self.target] = [lower, lower + extent] if extent else None


OLD_SPELLINGS = (
    BaseAndWidth("clipA", "HU_baseA", "HU_rangeA", "-huba", "-hura", -1024, 1200),
    BaseAndWidth("clipB", "HU_baseB", "HU_rangeB", "-hubb", "-hurb", -1024, 1200),
    BaseAndWidth("vis_window", "HU_base_vis", "HU_range_vis", "-hubv", "-hurv", 0, 0),
)

# name in a released args file -> name here
RENAMED = {"num_slices": "stack", "load_models": "model_gen", "learning_rate_g": "learning_rate_gen",
           "learning_rate_d": "learning_rate_dis"}


def fold_json(values):
    """The content of a released ``args`` file with the names used here; ``values`` is left as it is."""
    values = dict(values)
    for old, new in RENAMED.items():
        if old in values:
            values.setdefault(new, values[old])
            del values[old]
    for rule in OLD_SPELLINGS:
        rule.fold(values)
    if isinstance(values.get("gpu"), list):
        values["gpu"] = values["gpu"][0] if values["gpu"] else None
    for name in ("clipA", "clipB"):
        if values.get(name) == [None, None]:
            values[name] = None
    return values
