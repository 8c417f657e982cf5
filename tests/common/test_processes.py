"""Worker processes: every result once, a death costs one item, and a caller's script is never run again."""

import contextlib
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from medi2i.common.processes import Died, map_in_processes
from medi2i.datasets.dicom import scanning

TASKS = """
    import os, signal, sys

    def double(x):
        print("what a library prints is no answer", flush=True)
        return 2 * x

    def die_on_3(x):
        if x == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    def die_on_f3(path):
        if path.name == "f3":
            os._exit(1)  # as a codec that crashes does
        return path.name

    def die_once_on_f3(path):
        if path.name == "f3" and not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)  # as a machine without memory does
        return path.name

    def complain(x):
        raise KeyError(f"no {x}")

    def answer_with_what_cannot_be_sent(x):
        return lambda: x
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    (tmp_path / "tasks_of_a_test.py").write_text(textwrap.dedent(TASKS))
    monkeypatch.syspath_prepend(tmp_path)
    import tasks_of_a_test

    yield tasks_of_a_test
    del sys.modules["tasks_of_a_test"]


def test_every_result_once(tasks):
    assert sorted(map_in_processes(tasks.double, [5, 6, 7], 2)) == [(0, 10), (1, 12), (2, 14)]
    assert list(map_in_processes(tasks.double, [], 2)) == []


def test_a_process_that_dies_costs_one_item(tasks):
    found = dict(map_in_processes(tasks.die_on_3, range(8), 2))
    assert found.pop(3) == Died(-9)
    assert found == {x: x for x in range(8) if x != 3}


def test_exceptions_come_back_and_end_the_rest(tasks):
    with pytest.raises(KeyError, match="no 1"):
        list(map_in_processes(tasks.complain, [1], 2))


def test_what_cannot_be_sent_back_is_no_endless_wait(tasks):
    assert [isinstance(r, Died) for _, r in map_in_processes(tasks.answer_with_what_cannot_be_sent, [1, 2], 1)] == [
        True,
        True,
    ]


def test_workers_that_cannot_start_are_one_error(tasks, monkeypatch):
    monkeypatch.setattr(tasks.double, "__module__", "no_such_module", raising=False)
    with pytest.raises(Exception, match="no_such_module|did not start"):
        list(map_in_processes(tasks.double, range(5), 2))


def test_a_decoder_that_crashes_costs_one_file(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, "PARALLEL_FROM_SECONDS", 0)
    paths = [tmp_path / f"f{n}" for n in range(20, 8, -1)] + [tmp_path / "f3", tmp_path / "f1"]
    found = scanning.run_parallel(tasks.die_on_f3, paths, workers=2)
    assert found[-2] == scanning.Skipped(paths[-2], "the decoder crashed on this file", crashed=True)
    assert found[:-2] == [p.name for p in paths[:-2]] and found[-1] == "f1"


def test_a_worker_that_is_killed_costs_no_file(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, "PARALLEL_FROM_SECONDS", 0)
    paths = [tmp_path / f"f{n}" for n in range(20, 8, -1)] + [tmp_path / "f3", tmp_path / "f1"]
    assert scanning.run_parallel(tasks.die_once_on_f3, paths, workers=2) == [path.name for path in paths]


def test_an_unguarded_script_runs_once(ct_file, tmp_path):
    for number in range(12):
        ct_file(f"in/{number}", np.array([[number, 1]] * 3, np.uint16), InstanceNumber=number)
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        with open({str(tmp_path / "runs")!r}, "a") as file:
            file.write("run\\n")
        from medi2i.datasets import dicom
        from medi2i.datasets.dicom import scanning
        scanning.PARALLEL_FROM_SECONDS = 0
        print(len(dicom.scan({str(tmp_path / "in")!r}, workers=2).series[0].slices))
        """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, (tmp_path / "runs").read_text()) == ("12\n", "", "run\n")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_when_the_caller_is_killed(tasks, tmp_path):
    script = f"""
        import sys; sys.path.insert(0, {str(tmp_path)!r})
        import tasks_of_a_test
        from medi2i.common.processes import map_in_processes
        for index, _ in map_in_processes(tasks_of_a_test.double, range(10**9), 2):
            if index == 5:
                print("on the way", flush=True)
        """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    process.stdout.readline()
    assert len(members_of_session(process.pid)) == 3
    process.kill()
    process.wait()
    end = time.monotonic() + 30
    while members_of_session(process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not members_of_session(process.pid)


def members_of_session(session):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(stat.parent.name)
    return found


def test_a_worker_killed_while_it_starts_is_started_again(monkeypatch):
    popen, killed = subprocess.Popen, []

    def first_one_dies(*arguments, **how):
        process = popen(*arguments, **how)
        if not killed:
            killed.append(process.pid)
            process.kill()
        return process

    monkeypatch.setattr(subprocess, "Popen", first_one_dies)
    assert sorted(map_in_processes(abs, [-1, -2], 1)) == [(0, 1), (1, 2)] and len(killed) == 1
