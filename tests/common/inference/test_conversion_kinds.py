"""Every kind of image to its own kind, lists, colour, classes, fixed sizes; through pix2pix/convert.py."""

import json
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from medi2i.common import resources
from medi2i.datasets import dicom
from medi2i.datasets.reading import read_image
from medi2i.pix2pix import convert

NO_CLIP = dict(clipA=None, clipB=None)


def run(*arguments):
    return convert.main([str(argument) for argument in arguments])


def grey(seed, top, dtype, shape=(21, 34)):
    return np.random.default_rng(seed).integers(0, top, size=shape).astype(dtype)


def test_16_bit_stays_16_bit_and_8_bit_8(tmp_path, paired_run):
    folder = tmp_path / "in"
    folder.mkdir()
    images = {"a.png": grey(0, 65536, np.uint16), "b.png": grey(1, 256, np.uint8)}
    for name, image in images.items():
        Pillow.fromarray(image).save(folder / name)
    assert run(paired_run(**NO_CLIP), "-R", folder, "-o", tmp_path / "out") == 0
    for name, image in images.items():
        found = read_image(tmp_path / "out" / name)
        assert found.bits == 8 * image.itemsize
        np.testing.assert_array_equal(found.array[0], image)


@pytest.mark.parametrize("name, dtype", [("a.tif", np.uint16), ("a.TIFF", np.uint8), ("a.tiff", np.float32)])
def test_tiff_keeps_its_type_and_suffix(tmp_path, paired_run, name, dtype):
    image = grey(0, 200, dtype) if dtype != np.float32 else np.linspace(-1, 1, 21 * 34, dtype=dtype).reshape(21, 34)
    tifffile.imwrite(tmp_path / name, image)
    assert run(paired_run(**NO_CLIP), "-R", tmp_path / name, "-o", tmp_path / "out") == 0
    found = tifffile.imread(tmp_path / "out" / name)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, image, atol=1e-6)


@pytest.mark.parametrize("kind", ["npy", "csv", "txt"])
def test_plain_numbers_are_not_scaled_unless_clipped(tmp_path, paired_run, kind):
    image = np.random.default_rng(0).normal(size=(11, 18)).astype(np.float32) * 50
    if kind == "npy":
        np.save(tmp_path / "a.npy", image)
    else:
        np.savetxt(tmp_path / f"a.{kind}", image, delimiter="," if kind == "csv" else "\t", fmt="%.9g")
    common = [tmp_path / f"a.{kind}", "-it", kind]
    assert run(paired_run(offset=2.5, **NO_CLIP), "-R", *common, "-o", tmp_path / "out") == 0
    found = read_image(tmp_path / f"out/a.{kind}").array[0]
    np.testing.assert_allclose(found, image + 2.5, rtol=1e-6, atol=1e-5)
    assert run(paired_run(**NO_CLIP), "-R", *common, "-o", tmp_path / "out2", "-ca", -10, 10, "-cb", -10, 10) == 0
    np.testing.assert_allclose(read_image(tmp_path / f"out2/a.{kind}").array[0], image.clip(-10, 10), atol=1e-5)


def test_npy_of_two_axes_keeps_two(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((5, 6), np.float32))
    assert run("-m", "identity", "-R", tmp_path / "a.npy", "-o", tmp_path / "out") == 0
    assert np.load(tmp_path / "out/a.npy").shape == (5, 6)


def test_jpeg_in_png_out(tmp_path, paired_run):
    Pillow.fromarray(np.full((16, 24), 77, np.uint8)).save(tmp_path / "a.jpeg", quality=100)
    assert run(paired_run(**NO_CLIP), "-R", tmp_path / "a.jpeg", "-o", tmp_path / "out", "--imgtype_out", "png") == 0
    np.testing.assert_array_equal(read_image(tmp_path / "out/a.png").array[0], 77)


def test_colour_as_trained(tmp_path, paired_run):
    Pillow.fromarray(grey(0, 256, np.uint8, (12, 20, 3))).save(tmp_path / "a.png")
    values = read_image(tmp_path / "a.png").array
    assert run(paired_run(**NO_CLIP), "-R", tmp_path / "a.png", "-o", tmp_path / "grey") == 0
    luminance = 0.299 * values[0] + 0.587 * values[1] + 0.114 * values[2]
    np.testing.assert_allclose(read_image(tmp_path / "grey/a.png").array[0], luminance, atol=0.51)
    assert run(paired_run(name="rgb", ch=3, out_ch=3, **NO_CLIP), "-R", tmp_path / "a.png", "-o", tmp_path / "rgb") == 0
    assert read_image(tmp_path / "rgb/a.png").array.shape == (3, 12, 20)


def test_a_list_with_two_columns_as_channels_and_two_results(tmp_path, paired_run):
    for name in ("s1/a", "s1/b", "s2/a", "s2/b"):
        path = tmp_path / f"data/{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full((8, 9), len(name) + ord(name[-1]), np.float32))
    (tmp_path / "list.txt").write_text("s1/a.npy\ts1/b.npy\tx\ns2/a.npy\ts2/b.npy\tx\n")
    run_folder = paired_run(ch=2, out_ch=2, from_col=[0, 1], to_col=[2, 3], **NO_CLIP)
    assert run(run_folder, "-R", tmp_path / "data", "--val", tmp_path / "list.txt", "-o", tmp_path / "out") == 0
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.npy")) == [
        "s1/a_1.npy",
        "s1/a_2.npy",
        "s2/a_1.npy",
        "s2/a_2.npy",
    ]
    np.testing.assert_array_equal(np.load(tmp_path / "out/s1/a_2.npy"), 4 + ord("a"))


def test_a_list_may_point_outside_but_results_do_not(tmp_path, paired_run):
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "a.npy", np.zeros((4, 4), np.float32))
    (tmp_path / "data/list.txt").write_text(f"../a.npy\n{tmp_path}/a.npy\n")
    assert run(paired_run(**NO_CLIP), "-R", tmp_path / "data", "--val", "list.txt", "-o", tmp_path / "out") == 0
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.npy")) == [
        "a.npy",
        f"{tmp_path.name}/a.npy",
    ]


def test_classes_are_probabilities_and_labels_never_dicom(tmp_path, paired_run, files):
    image = files.stored_image(0, 16, 20)
    files.write_slice(tmp_path / "in/x.dcm", image)
    run_folder = paired_run(class_num=3, out_ch=3, clipA=[-1024, 2000])
    with np.load(run_folder / "dec_y3.npz") as found:
        arrays = dict(found)
    arrays["ul/c1/c/W"][1] *= -1  # scores: x, -x, x - 0.2
    arrays["ul/c1/c/b"][2] = -0.2
    np.savez(run_folder / "dec_y3.npz", **arrays)
    assert run(run_folder, "-R", tmp_path / "in", "-o", tmp_path / "out") == 0
    assert files.tree(tmp_path / "out") == ["conversion.json", "x.npy", "x.png"]
    unit = (files.hu_of(tmp_path / "in/x.dcm") + 1024) / 1512 - 1
    scores = np.stack([unit, -unit, unit - 0.2])
    expected = np.exp(scores) / np.exp(scores).sum(0)
    probabilities = np.load(tmp_path / "out/x.npy")
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    labels = np.array(Pillow.open(tmp_path / "out/x.png"))
    np.testing.assert_array_equal(labels, probabilities.argmax(0))
    assert set(np.unique(labels)) == {0, 1}
    entry = json.loads((tmp_path / "out/conversion.json").read_text())["files"]["x.dcm"]
    assert entry["results"] == ["x.npy", "x.png"] and sum(entry["pixels_of_class"]) == 320


def test_automap_takes_one_size_and_says_which(tmp_path, paired_run, capsys):
    for size in (16, 24):
        np.save(tmp_path / f"a{size}.npy", np.zeros((size, size), np.float32))
    run_folder = paired_run(gen_chs=[2, 4], gen_fc=1, crop_height=16, crop_width=16, unet="none", **NO_CLIP)
    assert run(run_folder, "-R", tmp_path / "a16.npy", "-o", tmp_path / "out") == 0
    assert run(run_folder, "-R", tmp_path / "a24.npy", "-o", tmp_path / "out2") == 1
    error = capsys.readouterr().err
    assert "takes exactly 16x16; --crop_height 16 --crop_width 16 would convert its middle" in error
    assert run(run_folder, "-R", tmp_path / "a24.npy", "-o", tmp_path / "out3", "-ch", 16, "-cw", 16) == 0
    assert run(run_folder, "-R", tmp_path / "a16.npy", "-o", tmp_path / "out4", "--tile", 8) == 1
    assert "--tile" in capsys.readouterr().err


@pytest.mark.parametrize("spelling, name", [("gif", "a.gif"), ("JPEG", "a.jpeg"), ("TIFF", "a.tif")])
def test_kinds_as_the_released_codes_spell_them(tmp_path, paired_run, spelling, name):
    """What 256 colours cannot hold is written as PNG."""
    image = np.full((16, 24), 77, np.uint8)
    Pillow.fromarray(image).save(tmp_path / name)
    (tmp_path / "notes.md").write_text("not an image")
    assert run(paired_run(**NO_CLIP), "-it", spelling, "-R", tmp_path, "-o", tmp_path / "out") == 0
    written = "a.png" if spelling == "gif" else name
    np.testing.assert_allclose(read_image(tmp_path / "out" / written).array[0], image, atol=1)


@pytest.mark.parametrize("kind", ["png", "dcm"])
def test_a_large_image_is_converted_in_little_memory(tmp_path, files, monkeypatch, kind):
    stored = files.stored_image(0, 1101, 1307)
    if kind == "png":
        Pillow.fromarray(stored).save(tmp_path / "a.png")
    else:
        files.write_slice(tmp_path / "a.dcm", stored)
    monkeypatch.setattr(resources, "BAND", 16 * 1307)
    arguments = "-m", "identity", "--imgtype", kind, "--workers", 1, "-R", tmp_path / f"a.{kind}"
    tracemalloc.start()
    try:
        assert run(*arguments, "-o", tmp_path / "out") == 0
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]  # what a first conversion imports and keeps
        assert run(*arguments, "-o", tmp_path / "again") == 0
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak / stored.size < 24  # bytes per pixel: 18 and 20 if it is large, 52 and 68 with whole-image copies
    expected = stored if kind == "png" else stored - np.float32(1024)
    np.testing.assert_array_equal(read_image(tmp_path / "again" / f"a.{kind}").array[0], expected)


@pytest.mark.parametrize("how, levels", [("percentiles", 1), ("nyul", 10)])
def test_series_of_other_gains_are_brought_to_the_scale_of_the_training(tmp_path, paired_run, files, how, levels):
    """Two MR series of one body: their results are equal, the source on that scale, and the report says by which."""
    rng = np.random.default_rng(2)
    bodies = [np.where(np.arange(34) < 10, 0, rng.integers(100, 400, (21, 34))) for _ in range(3)]
    for series, gain in (("1", 1), ("2", 3)):
        for number, stored in enumerate(bodies):
            file = tmp_path / "in" / series / f"{number}.dcm"
            files.write_slice(file, stored * gain, series=f"1.2.3.{series}", z=number, number=number, modality="MR")
    ends = np.linspace(1000 / levels, 1000, levels).tolist()
    model = paired_run(clipA=[0, 1000], clipB=[0, 1000], normaliseA=how, landmarksA=ends)
    assert run(model, "-R", tmp_path / "in", "-o", tmp_path / "out", "--engine", "chainer") == 0
    tissue = np.concatenate([stored[stored > 0] for stored in bodies])
    percentiles = (99.5,) if levels == 1 else (*range(10, 100, 10), 99.5)
    for number, stored in enumerate(bodies):
        first, second = (dicom.read(tmp_path / "out" / series / f"{number}.dcm").hu for series in "12")
        np.testing.assert_allclose(first, second, atol=1)
        expected = np.interp(stored, (0, *np.percentile(tissue, percentiles)), (0, *ends))
        np.testing.assert_allclose(first, expected, atol=1.01)  # both files are whole numbers
    settings = files.report_of(tmp_path / "out")["settings"]
    assert settings["normalise"] == how and len(settings["levels"]) == 2
    np.testing.assert_allclose(settings["levels"][1], np.multiply(settings["levels"][0], 3), rtol=1e-4)


def test_a_ct_is_not_normalised_and_a_broken_scale_is_refused(tmp_path, paired_run, files, capsys):
    files.write_series(tmp_path / "in", 2)
    normalised = {"clipA": [0, 1000], "clipB": [0, 1000], "normaliseA": "percentiles"}
    assert run(paired_run(**normalised, landmarksA=[1000]), "-R", tmp_path / "in", "-o", tmp_path / "out") == 1
    assert "is a CT, whose HU are not to be normalised" in capsys.readouterr().err
    files.write_slice(tmp_path / "mr" / "0.dcm", np.full((21, 34), 300), modality="MR")
    for broken in (None, [0], [-1], [500, 1000]):
        assert run(paired_run(**normalised, landmarksA=broken), "-R", tmp_path / "mr", "-o", tmp_path / "out") == 1
        assert "landmarksA of args" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
