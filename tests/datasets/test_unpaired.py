import logging
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medi2i.common.errors import UserError
from medi2i.common.options import UnpairedOptions, parse
from medi2i.datasets import unpaired
from medi2i.datasets.augment import apply
from medi2i.datasets.examples import ImageCache
from medi2i.datasets.scaling import Clip
from medi2i.datasets.writing import write_image

HEAD = Path(__file__).parents[3] / "shared" / "data" / "ct-head"
DIRECTIONS = [1, 0, 0, 0, 1, 0]


def ct(path, hu, z, series="1", *, spacing=(1.0, 1.0), padding=None, orientation=None, modality="CT"):
    """Write a CT slice with intercept -1024; ``padding``: (rows, columns) slices that are set to padding."""
    stored = (np.asarray(hu) + 1024).astype(np.int16)
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    dataset.SeriesInstanceUID = dataset.StudyInstanceUID = generate_uid(entropy_srcs=[series])
    dataset.Modality, dataset.PatientID, dataset.SeriesDescription = modality, "p", series
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImageOrientationPatient = orientation or DIRECTIONS
    dataset.ImagePositionPatient = [0, 0, z]
    dataset.PixelSpacing = list(spacing)
    dataset.SliceThickness = 1
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    if padding is not None:
        stored[padding] = -2000
        dataset.PixelPaddingValue = -2000
    dataset.PixelData = stored.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def volume(folder, heights, series="1", base=0, size=(20, 24), **more):
    """Slices named in another order than they lie; the value is base + height."""
    for number, z in enumerate(reversed(heights)):
        ct(folder / f"IM{series}_{number}", np.full(size, base + z), z, series, **more)


def build(root, domain="A", phase="train", **options):
    options = {"random_translate": 0, "crop_height": 20, "crop_width": 24, **options}
    how = {"train": unpaired.build, "val": unpaired.build_validation}[phase]
    return how(UnpairedOptions(root=str(root), **options), domain, cache=ImageCache(50))


def values(dataset):
    return [np.rint(dataset.clip.from_unit(dataset.load(i)))[:, 0, 0].astype(int).tolist() for i in range(len(dataset))]


def test_two_series_in_one_folder_are_two_volumes_in_the_order_of_their_positions(tmp_path, caplog):
    volume(tmp_path / "trainA", [0, 2, 4, 6], "1")
    volume(tmp_path / "trainA", [1, 3, 5], "2", base=100)
    volume(tmp_path / "trainA" / "deeper", [9], "3", base=50)
    with caplog.at_level(logging.WARNING):
        dataset = build(tmp_path, stack=2)
    assert sorted(values(dataset)) == [[0, 2], [2, 4], [4, 6], [101, 103], [103, 105]]
    assert "1 image(s), fewer than the stack of 2" in caplog.text
    assert dataset.channels == 2
    assert dataset.clip == Clip(-1024, 176)
    assert sorted(v for value in values(build(tmp_path)) for v in value) == [0, 2, 4, 6, 59, 101, 103, 105]


def test_slice_range_is_mm_along_the_body_whatever_way_the_rows_run(tmp_path):
    volume(tmp_path / "trainA", [-10, 0, 10, 20], "1")
    volume(tmp_path / "trainB", [-10, 0, 10, 20], "2", orientation=[1, 0, 0, 0, -1, 0])
    assert sorted(values(build(tmp_path, slice_range=[0, 10]))) == [[0], [10]]
    assert sorted(values(build(tmp_path, "B", slice_range=[0, 10]))) == [[0], [10]]
    assert values(build(tmp_path, slice_range=[0, 20], stack=2)) == [[0, 10], [10, 20]]
    with pytest.raises(UserError, match=r"--slice_range: .* between 30 and 40 mm; they lie between -10 and 20"):
        build(tmp_path, slice_range=[30, 40])


def test_force_spacing(tmp_path):
    y, x = np.mgrid[:20, :24]
    ct(tmp_path / "trainA" / "a", 10 * x - 5 * y, 0, spacing=(2.0, 1.0), padding=np.s_[:4, :6])
    dataset = build(tmp_path, forceSpacing=1.0, crop_height=40, crop_width=24)
    image = dataset.clip.from_unit(dataset.load(0))[0]
    assert (image[:8, :6] == -1024).all() and dataset.load(0)[0, :8, :6].max() == -1
    rows = (np.arange(40) - 19.5) / 2 + 9.5
    np.testing.assert_allclose(image[12:38, 10:17], 10 * np.arange(10, 17) - 5 * rows[12:38, np.newaxis], atol=1e-2)
    assert build(tmp_path, forceSpacing=4.0, crop_height=10, crop_width=6).load(0).shape == (1, 10, 6)


def test_shifts_beyond_a_small_image_go_on_by_its_edge(tmp_path):
    y, x = np.mgrid[:20, :24]
    ct(tmp_path / "trainA" / "a", 10 * x - 5 * y, 0)
    dataset = build(tmp_path, crop_height=26, crop_width=32, clipA=[-1024, 2000], random_translate=4)
    expected = 10 * np.clip(np.arange(32) - 4, 0, 23) - 5 * np.clip(np.arange(26) - 3, 0, 19)[:, np.newaxis]
    np.testing.assert_allclose(dataset.clip.from_unit(dataset.load(0))[0], expected, atol=1e-2)
    shifted = [dataset.clip.from_unit(dataset.load(0, np.random.default_rng(seed)))[0] for seed in range(30)]
    assert min(image.min() for image in shifted) >= -95 and len({image[10, 10] for image in shifted}) > 5


@pytest.mark.parametrize("translate, flips", [(4, False), (0, False), (-1, True)])
def test_dicom_is_not_flipped_unless_crops_come_from_anywhere(tmp_path, translate, flips):
    y, x = np.mgrid[:20, :24]
    ct(tmp_path / "trainA" / "a", 10 * x - 5 * y, 0)
    dataset = build(tmp_path, crop_height=16, crop_width=16, random_translate=translate)
    rises = {np.diff(dataset.load(0, np.random.default_rng(seed))[0], axis=1).mean() > 0 for seed in range(30)}
    assert rises == ({True, False} if flips else {True})


def test_body_becomes_air_and_padding_the_lower_end_of_the_clip(tmp_path):
    hu = np.full((20, 24), -700)
    hu[5:15, 6:18] = 40
    hu[8, 0:3] = 300
    ct(tmp_path / "trainA" / "a", hu, 0, padding=np.s_[:2, :])
    unit = build(tmp_path, clip_body=True).load(0)[0]
    clip = Clip(-1024, 176)
    np.testing.assert_array_equal(unit[:2], -1)
    np.testing.assert_allclose(clip.from_unit(unit[2:5]), -1000, atol=1e-3)
    np.testing.assert_allclose(clip.from_unit(unit[8, :3]), -1000, atol=1e-3)
    np.testing.assert_allclose(clip.from_unit(unit[5:15, 6:18]), 40, atol=1e-3)
    kept = clip.from_unit(build(tmp_path).load(0)[0])
    np.testing.assert_allclose(kept[2:5], -700, atol=1e-3)
    assert kept[8, 0] == pytest.approx(176)


def test_domains_of_different_kinds_clips_and_sizes(tmp_path):
    volume(tmp_path / "trainA", [0, 1])
    for number in range(3):
        write_image(tmp_path / "trainB" / "sub" / f"{number}.png", np.full((3, 33, 50), 50.0 * number))
    options = UnpairedOptions(root=str(tmp_path), imgtype="dcm", imgtype_b="png", clipA=[-100, 100], random_translate=0)
    a, b = (unpaired.build(options, domain, cache=ImageCache(9)) for domain in "AB")
    assert (a.clip, b.clip, a.channels, b.channels) == (Clip(-100, 100), Clip(0, 255), 1, 3)
    assert (a.size, b.size) == ((16, 16), (32, 48))
    assert [b.name(i) for i in range(3)] == ["sub/0", "sub/1", "sub/2"]
    done = unpaired.complete(options, a, b)
    assert (done.ch, done.out_ch, done.crop_height) == (1, 3, None)
    assert (done.clipA, done.clipB) == ([-100, 100], [0, 255])
    b = unpaired.build(
        UnpairedOptions(root=str(tmp_path), imgtype="png", grey=True, crop_height=16, crop_width=16),
        "B",
        cache=ImageCache(9),
    )
    assert unpaired.complete(options, a, b).crop_height == 16


def test_training_is_augmented_and_validation_is_not(tmp_path):
    write_image(tmp_path / "trainA" / "a.png", np.arange(480).reshape(20, 24) % 256)
    write_image(tmp_path / "testA" / "a.png", np.arange(480).reshape(20, 24) % 256)
    options = {"random_translate": 2, "random_rotation": 20, "random_scale": 0.2, "augment_noise": 0.1}
    train, val = build(tmp_path, **options), build(tmp_path, phase="val", **options)
    assert len({train.load(0, np.random.default_rng(seed)).tobytes() for seed in range(5)}) == 5
    np.testing.assert_array_equal(val.load(0, np.random.default_rng(0)), val.load(0))
    np.testing.assert_array_equal(val.load(0), train.load(0))
    assert build(tmp_path, "B", "val") is None


def test_stacks_of_released_args_follow_the_names_of_files_unless_a_range_is_given(tmp_path):
    volume(tmp_path / "trainA", [0, 10, 20, 30])  # named from the highest down
    assert values(build(tmp_path, stack=3)) == [[0, 10, 20], [10, 20, 30]]
    assert values(build(tmp_path, stack=3, released=True)) == [[30, 20, 10], [20, 10, 0]]
    assert values(build(tmp_path, stack=2, released=True, slice_range=[0, 30])) == [[10, 20]]  # without its ends


def test_dicom_is_not_flipped_and_pictures_are(tmp_path):
    ct(tmp_path / "trainA/x", np.tile(np.arange(24.0), (20, 1)), 0)
    write_image(tmp_path / "png/trainA/a.png", np.tile(np.arange(24), (20, 1)))
    for root, released, flipped in (
        (tmp_path, "args", {False}),
        (tmp_path, None, {False}),
        (tmp_path / "png", "args", {True, False}),
        (tmp_path / "png", None, {True, False}),
    ):
        dataset = build(root, released=released, random_translate=1, crop_width=20)
        found = {
            bool(x[0, 5, 5] > x[0, 5, 15]) for x in (dataset.load(0, np.random.default_rng(seed)) for seed in range(20))
        }
        assert found == flipped


def test_images_smaller_than_the_crop_are_continued_by_their_edge(tmp_path, caplog):
    """By loading threads and for a device alike."""
    image = np.arange(20 * 24).reshape(20, 24) % 251
    write_image(tmp_path / "trainA/a.png", np.stack([image] * 3))
    dataset = build(tmp_path, crop_height=32, crop_width=32)
    expected = np.pad(image, ((6, 6), (4, 4)), mode="edge") / 127.5 - 1
    np.testing.assert_allclose(dataset.load(0)[0], expected, atol=1e-6)
    uncut = dataset.uncut(0, None)
    np.testing.assert_allclose(apply(uncut.clip.to_unit(uncut.values), uncut.draw, uncut.size)[0], expected, atol=1e-6)
    assert "20x24 pixels (height x width) are continued by their edge to the crop of 32x32" in caplog.text


def test_base_and_width_in_hu_count_for_dicom_and_npy_only(tmp_path, caplog):
    """As in the released code, whose default for npy is that of DICOM."""
    given = parse(UnpairedOptions, ["-huba", "-600", "-hura", "1000"])
    for kind, clip, words in (
        ("png", Clip(0, 255), "--HU_base, --HU_range: count for DICOM and npy only"),
        ("npy", Clip(-600, 400), ""),
    ):
        write_image(tmp_path / kind / "trainA" / f"a.{kind}", np.full((20, 24), 50))
        caplog.clear()
        dataset = build(tmp_path / kind, clipA=given.clipA, clips_in_hu=given.clips_in_hu)
        assert dataset.clip == clip and (words in caplog.text if words else not caplog.records)
    caplog.clear()
    assert build(tmp_path / "npy").clip == Clip(-1024, 176)
    assert "--clipA: npy is taken to be HU, and -1024 to 176 becomes -1 to 1" in caplog.text
    assert build(tmp_path / "png", clipA=[0, 100]).clip == Clip(0, 100)
    options = unpaired.complete(UnpairedOptions(clips_in_hu=True), dataset, dataset)
    assert options.clips_in_hu is None and options.clipB == [-600, 400]


@pytest.mark.parametrize("option", [{"slice_range": [0, 1]}, {"forceSpacing": 1.0}, {"clip_body": True}])
def test_options_that_need_geometry_are_refused_for_pictures(tmp_path, option):
    write_image(tmp_path / "trainA" / "a.png", np.zeros((20, 24)))
    with pytest.raises(UserError, match=f"--{next(iter(option))}: .*a.png"):
        build(tmp_path, **option)


def test_images_that_are_no_ct_with_the_default_clip_are_told(tmp_path, caplog):
    volume(tmp_path / "trainA", [0], modality="MR")
    build(tmp_path)
    assert "--clipA" in caplog.text and "MR" in caplog.text
    caplog.clear()
    build(tmp_path, clipA=[0, 100])
    assert not caplog.text


def test_damaged_file_among_good_ones_is_skipped_and_named(tmp_path, caplog):
    volume(tmp_path / "trainA", [0, 1, 2])
    good = (tmp_path / "trainA" / "IM1_0").read_bytes()
    (tmp_path / "trainA" / "cut").write_bytes(good[:-100])
    (tmp_path / "trainA" / "notes").write_text("hello")
    assert len(build(tmp_path)) == 3
    assert "2 file(s) skipped" in caplog.text and "trainA/cut: " in caplog.text and "trainA/notes: " in caplog.text


def test_folders_without_images(tmp_path):
    with pytest.raises(UserError, match="trainA: no such folder"):
        build(tmp_path)
    (tmp_path / "trainA").mkdir()
    with pytest.raises(UserError, match="trainA: the folder is empty"):
        build(tmp_path)
    (tmp_path / "trainA" / "a.dcm").write_text("hello")
    with pytest.raises(UserError, match=r"none of the 1 dcm file\(s\) can be read .*a.dcm: not DICOM"):
        build(tmp_path)


def test_memory_stays_within_the_budget_however_many_slices_there_are(tmp_path):
    for number in range(40):
        write_image(tmp_path / "trainA" / f"{number}.png", np.full((64, 64), number))
    cache = ImageCache(0.1)
    dataset = unpaired.build(UnpairedOptions(root=str(tmp_path)), "A", cache=cache)
    for i in range(40):
        assert dataset.load(i)[0, 0, 0] == pytest.approx(i / 127.5 - 1, abs=1e-6)
        assert cache.used <= 0.1 * 2**20
    assert len(cache) == 0.1 * 2**20 // (64 * 64 * 2)


@pytest.mark.skipif(not HEAD.is_dir(), reason="the head CT is not here")
def test_real_head_ct(tmp_path):
    (tmp_path / "trainA").mkdir()
    for file in sorted(HEAD.glob("*.dcm"))[50:54]:
        (tmp_path / "trainA" / file.name).symlink_to(file)
    dataset = unpaired.build(UnpairedOptions(root=str(tmp_path), stack=3, forceSpacing=1.5), "A", cache=ImageCache(50))
    assert len(dataset) == 2 and dataset.size == (144, 144)  # 256 · 0.957 / 1.5 = 163 pixels, 8 of them for the shift
    assert dataset.load(0).shape == (3, 144, 144)
    assert np.abs(dataset.load(0)[1:] - dataset.load(1)[:2]).max() == 0
