"""What a conversion does to values: nothing by itself, and all that it does is counted and said."""

import json
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from medi2i.common.inference import values
from medi2i.common.inference.report import find_report
from medi2i.pix2pix import convert

NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
WITH_DCMTK = {JPEGLosslessSV1: ("dcmcjpeg", "+e1"), JPEGLSLossless: ("dcmcjpls",)}


def run(*arguments):
    return convert.main([str(argument) for argument in arguments])


def pattern(low, high, shape=(33, 37)):
    """Integers (H, W) from ``low`` to ``high``, both of them among few smooth ramps."""
    ramp = np.linspace(low, high, shape[0] * shape[1]).reshape(shape)
    return np.rint(ramp).astype(np.int64)


def save_image(
    path,
    stored,
    syntax=ExplicitVRLittleEndian,
    *,
    files,
    allocated=16,
    bits=None,
    signed=False,
    slope="1",
    intercept="0",
    modality="CT",
    **more,
):
    """A DICOM file of integers (H, W); skips the test where what packs ``syntax`` is not installed."""
    files.write_slice(path, stored.astype(np.uint16), modality=modality)
    d = pydicom.dcmread(path)
    bits = bits or allocated
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = allocated, bits, bits - 1, int(signed)
    d.RescaleSlope, d.RescaleIntercept = slope, intercept
    for keyword, value in more.items():
        if keyword.startswith("PixelPadding"):
            d.add_new(keyword, "SS" if signed else "US", value)
        else:
            setattr(d, keyword, value)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    plain = stored.astype(f"{order}{'i' if signed else 'u'}{allocated // 8}").tobytes()
    d.PixelData = plain
    d["PixelData"].VR = "OW"
    if syntax in NATIVE:
        d.file_meta.TransferSyntaxUID = syntax
        little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
        pydicom.dcmwrite(path, d, little_endian=little, implicit_vr=implicit, enforce_file_format=True)
    elif syntax in WITH_DCMTK:
        tool, *words = WITH_DCMTK[syntax]
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} (dcmtk) is not installed")
        d.save_as(path, enforce_file_format=True)
        subprocess.run([tool, *words, path, path], check=True)
    else:
        d.compress(syntax, generate_instance_uid=False)
        d.save_as(path, enforce_file_format=True)
    return path


def exact(path):
    """(values as float64 by two's complement and the header's slope, padding mask), read with pydicom alone."""
    d = pydicom.dcmread(path)
    stored = d.pixel_array.astype(np.int64)
    value = d.get("PixelPaddingValue")
    limit = d.get("PixelPaddingRangeLimit", value)
    padding = (
        np.zeros(stored.shape, bool)
        if value is None
        else ((stored >= min(value, limit)) & (stored <= max(value, limit)))
    )
    return stored * float(d.RescaleSlope) + float(d.RescaleIntercept), padding


WITH_PADDING = pattern(-1024, 3071)
WITH_PADDING[:4] = -2000
WITH_RANGE = WITH_PADDING.copy()
WITH_RANGE[:4] = np.arange(-2100, -2000, 100 / 148)[:148].reshape(4, 37).astype(int)
IMAGES = {
    "CT with metal": (pattern(0, 15024), dict(intercept="-1024")),
    "CT of 12 bits, signed": (pattern(-1024, 2047), dict(bits=12, signed=True)),
    "CT with padding": (WITH_PADDING, dict(signed=True, PixelPaddingValue=-2000)),
    "CT with a range of padding": (
        WITH_RANGE,
        dict(signed=True, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-2100),
    ),
    "CT in steps of 0.01 HU": (pattern(0, 65000), dict(slope="0.01", intercept="-300")),
    "CT in steps of 2 HU to 113 000": (pattern(0, 57000), dict(slope="2", intercept="-1024")),
    "MR to 1e6": (pattern(0, 62500), dict(modality="MR", slope="16")),
    "MR with slope 1e-5": (pattern(0, 65535), dict(modality="MR", slope="1e-5")),
    "MR with negative values": (pattern(-32768, 32767), dict(modality="MR", signed=True, slope="0.37", intercept="-5")),
    "MR shown inverted": (pattern(0, 4095), dict(modality="MR", bits=12, PhotometricInterpretation="MONOCHROME1")),
    "MR with slope -1": (pattern(0, 4095), dict(modality="MR", bits=12, slope="-1", intercept="4095")),
    "MR of a long slope": (
        pattern(0, 4095),
        dict(modality="MR", bits=12, slope="0.73992673992674", intercept="1000.25"),
    ),
    "MR of 8 bits": (pattern(0, 255), dict(modality="MR", allocated=8)),
    "MR of 32 bits, slope 1e-5": (pattern(0, 2000000), dict(modality="MR", allocated=32, slope="1e-5")),
    "MR of 32 bits to 2^31": (
        pattern(-(2**31), 2**31 - 1),
        dict(modality="MR", allocated=32, signed=True, slope="1e-5"),
    ),
    "CT of 32 bits": (pattern(-1024, 14000), dict(allocated=32, signed=True)),
}


@pytest.mark.parametrize(
    "syntax",
    [*NATIVE, RLELossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless],
    ids=lambda syntax: syntax.name.split(",")[0].replace(" ", "-"),
)
def test_identity_changes_no_value_whatever_the_encoding(tmp_path, capsys, files, syntax):
    for name, (stored, how) in IMAGES.items():
        if how.get("allocated") == 32 and syntax not in NATIVE:
            continue  # compressed images have 16 bits at most (PS3.5 section 8.2)
        save_image(tmp_path / "in" / name / "a", stored, syntax, files=files, **how)
        assert run("-m", "identity", "-R", tmp_path / "in" / name, "-o", tmp_path / "out" / name) == 0, name
        plain = "in"
        if syntax not in NATIVE:  # what was compressed, not what a decoder makes of it
            plain = "plain"
            save_image(tmp_path / plain / name / "a", stored, ExplicitVRLittleEndian, files=files, **how)
        (before, padding), (after, again) = (exact(tmp_path / place / name / "a") for place in (plain, "out"))
        np.testing.assert_array_equal(padding, again, err_msg=name)
        difference = np.abs(after - before)
        assert difference.max() == 0, name
        assert "values" not in report_of(tmp_path / "out" / name), name
    assert "outside of the network's clip" not in capsys.readouterr().err


# --- the network's clip ---------------------------------------------------------------------------------------------

METAL = pattern(-2000, 14000, (36, 40))  # in HU; the networks know -1024 … 2000
BELOW, ABOVE = int((METAL < -1024).sum()), int((METAL > 2000).sum())
CHANGE = -75.6  # HU: -0.1 · 0.5 · 1512


@pytest.fixture
def metal(tmp_path, files):
    """The folder of three slices with ``METAL``, as CT."""
    for i in range(3):
        stored = METAL if i == 1 else np.full_like(METAL, 40)
        save_image(
            tmp_path / f"in/{i}",
            stored,
            files=files,
            signed=True,
            InstanceNumber=i,
            ImagePositionPatient=[0, 0, 2 * i],
            SOPInstanceUID=f"1.2.{i + 1}",
        )
    return tmp_path / "in"


@pytest.fixture
def residual_run(paired_run):
    """A pix2pix with a residual output that takes 75.6 HU away wherever it looks."""
    return lambda **options: paired_run(((0.0,),), -0.1, gen_residual=0.5, **options)


def report_of(folder):
    return json.loads(find_report(folder).read_text())


@pytest.mark.parametrize(
    "more, options",
    [
        ({}, []),
        ({}, ["--tile", 64, "--tile_overlap", 8]),
        ({}, ["--ensemble"]),
        ({}, ["--uncertainty", "tta"]),
        ({}, ["-b", 2]),
        ({}, ["--outside", "keep"]),
        ({"stack": 3, "ch": 3, "out_ch": 3}, []),
    ],
    ids=str,
)
def test_a_residual_network_changes_metal_as_it_changes_the_end_of_its_clip(
    tmp_path, capsys, metal, residual_run, more, options
):
    assert run(residual_run(**more), "-R", metal, "-o", tmp_path / "out", *options) == 0
    np.testing.assert_allclose(exact(tmp_path / "out/1")[0], METAL + CHANGE, atol=0.501)
    outside = {"below": BELOW, "above": ABOVE, "lowest": -2000, "highest": 14000}
    report = report_of(tmp_path / "out")
    assert report["files"]["1"]["values"]["outside_clip"] == {**outside, "kept": True}
    assert report["values"]["kept"] == {"images": 1, **outside} and "cut" not in report["values"]
    assert (
        f"{BELOW + ABOVE} values of 1 image outside of the network's clip (input from -2000 to 14000) kept: "
        "the result there is the input plus the change at the end of the clip"
    ) in capsys.readouterr().err


def test_around_a_crop_values_are_the_sources_and_within_kept(tmp_path, metal, residual_run):
    assert run(residual_run(), "-R", metal, "-o", tmp_path / "out", "-ch", 20, "-cw", 10) == 0
    expected = METAL.astype(float)
    expected[8:28, 15:25] += CHANGE
    np.testing.assert_allclose(exact(tmp_path / "out/1")[0], expected, atol=0.501)
    inside = METAL[8:28, 15:25]
    found = report_of(tmp_path / "out")["files"]["1"]["values"]["outside_clip"]
    assert (found["below"], found["above"]) == ((inside < -1024).sum(), (inside > 2000).sum())


def test_enlarged_images_keep_metal_too(tmp_path, metal, residual_run):
    assert run(residual_run(scale=2), "-R", metal / "1", "-o", tmp_path / "out") == 0
    found = exact(tmp_path / "out/1")[0]
    assert found.shape == (72, 80) and found.max() > 13800
    np.testing.assert_allclose(
        found.reshape(36, 2, 40, 2).mean((1, 3))[1:-1, 1:-1], (METAL + CHANGE)[1:-1, 1:-1], atol=10
    )


@pytest.mark.parametrize("residual, options", [(True, ["--outside", "clip"]), (False, [])])
def test_what_is_cut_is_counted_and_said(tmp_path, capsys, metal, residual_run, paired_run, residual, options):
    model = residual_run() if residual else paired_run(offset=CHANGE / 1512)
    assert run(model, "-R", metal, "-o", tmp_path / "out", *options) == 0
    np.testing.assert_allclose(exact(tmp_path / "out/1")[0], METAL.clip(-1024, 2000) + CHANGE, atol=0.501)
    found = report_of(tmp_path / "out")["values"]
    assert found["cut"] == {"images": 1, "below": BELOW, "above": ABOVE, "lowest": -2000, "highest": 14000}
    told = capsys.readouterr().err
    assert (
        f"{BELOW + ABOVE} values of 1 image outside of the network's clip (input from -2000 to 14000) cut off" in told
    )
    assert found["rounded"] == 3 * METAL.size and found["rounded_by"] == pytest.approx(0.4, abs=0.01)
    assert "values rounded to the steps of the files, by 0.4 at most" in told


def test_keep_is_for_any_network_of_one_unit_and_refused_for_others(tmp_path, capsys, metal, paired_run):
    assert run(paired_run(offset=0.1), "-R", metal, "-o", tmp_path / "kept", "--outside", "keep") == 0
    np.testing.assert_allclose(exact(tmp_path / "kept/1")[0], METAL + 151.2, atol=0.501)
    for name, options, words in (
        ("clips", {"clipB": [0, 100]}, "its clips A and B are not the same"),
        ("classes", {"class_num": 2, "out_ch": 2}, "its results are classes"),
        ("channels", {"out_ch": 3}, "another number of channels"),
    ):
        assert (
            run(paired_run(name=name, **options), "-R", metal, "-o", tmp_path / "out" / name, "--outside", "keep") == 1
        )
        assert "error: --outside keep: " in (told := capsys.readouterr().err) and words in told
        assert not (tmp_path / "out" / name).exists()
    assert run(paired_run(), "-R", metal, "-o", tmp_path / "mr", "--outside", "keep", "--modality", "MR") == 1


def test_two_domains_with_clips_of_their_own_keep_nothing(tmp_path, metal, unpaired_run):
    from medi2i.cyclegan import convert as unpaired

    same = dict(gen_residual=0.5, forth=((0.0,),), back=((0.0,),))
    for name, clips, kept in (("same", {}, True), ("other", {"clipB": [-500, 500]}, False)):
        run_folder = unpaired_run(name=name, **same, **clips)
        for direction in ("enc_x3", "enc_y3"):
            out = tmp_path / f"{name}_{direction}"
            assert unpaired.main(["-m", str(run_folder / f"{direction}.npz"), "-R", str(metal), "-o", str(out)]) == 0
            assert report_of(out)["settings"]["outside"] == ("keep" if kept else "clip")
            if kept:
                np.testing.assert_array_equal(exact(out / "1")[0], METAL)


def test_a_clip_given_to_identity_is_used_counted_and_said(tmp_path, capsys, metal):
    assert run("-m", "identity", "-R", metal, "-o", tmp_path / "out", "-ca", -1000, 3000) == 0
    np.testing.assert_allclose(exact(tmp_path / "out/1")[0], METAL.clip(-1000, 3000), atol=1e-3)
    outside = int((METAL < -1000).sum() + (METAL > 3000).sum())
    assert f"{outside} values of 1 image outside of the network's clip" in capsys.readouterr().err


# --- what files hold ------------------------------------------------------------------------------------------------


def test_a_finer_output_than_the_sources_steps_is_not_rounded_away(tmp_path, paired_run, files):
    save_image(tmp_path / "in/a", pattern(0, 4000), files=files, modality="MR", bits=12)
    assert run(paired_run(clipA=[0, 4000], clipB=[0, 5]), "-R", tmp_path / "in", "-o", tmp_path / "out") == 0
    np.testing.assert_allclose(exact(tmp_path / "out/a")[0], pattern(0, 4000) / 800, atol=0.0025)
    assert report_of(tmp_path / "out")["values"]["rounded_by"] < 0.0025


@pytest.mark.parametrize("clip, step", [([0, 4], 0.002), ([-1, 1], 0.001), ([0, 1e6], 16.0)])
def test_ct_to_a_quantitative_map_as_mr(tmp_path, paired_run, files, clip, step):
    save_image(tmp_path / "in/a", pattern(-1024, 2000), files=files, signed=True)
    assert run(paired_run(clipB=clip), "-R", tmp_path / "in", "-o", tmp_path / "out", "--modality", "MR") == 0
    expected = (pattern(-1024, 2000) + 1024) / 3024 * (clip[1] - clip[0]) + clip[0]
    np.testing.assert_allclose(exact(tmp_path / "out/a")[0], expected, atol=step)


@pytest.mark.parametrize("kind, bits, changed", [("npy", None, False), ("tif", None, False), ("csv", None, False)])
def test_identity_to_plain_numbers(tmp_path, metal, kind, bits, changed):
    from medi2i.datasets.reading import read_image

    assert run("-m", "identity", "-R", metal, "-o", tmp_path / "out", "--imgtype_out", kind) == 0
    np.testing.assert_array_equal(read_image(tmp_path / f"out/1.{kind}").array[0], METAL)
    assert "values" not in report_of(tmp_path / "out")


def test_identity_of_pictures_keeps_bits_and_counts_what_eight_bits_lose(tmp_path, capsys):
    from PIL import Image as Pillow

    image = np.arange(0, 65536, 97, dtype=np.uint16)[:600].reshape(20, 30)
    (tmp_path / "in").mkdir()
    Pillow.fromarray(image).save(tmp_path / "in/a.png")
    for kind in ("png", "tif", "npy"):
        assert run("-m", "identity", "-R", tmp_path / "in", "-o", tmp_path / kind, "--imgtype_out", kind) == 0
        from medi2i.datasets.reading import read_image

        np.testing.assert_array_equal(read_image(tmp_path / f"{kind}/a.{kind}").array[0], image)
        assert "values" not in report_of(tmp_path / kind)
    assert run("-m", "identity", "-R", tmp_path / "in", "-o", tmp_path / "jpg", "--imgtype_out", "jpg") == 0
    assert report_of(tmp_path / "jpg")["values"]["rounded"] > 500
    assert "values rounded to the steps of the files, by 0.498 at most" in capsys.readouterr().err


def test_hu_in_a_picture_of_eight_bits_are_counted(tmp_path, capsys, metal, paired_run):
    assert run(paired_run(), "-R", metal / "1", "-o", tmp_path / "out", "--imgtype_out", "png") == 0
    found = report_of(tmp_path / "out")["values"]
    assert found["clipped"] == int(((METAL < 0) | (METAL > 255)).sum()) and found["cut"]["above"] == ABOVE


# --- the mean -------------------------------------------------------------------------------------------------------


def tissues():
    """HU (48, 64) of five tissues in squares of 16 pixels and one column of what is none of them."""
    rows = np.array([[-1000, -700, -100, 40], [1000, 1000, -300, 40], [-1000, -700, -100, 40]])
    return np.repeat(np.repeat(rows, 16, 0), 16, 1)


@pytest.mark.parametrize(
    "change, direction, words",
    [(-100.0, "xy", "takes 100 HU away"), (12.5, "xy", "adds 12.5 HU"), (-100.0, "yx", "adds 100 HU")],
)
def test_what_a_model_does_to_the_mean_is_said_before_and_measured_by_tissue(
    tmp_path, capsys, files, paired_run, unpaired_run, change, direction, words
):
    save_image(tmp_path / "in/a", tissues(), files=files, signed=True)
    if direction == "xy":
        model = paired_run(offset=change / 1512, mean_change=change)
        assert run(model, "-R", tmp_path / "in", "-o", tmp_path / "out") == 0
    else:
        from medi2i.cyclegan import convert as unpaired

        model = unpaired_run(mean_change=change) / "enc_y3.npz"
        assert unpaired.main(["-m", str(model), "-R", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().err
    assert told.startswith("this model " + words) or f"\nthis model {words}, as its training images" in told
    if direction == "xy":
        found = report_of(tmp_path / "out")
        names = {"all": 48 * 64, "air": 512, "lung": 512, "fat": 512, "soft tissue": 768, "bone": 512}
        expected = {name: [count, pytest.approx(change, abs=0.01)] for name, count in names.items()}
        assert found["files"]["a"]["mean_change"] == expected
        assert found["mean_change"] == {name: pytest.approx(change, abs=0.01) for name in names}
        sign = f"{change:+.4g}"
        assert f"mean change: {sign} HU (air {sign}, lung {sign}, fat {sign}, soft tissue {sign}, bone {sign})" in told


def test_noise_does_not_sort_pixels_and_nothing_is_said_of_a_model_that_leaves_the_mean(
    tmp_path, capsys, files, paired_run
):
    noisy = tissues() + np.rint(np.random.default_rng(0).normal(0, 20, (48, 64))).astype(int)
    save_image(tmp_path / "in/a", noisy, files=files, signed=True)
    assert (
        run(paired_run(((0.25, 0.25), (0.25, 0.25)), mean_change=0.2), "-R", tmp_path / "in", "-o", tmp_path / "out")
        == 0
    )
    assert "this model" not in capsys.readouterr().err


def test_mr_has_the_quarters_of_the_clip_and_padding_and_what_lies_around_a_crop_do_not_count(
    tmp_path, files, paired_run
):
    stored = np.repeat(np.array([100, 1500, 2500, 3900]), 16)[np.newaxis].repeat(32, 0)
    stored[:8] = 4095
    save_image(tmp_path / "in/a", stored, files=files, modality="MR", bits=12, PixelPaddingValue=4095)
    model = paired_run(offset=0.01, clipA=[0, 4000], clipB=[0, 4000])
    assert run(model, "-R", tmp_path / "in", "-o", tmp_path / "out", "-cw", 32) == 0
    assert report_of(tmp_path / "out")["files"]["a"]["mean_change"] == {
        "all": [24 * 32, pytest.approx(20)],
        "second quarter": [24 * 16, pytest.approx(20)],
        "third quarter": [24 * 16, pytest.approx(20)],
    }
    assert "mean_change" not in report_of_ct_of_mr(tmp_path, model)


def report_of_ct_of_mr(tmp_path, model):
    assert run(model, "-R", tmp_path / "in", "-o", tmp_path / "ct", "--modality", "CT") == 0
    return report_of(tmp_path / "ct")


def test_what_single_precision_does_to_a_mean_is_told_as_nothing():
    changes = {"a": {"all": (10, -3.7e-6), "fat": (5, -4.4e-5), "bone": (5, -100.004)}}
    assert list(values.lines(values.summary({}, changes))) == ["mean change: +0 HU (fat +0, bone -100)"]
    without_unit = {"a": {"all": (10, 2e-5), "lowest quarter": (10, 2e-5)}}
    assert list(values.lines(values.summary({}, without_unit)))[0].startswith("mean change: +2e-05")
