"""How near translations come to the other domain, and what the end of a training says of it."""

import types

import numpy as np
import pytest

from medi2i.common.options import UnpairedOptions
from medi2i.cyclegan.validation import BINS, appearance, beside_identity, distances, tell_end
from medi2i.datasets.scaling import Clip

BIN = 2 / BINS


def grey(seed, channels=1):
    return np.random.default_rng(seed).uniform(-0.5, 0.25, (2, channels, 9, 7)).astype(np.float32)


def test_a_shift_moves_the_values_by_as_much_and_leaves_the_texture():
    values, texture = distances(appearance(grey(0) + np.float32(0.25)), appearance(grey(0)))
    assert values == pytest.approx(0.25, abs=BIN) and texture == pytest.approx(0, abs=BIN)


def test_a_stretch_is_the_mean_distance_of_sorted_values():
    image, other = grey(1), grey(1) * 1.5
    values, texture = distances(appearance(other), appearance(image))
    assert values == pytest.approx(abs(np.sort(other.ravel()) - np.sort(image.ravel())).mean(), abs=BIN)
    steps = np.concatenate([abs(np.diff(image, axis=axis)).ravel() for axis in (2, 3)])
    assert texture == pytest.approx(0.5 * steps.mean(), abs=BIN)


def test_channels_are_compared_each_with_its_own_and_averaged():
    image = grey(2, 2)
    moved = image + np.float32([0, 0.5])[None, :, None, None]
    assert distances(appearance(moved), appearance(image))[0] == pytest.approx(0.25, abs=BIN)
    assert distances(appearance(image[:, ::-1]), appearance(image))[0] > 0


def test_parts_count_together_and_values_beyond_the_clip_as_its_ends():
    parts = appearance(grey(3)[:1]) + appearance(grey(3)[1:])
    assert distances(parts, appearance(grey(3))) == (0, 0)
    far, ends = np.float32([[[[-9, 9]]]]), np.float32([[[[-1, 1]]]])
    assert distances(appearance(far), appearance(ends))[0] == 0


def domain(modality="CT"):
    return types.SimpleNamespace(clip=Clip(-1024, 2000), images=[types.SimpleNamespace(modality=modality)])


ENTRY = {
    f"validation/{kind}_{name}{suffix}": value
    for name in "xy"
    for kind, suffix, value in (
        ("values", "", 4.5),
        ("values", "_identity", 102.49),
        ("texture", "", 7.0),
        ("texture", "_identity", 6.5),
    )
}


def test_the_verdict_is_on_the_last_validation():
    entries = [{**ENTRY, "validation/values_y": 1.0}, ENTRY, {"epoch": 3}]
    one, other = beside_identity(entries, UnpairedOptions(), [domain(), domain()])
    assert one == (
        "validation, A to B: grey values 4.5 HU from those of B, nearer than doing nothing (102); "
        "differences of neighbours 7 HU from those of B, FARTHER than doing nothing (6.5)"
    )
    assert other.startswith("validation, B to A: ")
    assert beside_identity(entries, UnpairedOptions(noise_x=0.01), [domain(), domain()]) == [one]
    assert beside_identity([{"epoch": 3}], UnpairedOptions(), [domain(), domain()]) == []
    assert " HU" not in beside_identity([ENTRY], UnpairedOptions(), [domain("MR"), domain()])[0]


@pytest.mark.parametrize("change,words", [(-100.2, "this model takes 100 HU away: "), (-4.0, None), (None, None)])
def test_a_shift_between_domains_is_told_from_where_it_is_known(change, words, capsys):
    options = UnpairedOptions()
    options.mean_change = change
    tell_end(options, [domain(), domain()], [], "run")
    said = capsys.readouterr().out.splitlines()[0]
    assert said.startswith(words or "to convert images of domain A:")
