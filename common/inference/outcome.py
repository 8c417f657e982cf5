"""What came out of a conversion: of all images together, for its report, and told on stderr."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from medi2i.common.errors import UserError
from medi2i.common.inference import edges, uncertainty, values
from medi2i.common.inference.report import SKIPPED, THERE, WRITTEN, Entries

LINES = 10  # of one kind on the terminal; conversion.json has all
COMPLETE, NOTHING = "complete", "nothing converted"


@dataclass
class Outcome:
    """Images ``written`` now and ``there`` before, those that ``failed``, for which the network has no result, and the
    entries of the report on all of them."""

    written: int = 0
    there: int = 0
    failed: int = 0
    files: Entries = field(default_factory=dict)

    def __add__(self, other: "Outcome") -> "Outcome":
        """Both together."""
        return Outcome(
            self.written + other.written,
            self.there + other.there,
            self.failed + other.failed,
            self.files | other.files,
        )

    @property
    def skipped(self) -> dict[str, str]:
        """name -> reason of what was skipped."""
        return {name: entry["reason"] for name, entry in self.files.items() if entry["status"] == SKIPPED}

    def refuse_nothing(self) -> None:
        """UserError if there is no result at all."""
        if self.written or self.there:
            return
        skipped = self.skipped
        name, reason = min(skipped.items())
        others = f" (nor could the other {len(skipped) - 1} files be converted)" if len(skipped) > 1 else ""
        raise UserError(f"{name}: {reason}{others}")

    def refuse_failed(self, report: Path) -> None:
        """UserError if there is an image that the network has no result for."""
        if self.failed:
            raise UserError(f"{self.failed} image(s) without a result, listed in {report}")

    def refuse_skipped(self, report: Path) -> None:
        """UserError (``--strict``) if anything was skipped, naming the file ``report`` that lists it."""
        if self.skipped:
            raise UserError(f"--strict: {len(self.skipped)} file(s) skipped, listed in {report}")


def state_of(files: Entries) -> str:
    """ "complete", or "nothing converted" where every image was skipped."""
    return COMPLETE if any(entry["status"] in (WRITTEN, THERE) for entry in files.values()) else NOTHING


def summary_of(files: Entries, samples: str | None) -> dict[str, dict]:
    """What a finished report says of all images together. samples: what was sampled for deviation maps, in words."""
    found = {
        "structure": edges.summary(_changes(files)),
        "deviation": uncertainty.summary(_details(files, "deviation"), samples),
        **values.summary(_details(files, "values"), _details(files, "mean_change")),
    }
    return {key: value for key, value in found.items() if value}


def tell(
    outcome: Outcome, seconds: float, folder: Path, report: Path, limit: float, samples: str | None, prefix: str
) -> None:
    """Tell all of it on stderr.

    seconds: that it took. folder: of the results. report: path of the file that lists all. limit: of
    ``--structure_warn``. samples: what was sampled for deviation maps, in words. prefix: of the last line.
    """
    found = summary_of(outcome.files, samples)
    _tell_some([f"skipped {name}: {reason}" for name, reason in sorted(outcome.skipped.items())], report)
    if "structure" in found:
        _tell_structure(found["structure"], _changes(outcome.files), report, limit)
    _tell(*values.lines(found))
    if "deviation" in found:
        _tell(uncertainty.text(found["deviation"], folder))
    rate = f", {outcome.written / seconds:.2f} images/s" if outcome.written else ""
    _tell(
        f"{prefix}{outcome.written} written, {outcome.there} there already, {len(outcome.skipped)} skipped, in "
        f"{folder} ({seconds:.1f} s{rate})"
    )


def _tell_structure(found: dict, changes: dict[str, float], report: Path, limit: float) -> None:
    _tell(
        f"edges: mean change {found['mean_edge_change']:.3f}, largest {found['largest_edge_change']:.3f} in "
        f"{found['largest_in']} (1 - correlation of edges of input and output)"
    )
    _tell_some(
        [
            f"warning: {name}: edges change by {change:.3f}, more than --structure_warn {limit:g}; "
            "structures may have been added, moved or lost"
            for change, name in sorted(((change, name) for name, change in changes.items()), reverse=True)
            if change > limit
        ],
        report,
    )


def _changes(files: Entries) -> dict[str, float]:
    return {name: found["edge_change"] for name, found in _details(files, "structure").items()}


def _details(files: Entries, key: str) -> dict[str, dict]:
    """name -> detail ``key`` of its entry, of the files that have it."""
    return {name: entry[key] for name, entry in files.items() if key in entry}


def _tell_some(lines: list[str], report: Path) -> None:
    _tell(*lines[:LINES])
    if len(lines) > LINES:
        _tell(f"... and {len(lines) - LINES} more like this, listed in {report}")


def _tell(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)
