"""cyclegan/convert.py: both directions, averaged stacks, resampling and back, maps of the loss terms."""

import logging

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

from medi2i.common.compat import chainer
from medi2i.common.inference import analysis
from medi2i.common.inference.slices import load_slice
from medi2i.common.networks.discriminator import Discriminator
from medi2i.common.networks.files import load_link
from medi2i.common.networks.from_options import discriminator_spec
from medi2i.common.networks.pretrained import VGG16_WIDTHS
from medi2i.common.options import load_args
from medi2i.cyclegan import convert


def run(*arguments):
    return convert.main([str(argument) for argument in arguments])


ORDER = [f"IM{(i * 7) % 10}" for i in range(6)]


def test_both_directions_with_their_clips(tmp_path, unpaired_run, files):
    folder = files.write_series(tmp_path / "in", 2)
    run_folder = unpaired_run(forth=[[0.5]], clipA=[-1000, 1000], clipB=[0, 100])
    hu = files.hu_of(folder / "IM0")
    assert run(run_folder, "-R", folder, "-o", tmp_path / "xy") == 0
    np.testing.assert_allclose(files.hu_of(tmp_path / "xy/IM0"), (hu.clip(-1000, 1000) / 2000 + 1) * 50, atol=0.51)
    assert run("-m", run_folder / "enc_y3.npz", "-R", folder, "-o", tmp_path / "yx") == 0
    np.testing.assert_allclose(files.hu_of(tmp_path / "yx/IM0"), (hu.clip(0, 100) / 50 - 1) * 1000, atol=0.51)
    report = files.report_of(tmp_path / "yx")
    assert report["model"]["direction"] == "yx" and report["model"]["name"] == "enc_y3.npz+dec_x3.npz"
    assert "B to A" in pydicom.dcmread(tmp_path / "yx/IM0").SeriesDescription


def test_each_slice_is_the_mean_over_the_stacks_that_hold_it(tmp_path, unpaired_run, files):
    folder = files.write_series(tmp_path / "in", 6)
    # every output channel is the stack's first slice
    assert run(unpaired_run(stack=3, ch=3, out_ch=3), "-R", folder, "-o", tmp_path / "out", "-b", 2) == 0
    volume = np.stack([files.hu_of(folder / name) for name in ORDER])
    for z, name in enumerate(ORDER):
        firsts = [first for first in range(4) if first <= z < first + 3]
        np.testing.assert_allclose(files.hu_of(tmp_path / "out" / name), volume[firsts].mean(0), atol=0.51)
    assert len(pydicom.dcmread(tmp_path / "out" / ORDER[0]).SourceImageSequence) == 3
    assert len(pydicom.dcmread(tmp_path / "out" / ORDER[2]).SourceImageSequence) == 5


def test_a_series_shorter_than_the_stack_repeats_its_last_slice(tmp_path, unpaired_run, files):
    folder = files.write_series(tmp_path / "in", 2)
    assert run(unpaired_run(stack=5, ch=5, out_ch=5), "-R", folder, "-o", tmp_path / "out") == 0
    for name in ORDER[:2]:
        np.testing.assert_array_equal(files.hu_of(tmp_path / "out" / name), files.hu_of(folder / ORDER[0]))


def test_stacks_do_not_cross_series_and_a_damaged_slice_costs_only_itself(tmp_path, unpaired_run, files):
    folder = files.write_series(tmp_path / "in", 6)
    files.write_series(folder, 3, series="1.2.3.2", start=1)
    bad = pydicom.dcmread(folder / ORDER[3])
    bad.compress(RLELossless, generate_instance_uid=False)
    bad.save_as(folder / ORDER[3])
    data = (folder / ORDER[3]).read_bytes()
    (folder / ORDER[3]).write_bytes(data[:-2000] + bytes(1992) + data[-8:])  # the header is whole, the pixels are not
    assert run(unpaired_run(stack=2, ch=2, out_ch=2), "-R", folder, "-o", tmp_path / "out") == 0
    report = files.report_of(tmp_path / "out")
    assert {name for name, entry in report["files"].items() if entry["status"] == "skipped"} == {ORDER[3]}
    assert report["counts"] == {"skipped": 1, "written": 8}
    # of the stacks (1, 2) and (2, 3) only the first could be read, and its first slice is what this network gives
    np.testing.assert_array_equal(files.hu_of(tmp_path / "out" / ORDER[2]), files.hu_of(folder / ORDER[1]))
    np.testing.assert_array_equal(files.hu_of(tmp_path / "out/IM10"), files.hu_of(folder / "IM10"))


def test_a_missing_slice_in_a_stack_is_told(tmp_path, unpaired_run, files, caplog):
    folder = files.write_series(tmp_path / "in", 6)
    (folder / ORDER[3]).unlink()
    assert run(unpaired_run(stack=2, ch=2, out_ch=2), "-R", folder, "-o", tmp_path / "out") == 0
    assert "uneven slice distance" in caplog.text


def test_resuming_a_stack_gives_the_same_bytes(tmp_path, unpaired_run, files):
    folder, run_folder = files.write_series(tmp_path / "in", 6), unpaired_run(stack=3, ch=3, out_ch=3)
    out = tmp_path / "out"
    assert run(run_folder, "-R", folder, "-o", out) == 0
    whole = {name: (out / name).read_bytes() for name in files.tree(out)}
    for name in (ORDER[1], ORDER[4]):
        (out / name).unlink()
    assert run(run_folder, "-R", folder, "-o", out, "--resume") == 0
    assert {name: (out / name).read_bytes() for name in files.tree(out)} == whole


def test_resampled_images_come_back_to_the_sources_grid(tmp_path, unpaired_run, files):
    rows, columns = np.mgrid[:40, :52]
    smooth = (1000 + 300 * np.sin(rows / 9) * np.cos(columns / 11)).astype(np.uint16)
    files.write_slice(tmp_path / "in/x", smooth, spacing=(0.8, 0.7))
    run_folder = unpaired_run(forceSpacing=1.0)
    assert run(run_folder, "-R", tmp_path / "in", "-o", tmp_path / "out") == 0
    after, before = pydicom.dcmread(tmp_path / "out/x"), pydicom.dcmread(tmp_path / "in/x")
    assert after.PixelSpacing == before.PixelSpacing and after.pixel_array.shape == (40, 52)
    assert np.abs(files.hu_of(tmp_path / "out/x") - files.hu_of(tmp_path / "in/x")).max() < 16
    assert run(run_folder, "-R", tmp_path / "in", "-o", tmp_path / "exact", "-fs", -1) == 0
    np.testing.assert_array_equal(files.hu_of(tmp_path / "exact/x"), files.hu_of(tmp_path / "in/x"))
    # a crop of the resampled grid: around it the source is untouched
    assert run(run_folder, "-R", tmp_path / "in", "-o", tmp_path / "crop", "-cw", 20, "-ch", 16, "-ca", -1024, 0) == 0
    difference = files.hu_of(tmp_path / "crop/x") - files.hu_of(tmp_path / "in/x")
    assert not difference[:9].any() and not difference[:, :11].any() and difference[20, 26] > 0


def test_slice_range(tmp_path, unpaired_run, files):
    folder = files.write_series(tmp_path / "in", 6)
    assert run(unpaired_run(), "-R", folder, "-o", tmp_path / "out", "-sr", 3, 8) == 0
    assert files.tree(tmp_path / "out") == sorted([ORDER[2], ORDER[3], ORDER[4]])
    assert run(unpaired_run(), "-R", folder, "-o", tmp_path / "out2", "-sr", 100, 200) == 1
    for path in folder.iterdir():  # rows that run the other way: the same slices, as in training
        header = pydicom.dcmread(path)
        header.ImageOrientationPatient = [1, 0, 0, 0, -1, 0]
        header.save_as(path)
    assert run(unpaired_run(), "-R", folder, "-o", tmp_path / "out3", "-sr", 3, 8) == 0
    assert files.tree(tmp_path / "out3") == sorted([ORDER[2], ORDER[3], ORDER[4]])


def test_mr_to_ct_is_a_ct_and_nothing_of_the_mr_is_left_around_the_crop(tmp_path, unpaired_run, files):
    files.write_slice(tmp_path / "in/x", files.stored_image(0), modality="MR")
    run_folder = unpaired_run(clipA=[0, 2600], clipB=[-1000, 1600])
    assert run(run_folder, "-R", tmp_path / "in", "-o", tmp_path / "out", "--modality", "CT", "-ch", 20) == 0
    after = pydicom.dcmread(tmp_path / "out/x")
    assert (after.Modality, after.SOPClassUID.name) == ("CT", "CT Image Storage")
    stored = files.stored_image(0)
    np.testing.assert_allclose(files.hu_of(tmp_path / "out/x")[8:28], stored[8:28] - 1000.0, atol=0.51)
    assert (after.pixel_array[:8] == after.PixelPaddingValue).all()


def test_the_input_is_what_training_saw(tmp_path, unpaired_run, files):
    from medi2i.common.inference.generator import load_model
    from medi2i.common.options import UnpairedOptions
    from medi2i.common.options.conversion import UnpairedConversionOptions
    from medi2i.datasets import unpaired

    stored = files.stored_image(0, 48, 64)
    stored[:6] = 0
    files.write_slice(tmp_path / "data/trainA/x", stored, padding=0, spacing=(0.8, 1.1))
    options = UnpairedOptions(root=str(tmp_path / "data"), forceSpacing=1.0, random_translate=0, clipA=[-500, 700])
    example = unpaired.build(options, "A").load(0)
    run_folder = unpaired_run(forceSpacing=1.0, clipA=[-500, 700])
    chosen = UnpairedConversionOptions(
        model_gen=str(run_folder),
        root=[str(tmp_path / "data")],
        gpu=-1,
        out=str(tmp_path / "out"),
        crop_height=example.shape[1],
        crop_width=example.shape[2],
    )
    model = load_model(chosen, {}, UnpairedOptions)
    images = convert.images_of(chosen, model)
    plan = convert.plan_of(chosen, model, images)
    source = images.volumes[0].sources[0]
    np.testing.assert_array_equal(load_slice(source, plan.preparation).unit, example)


def thin_vgg(tmp_path, monkeypatch):
    """A VGG16 of few channels with fixed weights, as a file, in place of the published one."""
    from medi2i.common.compat import chainer
    from medi2i.common.networks import pretrained

    widths = tuple(2 for _ in VGG16_WIDTHS)
    np.random.seed(0)
    features = pretrained.PerceptualFeatures("conv1_2", widths)
    chainer.serializers.save_npz(tmp_path / "vgg.npz", features.link)
    monkeypatch.setattr(pretrained.PerceptualFeatures.load.__func__, "__defaults__", (widths,))
    return tmp_path / "vgg.npz"


def test_analysis_maps(tmp_path, unpaired_run, files, monkeypatch, caplog):
    folder = files.write_series(tmp_path / "in", 1, height=36, width=44)
    run_folder = unpaired_run(forth=[[0.5]], back=[[1.5]])
    assert (
        run(
            run_folder,
            "-R",
            folder,
            "-o",
            tmp_path / "out",
            "-oa",
            "--perceptual_weights",
            thin_vgg(tmp_path, monkeypatch),
        )
        == 0
    )
    names = ["air", "cycle", "discriminator", "discriminator_input", "gradient", "perceptual", "total_variation"]
    assert files.tree(tmp_path / "out.report/analysis") == sorted(["IM0.png", *(f"IM0_{name}.npy" for name in names)])
    maps = {name: np.load(tmp_path / f"out.report/analysis/IM0_{name}.npy") for name in names}
    x = (files.hu_of(folder / "IM0") + 1024) / 1512 - 1
    np.testing.assert_allclose(maps["cycle"], 0.75 * x - x, atol=1e-5)
    down, right = np.diff(x, axis=0)[:, :-1], np.diff(x, axis=1)[:-1]
    np.testing.assert_allclose(maps["gradient"], 0.5 * (abs(down) + abs(right)), atol=1e-5)
    tau = load_args(run_folder).tv_tau
    np.testing.assert_allclose(maps["total_variation"], np.sqrt(down**2 / 4 + right**2 / 4 + tau**2), atol=1e-5)
    assert maps["perceptual"].shape == (36, 44) and maps["perceptual"].max() > 0
    assert maps["discriminator"].ndim == 2 and maps["discriminator"].size > 1
    assert maps["discriminator_input"].shape == maps["discriminator"].shape
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("weights, domain", [("enc_x3.npz", "y"), ("enc_y3.npz", "x")])
def test_a_discriminator_that_weights_its_decision_gives_maps_of_both(tmp_path, unpaired_run, files, weights, domain):
    """Of the output and of the original, by the discriminator of the domain translated to."""
    folder = files.write_series(tmp_path / "in", 1, height=36, width=44)
    run_folder = unpaired_run(forth=[[0.5]], back=[[0.5]], dis_reg_weighting=0.1)
    assert run("-m", run_folder / weights, "-R", folder, "-o", tmp_path / "out", "-oa", "--structure", "none") == 0
    names = [f"discriminator{image}{weight}" for image in ("", "_input") for weight in ("", "_weight")]
    maps = {name: np.load(tmp_path / f"out.report/analysis/IM0_{name}.npy") for name in names}
    trained = load_args(run_folder)
    discriminator = Discriminator(discriminator_spec(trained, 1))
    load_link(run_folder / f"dis_{domain}3.npz", discriminator)
    x = np.float32((files.hu_of(folder / "IM0") + 1024) / 1512 - 1)[np.newaxis, np.newaxis]
    for image, values in (("", x / 2), ("_input", x)):
        with chainer.using_config("train", False):
            judged = discriminator(values).array[0]
        np.testing.assert_allclose(maps[f"discriminator{image}"], judged[0], atol=1e-5)
        np.testing.assert_allclose(maps[f"discriminator{image}_weight"], np.tanh(judged[1]) + 1, atol=1e-5)
    assert len(files.tree(tmp_path / "out.report/analysis")) == 1 + len(names) + 4  # air, cycle, gradient, variation


def test_maps_without_weights_are_left_out_with_a_warning(tmp_path, unpaired_run, files, caplog):
    folder, run_folder = files.write_series(tmp_path / "in", 1), unpaired_run()
    (run_folder / "dis_y3.npz").unlink()
    (run_folder / "dec_x3.npz").unlink()
    assert run(run_folder, "-R", folder, "-o", tmp_path / "out", "--output_analysis") == 0
    assert all(f"--output_analysis: no {name} maps" in caplog.text for name in ("cycle", "discriminator", "perceptual"))
    assert files.tree(tmp_path / "out.report/analysis") == [
        "IM0.png",
        "IM0_air.npy",
        "IM0_gradient.npy",
        "IM0_total_variation.npy",
    ]


def test_air_map_counts_only_where_one_of_two_is_air():
    x, y = np.float32([[[-1, -1, 0.5, 0]]]), np.float32([[[-1, 0.2, -1, 0.3]]])
    np.testing.assert_allclose(analysis.air_map(x, y, -0.99), [[0, 1.2, 1.5, 0]], atol=1e-6)


def test_analysis_of_a_stack_is_of_its_middle_slice(tmp_path, unpaired_run, files):
    folder = files.write_series(tmp_path / "in", 3, height=36, width=44)
    run_folder = unpaired_run(forth=[[0.5]], stack=3, ch=3, out_ch=3)
    assert run(run_folder, "-R", folder, "-o", tmp_path / "out", "-oa", "--structure", "none", "-sr", -1, 3) == 0
    found = np.load(tmp_path / f"out.report/analysis/{ORDER[1]}_cycle.npy")
    x = [(files.hu_of(folder / name) + 1024) / 1512 - 1 for name in ORDER[:2]]
    np.testing.assert_allclose(found, 0.5 * x[0] - x[1], atol=1e-5)  # every channel is the stack's first slice
