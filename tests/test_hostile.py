"""The attackers' side judges as it says: what a process does is seen, and every rule has something that breaks it."""

import collections
import contextlib
import importlib
import os
import select
import signal
import socket
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
MODULES = (
    "fuzz",
    "fuzz_dicom",
    "fuzz_files",
    "hostile",
    "hostile_archives",
    "hostile_cases",
    "hostile_dicom",
    "hostile_frames",
    "hostile_good",
    "hostile_models",
    "hostile_pictures",
    "hostile_places",
    "hostile_volumes",
    "hostile_watch",
)

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="limits and memory are those of Linux"),
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the benchmarks are not installed"),
]


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of benchmarks/, which is no package."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def run(benchmark, tmp_path):
    """Runs a statement as a case would be run: by ``python -m timeit``, which takes any."""
    watch = benchmark("hostile_watch")
    started = []

    def statement(text, limit=60, traced=False):
        started.append(watch.Waiting(sys.executable, "timeit", traced))
        return started[-1].run(["-n1", "-r1", text], limit, tmp_path)

    statement.tracer = watch.tracer
    yield statement
    for process in started:
        process.stop()


def test_a_case_is_a_process_with_limits(run, tmp_path):
    seen = run("open('here', 'w').write('x'); x = b'x' * (300 << 20)")
    assert (tmp_path / "here").read_text() == "x" and (seen.status, seen.outcome, seen.outside) == (0, "done", None)
    assert 300 << 20 < seen.peak < 450 << 20
    seen = run("b'x' * (9 << 30)")
    assert seen.outcome == "traceback" and seen.last == "MemoryError" and seen.peak < 100 << 20


def test_what_waits_for_ever_is_ended_and_what_it_started_too(run, tmp_path):
    pid = tmp_path / "pid"
    seen = run(
        f"import os; os.fork() or open({str(pid)!r}, 'w').write(str(os.getpid())); import time; time.sleep(600)",
        limit=1,
    )
    assert (seen.late, seen.outcome) == (True, "hangs")
    with contextlib.suppress(ProcessLookupError):  # gone already
        assert select.select([os.pidfd_open(int(pid.read_text()))], [], [], 30)[0], "it lives"


def test_one_waiting_process_serves_many_cases(benchmark, tmp_path):
    waiting = benchmark("hostile_watch").Waiting(sys.executable, "timeit", False)
    texts = [
        waiting.run(["-n1", "-r1", text], 60, tmp_path).outcome
        for text in ("import os; os._exit(7)", "pass", "1 / 0", "import os; os.abort()")
    ]
    waiting.stop()
    assert texts == ["no reason", "done", "traceback", "dies (SIGABRT)"]


def test_programs_and_connections_are_seen(run):
    if run.tracer() is None:
        pytest.skip("strace is not installed")
    assert run("import os; os.getpid()", traced=True).outside == ()
    assert "program true" in run("import subprocess; subprocess.run(['true'])", traced=True).outside
    assert run("import subprocess; subprocess.run(['/no/such'])", traced=True).outside == ("program such",)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        seen = run(
            f"import socket; socket.socket().connect_ex(('127.0.0.1', {listening.getsockname()[1]}))", traced=True
        )
    assert any(entry.startswith("socket(AF_INET") for entry in seen.outside)
    assert any(entry.startswith("connect(") for entry in seen.outside)
    if socket.has_ipv6:  # asked by libraries that a user may have, and nothing is sent
        asks = "import socket; s = socket.socket(socket.AF_INET6); s.bind(('::1', 0))"
        assert run(asks, traced=True).outside == ()
        assert run(f"{asks}; s.listen()", traced=True).outside != ()


@pytest.fixture
def judged(benchmark, tmp_path):
    """(outcome, findings) of a case that allows "left out", with what was seen changed; ``bad.png`` is the bad file."""
    hostile, cases, watch = benchmark("hostile"), benchmark("hostile_cases"), benchmark("hostile_watch")
    case = cases.Case("x", "x", print, ("left out",), 5.0, 1 << 30, False)
    command = cases.Command("m", (), ("bad.png",), (tmp_path / "out/good.png",))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/good.png").touch()

    def judge(**changes):
        seen = {
            "status": 0,
            "text": "skipped bad.png: damaged\n1 written\n",
            "seconds": 1.0,
            "wall": 1.0,
            "peak": 99 << 20,
            "late": False,
            "outside": (),
        }
        return hostile.judge(case, command, watch.Seen(**seen | changes), tmp_path)

    return judge


def test_each_rule_finds_what_breaks_it(judged, tmp_path):
    assert judged() == ("left out", [])
    assert judged(text="1 written") == ("left out in silence", ["left out in silence; left out is right"])
    assert judged(status=1, text="error: bad.png") == ("refused", ["refused; left out is right"])
    assert judged(status=1, text="bad.png") == ("no reason", ["no reason; left out is right"])
    assert judged(status=-signal.SIGSEGV)[0] == "dies (SIGSEGV)" and judged(late=True)[0] == "hangs"
    assert judged(text="bad.png\nTraceback (most recent call last):\n  x\nValueError")[0] == "traceback"
    assert judged(peak=2 << 30)[1] == ["2048 MB of memory, more than 1024"]
    assert judged(seconds=6.0)[1] == ["6.0 s of processor time, more than 5"]
    assert judged(text="bad.png \x1b[2J \u202e \x9b")[1] == ["prints U+001B U+009B U+202E"]
    assert judged(outside=("program gs", "program gs"))[1] == ["starts gs"]
    (tmp_path / "out/bad.png").touch()
    assert judged()[1][0] == "used: bad.png"
    (tmp_path / "out/bad.png").unlink()
    (tmp_path / "out/good.png").unlink()
    assert judged()[1] == ["good.png is missing: the others were not converted"]


def test_cells_show_what_a_terminal_or_a_page_would_obey(benchmark):
    assert benchmark("hostile").visible("a|b\x1b[2J<img>`") == "a\\|b\\x1b[2J&lt;img>'"
    assert len(benchmark("hostile").visible("x" * 999)) == 160


def test_the_table_goes_between_its_marks(benchmark, tmp_path):
    hostile = benchmark("hostile")
    row = {
        "name": "content-eps-png",
        "outcome": "left out",
        "last": "skipped a.png",
        "seconds": 0.51,
        "peak": 15e7,
        "outside": [],
    }
    page = tmp_path / "page.md"
    page.write_text(f"before\n{hostile.START}old\n{hostile.END}after\n")
    hostile.write(page, [row], {"content-eps-png": {**row, "outcome": "done", "outside": ["program gs"]}})
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| **done, starts gs**, 0.5 s, 150 MB: skipped a.png | **left out**, 0.5 s, 150 MB: skipped a.png |" in text


def test_a_case_of_the_fuzzer_is_the_same_each_time(benchmark, tmp_path):
    files = benchmark("fuzz_files")
    for subject in files.SUBJECTS.values():
        seeds = subject.seeds(tmp_path)
        cases = [subject.case(seeds, 3, number) for number in range(4)]
        assert cases == [subject.case(subject.seeds(tmp_path), 3, number) for number in range(4)]
        assert len({data for data, _ in cases}) == 4
        (tmp_path / f"whole{subject.suffix}").write_bytes(seeds[subject.first])
        came = subject.attempt(tmp_path / f"whole{subject.suffix}", tmp_path / f"out{subject.suffix}")
        assert came in ("read and written", "loaded")


# Of damaged models hardly one loads, and which one depends on Python's zipfile: more cases than of the quicker kinds.
@pytest.mark.parametrize(
    "kind, cases, read, refused",
    [("png", 50, 5, 30), ("tif", 120, 20, 60), ("npy", 120, 8, 80), ("nii", 120, 40, 50), ("npz", 120, 1, 90)],
)
def test_damaged_files_are_read_or_refused_with_a_reason(benchmark, monkeypatch, tmp_path, kind, cases, read, refused):
    fuzz, subject = benchmark("fuzz"), benchmark("fuzz_files").SUBJECTS[kind]
    monkeypatch.setenv("MEDI2I_MAX_PIXELS", str(fuzz.MAX_PIXELS))
    seeds = subject.seeds(tmp_path)
    path, came = tmp_path / f"case{subject.suffix}", collections.Counter()
    for number in range(cases):
        path.write_bytes(subject.case(seeds, 1, number)[0])
        came[subject.attempt(path, tmp_path / f"out{subject.suffix}").partition(":")[0]] += 1
    assert came["read and written"] + came["loaded"] >= read and came["refused"] >= refused


SMALL = (
    "content-eps-png",
    "tif-lies",
    "npy-lies",
    "jpeg-lies",
    "header-lies",
    "escape-name",
    "direct-fifo-png",
    "args-gen_nblock",
    "npz-encrypted",
    "finite-enc_x-all-png",
)


def test_hostile_files_through_the_real_command(benchmark, tmp_path):
    hostile, watch = benchmark("hostile"), benchmark("hostile_watch")
    (tmp_path / "shared").mkdir()
    waiting = watch.Waiting(sys.executable, "medi2i.pix2pix.convert")
    rows = [
        hostile.run_case(hostile.CASES[name], tmp_path / "shared", sys.executable, lambda module: waiting)
        for name in SMALL
    ]
    waiting.stop()
    found = {row["name"]: row["findings"] for row in rows if row["findings"]}
    assert not found, found
