import numpy as np
import pytest

from medi2i.datasets.augment import STILL, Augmentation, Draw, Uncut, add_noise, apply, continued
from medi2i.datasets.scaling import Clip


def ramp(channels, height, width):
    return np.arange(channels * height * width, dtype=np.float32).reshape(channels, height, width)


def test_still_is_the_centre_crop():
    image = ramp(2, 7, 10)
    np.testing.assert_array_equal(apply(image, STILL, (7, 10)), image)
    np.testing.assert_array_equal(apply(image, STILL, (4, 5)), image[:, 1:5, 2:7])


def test_shift_moves_content_down_and_right_and_fills_with_air():
    image = ramp(1, 3, 4)
    np.testing.assert_array_equal(
        apply(image, Draw(down=1, right=-2), (3, 4)), [[[-1, -1, -1, -1], [2, 3, -1, -1], [6, 7, -1, -1]]]
    )
    assert (apply(image, Draw(down=99), (3, 4)) == -1).all()
    assert (apply(image, Draw(right=-99), (3, 4), outside=0) == 0).all()


def test_crop_larger_than_the_image_is_filled():
    np.testing.assert_array_equal(
        apply(ramp(1, 1, 2), STILL, (3, 4)), [[[-1, -1, -1, -1], [-1, 0, 1, -1], [-1, -1, -1, -1]]]
    )


def test_flip_is_left_to_right_about_the_image_and_comes_before_the_shift():
    image = ramp(1, 2, 5)
    np.testing.assert_array_equal(apply(image, Draw(flip=True), (2, 5)), image[:, :, ::-1])
    np.testing.assert_array_equal(apply(image, Draw(flip=True, right=1), (2, 3)), image[:, :, ::-1][:, :, 0:3])


@pytest.mark.parametrize("size", [(5, 5), (6, 6)])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_counter_clockwise_and_exact(size, turns):
    image = ramp(2, *size)
    turned = apply(image, Draw(degrees=90.0 * turns), size)
    np.testing.assert_allclose(turned, np.rot90(image, turns, axes=(1, 2)), atol=1e-4)
    flipped = apply(image, Draw(degrees=90.0 * turns, flip=True), size)
    np.testing.assert_allclose(flipped, np.rot90(image, turns, axes=(1, 2))[:, :, ::-1], atol=1e-4)


@pytest.mark.parametrize("draw", [Draw(), Draw(flip=True), Draw(down=2, right=-1), Draw(flip=True, down=-1, right=3)])
@pytest.mark.parametrize("size", [(7, 10), (5, 7), (4, 9)])
def test_interpolation_and_slicing_agree(draw, size):
    image = ramp(2, 7, 10)
    nudged = Draw(1 + 1e-9, draw.degrees, draw.flip, draw.down, draw.right)
    np.testing.assert_allclose(apply(image, nudged, size), apply(image, draw, size), atol=1e-4)


def test_scale_2_interpolates_between_pixel_centres():
    image = np.array([[[0, 4, 8, 12]]], dtype=np.float32).repeat(4, axis=1)
    np.testing.assert_allclose(apply(image, Draw(scale=2.0), (4, 4))[0], [[3, 5, 7, 9]] * 4)


def test_scale_half_fills_around():
    result = apply(np.full((1, 8, 8), 5.0, dtype=np.float32), Draw(scale=0.5), (8, 8))[0]
    expected = np.full((8, 8), -1.0)
    expected[2:6, 2:6] = 5
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_corners_of_a_rotated_image_are_air():
    result = apply(np.full((1, 21, 21), 0.5, dtype=np.float32), Draw(degrees=45.0), (21, 21))[0]
    assert [result[0, 0], result[0, -1], result[-1, 0], result[-1, -1]] == [-1] * 4
    assert result[10, 10] == 0.5


def test_nearest_makes_no_new_class_numbers():
    labels = np.random.default_rng(0).integers(0, 4, (1, 31, 23)).astype(np.float32)
    result = apply(labels, Draw(scale=1.07, degrees=13.0), (31, 23), nearest=True, outside=0.0)
    assert set(np.unique(result)) <= {0, 1, 2, 3}
    assert not np.array_equal(result, labels)


def test_the_given_image_is_never_returned_nor_changed():
    image = ramp(1, 4, 4)
    for draw in (STILL, Draw(flip=True), Draw(degrees=5.0)):
        apply(image, draw, (4, 4))[...] = 99
    np.testing.assert_array_equal(image, ramp(1, 4, 4))


def test_draws_stay_within_their_ranges_and_reach_the_ends():
    rng = np.random.default_rng(1)
    draws = [Augmentation(translate=2, rotation=10, scale=0.2).draw(rng) for _ in range(600)]
    assert {draw.down for draw in draws} == {draw.right for draw in draws} == {-2, -1, 0, 1, 2}
    assert 250 < sum(draw.flip for draw in draws) < 350
    degrees, scales = [draw.degrees for draw in draws], [draw.scale for draw in draws]
    assert -10 <= min(degrees) < -9.5 and 9.5 < max(degrees) <= 10
    assert 0.8 <= min(scales) < 0.81 and 1.19 < max(scales) <= 1.2


def test_no_flip_and_no_shift_without_translation():
    rng = np.random.default_rng(1)
    assert {Augmentation().draw(rng) for _ in range(50)} == {STILL}


def test_switching_rotation_on_leaves_the_other_draws():
    with_rotation = Augmentation(translate=9, rotation=5).draw(np.random.default_rng(3))
    without = Augmentation(translate=9).draw(np.random.default_rng(3))
    assert (with_rotation.flip, with_rotation.down, with_rotation.right) == (without.flip, without.down, without.right)


def test_noise_has_mean_0_and_its_standard_deviation():
    image = np.full((1, 200, 201), 0.25, dtype=np.float32)
    noisy = add_noise(image, 0.1, np.random.default_rng(0))
    assert noisy.dtype == np.float32
    assert abs(float(noisy.mean()) - 0.25) < 4 * 0.1 / np.sqrt(noisy.size)
    assert abs(float(noisy.std()) - 0.1) < 0.002
    assert add_noise(image, 0, np.random.default_rng(0)) is image


def test_places_reach_every_crop_equally_often_and_stay_inside():
    rng = np.random.default_rng(2)
    image = ramp(1, 5, 7)
    corners = [
        tuple(int(n) for n in np.unravel_index(int(apply(image, draw, (3, 4))[0].min()), (5, 7)))
        for draw in (Augmentation(translate=-1).draw(rng) for _ in range(1200))
    ]
    counts = {corner: corners.count(corner) for corner in set(corners)}
    assert set(counts) == {(row, column) for row in range(3) for column in range(4)}
    assert min(counts.values()) > 60 and max(counts.values()) < 150
    np.testing.assert_array_equal(apply(image, Draw(place=(1.0, 0.0)), (3, 4)), image[:, 2:, :4])
    np.testing.assert_array_equal(apply(image, Draw(place=(0.999, 0.999)), (3, 4)), image[:, 2:, 3:])


def test_anywhere_also_flips_and_interpolates_like_slicing():
    image = ramp(2, 5, 7)
    draws = [Augmentation(translate=-1).draw(np.random.default_rng(seed)) for seed in range(40)]
    assert {draw.flip for draw in draws} == {False, True}
    for draw in draws[:10]:
        nudged = Draw(1 + 1e-9, 0.0, draw.flip, place=draw.place)
        np.testing.assert_allclose(apply(image, nudged, (3, 4)), apply(image, draw, (3, 4)), atol=1e-4)


@pytest.mark.parametrize("size,count", [((3, 3), 8), ((3, 4), 4)])
def test_quarter_turns_give_all_symmetries_equally_often(size, count):
    rng, image = np.random.default_rng(4), ramp(1, *size)
    seen = {}
    for _ in range(160 * count):
        result = apply(image, Augmentation(quarter_turns=True).draw(rng), size)
        assert result.shape == image.shape and result.flags["C_CONTIGUOUS"]
        seen[result.tobytes()] = seen.get(result.tobytes(), 0) + 1
    turned = [np.rot90(flipped, k, (1, 2)) for flipped in (image, image[:, :, ::-1]) for k in range(4)]
    assert set(seen) == {t.tobytes() for t in turned if t.shape == image.shape} and len(seen) == count
    assert min(seen.values()) > 100 and max(seen.values()) < 220


def test_quarter_turns_come_last_and_treat_channels_alike():
    image = ramp(2, 6, 8)
    shifted = apply(image, Draw(down=1, flip=True), (4, 4))
    np.testing.assert_array_equal(
        apply(image, Draw(down=1, flip=True, turns=3), (4, 4)), np.rot90(shifted, 3, axes=(1, 2))
    )


def test_switching_quarter_turns_on_leaves_the_other_draws():
    plain, turning = (Augmentation(translate=9, quarter_turns=on) for on in (False, True))
    for seed in range(20):
        a, b = (augmentation.draw(np.random.default_rng(seed)) for augmentation in (plain, turning))
        assert (a.flip, a.down, a.right, a.turns) == (b.flip, b.down, b.right, 0)


@pytest.mark.parametrize(
    "shape, size, downs, rights",
    [
        ((9, 12), (4, 8), {-2, -1, 0, 1, 2}, {-2, -1, 0, 1, 2}),
        ((6, 7), (4, 4), {-1, 0, 1}, {-2, -1, 0, 1}),
        ((4, 4), (4, 4), {0}, {0}),
    ],
)
def test_shifts_of_a_pair_stay_inside_the_image_and_reach_its_border(shape, size, downs, rights):
    rng, image = np.random.default_rng(1), ramp(1, *shape)
    draws = [Augmentation(translate=2).draw(rng, (shape, size)) for _ in range(300)]
    assert ({draw.down for draw in draws}, {draw.right for draw in draws}) == (downs, rights)
    assert all((apply(image, draw, size) >= 0).all() for draw in draws)
    assert {draw.flip for draw in draws} == {False, True}


def test_a_scaled_pair_still_covers_the_crop():
    rng, image = np.random.default_rng(1), np.zeros((1, 10, 20), np.float32)
    draws = [Augmentation(translate=3, scale=0.5).draw(rng, ((10, 20), (8, 8))) for _ in range(300)]
    scales = [draw.scale for draw in draws]
    assert 0.8 <= min(scales) < 0.82 and 1.48 < max(scales) <= 1.5
    assert all((apply(image, draw, (8, 8)) == 0).all() for draw in draws)
    whole = [Augmentation(scale=0.5).draw(rng, ((10, 20), (10, 20))).scale for _ in range(50)]
    assert min(whole) >= 1 and max(whole) > 1.4


def test_flips_of_shifted_crops_can_be_off():
    def flipped(**given):
        return {Augmentation(flips=False, **given).draw(np.random.default_rng(seed)).flip for seed in range(30)}

    assert flipped(translate=4) == {False}
    assert flipped(translate=-1) == flipped(translate=4, quarter_turns=True) == {False, True}


@pytest.mark.parametrize("draw", [Draw(), Draw(down=3, right=-2), Draw(scale=0.5), Draw(scale=0.6, down=-2)])
@pytest.mark.parametrize("size", [(3, 4), (7, 6), (4, 11)])
def test_beyond_an_image_its_edge_goes_on(draw, size):
    image = np.float32([[[1, 2, 2, 3], [1, 2, 2, 3], [4, 5, 5, 6]]])
    result = apply(continued(image, draw, size), draw, size)
    assert result.shape == (1, *size) and result.min() >= 1 and result.max() <= 6
    if draw.scale == 1:
        rows = np.clip(np.arange(size[0]) + (3 - size[0]) // 2 - draw.down, 0, 2)
        columns = np.clip(np.arange(size[1]) + (4 - size[1]) // 2 - draw.right, 0, 3)
        np.testing.assert_array_equal(result, image[:, rows[:, None], columns])


def test_what_a_rotation_turns_in_stays_air_and_crops_from_anywhere_are_inside():
    image = ramp(1, 4, 4)
    for draw in (Draw(degrees=3.0), Draw(place=(0.5, 0.5))):
        assert continued(image, draw, (6, 6)) is image


def test_levels_to_a_power_keep_the_ends_of_the_clip_and_reach_both_ends_of_the_range():
    clip = Clip(0.0, 1000.0)
    image = Uncut(np.array([[[0.0, 250.0, 1000.0, 1500.0]]], np.float32), clip, STILL, (1, 4))
    powers = []
    for seed in range(400):
        values = image.toned(1.0, np.random.default_rng(seed)).values[0, 0]
        assert values[0] == 0 and values[2] == 1000 and values[3] == 1000  # clipped before
        powers.append(np.log(values[1] / 1000) / np.log(0.25))
    assert 0.5 <= min(powers) < 0.52 and 1.95 < max(powers) <= 2
    assert abs(np.mean(np.log(powers))) < 0.06  # even in the logarithm
    free = Uncut(np.array([[[-3.0, -1.0, 0.0, 1.0, 3.0]]], np.float32), Clip(), STILL, (1, 5))
    values = free.toned(1.0, np.random.default_rng(0)).values[0, 0]
    assert np.all(np.diff(values) > 0) and values[1] == -1 and values[3] == 1
    assert image.toned(0.0, np.random.default_rng(0)) is image and image.toned(1.0, None) is image
