"""Edges of input and output: what stays, what moves, what is invented."""

import numpy as np
import pytest
from PIL import Image

from medi2i.common.inference import edges


def body(shift=0, lesion=0.0):
    rows, columns = np.mgrid[:90, :110]
    image = np.where(np.hypot(rows - 45, (columns - 55 - shift) * 0.8) < 34, 0.2, -1.0)
    image += 0.5 * (np.hypot(rows - 40, columns - 40 - shift) < 8)
    return (image + lesion * (np.hypot(rows - 60, columns - 75) < 6)).astype(np.float32)


def test_equal_images_have_no_change():
    found = edges.compare(body(), body())
    assert found.change == pytest.approx(0, abs=1e-9)
    assert found.worst < 1e-3
    np.testing.assert_array_equal(found.difference, 0)


def test_another_contrast_and_an_inverted_one_change_no_edge():
    assert edges.compare(body(), 0.3 * body() + 0.1).change == pytest.approx(0, abs=1e-6)
    assert edges.compare(body(), -body()).change == pytest.approx(0, abs=1e-6)


def test_noise_alone_is_no_change_but_a_shift_is():
    noisy = body() + np.random.default_rng(0).normal(scale=0.05, size=(90, 110)).astype(np.float32)
    assert edges.compare(noisy, body()).change < 0.1
    assert edges.compare(body(), body(shift=6)).change > 0.5


def test_an_invented_lesion_is_found_where_it_is():
    found = edges.compare(body(), body(lesion=0.8))
    assert abs(found.row - 60) <= 12 and abs(found.column - 75) <= 12
    assert found.worst > 0.5
    assert found.difference[60, 69] > 1 and found.numbers()["worst_at"] == [found.row, found.column]
    lost = edges.compare(body(lesion=0.8), body())
    assert lost.difference[60, 69] < -1 and lost.worst > 0.5


def test_two_flat_images_are_equal_and_one_flat_image_has_lost_everything():
    flat = np.zeros((20, 30), np.float32)
    assert edges.compare(flat, flat + 0.5).change == 0
    assert edges.compare(body(), np.zeros_like(body())).change == 1


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="same size"):
        edges.compare(body(), body()[1:])


def test_summary_names_the_worst_image():
    assert edges.summary({"a": 0.25, "b/c": 0.75}) == {
        "images": 2,
        "mean_edge_change": 0.5,
        "largest_edge_change": 0.75,
        "largest_in": "b/c",
    }
    assert edges.summary({}) == {}


def test_a_picture_holds_nothing_of_the_one_before(tmp_path):
    """Axes are drawn again with other images: each has its own values, ends of the colour bar, and size."""
    ramp = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)

    def drawn(values, highest):
        edges.draw_maps(tmp_path / "map.png", [edges.Panel("a", values, "gray", 0, highest)])
        return np.asarray(Image.open(tmp_path / "map.png").convert("L"))

    first, other, large = drawn(ramp, 1), drawn(1 - ramp, 4), drawn(np.zeros((40, 40), np.float32), 1)
    np.testing.assert_array_equal(drawn(ramp, 1), first)
    row, column = first.shape[0] // 2, first.shape[1] // 4
    assert first.shape == other.shape != large.shape
    assert 85 < first[row, column] < 150 and 15 < other[row, column] < 50 and large[row, column] == 0
