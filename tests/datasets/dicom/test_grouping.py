"""What a series is: values that differ from slice to slice do not break it, those of phases and echoes do."""

from pathlib import Path

import numpy as np
import pytest

from medi2i.datasets.dicom.grouping import clusters, group
from medi2i.datasets.dicom.series import TRAITS, SliceRef

KEYWORDS = [keyword for _, keyword in TRAITS]


def make(number, z, traits=(), **changes):
    """A slice at height z; traits: {keyword: text}."""
    values = dict(traits)
    return SliceRef(
        **{
            "path": Path(f"in/{number:03d}.dcm"), "series_uid": "1.2.3", "sop_uid": f"1.2.3.{number}", "patient": "P",
            "modality": "MR", "instance": number, "shape": (5, 7), "spacing": (0.5, 0.5), "position": (0.0, 0.0, z),
            "orientation": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
            "traits": tuple(str(values.get(keyword, "")) for keyword in KEYWORDS), **changes,
        }
    )  # fmt: skip


def sizes(slices):
    return sorted(len(series.slices) for series in group(slices))


def volumes(count, slices, traits, **changes):
    """``count`` volumes of ``slices`` places 3 mm apart; traits(volume, place, number) -> dict."""
    return [
        make(v * slices + i, 3.0 * i, traits(v, i, v * slices + i), **changes)
        for v in range(count)
        for i in range(slices)
    ]


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_a_value_of_each_slice_breaks_no_series_with_one_place_repeated(keyword):
    slices = [make(k, 3.0 * k, {keyword: 120000 + k}) for k in range(8)]
    (series,) = group([*slices, make(8, 9.0, {keyword: 120008})])
    assert [s.position[2] for s in series.slices] == [0, 3, 6, 9, 9, 12, 15, 18, 21] and series.slice_distance == 3
    assert [s.instance for s in series.slices] == [0, 1, 2, 3, 8, 4, 5, 6, 7]
    assert series.warnings == [
        "1 image(s) repeat the place of another, both are kept (the first: 008.dcm lies where 003.dcm does)"
    ]
    np.testing.assert_allclose(series.affine()[:3, 2], [0, 0, 3])


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_a_value_of_each_slice_leaves_two_phases_two_series(keyword):
    slices = volumes(2, 8, lambda v, i, k: {keyword: 1000.5 + 7 * k})
    found = group(slices)
    assert [[s.instance for s in series.slices] for series in found] == [list(range(8)), list(range(8, 16))]
    assert all("several images at one position" in series.warnings[0] for series in found)


@pytest.mark.parametrize("keyword", KEYWORDS)
@pytest.mark.parametrize("missing", [None, (0, 3), (2, 5)])
def test_a_value_of_each_volume_separates_and_is_no_reason_to_warn(keyword, missing):
    value = {"EchoTime": "4.92 9.84 14.76".split(), "ImageType": ["A\\M", "A\\P", "A\\R"]}.get(keyword, "300 600 900")
    value = value if isinstance(value, list) else value.split()
    slices = volumes(3, 8, lambda v, i, k: {keyword: value[v]})
    if missing is not None:
        slices = [s for s in slices if s.instance != 8 * missing[0] + missing[1]]
    found = group(slices)
    assert [{s.instance // 8 for s in series.slices} for series in found] == [{0}, {1}, {2}]
    assert not any("several images" in warning for series in found for warning in series.warnings)


def test_two_traits_together_and_one_that_each_image_has():
    slices = volumes(
        4, 6,
        lambda v, i, k: {"ImageType": "MP"[v % 2], "EchoTime": (5, 10)[v // 2], "AcquisitionTime": 120000 + k},
    )  # fmt: skip
    assert [{s.instance // 6 for s in series.slices} for series in group(slices)] == [{0}, {2}, {1}, {3}]


def test_an_acquisition_that_covers_a_part_is_its_own():
    whole = [make(i, 3.0 * i, {"AcquisitionNumber": 1}) for i in range(20)]
    part = [make(30 + i, 3.0 * (i + 6), {"AcquisitionNumber": 2}) for i in range(8)]
    assert sizes(whole + part) == [8, 20]
    assert sizes(whole + part[:1]) == [21]  # a slice scanned again is no acquisition


def test_a_last_volume_that_was_stopped():
    slices = volumes(4, 8, lambda v, i, k: {"TemporalPositionIdentifier": v})
    assert sizes(slices[:-5]) == [3, 8, 8, 8]
    assert sizes([make(k, 3.0 * (k % 8)) for k in range(19)]) == [3, 8, 8]


def test_phases_at_each_place_in_turn_by_their_time():
    slices = [make(5 * i + t, 3.0 * i, {"TriggerTime": 30 * t + 0.1 * i}) for i in range(6) for t in range(5)]
    assert [[s.instance % 5 for s in series.slices] for series in group(slices)] == [[t] * 6 for t in range(5)]


def test_halves_of_a_volume_with_times_of_their_own():
    slices = volumes(2, 8, lambda v, i, k: {"AcquisitionTime": 120000 + 2 * v + i // 4})
    assert sizes(slices) == [8, 8]
    assert sizes(slices[:8]) == [8] and sizes([*slices[:8], make(9, 6.0, {"AcquisitionTime": 120009})]) == [9]


@pytest.mark.parametrize("change", [1e-9, 1e-6, 1e-4])
def test_directions_and_spacing_differ_by_rounding(change):
    def jitter(i):
        return change * (-1) ** i

    slices = []
    for i in range(10):
        angle = 0.0005 + jitter(i)  # on both sides of a limit of rounding
        axes = (np.cos(angle), np.sin(angle), 0.0, -np.sin(angle), np.cos(angle), 0.0)
        slices.append(make(i, 3.0 * i, orientation=axes, spacing=(0.48825 + 0.4 * jitter(i), 0.48825)))
    (series,) = group(slices)
    assert len(series.slices) == 10 and series.slice_distance == 3 and not series.warnings


def test_digits_of_spacing_and_an_other_spacing():
    slices = [make(i, 3.0 * i, spacing=((0.488281, 0.48828, 0.4883)[i % 3],) * 2) for i in range(9)]
    assert sizes(slices) == [9]
    assert sizes([make(i, 3.0 * i, spacing=((0.488, 0.49)[i % 2],) * 2) for i in range(8)]) == [4, 4]


@pytest.mark.parametrize("keyword", ["EchoTime", "KVP", "FlipAngle"])
def test_measured_values_of_which_none_is_a_number_tell_images_apart_all_the_same(keyword):
    slices = volumes(2, 6, lambda v, i, k: {keyword: ("80\\\\140", "100\\\\140")[v]})
    assert [[s.instance // 6 for s in series.slices] for series in group(slices)] == [[0] * 6, [1] * 6]
    assert len(clusters(np.zeros((0, 1)))) == 0


def test_echo_times_that_differ_by_rounding_are_one_echo():
    assert sizes([make(i, 3.0 * i, {"EchoTime": 10 + 1e-4 * (i % 3)}) for i in range(8)]) == [8]
    assert sizes(volumes(2, 6, lambda v, i, k: {"EchoTime": 5 * (v + 1) + 1e-4 * (i % 3)})) == [6, 6]


@pytest.mark.parametrize("jitter", [1e-7, 1e-4, 0.02])
def test_places_that_differ_by_rounding_are_one_place(jitter):
    slices = [make(k, 3.0 * (k % 8) + jitter * (k >= 8), {"AcquisitionNumber": k // 8}) for k in range(16)]
    assert sizes(slices) == [8, 8]
    directions = [(1.0, 0.0, 0.0, 0.0, 1.0, jitter / 1e2 * (-1) ** k) for k in range(16)]
    slices = [
        make(k, 0, {"AcquisitionNumber": k // 8}, orientation=directions[k], position=(-250, -180, 3.0 * (k % 8)))
        for k in range(16)
    ]
    assert sizes(slices) == [8, 8]


@pytest.mark.parametrize("distance, spacing", [(0.04, 0.5), (0.01, 0.01), (0.003, None), (0.003, 1.0)])
def test_slices_close_to_each_other_are_not_one_place(distance, spacing):
    (series,) = group([make(i, distance * i, spacing=spacing and (spacing, spacing)) for i in range(8)])
    assert series.slice_distance == pytest.approx(distance, abs=1e-6) and not series.warnings


def test_three_orientations_are_three_series():
    axes = [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1)]
    slices = [
        make(3 * n + i, 0, orientation=tuple(map(float, a)), position=tuple(np.cross(a[:3], a[3:]) * 10.0 * i))
        for n, a in enumerate(axes)
        for i in range(3)
    ]
    assert sizes(slices) == [3, 3, 3]


def test_stations_of_a_table_are_not_repeats():
    coronal = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    places = [(0, 3.0 * i, -400.0 * p) for p in range(3) for i in range(6)]
    slices = [make(k, 0, orientation=coronal, position=place) for k, place in enumerate(places)]
    assert [{s.position[2] for s in series.slices} for series in group(slices)] == [{0}, {-400}, {-800}]


def test_gantry_tilt_is_no_station():
    slices = [make(k, 0, {"AcquisitionNumber": k // 8}, position=(0, 0.9 * (k % 8), 3.0 * (k % 8))) for k in range(16)]
    found = group(slices)
    assert [len(series.slices) for series in found] == [8, 8]
    assert found[0].warnings == ["slices are shifted against each other (gantry tilt?)"]


def test_stacks_between_each_other():
    even = [make(5 * p + i, 6.0 * i + 3 * p, {"AcquisitionNumber": p}) for p in range(2) for i in range(5)]
    assert sizes(even) == [10]  # every second slice first: one volume
    uneven = [make(5 * p + i, 6.0 * i + p, {"AcquisitionNumber": p}) for p in range(2) for i in range(5)]
    assert sizes(uneven) == [5, 5]
    kernels = [make(5 * p + i, 6.0 * i + 3 * p, {"ConvolutionKernel": "ab"[p]}) for p in range(2) for i in range(5)]
    assert sizes(kernels) == [5, 5]
    assert sizes([make(k, 1.0 * k, {"ConvolutionKernel": "a"}) for k in range(21)]
                 + [make(30 + k, 5.0 * k, {"ConvolutionKernel": "b"}) for k in range(5)]) == [5, 21]  # fmt: skip


def test_frames_of_reference():
    (series,) = group([make(i, 3.0 * i, frame_of_reference=f"1.2.{i}") for i in range(8)])
    assert series.warnings == ["8 FrameOfReferenceUIDs in one series: are the positions comparable?"]
    assert group([make(i, 3.0 * i, frame_of_reference="1.2" if i else "") for i in range(8)])[0].warnings == []
    assert sizes([make(k, 3.0 * (k % 8), frame_of_reference=f"1.{k // 8 + 1}") for k in range(16)]) == [8, 8]


def test_patients_and_sizes_are_never_one_series():
    assert sizes([make(i, 3.0 * i, patient="PQ"[i % 2]) for i in range(8)]) == [4, 4]
    assert sizes([make(i, 3.0 * i, shape=(5, 7 + i % 2)) for i in range(8)]) == [4, 4]


def test_clusters_cut_at_gaps_in_any_column():
    values = np.array([[0, 0], [0.9, 5], [1.8, 0], [9, 0], [1.8, 5.5]])
    assert [rows.tolist() for rows in clusters(values)] == [[0], [1, 4], [2], [3]]
