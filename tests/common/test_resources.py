"""CPU time of containers, by made-up control groups of both versions."""

import os
import platform
import subprocess
import sys

import pytest

from medi2i.common import resources


def groups(root, membership, **files):
    """A root folder with /proc/self/cgroup and files of /sys/fs/cgroup ("a/b/cpu.max": content)."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("1000 100000\n", 1),
        ("30000 10000\n", 3),
        ("max 100000\n", None),
        ("", None),
        ("-1 100000\n", None),
        ("100000 0\n", None),
        ("nonsense", None),
    ],
)
def test_version_2(tmp_path, content, expected):
    assert resources.cpu_quota(groups(tmp_path, "0::/\n", **{"cpu.max": content})) == expected


def test_version_2_the_least_of_a_group_and_those_around_it(tmp_path):
    files = {"cpu.max": "max 100000", "a/cpu.max": "300000 100000", "a/b/cpu.max": "400000 100000"}
    assert resources.cpu_quota(groups(tmp_path, "0::/a/b\n", **files)) == 3


@pytest.mark.parametrize("mounted", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize("inside", ["docker/0123/", ""])  # within the container its own group is the root
@pytest.mark.parametrize(("quota", "expected"), [("250000", 3), ("100000", 1), ("-1", None)])
def test_version_1(tmp_path, mounted, inside, quota, expected):
    files = {f"{mounted}/{inside}cpu.cfs_quota_us": quota, f"{mounted}/{inside}cpu.cfs_period_us": "100000\n"}
    membership = "12:pids:/docker/0123\n4:cpu,cpuacct:/docker/0123\n0::/system.slice\n"
    assert resources.cpu_quota(groups(tmp_path, membership, **files)) == expected


def test_without_control_groups(tmp_path):
    assert resources.cpu_quota(tmp_path) is None
    assert resources.cpu_quota(groups(tmp_path / "x", "0::/../..\n")) is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 4), (2, 2), (8, 4), (1, 1)])
def test_every_count_of_threads_heeds_it(monkeypatch, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(resources, "cpu_quota", lambda: quota)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    resources.available_cores.cache_clear()
    try:
        assert resources.available_cores() == resources.threads() == expected
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert resources.threads() == 3
    finally:
        resources.available_cores.cache_clear()


def test_threads_follow_the_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert resources.threads() == 3
    for nonsense in ("", "many", "0"):
        monkeypatch.setenv("OMP_NUM_THREADS", nonsense)
        assert 1 <= resources.threads() <= os.cpu_count()


ARRAYS = """
import resource, sys
import numpy as np
from medi2i.common.resources import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
faults = 0
for turn in range(12):
    if turn == 2:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [np.ones(1 << 20, np.float32) for _ in range(4)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_memory_of_arrays_is_used_again(monkeypatch):
    """4 arrays of 4 MiB, made anew ten times: 1024 pages each where the kernel gives them every time."""

    def faults(word):
        return int(subprocess.run([sys.executable, "-c", ARRAYS, word], capture_output=True, check=True).stdout)

    given = faults("leave")
    assert given > 10000 and faults("keep") < 100
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")  # who sets it himself has it his way
    assert faults("keep") > 10000
