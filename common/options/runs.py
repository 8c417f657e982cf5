"""The options of how a training runs: snapshots, resuming, when it ends, what it shows. None changes the networks."""

from dataclasses import dataclass

from medi2i.common.options import kinds
from medi2i.common.options.machinery import Checked, derived, option


@dataclass
class RunOptions(Checked):
    """Runs: resuming, ending, checking."""

    resume: str = option(
        None,
        metavar="RUN",
        help="go on with the training in this run folder exactly where its "
        "newest snapshot is; needs no other option, but -e can extend it",
    )
    snapshot_minutes: float = option(
        5,
        type=float,
        low=0,
        help="minutes between two snapshots to resume from; 0: only by --snapshot_interval and at the end",
    )
    snapshot_interval: int = option(0, type=int, low=0, help="iterations between two snapshots; 0: only by time")
    snapshot_keep: int = option(2, type=int, low=1, help="snapshots kept, the newest ones")
    patience: int = option(None, type=int, low=1, help="end after so many epochs without a better --best_metric")
    max_hours: float = option(None, type=float, low=0, help="end after so many hours, with a snapshot to resume from")
    loss_limit: float = option(1e8, type=float, low=0, help="a loss beyond this ends the training; 0: no limit")
    check: bool = option(
        False,
        type=bool,
        help="read all data, build everything, do one update, say how long the "
        "training would take, and make no run folder",
    )
    communicator: str = option(
        None,
        choices=kinds.COMMUNICATORS,
        help="one training by all processes that mpiexec "
        "starts, one for each GPU (pure_nccl, flat) or on CPUs (naive); needs "
        "pip install 'medi2i[mpi]'",
    )
    sync_bn: bool = option(
        False, type=bool, help="with --communicator, batch normalisation over the batches of all processes together"
    )
    summary: bool = option(False, type=bool, help="print the layers of the networks before the training")
    profile: bool = option(
        False,
        type=bool,
        help="say at the end where the time went, and write it to profile.csv "
        "in the run folder; on a GPU the training is slower for it",
    )
    tensorboard: bool = option(False, type=bool, help="also write TensorBoard event files (needs tensorboardX)")
    started: str = derived("when the run began, in UTC: names of folders are of a clock that is put back each autumn")
