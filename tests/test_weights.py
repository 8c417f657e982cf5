"""What the packaged models are trained on, and their folders."""

import itertools
import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medi2i.common.networks.checkpoint import find_run
from medi2i.common.options import load_args
from medi2i.tools.making.phantom import phantom

MODELS = Path(__file__).resolve().parents[1] / "models"


@pytest.fixture
def weights(monkeypatch):
    if not (MODELS.parent / "benchmarks").is_dir():
        pytest.skip("the benchmarks are not installed")
    monkeypatch.syspath_prepend(MODELS.parent / "benchmarks")
    return import_module("weights")


def test_the_noise_of_all_pairs_has_one_level_and_only_that_differs(tmp_path, weights):
    for folder in ("trainA", "trainB"):
        (tmp_path / folder).mkdir()
    hu = phantom((160, 160), 10, seed=1).hu[5] + 9 * np.random.default_rng(0).standard_normal((160, 160))
    task = weights.Task("a", hu.astype(np.float32), 2.5, weights.SERIES[0], 0)
    names = weights.make(task, tmp_path)
    assert names == [f"a_{k}.npy" for k in range(12)]
    pairs = [[np.load(tmp_path / folder / name) for folder in ("trainA", "trainB")] for name in names]
    for x, t in pairs:
        assert x.dtype == t.dtype == np.int16 and x.shape == t.shape
        assert np.std(np.float64(x) - t) == pytest.approx(weights.LEVEL, rel=0.3)  # less than that in the air of a scan
    first = pairs[0][0]
    weights.make(task, tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "trainA/a_0.npy"), first)


def test_a_model_is_trained_by_muon_at_its_rate_and_packed(tmp_path, weights, monkeypatch):
    calls, packed = [], []

    def run(words, check):
        calls.append(words)
        (Path(words[words.index("-o") + 1]) / "20260101").mkdir(parents=True)

    (tmp_path / "work/pairs").mkdir(parents=True)
    (tmp_path / "work/pairs/pairs.txt").write_text("a\tb\n" * 8)
    monkeypatch.setattr(weights.subprocess, "run", run)
    monkeypatch.setattr(weights, "pack", lambda run, model: packed.append((run, model)))
    argv = ["weights.py", "data", "--work", tmp_path / "work", "--models", tmp_path / "models", "--updates", 800]
    monkeypatch.setattr("sys.argv", [str(word) for word in argv])
    weights.main()
    for words, (name, rate) in zip(calls, weights.RATES.items(), strict=True):
        given = dict(itertools.pairwise(words))
        assert (given["--epoch"], given["--optimizer"], given["--learning_rate_gen"]) == ("100", "Muon", str(rate))
        assert packed.pop(0) == (tmp_path / f"work/{name}/20260101", tmp_path / f"models/{name}")


def test_series_of_the_body_are_cut_to_it(weights):
    hu = np.full((100, 120), -1000.0)
    hu[40:60, 50:80] = 0
    assert weights.of_the_body(hu).shape == (20 + 2 * weights.MARGIN, 30 + 2 * weights.MARGIN)
    assert weights.of_the_body(hu[:30]).shape == (30, 120)


@pytest.mark.parametrize("folder", sorted(MODELS.glob("*/args")), ids=lambda path: path.parent.name)
def test_packaged_models_are_run_folders_with_card_and_sources(folder, weights):
    model, options = folder.parent, load_args(folder)
    assert find_run(model).epochs and options.gen_chs == list(weights.CHANNELS[model.name])
    assert options.noise_level == weights.LEVEL and options.clipA == options.clipB
    assert {"summary", "modality", "noise_hu", "pixel_mm"} <= set(json.loads((model / "card.json").read_text()))
    assert "doi:10.7937/QXK2-QG03" in (model / "NOTICE").read_text()
    assert "/" not in "".join(str(getattr(options, name)) for name in ("root", "out", "train", "model_gen"))
    assert sum(file.stat().st_size for file in model.iterdir()) < 5e6


@pytest.mark.parametrize("name", sorted(path.parent.name for path in MODELS.glob("*/args")))
@pytest.mark.parametrize("level", [5.0, 30.0])
def test_packaged_models_take_noise_away_and_hardly_change_means(name, level, weights):
    denoising = import_module("denoising")
    scene = denoising.Scene(phantom((256, 256), 3, seed=2).hu[1], None, 1.6, 1e5)
    noisy = denoising.at_level(scene, "white", level, 0)
    made = denoising.Model(str(MODELS / name))(noisy, denoising.noise_of(noisy, None), level)
    before, after = (denoising.measured(image, scene) for image in (noisy, made))
    assert before["rmse"] == pytest.approx(level, rel=0.05) and after["rmse"] < 0.7 * level
    for tissue in ("air", "fat", "muscle"):
        assert abs(after[tissue]) < 0.5 + level / 8


@pytest.fixture
def task(weights):
    """A disc of 40 HU with white noise of 9 HU."""
    body = np.hypot(*(np.indices((256, 256)) - 128)) < 110
    hu = np.where(body, 40.0, -1000.0) + np.random.default_rng(0).normal(0, 9, body.shape)
    return weights.Task("0_000", hu, 0.8, weights.Series("ct", 1, 1, 9.0, 6), 0)


def grain(image):
    """Standard deviation of white noise that has as strong a finest detail as most pixels of the inner part."""
    inner = image[tuple(slice(n // 3, -(n // 3)) for n in image.shape)]
    return np.median(np.abs(ndimage.laplace(inner))) / 0.6745 / 20**0.5


def test_all_noise_on_top_has_one_level_and_where_all_noise_is_to_go_nearly(weights, task, tmp_path):
    for part in ("trainA", "trainB"):
        (tmp_path / part).mkdir()
    names = weights.make(task, tmp_path)
    assert names == [f"0_000_{n}.npy" for n in range(6)]
    for number, name in enumerate(names):
        x, t = (np.load(tmp_path / part / name).astype(float) for part in ("trainA", "trainB"))
        level = (x - t)[t > (t.min() + np.median(t)) / 2].std()
        clean = number % weights.CLEAN == weights.CLEAN - 1
        low, high = weights.OFF if clean else (1, 1)
        assert 0.9 * weights.LEVEL / high < level < 1.1 * weights.LEVEL / low


def test_a_target_has_no_noise_of_its_scanner(weights, task, monkeypatch):
    assert grain(task.hu) == pytest.approx(9, rel=0.1)
    smooth = weights.denoise_nl_means(task.hu.astype(np.float32), 5, 6, h=7.2, sigma=9.0, fast_mode=True)
    assert grain(weights.clean_target(task, smooth, np.random.default_rng(0))) < 1
    monkeypatch.setattr(weights, "textured", lambda field, *_: np.zeros_like(field))
    kernel = weights.Kernel(1.0, 0.0)
    found = [weights.target(task, smooth, np.zeros_like(smooth), kernel, np.random.default_rng(n)) for n in range(8)]
    assert max(map(grain, found)) < 3


def test_ellipses_lie_in_the_body_alone(weights):
    hu = np.full((90, 70), -1000.0)
    hu[20:60, 10:50] = 0
    drawn = weights.with_ellipses(hu, np.random.default_rng(3))
    changed = np.argwhere(drawn != hu)
    assert len(changed) and (hu[10:70, 0:60] != drawn[10:70, 0:60]).any() and (drawn[85:] == hu[85:]).all()
    assert np.abs(drawn - hu).max() < 5 * 120
