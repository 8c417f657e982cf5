"""Models of the released codes are used by the rules of those codes, chosen by their args; ours by our own."""

import json

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image as Pillow
from skimage.transform import rescale

from medi2i.common.inference.inputs import find_inputs
from medi2i.common.inference.slices import Preparation, load_slice
from medi2i.cyclegan import convert as cyclegan_convert
from medi2i.datasets.reading import read_image
from medi2i.datasets.scaling import Clip
from medi2i.pix2pix import convert as pix2pix_convert


def run(convert, *arguments):
    return convert.main([str(argument) for argument in arguments])


def released(folder, **values):
    """The run folder with args as those codes wrote them: no version, and CycleGAN's clips as base and width."""
    path = folder / "args"
    content = {**json.loads(path.read_text()), **values}
    for name in ("medi2i_version", "application", "released", "clips_in_hu"):
        content.pop(name)
    if "lambda_A" in content:
        content |= {"HU_baseA": -1024, "HU_rangeA": 1200, "HU_baseB": -500, "HU_rangeB": 1000, **values}
        del content["clipA"], content["clipB"]
    path.write_text(json.dumps(content))
    return folder


def write(path, image):
    """An image (H, W) or (H, W, 3), by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix in (".csv", ".txt"):
        np.savetxt(path, image, delimiter="," if path.suffix == ".csv" else "\t", fmt="%.9g")
    elif path.suffix == ".tif":
        tifffile.imwrite(path, image)
    else:
        Pillow.fromarray(image).save(path, **({"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}))
    return path


@pytest.mark.parametrize("suffix, tolerance", [(".png", 0), (".tif", 0), (".jpg", 3), (".bmp", 0)])
@pytest.mark.parametrize("weights", ["enc_x3.npz", "enc_y3.npz"])
def test_unpaired_pictures_are_scaled_from_0_to_255_whatever_the_hu(tmp_path, unpaired_run, suffix, tolerance, weights):
    image = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (16, 1))
    write(tmp_path / "in" / f"a{suffix}", image)
    run_folder = released(unpaired_run(((0.5,),), ((0.5,),), imgtype="JPG"))
    assert (
        run(
            cyclegan_convert,
            "-a",
            run_folder / "args",
            "-m",
            weights,
            "-it",
            suffix[1:],
            "-R",
            tmp_path / "in",
            "-o",
            tmp_path / "out",
        )
        == 0
    )
    unit = image / 127.5 - 1
    found = read_image(tmp_path / "out" / f"a{suffix}").array[0]
    np.testing.assert_allclose(found, 127.5 * (unit / 2 + 1), atol=0.51 + tolerance)


def test_pictures_of_16_bits_keep_them(tmp_path, unpaired_run):
    """Where the released code cut them off at 255."""
    image = np.arange(0, 65536, 128, dtype=np.uint16).reshape(16, 32)
    write(tmp_path / "in/a.png", image)
    assert run(cyclegan_convert, released(unpaired_run()), "-R", tmp_path / "in", "-o", tmp_path / "out") == 0
    np.testing.assert_array_equal(np.asarray(Pillow.open(tmp_path / "out/a.png")), image)


def test_columns_of_a_list_are_scaled_and_stacked_alike(tmp_path, paired_run):
    """From B to A: the columns of --to_col, by clipA; every output channel is the first input."""
    random = np.random.default_rng(0)
    images = [random.normal(size=(16, 32)).astype(np.float32) for _ in range(3)]
    for name, image in zip("xyz", images, strict=True):
        write(tmp_path / "in" / f"{name}.npy", image)
    (tmp_path / "list.txt").write_text("x.npy\ty.npy\tz.npy\n")
    run_folder = released(paired_run(btoa=True, from_col=[0], to_col=[2, 1], clipA=[-1, 2], clipB=[0, 10], ch=2))
    assert (
        run(pix2pix_convert, run_folder, "-R", tmp_path / "in", "--val", tmp_path / "list.txt", "-o", tmp_path / "out")
        == 0
    )
    np.testing.assert_allclose(np.load(tmp_path / "out/z.npy"), (images[2].clip(-1, 2) + 1) / 3 * 10, atol=1e-4)


def test_unpaired_npy_is_hu_on_its_way_in_and_0_to_255_on_its_way_out(tmp_path, unpaired_run):
    image = np.linspace(-1500, 800, 16 * 32, dtype=np.float32).reshape(16, 32)
    write(tmp_path / "in/a.npy", image)
    run_folder = released(unpaired_run(imgtype="npy"))
    common = ["-R", tmp_path / "in", "-g", -1]
    for weights, clip in (("enc_x3.npz", Clip(-1024, 176)), ("enc_y3.npz", Clip(-500, 500))):
        out = tmp_path / weights
        assert run(cyclegan_convert, "-m", run_folder / weights, *common, "-o", out) == 0
        np.testing.assert_allclose(np.load(out / "a.npy"), 127.5 * (clip.to_unit(image) + 1), atol=1e-3)
    # what a command line says itself counts
    assert run(cyclegan_convert, run_folder, *common, "-ca", -1000, 1000, "-cb", 0, 2, "-o", tmp_path / "given") == 0
    np.testing.assert_allclose(np.load(tmp_path / "given/a.npy"), image.clip(-1000, 1000) / 1000 + 1, atol=1e-5)


def test_unpaired_dicom_has_the_hu_of_its_own_domain_both_ways(tmp_path, unpaired_run, files):
    """The released code took A's range for images of B, too: mended."""
    folder = files.write_series(tmp_path / "in", 1, height=32, width=48)
    run_folder, hu = released(unpaired_run()), files.hu_of(folder / "IM0")
    clips = Clip(-1024, 176), Clip(-500, 500)
    for weights, (one, other) in (("enc_x3.npz", clips), ("enc_y3.npz", clips[::-1])):
        assert run(cyclegan_convert, "-m", run_folder / weights, "-R", folder, "-o", tmp_path / weights) == 0
        np.testing.assert_allclose(files.hu_of(tmp_path / weights / "IM0"), other.from_unit(one.to_unit(hu)), atol=0.51)


@pytest.mark.parametrize("kind", ["npy", "csv", "txt"])
def test_paired_numbers_go_in_as_they_are_and_come_out_as_grey_levels(tmp_path, paired_run, kind):
    image = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)
    write(tmp_path / "in" / f"a.{kind}", image)
    no_clip = dict(clipA=[None, None], clipB=[None, None])
    run_folder = released(paired_run(((0.5,),), imgtype=kind, **no_clip), **no_clip)
    assert run(pix2pix_convert, run_folder, "-R", tmp_path / "in", "-it", kind, "-o", tmp_path / "out") == 0
    found = read_image(tmp_path / "out" / f"a.{kind}").array[0]
    np.testing.assert_allclose(found, 127.5 * (image / 2 + 1), rtol=1e-5, atol=1e-4)
    assert (
        run(
            pix2pix_convert,
            run_folder,
            "-R",
            tmp_path / "in",
            "-it",
            kind,
            "-o",
            tmp_path / "hu",
            "-ca",
            -1,
            1,
            "-cb",
            -1000,
            1000,
        )
        == 0
    )
    np.testing.assert_allclose(read_image(tmp_path / "hu" / f"a.{kind}").array[0], image.clip(-1, 1) * 500, atol=1e-3)


def test_clip_a_is_the_inputs_even_from_b_to_a(tmp_path, paired_run):
    image = np.linspace(0, 3, 16 * 16, dtype=np.float32).reshape(16, 16)
    write(tmp_path / "in/a.npy", image)
    run_folder = paired_run(btoa=True, clipA=[0, 2], clipB=[-10, 10])
    assert run(pix2pix_convert, run_folder, "-R", tmp_path / "in", "-o", tmp_path / "ours") == 0
    np.testing.assert_allclose(np.load(tmp_path / "ours/a.npy"), image / 10 + 1, atol=1e-5)
    assert run(pix2pix_convert, released(run_folder), "-R", tmp_path / "in", "-o", tmp_path / "old") == 0
    np.testing.assert_allclose(np.load(tmp_path / "old/a.npy"), (image.clip(0, 2) - 1) * 10, atol=1e-5)


def descending(files, folder, count):
    """A series whose names ascend as z descends."""
    for number in range(count):
        files.write_slice(
            folder / f"s{number:03d}.dcm", files.stored_image(number, 16, 32), z=-2.0 * number, number=number + 1
        )
    return folder, [files.hu_of(folder / f"s{number:03d}.dcm") for number in range(count)]


def test_a_report_is_offered_where_results_have_the_size_and_unit_of_the_truth(tmp_path, paired_run, files, capsys):
    for folder in ("testA", "testB"):
        write(tmp_path / "png" / folder / "a.png", np.zeros((37, 23), np.uint8))
        files.write_slice(tmp_path / "ct" / folder / "x", files.stored_image(0, 37, 23))
    run_folder = released(paired_run())
    for kind in ("png", "ct"):
        assert run(pix2pix_convert, run_folder, "-R", tmp_path / kind / "testA", "-o", tmp_path / f"{kind}_out") == 0
        assert ("how good it is" in capsys.readouterr().err) == (kind == "ct")


@pytest.mark.parametrize("size", [3, 5])
def test_stacks_follow_the_names_of_files(tmp_path, paired_run, files, size):
    """Every output channel is the first slice of the stack: the one before in the order that counts."""
    folder, hu = descending(files, tmp_path / "in", 7)
    run_folder, half = paired_run(stack=size, ch=size, out_ch=size), size // 2
    assert run(pix2pix_convert, run_folder, "-R", folder, "-o", tmp_path / "ours") == 0
    assert run(pix2pix_convert, released(run_folder), "-R", folder, "-o", tmp_path / "old") == 0
    for number in range(half, 7 - half):
        name = f"s{number:03d}.dcm"
        np.testing.assert_allclose(files.hu_of(tmp_path / "ours" / name), hu[number + half], atol=0.51)
        np.testing.assert_allclose(files.hu_of(tmp_path / "old" / name), hu[number - half], atol=0.51)


def test_stacks_of_a_list_follow_its_lines(tmp_path, paired_run, files):
    folder, hu = descending(files, tmp_path / "in", 5)
    order = [3, 0, 4, 1, 2]
    (tmp_path / "list.txt").write_text("".join(f"s{number:03d}.dcm\tnone\n" for number in order))
    assert (
        run(
            pix2pix_convert,
            released(paired_run(stack=3, ch=3, out_ch=3)),
            "-R",
            folder,
            "--val",
            tmp_path / "list.txt",
            "-o",
            tmp_path / "out",
        )
        == 0
    )
    for before, number in zip(order, order[1:-1], strict=False):
        np.testing.assert_allclose(files.hu_of(tmp_path / f"out/s{number:03d}.dcm"), hu[before], atol=0.51)


def test_unpaired_stacks_follow_z_only_with_a_range(tmp_path, unpaired_run, files):
    folder, hu = descending(files, tmp_path / "in", 3)
    clip = dict(HU_baseA=-1024, HU_rangeA=4000, HU_baseB=-1024, HU_rangeB=4000)
    run_folder = released(unpaired_run(stack=3, ch=3, out_ch=3), **clip)
    for more, first in (([], 0), (["-sr", -100, 100], 2)):
        out = tmp_path / f"out{first}"
        assert run(cyclegan_convert, run_folder, "-R", folder, "-o", out, *more) == 0
        np.testing.assert_allclose(files.hu_of(out / "s001.dcm"), hu[first], atol=0.51)


def test_the_ends_of_a_slice_range_do_not_count_and_the_one_of_training_holds(tmp_path, unpaired_run, files):
    folder, _ = descending(files, tmp_path / "in", 5)  # at 0, -2, … -8 mm
    run_folder = released(unpaired_run(), slice_range=[-8, -2])
    for more, names in (([], ["s002.dcm", "s003.dcm"]), (["-sr", -2, 10], ["s000.dcm"])):
        out = tmp_path / f"out{len(names)}"
        assert run(cyclegan_convert, run_folder, "-R", folder, "-o", out, *more) == 0
        assert sorted(path.name for path in out.glob("*.dcm")) == names


@pytest.mark.parametrize(
    "args, top, left, height, width",
    [
        ({}, 2, 4, 32, 16),  # multiples of 16 in 37 × 23, margins 2.5 and 3.5 to the even number
        ({"crop_height": 20, "crop_width": 23}, 8, 0, 20, 23),
        ({"crop_height": 480, "crop_width": 22}, 0, 0, 37, 22),
    ],
)
def test_the_middle_is_converted(tmp_path, paired_run, files, caplog, args, top, left, height, width):
    """Pictures become the crop; DICOM keeps its size and its own pixels around it."""
    image = np.random.default_rng(0).integers(0, 256, (37, 23)).astype(np.uint8)
    write(tmp_path / "in/a.png", image)
    files.write_slice(tmp_path / "ct/x", files.stored_image(0, 37, 23))
    hu, rows, columns = files.hu_of(tmp_path / "ct/x"), slice(top, top + height), slice(left, left + width)
    run_folder = released(paired_run(((0.5,),)), **args)
    assert (
        run(pix2pix_convert, run_folder, "-R", tmp_path / "in", "-ca", 0, 255, "-cb", 0, 255, "-o", tmp_path / "out")
        == 0
    )
    found = read_image(tmp_path / "out/a.png").array[0]
    np.testing.assert_allclose(found, (image[rows, columns] / 127.5 - 1) * 63.75 + 127.5, atol=0.51)
    assert f"of 37x23 pixels (height x width) the middle {height}x{width} are converted" in caplog.text
    assert run(pix2pix_convert, run_folder, "-R", tmp_path / "ct", "-o", tmp_path / "ct_out") == 0
    clip, expected = Clip(-1024, 2000), hu.copy()
    expected[rows, columns] = clip.from_unit(clip.to_unit(hu[rows, columns]) / 2)
    np.testing.assert_allclose(files.hu_of(tmp_path / "ct_out/x"), expected, atol=0.51)
    # the whole image, as a command line asks for it, and with our own args
    assert (
        run(
            pix2pix_convert,
            run_folder,
            "-R",
            tmp_path / "in",
            "-ch",
            37,
            "-cw",
            23,
            "-ca",
            0,
            255,
            "-cb",
            0,
            255,
            "-o",
            tmp_path / "all",
        )
        == 0
    )
    assert read_image(tmp_path / "all/a.png").array.shape == (1, 37, 23)


def test_a_training_continued_here_keeps_what_its_network_saw_and_converts_as_ours(tmp_path, paired_run, files):
    """Stacks in the order of the files; whole images, and numbers in the unit of the training's."""
    folder, hu = descending(files, tmp_path / "in", 3)
    crop = dict(released="args", crop_height=8, crop_width=8)  # save_args says that ours wrote it
    run_folder = paired_run(stack=3, ch=3, out_ch=3, **crop)
    assert run(pix2pix_convert, run_folder, "-R", folder, "-o", tmp_path / "out") == 0
    np.testing.assert_allclose(files.hu_of(tmp_path / "out/s001.dcm"), hu[0], atol=0.51)
    image = np.random.default_rng(0).normal(size=(37, 23)).astype(np.float32)
    write(tmp_path / "npy/a.npy", image)
    run_folder = paired_run(name="numbers", clipA=None, clipB=None, **crop)
    assert run(pix2pix_convert, run_folder, "-R", tmp_path / "npy", "-o", tmp_path / "out2") == 0
    np.testing.assert_allclose(np.load(tmp_path / "out2/a.npy"), image, atol=1e-5)


def test_colour_becomes_whole_grey_levels(tmp_path, paired_run):
    image = np.random.default_rng(0).integers(0, 256, (16, 32, 3)).astype(np.uint8)
    write(tmp_path / "in/a.png", image)
    common = ["-R", tmp_path / "in", "--imgtype_out", "npy", "-ca", 0, 255, "-cb", 0, 255]
    run_folder = paired_run(grey=True)
    assert run(pix2pix_convert, run_folder, *common, "-o", tmp_path / "ours") == 0
    np.testing.assert_allclose(np.load(tmp_path / "ours/a.npy"), image @ [0.299, 0.587, 0.114], atol=1e-3)
    assert run(pix2pix_convert, released(run_folder), *common, "-o", tmp_path / "old") == 0
    np.testing.assert_allclose(
        np.load(tmp_path / "old/a.npy"), np.asarray(Pillow.fromarray(image).convert("L")), atol=1e-3
    )


def test_grey_goes_through_a_network_of_three_channels(tmp_path, paired_run):
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write(tmp_path / "in/a.png", image)
    run_folder = released(paired_run(ch=3, out_ch=3, clipA=[0, 255], clipB=[0, 255]))
    assert run(pix2pix_convert, run_folder, "-R", tmp_path / "in", "-o", tmp_path / "out") == 0
    np.testing.assert_array_equal(np.asarray(Pillow.open(tmp_path / "out/a.png")), np.dstack([image] * 3))


@pytest.mark.parametrize("spacing", [0.5, 1.3])
def test_pixel_sizes_change_by_scikit_images_rescale(tmp_path, unpaired_run, files, spacing):
    files.write_slice(tmp_path / "in/x", files.stored_image(0, 35, 41), spacing=(0.8, 0.9))
    (source,) = find_inputs([tmp_path / "in"], kind="dcm").sources
    hu = files.hu_of(tmp_path / "in/x").astype(np.float32)
    for grid in (False, True):
        preparation = Preparation(
            Clip(-1024, 2000),
            Clip(-1024, 2000),
            1,
            (None, None) if grid else (28, 24),
            spacing=spacing,
            released=True,
            step=16,
        )
        piece = load_slice(source, preparation)
        expected = Clip(-1024, 2000).to_unit(rescale(hu, (0.8 / spacing, 0.9 / spacing)))
        where = piece.placement
        assert where.grid == expected.shape
        np.testing.assert_allclose(piece.unit[0], expected[where.window[1:]], atol=1e-5)


def test_a_resampled_image_comes_back_to_its_own_grid(tmp_path, unpaired_run, files):
    rows, columns = np.mgrid[:40, :52]
    files.write_slice(tmp_path / "in/x", (1000 + 300 * np.sin(rows / 9) * np.cos(columns / 11)).astype(np.uint16))
    run_folder = released(unpaired_run(forceSpacing=0.6), HU_rangeA=3000, HU_baseB=-1024, HU_rangeB=3000)
    assert run(cyclegan_convert, run_folder, "-R", tmp_path / "in", "-o", tmp_path / "out") == 0
    assert pydicom.dcmread(tmp_path / "out/x").pixel_array.shape == (40, 52)
    assert np.abs(files.hu_of(tmp_path / "out/x") - files.hu_of(tmp_path / "in/x"))[2:-2, 2:-2].max() < 16
