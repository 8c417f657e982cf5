import numpy as np
import PIL.Image
import pytest

from medi2i.common.errors import Unreadable, UserError
from medi2i.datasets.catalogue import sources_in
from medi2i.datasets.examples import ImageCache
from medi2i.datasets.grid import enlarge, enlarge_mask, resample, resample_mask
from medi2i.datasets.preparing import (
    Curve,
    Domain,
    body_mask,
    clip_given,
    clip_to_body,
    landmarks_of,
    scale_of,
    to_grid,
    with_channels,
)
from medi2i.datasets.reading import Image
from medi2i.datasets.scaling import Clip


def slice_with_table():
    y, x = np.mgrid[:80, :100]
    hu = np.full((80, 100), -1000.0, dtype=np.float32)
    body = ((y - 35) / 22.0) ** 2 + ((x - 50) / 35.0) ** 2 <= 1
    hu[body] = 30
    lung = ((y - 35) / 9.0) ** 2 + ((x - 40) / 9.0) ** 2 <= 1
    hu[lung] = -850
    hu[66:69, 10:90] = -200  # table
    hu[4, 10] = 500  # a speck
    return hu, body


def test_body_with_its_lungs_and_without_the_table():
    hu, body = slice_with_table()
    mask = body_mask(hu)
    assert mask[35, 40]
    assert not mask[66:69].any() and not mask[4, 10]
    assert np.count_nonzero(mask != body) <= 4


def test_what_is_outside_becomes_air_and_inside_nothing_changes():
    hu, body = slice_with_table()
    clipped = clip_to_body(hu)
    assert clipped.dtype == np.float32
    np.testing.assert_array_equal(clipped[body_mask(hu)], hu[body_mask(hu)])
    assert (clipped[~body_mask(hu)] == -1000).all()
    assert clipped[35, 40] == -850


def test_body_cut_by_the_border_is_kept_up_to_it():
    hu = np.full((40, 50), -1000.0, dtype=np.float32)
    hu[10:, :30] = 40
    np.testing.assert_array_equal(body_mask(hu), hu > 0)


def test_air_only_and_thin_things():
    assert not body_mask(np.full((9, 11), -1000.0)).any()
    thin = np.full((20, 20), -1000.0)
    thin[10, 3:15] = 0
    np.testing.assert_array_equal(body_mask(thin), thin == 0)


def test_the_body_is_found_in_hu_before_the_image_is_enlarged_and_resampled():
    hu = np.full((12, 20), -1000.0, np.float32)
    hu[3:10, 4:15], hu[11, :] = 40, 600  # a table below the body
    mask = np.zeros(hu.shape, bool)
    mask[:, :2] = True
    got = to_grid(Image(hu[np.newaxis], mask, None), (0.5, 1.0), body=True, scale=2, spacing=1.5)
    fine = enlarge(clip_to_body(hu)[np.newaxis], 2)
    np.testing.assert_array_equal(got.array, resample(fine, (0.25, 0.5), 1.5))
    np.testing.assert_array_equal(got.mask, resample_mask(enlarge_mask(mask, 2), (0.25, 0.5), 1.5))
    assert got.array.max() < 100 and got.array.shape == (1, 4, 13)


def test_nothing_to_do_leaves_the_image_itself():
    image = Image(np.zeros((1, 3, 5), np.float32), np.ones((3, 5), bool), 8)
    got = to_grid(image, (1.0, 1.0))
    assert got.array is image.array and got.mask is image.mask and got.bits == 8


def test_colours_become_grey_and_grey_becomes_colours_image_by_image():
    array = np.arange(6, dtype=np.float32)[:, np.newaxis, np.newaxis] * np.ones((6, 2, 3), np.float32)
    np.testing.assert_allclose(with_channels(array, 2, 2)[:, 0, 0], [0.587 + 0.228, 3 + 0.587 + 0.228], atol=1e-6)
    np.testing.assert_array_equal(with_channels(array[:2], 6, 2)[:, 0, 0], [0, 0, 0, 1, 1, 1])
    assert with_channels(array, 5) is array


def mri(tmp_path, folder, factor, offset=0.0, slices=3):
    """Slices (16, 16) of 0 outside of a body whose levels are 100 to 1000 times ``factor``, to the ``offset`` power."""
    (tmp_path / folder).mkdir()
    for number in range(slices):
        values = np.zeros((16, 16), np.float32)
        values[:, 4:] = np.linspace(100, 1000, 192).reshape(16, 12)[:, ::-1]
        np.save(tmp_path / folder / f"{number}.npy", values ** (1 + offset) * factor)
    return sources_in(tmp_path / folder)


def top_level(levels):
    return float(np.percentile(levels, 99.5))


def test_by_percentiles_series_of_other_receive_gains_become_equal_and_zero_stays(tmp_path):
    first, second = mri(tmp_path, "first", 1.0), mri(tmp_path, "second", 3.7)
    domains = [
        Domain(Clip(0, 1000), 1, ImageCache(1), normalised=scale_of("percentiles", sources, "A", None))
        for sources in (first, second)
    ]
    images = [domain.image(sources[1]).array for domain, sources in zip(domains, (first, second), strict=True)]
    np.testing.assert_allclose(images[0], images[1], rtol=1e-5)
    raw = np.load(first[1].path)
    np.testing.assert_allclose(images[0][0], raw * 1000 / top_level(np.tile(raw[raw > 0], 3)), rtol=1e-5)
    assert (images[0][0, :, :4] == 0).all()
    assert landmarks_of(domains[0]) == [1000.0]
    assert clip_given(None, domains[0].normalised) == (0.0, 1000.0)
    assert clip_given([0, 800], domains[0].normalised) == [0, 800]


def test_air_counts_for_nothing_and_slices_of_a_series_share_one_factor(tmp_path):
    sources = mri(tmp_path, "series", 1.0)
    bright = np.load(sources[2].path)
    np.save(sources[2].path, np.where(bright > 0, bright + 500, 3))  # noise in air, far below a tenth
    scale = scale_of("percentiles", sources, "B", None)
    raw = np.concatenate([np.load(source.path).ravel() for source in sources])
    assert scale.curve(sources[0]) == scale.curve(sources[2])
    assert scale.curve(sources[0]).levels == (pytest.approx(top_level(raw[raw > 0.1 * top_level(raw)]), rel=1e-4),)


def test_by_landmarks_another_contrast_becomes_that_of_the_training(tmp_path):
    """Nyul: a series whose levels are another rising function of the same tissue has the training's after it."""
    known, other = mri(tmp_path, "known", 2.0), mri(tmp_path, "other", 9.0, offset=-0.3)
    training = scale_of("nyul", known, "A", None)
    assert len(training.landmarks) == 10 and training.landmarks[-1] == 1000
    trained = training.curve(known[0])(np.load(known[0].path))
    found = scale_of("nyul", other, "A", training.landmarks).curve(other[0])(np.load(other[0].path))
    body = trained >= training.landmarks[0]
    by_factor = scale_of("percentiles", other, "A", [1000.0]).curve(other[0])(np.load(other[0].path))
    assert np.abs(found[body] - trained[body]).max() < 40
    assert np.abs(by_factor[body] - trained[body]).max() > 100
    np.testing.assert_array_equal(found[:, :4], 0)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_dark_and_bright_tissue_come_to_their_levels_whatever_share_each_has(tmp_path, share):
    rng, size = np.random.default_rng(1), (40, 50)
    grey = np.where(rng.random(size) < share, 3 * rng.normal(880, 20, size), 3 * rng.normal(300, 20, size))
    grey[:, :10] = 5
    np.save(tmp_path / "0.npy", grey.astype(np.float32))
    sources = sources_in(tmp_path)
    scale = scale_of("tissues", sources, "A", [270.0, 800.0, 1000.0])
    bright, dark = (float(np.median(one)) for one in (grey[grey > 1800], grey[(grey > 100) & (grey < 1800)]))
    np.testing.assert_allclose(scale.curve(sources[0]).levels, (dark, bright, 1.25 * bright), rtol=1e-4)
    np.testing.assert_allclose(
        scale.curve(sources[0])(np.array([dark, bright, 2 * bright])), [270, 800, 1600], rtol=1e-4
    )
    alone = scale_of("tissues", sources, "A", None).landmarks
    np.testing.assert_allclose(alone, [800 * dark / bright, 800, 1000], rtol=1e-4)


def test_a_curve_goes_through_its_levels_and_on_beyond_them():
    curve = Curve((100.0, 400.0), (200.0, 1000.0))
    np.testing.assert_allclose(curve(np.array([0, 50, 100, 250, 400, 800, -10])), [0, 100, 200, 600, 1000, 2000, -20])
    assert curve(np.zeros((1, 2, 3), np.int16)).dtype == np.float32


def test_training_landmarks_are_the_mean_of_its_series_each_counted_once(tmp_path):
    root = tmp_path / "all"
    root.mkdir()
    one, two = mri(root, "one", 1.0), mri(root, "two", 5.0, offset=0.3, slices=9)
    both = scale_of("nyul", sources_in(root), "A", None).landmarks
    alone = [scale_of("nyul", sources, "A", None).landmarks for sources in (one, two)]
    np.testing.assert_allclose(both, np.mean(alone, axis=0), rtol=1e-6)


def test_a_series_without_signal_is_told_and_its_images_alone_are_refused(tmp_path, caplog):
    root = tmp_path / "all"
    root.mkdir()
    mri(root, "good", 1.0)
    mri(root, "blank", 0.0)
    sources = sources_in(root)
    domain = Domain(Clip(0, 1000), 1, ImageCache(1), normalised=scale_of("percentiles", sources, "A", None))
    assert "hardly any value of its series is above 0" in caplog.text
    for source in sources:
        if "good" in source.name:
            assert domain.unit(source).max() == 1
        else:
            with pytest.raises(Unreadable, match="without a range of grey levels"):
                domain.unit(source)
    with pytest.raises(UserError, match="--normaliseB: none of the 1 series"):
        scale_of("percentiles", [one for one in sources if "blank" in one.name], "B", None)


def test_one_cache_keeps_what_two_scales_make_of_a_file_apart(tmp_path):
    sources, cache = mri(tmp_path, "series", 1.0), ImageCache(1)
    scales = [scale_of("percentiles", sources, "A", [end]) for end in (1000.0, 500.0)]
    high, low = (Domain(Clip(0, 1000), 1, cache, normalised=scale).image(sources[0]).array for scale in scales)
    np.testing.assert_allclose(high, 2 * low, rtol=1e-6)


def test_pictures_end_at_their_white(tmp_path):
    PIL.Image.fromarray(np.linspace(10, 120, 400).reshape(20, 20).astype(np.uint8)).save(tmp_path / "one.png")
    scale = scale_of("percentiles", sources_in(tmp_path), "A", None)
    assert scale.landmarks == (255.0,)
