"""Picture grids and plots: the right grey at the right place, whole files only."""

import numpy as np
import pytest
from PIL import Image

from medi2i.common.training import pictures
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
    reach_of,
    tissue_window,
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
    draw_grid(path, [[Panel(image, -160, 240)], [Panel(image, 0, 1), Panel(colour, 0, 255)]], ["a", "b"], "ab")
    expected = np.clip((image + 160) / 400, 0, 1) * 255
    assert np.abs(shown(path, 0, 0) - expected[..., None]).max() <= 0.5
    assert (shown(path, 0, 1) == 255).all()  # empty
    assert set(np.unique(shown(path, 1, 0))) <= set(range(256)) and (shown(path, 1, 0)[image > 1] == 255).all()
    assert np.abs(shown(path, 1, 1) - np.moveaxis(colour, 0, -1)).max() <= 0.5
    assert [file.name for file in tmp_path.iterdir()] == ["grid.png"]


def test_differences_are_blue_below_and_red_above(tmp_path):
    first = np.zeros((HEIGHT, WIDTH))
    first[:, :22], first[:, 22:] = 100, -100
    panel = difference(first, np.zeros((HEIGHT, WIDTH)), 100)
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


def test_ct_of_ct_is_shown_as_soft_tissue_and_all_else_as_the_clip():
    assert tissue_window(["CT", "CT"], Clip(-1024, 2000)) == (-160, 240)
    assert tissue_window(["MR", "CT"], Clip(-1024, 2000)) is None and tissue_window(["", ""], Clip(0, 255)) is None
    assert tissue_window(["CT", "CT"], Clip(-100, 500)) is None and tissue_window(["CT", "CT"], Clip()) is None


def test_differences_reach_as_far_as_twice_the_noise_of_the_input():
    truths = np.zeros((2, 1, 4, 4))
    inputs = truths + 100 + np.tile([-30, 30], 16).reshape(truths.shape)
    assert reach_of(inputs, truths, 400, True) == 60  # the bias of 100 does not count
    assert reach_of(inputs, truths, 400, False) == reach_of(truths, truths, 400, True) == 100
    assert reach_of(inputs[:, :, :2], truths, 400, True) == 100


def test_classes_have_chainercv_s_colours(tmp_path):
    labels = np.zeros((HEIGHT, WIDTH))
    labels[:, 10:20], labels[:, 20:] = 1, 25
    draw_grid(tmp_path / "c.png", [[Panel(labels, 0, 1, Style.LABELS)]], ["c"], ["$\\x$"])
    pixels = shown(tmp_path / "c.png", 0, 0)
    assert pixels[0, [0, 10, 20]].tolist() == [[0, 0, 0], [128, 0, 0], [192, 64, 0]]


def lines_of(monkeypatch, tmp_path, curves):
    """(label, drawn values) of the plot of a group, whether its axis is logarithmic, and its limits."""
    seen = []
    monkeypatch.setattr(pictures, "save_figure", lambda figure, path: seen.append(figure))
    pictures.draw("validation", curves, tmp_path / "v.png")
    (axes,) = seen[0].axes
    return [(line.get_label(), list(line.get_ydata())) for line in axes.lines], axes.get_yscale(), axes.get_ylim()


def test_doing_nothing_does_not_press_the_curves_together(tmp_path, monkeypatch):
    far = {"RMSE": ([1, 2, 3], [12.0, 9.0, 8.0]), "RMSE_identity": ([1, 2, 3], [105.0] * 3)}
    lines, scale, limits = lines_of(monkeypatch, tmp_path, far)
    assert lines == [("RMSE", [12, 9, 8]), ("RMSE of doing nothing: 105, beyond", [])]
    assert scale == "linear" and limits[1] < 13
    near = {**far, "RMSE_identity": ([1, 2, 3], [14.0] * 3)}
    assert lines_of(monkeypatch, tmp_path, near)[0][1] == ("RMSE of doing nothing: 14", [14, 14])
    wide = {**far, "RMSE": ([1, 2, 3], [200.0, 40.0, 8.0])}
    lines, scale, _ = lines_of(monkeypatch, tmp_path, wide)
    assert scale == "log" and lines[1] == ("RMSE of doing nothing: 105", [105, 105])


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
    draw_all([], tmp_path)
    assert not any(tmp_path.iterdir())
    draw_all(entries, tmp_path)
    paths = list(tmp_path.iterdir())
    assert sorted(path.name for path in paths) == ["dis.png", "learning_rate.png", "validation.png"]
    assert all(Image.open(path).size == (700, 420) for path in paths)
