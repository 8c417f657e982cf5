"""The safety report's measures on changes that are known: noise taken away exactly, blur, a shift, a lost lesion."""

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medi2i.tools.evaluation import safety_page
from medi2i.tools.evaluation.safety import (
    FREQUENCY_SHARE,
    Safety,
    SafetyMeter,
    anatomy_in,
    find_inserts,
    insert_places,
)

SHAPE = (150, 171)
rows, columns = np.indices(SHAPE, dtype=np.float32)
CLEAN = np.where(np.hypot(rows - 75, (columns - 85) * 0.9) < 62, 40.0, -1000.0).astype(np.float32)
CLEAN[np.hypot(rows - 75, columns - 60) < 14] = 700  # bone
CLEAN[np.hypot(rows - 75, columns - 110) < 14] = -100  # fat
CLEAN = gaussian_filter(CLEAN, 0.7)


def noise(level: float, seed: int) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(SHAPE)).astype(np.float32)


def measured(change, count: int = 3) -> Safety:
    """Of ``count`` slices with 20 HU of noise; change(noisy, its noise) -> result."""
    meter = SafetyMeter("test", (0.8, 0.8))
    for seed in range(count):
        own = noise(20, seed)
        meter.add(f"slice {seed}", CLEAN + own, change(CLEAN + own, own))
    return meter.result()


def looks(found: Safety) -> str:
    """What is a reason to look, as one text."""
    return "; ".join(one.text for one in found.verdicts() if one.worse)


def test_noise_taken_away_by_three_quarters_and_nothing_else_is_no_reason_to_look():
    found = measured(lambda noisy, own: noisy - 0.75 * own)
    assert (found.before.level, found.after.level) == pytest.approx((20, 5), rel=0.06)
    assert found.edge[1] == pytest.approx(found.edge[0], rel=0.03)
    assert abs(found.anatomy) < 0.1 and max(map(abs, found.means.values())) < 1
    assert looks(found) == ""


def test_blur_shows_in_edges_in_the_difference_and_in_the_texture():
    found = measured(lambda noisy, own: gaussian_filter(noisy, 1.2))
    assert found.edge[1] > 1.3 * found.edge[0] and found.anatomy > 0.4
    assert found.after.mean_frequency < (1 - FREQUENCY_SHARE) * found.before.mean_frequency
    assert all(word in looks(found) for word in ("edges:", "difference image", "texture"))


def test_a_shift_of_the_mean_shows_in_its_tissue():
    found = measured(lambda noisy, own: noisy - own + np.where(CLEAN > 300, 4, 0).astype(np.float32))
    assert found.means["bone"] == pytest.approx(4, abs=1) and found.means["fat"] == pytest.approx(0, abs=1.2)
    assert found.means["soft tissue"] == pytest.approx(0, abs=0.3)
    assert "in bone" in looks(found)


def test_the_slice_with_a_changed_spot_comes_first_with_its_place():
    meter = SafetyMeter("test", None)
    for seed in range(3):
        result = CLEAN.copy()
        if seed == 1:
            result[96:102, 80:86] += 80
        meter.add(f"slice {seed}", CLEAN + noise(10, seed), result)
    worst = meter.result().slices[0]
    assert worst.name == "slice 1" and worst.structure > 40
    assert (worst.row, worst.column) == pytest.approx((98.5, 82.5), abs=2)


def test_padding_does_not_count():
    mask = columns < 40
    meter = SafetyMeter("test", None)
    meter.add("a", CLEAN, np.where(mask, 500, CLEAN).astype(np.float32), mask)
    found = meter.result()
    assert found.slices[0].rms == 0 and max(map(abs, found.means.values())) == 0


def test_a_difference_without_edges_has_no_anatomy():
    assert anatomy_in(noise(5, 1), np.zeros(SHAPE, np.float32)) == 0
    assert anatomy_in(np.zeros(SHAPE, np.float32), CLEAN) == 0


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_inserts_are_found_with_the_share_that_a_linear_network_keeps(share):
    noisy = CLEAN + noise(5, 2)
    found = find_inserts([noisy], (0.8, 0.8), lambda hu: share * hu)
    assert len(insert_places(noisy)) >= 2
    assert {(one.contrast, one.diameter) for one in found} == {(c, d) for c in (10, 20, 40) for d in (3, 6)}
    assert [one.kept for one in found] == pytest.approx([share] * 6, abs=1e-3)


def test_a_network_that_removes_lesions_is_told_of():
    noisy = CLEAN + noise(5, 2)
    found = measured(lambda image, own: image - own)
    found.inserts = find_inserts([noisy], (0.8, 0.8), lambda hu: CLEAN)
    assert [one.kept for one in found.inserts] == pytest.approx([0] * 6, abs=1e-3)
    assert "0% of the contrast" in looks(found)


def test_what_the_model_has_not_seen_is_said_first():
    found = measured(lambda noisy, own: noisy - own)
    found.unknown = ["has 80 HU of noise"]
    assert found.verdicts()[0].worse and "has 80 HU of noise" in found.verdicts()[0].text


def test_the_page_holds_verdicts_tables_and_the_worst_slices_and_escapes_names(tmp_path):
    found = measured(lambda noisy, own: gaussian_filter(noisy, 1.2))
    found.name = "<b>axial</b>"
    page = safety_page.write_report(tmp_path, "t", "lead", [(found, lambda name: (CLEAN, CLEAN + 1))], ["MR: is MR"])
    text = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;axial" in text and "<b>axial" not in text and "left alone: MR: is MR" in text
    assert text.count("data:image/png") == 3 and "<svg" in text and "slice 2" in text
    content = json.loads((tmp_path / safety_page.FIGURES).read_text(encoding="utf-8"))
    assert content["series"][0]["noise"]["before"]["level"] == pytest.approx(20, rel=0.06)
    assert [one["name"] for one in content["series"][0]["slices"]] == [one.name for one in found.slices]
