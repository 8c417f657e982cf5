"""Who converts: one process, one of several shards (``--shards 2/3``), or all processes of an mpiexec together.

mpi4py is imported in processes only that an MPI launcher has started as one of several.
"""

import dataclasses
import sys
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from medi2i.common.device import gpu_count
from medi2i.common.errors import UserError, one_line
from medi2i.common.inference.plan import Options
from medi2i.common.inference.shards import Shard, parse_shard
from medi2i.common.resources import Launched, launched

TOLD = (UserError, OSError, MemoryError)  # what ``errors.run`` tells in one line
WAIT = 0.05  # seconds between two looks at whether the other processes have come

T = TypeVar("T")


class Crew:
    """A process that waits for no other: the whole conversion (``shard`` None) or a shard of it."""

    leads = True
    together = False

    def __init__(self, shard: Shard | None = None) -> None:
        self.shard = shard

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def agree(self, step: Callable[[], T], at_once: bool = False) -> T:
        """``step()``."""
        return step()

    def gather(self, value: T) -> list[T]:
        """[value]."""
        return [value]


class MpiCrew(Crew):
    """One of the processes of an mpiexec; each is a shard. The first one leads: it tells what all have done.

    comm: an mpi4py communicator.
    """

    together = True

    def __init__(self, comm: Any) -> None:
        super().__init__(Shard(comm.Get_rank() + 1, comm.Get_size()))
        self.comm = comm
        self.leads = comm.Get_rank() == 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The others would wait for ever for a process that ends here and now.
        if kind is not None and not issubclass(kind, SystemExit | UserError):
            traceback.print_exception(kind, error, trace)
            sys.stderr.flush()
            self.comm.Abort(1)

    def agree(self, step: Callable[[], T], at_once: bool = False) -> T:
        """``step()``, and wait until all processes have done theirs. If one failed, none goes on.

        The first one that failed raises its error as a UserError, the others SystemExit. at_once: for steps that take
        long: errors are told as they happen, by whom they meet.
        """
        error = None
        try:
            result = step()
        except TOLD as raised:
            error = raised
            if at_once:
                print(f"error: process {self.shard}: {one_line(raised)}", file=sys.stderr, flush=True)
        failed = [rank for rank, bad in enumerate(self.gather(error is not None)) if bad]
        if not failed:
            return result
        if at_once and self.leads:
            print(
                f"{len(failed)} of {self.comm.Get_size()} processes failed; --resume would convert what is missing",
                file=sys.stderr,
                flush=True,
            )
        if at_once or error is None or self.comm.Get_rank() != failed[0]:
            raise SystemExit(1)
        whose = "" if len(failed) == self.comm.Get_size() else f"process {self.shard}: "
        raise UserError(f"{whose}{one_line(error)}") from error

    def gather(self, value: T) -> list[T]:
        """What all processes have, in the order of their ranks."""
        come = self.comm.Ibarrier()
        while not come.Test():  # MPI's own waiting would keep a core busy that another process could use
            time.sleep(WAIT)
        return self.comm.allgather(value)


def sharing(options: Options) -> tuple[Crew, Options]:
    """(Crew, options): as ``--shards`` says, else as this process was launched. Raises UserError.

    Processes of one machine take its GPUs in turn where ``--gpu`` says nothing.
    """
    if options.shards is not None:
        return Crew(parse_shard(options.shards)), options
    found = launched()
    if found is None:
        return Crew(), options
    comm = _world(found)
    if options.gpu is None and found.local_rank is not None and (count := gpu_count()[0]):
        options = dataclasses.replace(options, gpu=found.local_rank % count)
    return MpiCrew(comm), options


def _world(found: Launched) -> Any:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py without any MPI library
        raise UserError(
            f"{found.launcher} started {found.size} processes, which need mpi4py to work together "
            f"({one_line(error)}); pip install 'medi2i[mpi]', or --shards I/N instead"
        ) from None
    size = MPI.COMM_WORLD.Get_size()
    if size != found.size:
        raise UserError(
            f"{found.launcher} started {found.size} processes, but mpi4py's MPI knows {size}: they are of "
            "different MPIs; the mpiexec beside this python may be the right one, or --shards I/N instead"
        )
    return MPI.COMM_WORLD
