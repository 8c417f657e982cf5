"""Shapes: areas, places and labels that can be worked out by hand."""

import math

import numpy as np
import pytest

from medi2i.tools import make_shapes
from medi2i.tools.make_shapes import ELLIPSE, RECTANGLE, TRIANGLE, Shape

SIZE = (31, 44)
WHITE = (1.0, 1.0, 1.0)


def test_rectangle_covers_whole_and_half_pixels():
    cover = Shape((10, 20), (2.0, 3.5), 0.0, WHITE).coverage(SIZE, RECTANGLE)
    assert cover[10, 20] == 1 and cover.sum() == 4 * 7
    assert cover[8, 20] == cover[12, 20] == 0.5 and cover[7, 20] == cover[13, 20] == 0
    assert cover[10, 17] == cover[10, 23] == 1 and cover[10, 16] == cover[10, 24] == 0


@pytest.mark.parametrize(("kind", "area"), [(RECTANGLE, 4 * 6 * 9), (ELLIPSE, math.pi * 6 * 9), (TRIANGLE, 2 * 6 * 9)])
@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_area_and_centre_do_not_depend_on_rotation(kind, area, angle):
    cover = Shape((15, 21), (6.0, 9.0), angle, WHITE).coverage(SIZE, kind)
    assert cover.sum() == pytest.approx(area, rel=0.02)
    if kind != TRIANGLE:
        rows, columns = np.indices(SIZE)
        assert (rows * cover).sum() / cover.sum() == pytest.approx(15, abs=0.05)
        assert (columns * cover).sum() / cover.sum() == pytest.approx(21, abs=0.05)


def test_quarter_turn_swaps_the_axes():
    lying = Shape((15, 15), (3.0, 8.0), 0.0, WHITE).coverage((31, 31), RECTANGLE)
    standing = Shape((15, 15), (3.0, 8.0), math.pi / 2, WHITE).coverage((31, 31), RECTANGLE)
    np.testing.assert_allclose(standing, lying.T)


def test_last_shape_is_on_top_in_picture_and_label():
    below, above = Shape((15, 15), (6.0, 6.0), 0.0, (0.5, 0.25, 0.75)), Shape((15, 15), (2.0, 2.0), 0.0, WHITE)
    picture = make_shapes.paint(SIZE, [below, above], [RECTANGLE, ELLIPSE])
    assert tuple(picture[:, 15, 15]) == WHITE
    assert tuple(picture[:, 15, 19]) == (0.5, 0.25, 0.75)
    assert tuple(picture[:, 0, 0]) == (0, 0, 0)
    label = make_shapes.label(SIZE, [below, above], [RECTANGLE, ELLIPSE])
    assert label.dtype == np.uint8
    assert (label[15, 15], label[15, 19], label[0, 0]) == (2, 1, 0)


@pytest.mark.parametrize("rotate", [False, True])
def test_random_shapes_lie_inside_the_image(rotate):
    generator = np.random.default_rng(0)
    for _ in range(60):
        shape = make_shapes.random_shape(generator, SIZE, rotate)
        cover = shape.coverage((SIZE[0] + 20, SIZE[1] + 20), RECTANGLE)
        whole = Shape((shape.centre[0] + 10, shape.centre[1] + 10), shape.half, shape.angle, WHITE)
        assert cover.sum() == pytest.approx(whole.coverage((SIZE[0] + 20, SIZE[1] + 20), RECTANGLE).sum(), rel=0.03)
        assert min(shape.half) >= 0.1 * 31 and max(shape.half) <= 0.28 * 31
