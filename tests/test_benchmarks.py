"""The measurements measure what they say: the PyTorch twin is the same network, ratios are those of one round."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from medi2i.common.compat import chainer

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of benchmarks/, which is no package."""
    if not FOLDER.is_dir():
        pytest.skip("the benchmarks are not installed")
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in (
        "measure",
        "subjects",
        "twin",
        "training",
        "gpu",
        "gpu_kit",
        "gpu_parts",
        "loader",
        "end_to_end",
        "conversion",
        "bench",
        "speed_page",
        "shapes",
    ):
        sys.modules.pop(name, None)


def test_ratios_are_taken_within_a_round(benchmark):
    measure = benchmark("measure")
    rows = measure.summary({"a": [1.0, 10.0, 2.0], "b": [0.5, 20.0, 1.0]}, "a")
    assert rows["a"] == {"median_s": 2.0, "fastest_s": 1.0, "ratio": 1.0, "rounds": 3}
    assert rows["b"] == {"median_s": 1.0, "fastest_s": 0.5, "ratio": 0.5, "rounds": 3}


def test_candidates_alternate_with_pauses(benchmark, monkeypatch):
    calls, measure = [], benchmark("measure")
    monkeypatch.setattr(measure.time, "sleep", lambda seconds: calls.append(" "))
    seconds = measure.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert "".join(calls) == " a b b a a b b a"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_the_machine_is_described(benchmark):
    about = benchmark("measure").machine()
    assert about["cores"] >= 1 and about["packages"]["chainer"] == "7.8.1"


@pytest.mark.parametrize("application", ["pix2pix", "cyclegan"])
def test_the_twin_is_the_same_network(benchmark, application):
    torch = pytest.importorskip("torch")
    subjects, twin = benchmark("subjects"), benchmark("twin")
    networks, _ = subjects.APPLICATIONS[application](16, 1)
    x = np.random.default_rng(0).normal(size=(2, 1, 16, 24)).astype(np.float32)
    encoder, decoder = twin.twin(networks.enc_x), twin.twin(networks.dec_y)
    ours = networks.translate(x).array
    theirs = decoder(encoder(torch.from_numpy(x))).detach().numpy()
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    if application == "pix2pix":
        with chainer.using_config("train", False):
            ours = networks.translate(x).array
        theirs = decoder.eval()(encoder.eval()(torch.from_numpy(x))).detach().numpy()
        assert np.abs(theirs - ours).max() < 0.05  # running variances differ by n / (n - 1), and were seen once


def test_both_make_the_same_first_step(benchmark):
    torch = pytest.importorskip("torch")
    subjects, training, twin = benchmark("subjects"), benchmark("training"), benchmark("twin")
    networks, updater = subjects.pix2pix(32, 1)
    step = twin.Pix2pixStep(networks, updater.options, subjects.RATE, subjects.DECAY)
    x, t = (torch.from_numpy(subjects.images(1, 32, seed)[0][None]) for seed in (1, 2))
    before = networks.dec_y.ul.c1.c.W.array.copy()
    step(x, t)
    updater.update()
    moved = networks.dec_y.ul.c1.c.W.array - before
    twins = step.dec.ul.c1.weight.detach().numpy() - before
    assert np.abs(moved).max() > 1e-5
    # The discriminator's targets have noise in ours, so the first step agrees in its bulk only.
    assert np.corrcoef(moved.ravel(), twins.ravel())[0, 1] > 0.9
    assert training.make(training.CHAINER, "pix2pix", 32, 1) is not None


def test_gpu_columns_only_with_a_gpu(benchmark, monkeypatch, capsys):
    gpu = benchmark("gpu")
    monkeypatch.setattr(gpu, "gpu_count", lambda: (0, "there is none"))
    assert gpu.run(3) == [] and "No GPU columns: there is none" in capsys.readouterr().out
    monkeypatch.setattr(gpu, "gpu_count", lambda: (1, ""))
    row = {"median_s": 0.25, "megabytes": 99.0}
    monkeypatch.setattr(
        gpu, "in_own_process", lambda name, numbers, repeats, cases: [None if name == gpu.LAST else row] * len(cases)
    )
    (result,) = gpu.run(3, [("pix2pix", 32, 2)])
    assert result["what"] == "gpu pix2pix" and len(result["median_s"]) == len(result["megabytes"]) == 11
    assert result["median_s"]["medi2i, tf32"] == 0.25 and result["median_s"]["PyTorch channels last, bf16"] is None
    assert "250.0 ms       99 MB" in capsys.readouterr().out


@pytest.mark.parametrize("what, numbers", [("pix2pix", "mixed"), ("cyclegan", "fp32"), ("convert", "mixed")])
def test_what_the_gpu_runs_runs(benchmark, monkeypatch, capsys, what, numbers):
    """With the CPU in the place of a GPU."""
    gpu, subjects = benchmark("gpu"), benchmark("subjects")
    monkeypatch.setattr(subjects, "CHANNELS", [4, 8])

    def measured(step, name, repeats):
        step()
        return [0.5, 0.25, 1.0][:repeats]

    monkeypatch.setattr(gpu, "choose_device", lambda number, tf32=False: subjects.CPU)
    monkeypatch.setattr(gpu, "measured", measured)
    monkeypatch.setattr(gpu, "held_megabytes", lambda name: 7.0)
    gpu.main(gpu.OURS, numbers, "3", f"{what}:16:1")
    row = {"candidate": f"medi2i, {numbers}", "case": f"{what}:16:1", "median_s": 0.5, "megabytes": 7.0}
    assert json.loads(capsys.readouterr().out) == row


def test_dicom_to_dicom_is_measured_beside_the_engine_that_ran(benchmark, capsys):
    pytest.importorskip("onnxruntime")
    rows = benchmark("end_to_end").run(1, 64, 2)
    assert [row["what"] for row in rows] == ["end to end"] * len(rows) and rows
    for row in rows:
        assert row["candidates"]["DICOM to DICOM"]["median_s"] > row["candidates"]["engine alone"]["median_s"] > 0


def test_the_loader_is_measured(benchmark):
    rows = benchmark("loader").measured(48, 2, 1, 1, 16)
    loading = [row for row in rows if row["what"] == "loading"]
    assert len(loading) == 6 and all(row["slices_per_core_second"] > 0 for row in loading)
    assert [row["workers"] for row in rows if row["what"] == "idle"] == ["no workers", "1 threads", "1 processes"]


def test_what_was_measured_is_kept_where_a_later_part_fails(benchmark, tmp_path, monkeypatch):
    bench = benchmark("bench")
    monkeypatch.setattr(bench.conversion, "run", lambda *given: [{"what": "conversion"}])
    monkeypatch.setattr(bench.gpu, "run", lambda *given: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["bench.py", "--only", "conversion", "gpu", "--out", str(tmp_path)])
    with pytest.raises(ZeroDivisionError):
        bench.main()
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["results"] == [{"what": "conversion"}]


def test_the_page_has_every_figure(benchmark, tmp_path):
    measure, page = benchmark("measure"), benchmark("speed_page")
    rows = measure.summary({"Chainer": [2.0], "medi2i": [0.5]}, "Chainer")
    results = [
        {
            "what": "training",
            "application": "pix2pix",
            "size": 8,
            "batch": 1,
            "candidates": rows,
            "medi2i_to_best_pytorch": 1.25,
        },
        {"what": "memory", "size": 8, "batch": 1, "megabytes": {"medi2i": 321.4, "PyTorch": None}},
        {
            "what": "loading",
            "size": 8,
            "stored": "RLE",
            "source": "cached",
            "augmentation": "shift",
            "slices_per_core_second": 77.7,
        },
        {"what": "idle", "crop": 8, "workers": "2 threads", "fraction": 0.0123, "update_s": 0.5},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"machine": measure.machine(), "results": results}))
    page.write(tmp_path / "page.md", tmp_path / "a.json")
    text = (tmp_path / "page.md").read_text()
    for shown in (
        "| medi2i | 0.500 | 0.500 | 0.25 |",
        "takes 1.25 ×",
        "| medi2i | 321 |",
        "| RLE | cached | shift | 78 |",
        "| 2 threads | 1.23 % | 0.50 |",
    ):
        assert shown in text
    assert "PyTorch |" not in text


def test_shapes_of_b_are_larger_by_what_is_said_and_are_seen_by_the_threshold(benchmark):
    shapes, areas = benchmark("shapes"), {}
    for striped in (False, True):
        images, classes = map(
            np.stack, zip(*(shapes.drawn(np.random.default_rng(s), striped) for s in range(20)), strict=True)
        )
        assert set(np.unique(classes)) == {0, 1, 2} and images.shape == (20, 64, 64)
        areas[striped] = (classes > 0).sum()
        assert shapes.dice(images > sum(shapes.LEVELS) / 2, classes > 0) > 0.97
    assert areas[True] / areas[False] == pytest.approx(1.12**2, rel=0.03)
    small, large = (np.hypot(*(np.indices((64, 64)) - 31.5)) < radius for radius in (18, 18 * 1.12))
    assert shapes.dice(small, large) == pytest.approx(2 / (1 + 1.12**2), abs=0.01)  # what CycleGAN is led to


def test_what_was_asked_of_shape_consistency_is_judged_seed_by_seed(benchmark):
    shapes = benchmark("shapes")

    def row(dice, distance=1.0):
        return {"dice": dice, "area": 1.0, "distance": distance}

    found = {
        "plain": [row(0.88), row(0.89)],
        "labels": [row(0.98, 1.2), row(0.98)],
        "segmentors": [row(0.98), row(0.98)],
    }
    assert [there for _, there in shapes.asked(found)] == [True] * 5
    found = {
        "plain": [row(0.88), row(0.92)],
        "labels": [row(0.98, 1.6), row(0.98)],
        "segmentors": [row(0.96), row(0.98)],
    }
    assert [there for _, there in shapes.asked(found)] == [False, True, False, False, True]
    assert shapes.table(found)[1].split() == ["plain", "0.900", "1.000", "1.000"]
