"""Twins against the rules of the loader, CUDA sources (through g++) against the twins."""

import numpy as np
import pytest
from cuda_harness import by_gcc

from medi2i.common.kernels.gpu import augment
from medi2i.datasets.augment import Draw, Uncut, apply
from medi2i.datasets.scaling import Clip

needs_gcc = pytest.mark.skipif(by_gcc.compiler() is None, reason="g++ is not installed")
CHANGES = {
    "still": Draw(),
    "shift": Draw(down=3, right=-2),
    "flip": Draw(flip=True, down=-4, right=1),
    "rotated": Draw(degrees=11.0),
    "scaled": Draw(scale=0.8, right=2),
    "all": Draw(scale=1.15, degrees=-23.0, flip=True, down=2, right=-3),
    "placed": Draw(place=(0.9, 0.1)),
    "quarter": Draw(turns=1),
    "three quarters": Draw(turns=3, flip=True, right=2),
    "half": Draw(turns=2, place=(0.2, 0.6)),
    "turned": Draw(scale=0.9, degrees=9.0, turns=1, place=(0.0, 1.0)),
}


def images(n=1, c=2, shape=(21, 18)):
    return np.random.default_rng(4).uniform(-1, 1, (n, c, *shape)).astype(np.float32)


@pytest.mark.parametrize("size", [(13, 10), (21, 18), (8, 18), (12, 12)])
@pytest.mark.parametrize("draw", CHANGES.values(), ids=CHANGES)
def test_the_same_as_the_loader(draw, size):
    x = images()
    got = augment.augment(x, [draw], size)[0]
    expected = apply(x[0], draw, size)
    if draw.scale == 1 and draw.degrees == 0:
        np.testing.assert_array_equal(got, expected)
    else:
        assert np.abs(got - expected).max() <= 2e-7
        np.testing.assert_array_equal(got == -1, expected == -1)


def test_every_image_of_a_batch_has_its_own_change():
    x, draws = images(n=len(CHANGES)), list(CHANGES.values())
    got = augment.augment(x, draws, (13, 10))
    for one, draw, result in zip(x, draws, got, strict=True):
        assert np.abs(apply(one, draw, (13, 10)) - result).max() <= 2e-7
    with pytest.raises(ValueError, match="2 draws for 11 images"):
        augment.augment(x, draws[:2], (13, 10))


def test_classes_stay_whole_numbers():
    labels = np.random.default_rng(1).integers(0, 4, (1, 1, 32, 30)).astype(np.float32)
    draw = CHANGES["all"]
    got = augment.augment(labels, [draw], (24, 24), nearest=True, outside=0.0)[0]
    expected = apply(labels[0], draw, (24, 24), nearest=True, outside=0.0)
    assert set(np.unique(got)) <= {0, 1, 2, 3}
    assert (got != expected).mean() < 0.005  # Pillow counts its way in fixed point


@needs_gcc
@pytest.mark.parametrize("nearest", [False, True])
def test_gather_kernel_is_its_twin(nearest):
    x, draws = images(n=len(CHANGES)), list(CHANGES.values())
    size, shape = (13, 13), (21, 18)
    y = np.empty((len(CHANGES), 2, *size), np.float32)
    numbers = [np.int32(v) for v in (2, *shape, *size)]
    augment.AFFINE(x, augment.matrices(draws, shape, size), *numbers, np.float32(-1), np.bool_(nearest), y)
    np.testing.assert_array_equal(y, augment.augment(x, draws, size, nearest=nearest))


@pytest.mark.parametrize("dtype", augment.STORED)
def test_stored_values_become_what_the_loader_makes_of_them(dtype):
    stored = np.arange(0, 250, dtype=dtype).reshape(10, 25)
    np.testing.assert_array_equal(augment.clip_scale(stored, Clip()), stored.astype(np.float32))
    for clip in (Clip(-900.1, 1200.3), Clip(7.1, 200.3)):
        got = augment.clip_scale(stored, clip)
        np.testing.assert_array_equal(got, clip.to_unit(stored))
    assert got.min() == -1 and got.max() == 1 and got.dtype == np.float32


@needs_gcc
@pytest.mark.parametrize("dtype", augment.STORED)
def test_clip_kernel_is_its_twin(dtype):
    stored = np.random.default_rng(2).integers(0, 200, (7, 9)).astype(dtype)
    numbers = [np.float32(v) for v in (13.7, 151.3, (151.3 - 13.7) / 2)]
    np.testing.assert_array_equal(augment.CLIP_SCALE(stored, *numbers), augment.clip_scale(stored, Clip(13.7, 151.3)))


@pytest.mark.parametrize(
    "place, draw, key, words",
    [  # the published test vectors of Random123
        (0, 0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (2**64 - 1, 2**64 - 1, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ],
)
def test_philox(place, draw, key, words):
    assert tuple(int(v) for v in augment.philox(np.uint64(place), np.uint64(draw), key)) == words


def test_gaussian_moments_and_keys():
    x = np.full((200, 300), 0.25, np.float32)
    noisy = augment.gaussian(x, 0.1, key=9)
    error = 0.1 / np.sqrt(x.size)
    assert abs(noisy.mean(dtype=np.float64) - 0.25) < 4 * error and abs(noisy.std(dtype=np.float64) - 0.1) < 4 * error
    z = (noisy.astype(np.float64) - 0.25) / 0.1
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / x.size)
    np.testing.assert_array_equal(noisy, augment.gaussian(x, 0.1, key=9))
    other = augment.gaussian(x, 0.1, key=10)
    assert abs(np.corrcoef(noisy.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(x.size)


@needs_gcc
def test_the_noise_kernel_is_its_twin():
    x = images()[0]
    np.testing.assert_allclose(
        augment.GAUSSIAN(x, np.float32(0.2), np.uint64(77)), augment.gaussian(x, 0.2, 77), rtol=0, atol=1e-7
    )


@pytest.mark.gpu
def test_a_gpu_computes_what_the_twins_do():
    cupy = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("there is no GPU")
    x, draws, size = images(n=len(CHANGES)), list(CHANGES.values()), (13, 13)
    on_device = cupy.asarray(x)
    np.testing.assert_allclose(
        augment.augment(on_device, draws, size).get(), augment.augment(x, draws, size), rtol=0, atol=1e-6
    )
    uncut = Uncut(np.arange(378, dtype=np.int16).reshape(1, 21, 18), Clip(0, 300), draws[5], size, 0.1, 5)
    np.testing.assert_allclose(
        augment.finish(cupy.asarray(uncut.values), uncut).get(), augment.finish(uncut.values, uncut), rtol=0, atol=1e-6
    )
    stored = np.arange(250, dtype=np.int16)
    np.testing.assert_array_equal(
        augment.clip_scale(cupy.asarray(stored), Clip(10, 200)).get(), augment.clip_scale(stored, Clip(10, 200))
    )
    np.testing.assert_allclose(
        augment.gaussian(on_device, 0.1, 5).get(), augment.gaussian(x, 0.1, 5), rtol=0, atol=1e-6
    )
