"""Picture grids and plots: the right grey at the right place, whole files only."""

import numpy as np
import pytest
from PIL import Image

from medi2i.common.training.pictures import (
    GAP,
    HEAD,
    SIDE,
    Panel,
    Style,
    difference,
    draw_all,
    draw_grid,
    grouped,
    plane,
    window_of,
)
from medi2i.datasets.scaling import Clip

HEIGHT, WIDTH, ZOOM = 20, 44, 4  # the smallest zoom that makes 44 at least 160


def shown(path, row, column):
    """The pixels (H, W, 3) of one panel of a picture of HEIGHT×WIDTH images, one per image pixel."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    top, left = HEAD + row * (HEIGHT * ZOOM + GAP), SIDE + column * (WIDTH * ZOOM + GAP)
    return pixels[top : top + HEIGHT * ZOOM, left : left + WIDTH * ZOOM][ZOOM // 2 :: ZOOM, ZOOM // 2 :: ZOOM]


def test_every_pixel_has_the_grey_of_its_window(tmp_path):
    image = np.random.default_rng(0).uniform(-300, 300, (HEIGHT, WIDTH))
    colour = np.random.default_rng(1).uniform(0, 255, (3, HEIGHT, WIDTH))
    path = tmp_path / "grid.png"
    draw_grid(path, [[Panel(image, -160, 240), None], [Panel(image, 0, 1), Panel(colour, 0, 255)]], ["a", "b"], "ab")
    expected = np.clip((image + 160) / 400, 0, 1) * 255
    assert np.abs(shown(path, 0, 0) - expected[..., None]).max() <= 0.5
    assert (shown(path, 0, 1) == 255).all()  # empty
    assert set(np.unique(shown(path, 1, 0))) <= set(range(256)) and (shown(path, 1, 0)[image > 1] == 255).all()
    assert np.abs(shown(path, 1, 1) - np.moveaxis(colour, 0, -1)).max() <= 0.5
    assert [file.name for file in tmp_path.iterdir()] == ["grid.png"]


def test_differences_are_blue_below_and_red_above(tmp_path):
    first = np.zeros((HEIGHT, WIDTH))
    first[:, :22], first[:, 22:] = 100, -100
    panel = difference(first, np.zeros((HEIGHT, WIDTH)), 400)
    assert (panel.low, panel.high, panel.style) == (-100, 100, Style.DIFFERENCE)
    draw_grid(tmp_path / "d.png", [[panel]], ["d"], ["row"])
    pixels = shown(tmp_path / "d.png", 0, 0)
    assert (pixels[:, :22, 0] > pixels[:, :22, 2] + 50).all() and (pixels[:, 22:, 2] > pixels[:, 22:, 0] + 50).all()


def test_large_images_are_made_to_fit(tmp_path):
    draw_grid(tmp_path / "l.png", [[Panel(np.zeros((600, 1200)), 0, 1)] * 2], ["a", "b"], ["x" * 300])
    width, height = Image.open(tmp_path / "l.png").size
    assert (width, height) == (SIDE + 2 * (560 + GAP), HEAD + 280 + GAP)


def test_planes_and_windows():
    stack = np.arange(5 * 2 * 2).reshape(5, 2, 2)
    assert plane(stack)[0, 0] == 8 and plane(stack[:3], colour=True).shape == (3, 2, 2)
    assert plane(stack[:3])[0, 0] == 4 and plane(stack, colour=True)[0, 0] == 8
    assert window_of([stack], Clip(-1024, 2000)) == (-1024, 2000)
    assert window_of([stack], Clip(-1024, 2000), [0, 80]) == (0, 80)
    assert window_of([stack], Clip()) == (0, 19)
    assert window_of([np.full((2, 2), 7.0)], Clip()) == (7, 8)
    assert window_of([np.full((2, 2), np.nan)], Clip()) == (0, 1)


def test_log_entries_become_curves(tmp_path):
    entries = [
        {
            "epoch": 0,
            "iteration": 10 * i,
            "elapsed_time": 1.0,
            "dis/loss_fake": 0.1 * i,
            "dis/loss_real": "nan",
            "enc_x/learning_rate": 0.1,
            "dis/learning_rate": 0.05,
        }
        for i in range(1, 4)
    ]
    entries[2]["validation/RMSE"] = 40.0
    groups = grouped(entries)
    assert sorted(groups) == ["dis", "learning_rate", "validation"]
    assert groups["dis"]["loss_fake"] == ([10, 20, 30], [0.1, 0.2, pytest.approx(0.3)])
    assert sorted(groups["learning_rate"]) == ["dis", "enc_x"]
    assert groups["validation"]["RMSE"] == ([30], [40.0])
    paths = draw_all(entries, tmp_path)
    assert sorted(path.name for path in paths) == ["dis.png", "learning_rate.png", "validation.png"]
    assert all(Image.open(path).size == (700, 420) for path in paths)
    assert draw_all([], tmp_path) == []
