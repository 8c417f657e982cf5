"""One of several processes, or alone: as the launchers say it."""

import itertools

import pytest

from medi2i.common.resources import LAUNCHERS, Launched, launched


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (
            {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
            Launched(2, 4, 0, "Open MPI's mpiexec"),
        ),
        ({"PMI_RANK": "1", "PMI_SIZE": "3", "MPI_LOCALRANKID": "1"}, Launched(1, 3, 1, "mpiexec")),
        ({"PMI_RANK": "1", "PMI_SIZE": "3"}, Launched(1, 3, None, "mpiexec")),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, None),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}, Launched(5, 8, 1, "srun")),
        # a batch script, and one process of an mpiexec inside of it
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, None),
        (
            {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "PMI_RANK": "3", "PMI_SIZE": "8"},
            Launched(3, 8, None, "mpiexec"),
        ),
        ({"PMI_RANK": "", "PMI_SIZE": "x"}, None),
    ],
)
def test_rank_and_size(environment, expected, monkeypatch):
    for name in itertools.chain.from_iterable(LAUNCHERS.values()):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched() == expected
