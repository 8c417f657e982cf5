"""What came out of a conversion, told on stderr."""

import sys
from dataclasses import dataclass, field

from medi2i.common.errors import UserError
from medi2i.common.inference import edges, uncertainty, values

LINES = 10  # of one kind on the terminal; conversion.json has all


@dataclass
class Outcome:
    """Images ``written`` now and ``there`` before, ``failed``, which the network has no result for, and by name: why
    these and others were skipped, how much edges changed,
    the statistics of deviation maps, and what became of values and of the mean (``values.summary``)."""

    written: int = 0
    there: int = 0
    skipped: dict = field(default_factory=dict)
    changes: dict = field(default_factory=dict)
    deviations: dict = field(default_factory=dict)
    values: dict = field(default_factory=dict)
    means: dict = field(default_factory=dict)
    failed: int = 0

    def __add__(self, other):
        """Both together."""
        return Outcome(
            self.written + other.written,
            self.there + other.there,
            self.skipped | other.skipped,
            self.changes | other.changes,
            self.deviations | other.deviations,
            self.values | other.values,
            self.means | other.means,
            self.failed + other.failed,
        )

    def refuse_nothing(self):
        """UserError if there is no result at all."""
        if self.written or self.there:
            return
        name, reason = min(self.skipped.items())
        others = f" (nor could the other {len(self.skipped) - 1} files be converted)" if len(self.skipped) > 1 else ""
        raise UserError(f"{name}: {reason}{others}")

    def refuse_failed(self, report):
        """UserError if there is an image that the network has no result for."""
        if self.failed:
            raise UserError(f"{self.failed} image(s) without a result, listed in {report}")

    def refuse_skipped(self, report):
        """UserError (``--strict``) if anything was skipped, naming the file ``report`` that lists it."""
        if self.skipped:
            raise UserError(f"--strict: {len(self.skipped)} file(s) skipped, listed in {report}")


def tell(outcome, seconds, folder, report, limit, samples=None, prefix=""):
    """Tell all of it on stderr.

    seconds: that it took. folder: of the results. report: path of the file that lists all. limit: of
    ``--structure_warn``. samples: what was sampled for deviation maps, in words. prefix: of the last line.
    """
    _tell_some([f"skipped {name}: {reason}" for name, reason in sorted(outcome.skipped.items())], report)
    if outcome.changes:
        _tell_structure(outcome.changes, report, limit)
    for line in values.lines(outcome.values, outcome.means):
        _tell(line)
    if outcome.deviations:
        _tell(uncertainty.text(outcome.deviations, samples, folder))
    rate = f", {outcome.written / seconds:.2f} images/s" if outcome.written else ""
    _tell(
        f"{prefix}{outcome.written} written, {outcome.there} there already, {len(outcome.skipped)} skipped, in "
        f"{folder} ({seconds:.1f} s{rate})"
    )


def _tell_structure(changes, report, limit):
    found = edges.summary(changes)
    changed = [(change, name) for name, change in changes.items() if change > limit]
    _tell(
        f"edges: mean change {found['mean_edge_change']:.3f}, largest {found['largest_edge_change']:.3f} in "
        f"{found['largest_in']} (1 - correlation of edges of input and output)"
    )
    _tell_some(
        [
            f"warning: {name}: edges change by {change:.3f}, more than --structure_warn {limit:g}; "
            "structures may have been added, moved or lost"
            for change, name in sorted(changed, reverse=True)
        ],
        report,
    )


def _tell_some(lines, report):
    for line in lines[:LINES]:
        _tell(line)
    if len(lines) > LINES:
        _tell(f"... and {len(lines) - LINES} more like this, listed in {report}")


def _tell(text):
    print(text, file=sys.stderr)
