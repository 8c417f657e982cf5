"""Was this process started as one of several, by mpiexec or srun? Told by the environment, without any MPI library."""
import os
from collections.abc import Mapping
from dataclasses import dataclass

# Variables for rank, number of processes, and rank among the processes of one machine. Slurm's are those of a job step:
# a batch script sees SLURM_PROCID and SLURM_NTASKS too, though it is one process.
LAUNCHERS = {
    "Open MPI's mpiexec": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "mpiexec": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
}


@dataclass(frozen=True)
class Launched:
    """One of ``size`` processes, ``rank`` from 0; ``local_rank`` counts those of this machine, None if not known."""

    rank: int
    size: int
    local_rank: int | None
    launcher: str


def launched(environment: Mapping[str, str] | None = None) -> Launched | None:
    """What the launcher says of this process; None for a process that stands alone.

    environment: default: that of this process.
    """
    environment = os.environ if environment is None else environment
    for launcher, names in LAUNCHERS.items():
        rank, size, local = (_number(environment.get(name)) for name in names)
        if rank is not None and size is not None:
            return Launched(rank, size, local, launcher) if size > 1 else None
    return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
