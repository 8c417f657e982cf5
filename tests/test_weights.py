"""benchmarks/weights.py: what the packaged models are trained on is what its docstring says."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def weights():
    if not BENCHMARKS.is_dir():
        pytest.skip("the benchmarks are not installed")
    spec = importlib.util.spec_from_file_location("weights", BENCHMARKS / "weights.py")
    module = sys.modules["weights"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["weights"]


@pytest.fixture(scope="module")
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
    found = [weights.target(task, smooth, np.zeros_like(smooth), np.random.default_rng(n))[0] for n in range(8)]
    assert max(map(grain, found)) < 3


def test_ellipses_lie_in_the_body_alone(weights):
    hu = np.full((90, 70), -1000.0)
    hu[20:60, 10:50] = 0
    drawn = weights.with_ellipses(hu, np.random.default_rng(3))
    changed = np.argwhere(drawn != hu)
    assert len(changed) and (hu[10:70, 0:60] != drawn[10:70, 0:60]).any() and (drawn[85:] == hu[85:]).all()
    assert np.abs(drawn - hu).max() < 5 * 120
