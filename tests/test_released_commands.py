"""The command lines of the released codes' READMEs, script names aside: they parse, mean the same, and run.

Each line stands here as a user has it, then what shortens it: one epoch, small crops, and small networks where the line
does not say which. Images are made by the tools here and lie where the lines look for them.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from medi2i.common.inference.report import find_report
from medi2i.common.networks.files import write_arrays
from medi2i.common.options import load_args
from medi2i.cyclegan import convert as cyclegan_convert
from medi2i.cyclegan import train as cyclegan_train
from medi2i.pix2pix import convert as pix2pix_convert
from medi2i.pix2pix import train as pix2pix_train
from medi2i.tools import make_noisy, make_phantom, make_shapes, make_sinograms, split_pairs

QUICK = "-e 1 -g -1 -gnb 1 -dc 2 2"
PAIRED = QUICK + " --nvis 1"
UNPAIRED = QUICK + " --nvis_A 1 --nvis_B 1"
CROP = " -cw 16 -ch 16"
THIN = " -gc 2 4"


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory):
    """Every line of a README is typed in the folder where its data lie."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("readme"))
    yield
    os.chdir(before)


def train(command, line, shorter):
    """Run a line; the run folder."""
    before = set(Path().rglob("args"))
    assert command.main(f"{line} {shorter}".split()) == 0
    (args,) = set(Path().rglob("args")) - before
    return args.parent


def convert(command, line):
    """Run a line of convert.py; its report."""
    assert command.main(f"{line} -g -1".split()) == 0
    words = line.split()
    report = json.loads(find_report(words[words.index("-o") + 1]).read_text())
    assert {file["status"] for file in report["files"].values()} == {"written"}
    return report


def assert_means(run, **wanted):
    """The args file has these values."""
    options = load_args(run)
    assert {name: getattr(options, name) for name in wanted} == wanted


def names(run):
    """Which networks the run left, by their released file names."""
    return {path.name for path in run.glob("*.npz") if not path.name.startswith("opt_")}


def files(folder, pattern="*"):
    return sorted(
        str(path.relative_to(folder))
        for path in Path(folder).rglob(pattern)
        if path.is_file() and path.name != "conversion.json"
    )


def share_tests(root):
    """testA and testB hold what trainA and trainB do."""
    for domain in "AB":
        shutil.copytree(Path(root, f"train{domain}"), Path(root, f"test{domain}"))


@pytest.fixture(scope="module")
def shapes(here):
    """shapes/ with shapes_train.txt and shapes_val.txt, and images/ without lists."""
    make_shapes.main("-o shapes --size 24 -n 3 --num_test 2 -it jpg".split())
    for old, new in (("train", "train"), ("test", "val")):
        os.rename(f"shapes/{old}.txt", f"shapes/shapes_{new}.txt")
    shutil.copytree("shapes", "images", ignore=shutil.ignore_patterns("*.txt"))


@pytest.fixture(scope="module")
def phantom(here):
    """phantom/: two small CT series."""
    make_phantom.main("-o phantom --size 32 --slices 4 --series 2".split())
    return sorted(path for path in Path("phantom").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def noisy(phantom):
    """ct/ with pairs, made by the released line of its noise helper, and the two lists."""
    assert make_noisy.main(f"-n 700 -it dcm -R {phantom[0]} -o ct".split()) == 0
    assert split_pairs.main("-i ct/pairs.txt --ratio 0.5 --by image".split()) == 0
    for phase in ("train", "val"):
        os.rename(f"ct/pairs_{phase}.txt", f"CPTAC-SAR_{phase}.txt")
    share_tests("ct")


@pytest.fixture(scope="module")
def vgg(here):
    """The two layers of VGG16 that the perceptual loss needs by default, in their published sizes."""
    random = np.random.default_rng(0)
    arrays = {f"conv1_{n}/b": np.zeros(64, "f") for n in (1, 2)}
    for n, channels in ((1, 3), (2, 64)):
        arrays[f"conv1_{n}/W"] = random.normal(0, 0.1, (64, channels, 3, 3)).astype("f")
    write_arrays("vgg.npz", arrays)
    return " --perceptual_weights vgg.npz"


def test_shapes_from_lists(shapes):
    line = (
        "-R shapes -t shapes/shapes_train.txt --val shapes/shapes_val.txt -o result -g 0 -e 100 -l1 0 -l2 10.0 "
        "-ldis 1.0 -ltv 1e-3"
    )
    run = train(pix2pix_train, line + " -it jpg", PAIRED + CROP + THIN)
    # what users of those codes look for in the folder: graphs of the networks, lists of the files
    for name in ("cg.dot", "cg_dis.dot"):
        assert (run / name).read_text().startswith("digraph")
    for phase in ("train", "val"):
        assert (run / f"files_{phase}.txt").read_text() == Path(f"shapes/shapes_{phase}.txt").read_text()
    assert run.parent == Path("result") and names(run) == {"enc_x1.npz", "dec_y1.npz", "dis1.npz"}
    assert_means(
        run,
        lambda_rec_l1=0,
        lambda_rec_l2=10,
        lambda_dis=1,
        lambda_tv=1e-3,
        ch=3,
        out_ch=3,
        imgtype="jpg",
        clipA=[0, 255],
        unet="conv",
        train="shapes/shapes_train.txt",
    )
    report = convert(
        pix2pix_convert,
        f"-b 10 -a {run}/args --val shapes/shapes_val.txt -R shapes -o converted/shapes -m {run}/enc_x1.npz",
    )
    assert report["model"]["name"] == "enc_x1.npz+dec_y1.npz"
    assert files("converted/shapes") == ["testA/00001.jpg", "testA/00002.jpg"]
    assert Image.open("converted/shapes/testA/00001.jpg").size == (24, 24)


def test_a_gpu_that_is_not_there_is_told_with_what_would_run(shapes, capsys, monkeypatch):
    monkeypatch.setattr("medi2i.common.device.gpu_count", lambda: (0, "there is no GPU"))
    assert pix2pix_train.main("-R images -it jpg -o result -g 0".split()) == 1
    assert "--gpu 0: there is no GPU; -g -1 uses the CPU" in capsys.readouterr().err


def test_jpg_in_folders(shapes):
    run = train(
        pix2pix_train,
        "-R images -o result/images -it jpg -g 0 -e 100 -l1 0 -l2 1.0 -ldis 0.1 -ltv 1e-3",
        PAIRED + CROP + THIN,
    )
    assert_means(run, lambda_rec_l2=1, lambda_dis=0.1, train="__train__", val="__test__", imgtype="jpg")
    convert(pix2pix_convert, f"-a {run}/args -it jpg -R images/testA -o converted/images -b 10 -m {run}/enc_x1.npz")
    assert files("converted/images") == ["00001.jpg", "00002.jpg"]


def test_dicom_from_b_to_a(noisy):
    run = train(pix2pix_train, "-R ct -o result/btoa -it dcm -l1 0 -l2 1.0 -ldis 0.1 --btoa", PAIRED + CROP + THIN)
    assert_means(run, btoa=True, ch=1, out_ch=1, clipA=[-1024, 2000], clipB=[-1024, 2000], imgtype="dcm")
    convert(pix2pix_convert, f"-a {run}/args -it dcm -R ct/testB -o converted/btoa -m {run}/enc_x1.npz")
    assert files("converted/btoa") == files("ct/testB")


def test_the_tutorial_of_the_paper(noisy):
    run = train(
        pix2pix_train,
        "-t CPTAC-SAR_train.txt --val CPTAC-SAR_val.txt -it dcm -ch 480 -cw 480 -g 0 -e 50 "
        "-gc 32 64 128 -l1 1.0 -l2 0 -ldis 0.1 -ltv 1e-4 -R ct -o result/ct -vf 2000",
        PAIRED + CROP,
    )
    assert_means(run, gen_chs=[32, 64, 128], lambda_rec_l1=1, lambda_rec_l2=0, lambda_tv=1e-4, vis_freq=2000)
    line = f"-b 10 -it dcm -R ct -m {run}/enc_x1.npz -a {run}/args"
    convert(pix2pix_convert, f"-cw 32 -ch 32 {line} --val CPTAC-SAR_val.txt -o converted/val")
    assert len(files("converted/val")) == 2 and all(name.startswith("trainA") for name in files("converted/val"))
    report = convert(
        pix2pix_convert, f"-cw 20 -ch 12 -b 10 -it dcm -R phantom -o converted/any -m {run}/enc_x1.npz -a {run}/args"
    )
    assert len(report["files"]) == 8 and files("converted/any") == files("phantom")
    before, after = (pydicom.dcmread(Path(folder, files("phantom")[1])) for folder in ("phantom", "converted/any"))
    assert after.ImageType[0] == "DERIVED" and after.SOPInstanceUID != before.SOPInstanceUID
    changed = np.argwhere(
        after.pixel_array * after.RescaleSlope + after.RescaleIntercept
        != before.pixel_array * before.RescaleSlope + before.RescaleIntercept
    )
    assert changed.min(axis=0).tolist() == [10, 6] and changed.max(axis=0).tolist() == [21, 25]


def test_sinograms_with_automap(here):
    make_sinograms.main("-o radon --size 16 -n 3 --num_test 2".split())
    for old, new in (("train", "train"), ("test", "val")):
        os.rename(f"radon/{old}.txt", f"radon/ct_reconst_{new}.txt")
    line = (
        "-t radon/ct_reconst_train.txt --val radon/ct_reconst_val.txt -R radon -o result/radon -cw 128 -ch 128 "
        "-rt 0 --grey -g 0 -e 200 -gfc 1 -u none -l1 0 -l2 1.0 -ldis 0.1 -ltv 1e-3"
    )
    run = train(pix2pix_train, line, PAIRED + CROP + THIN)
    assert_means(run, gen_fc=1, unet="none", random_translate=0, grey=True, ch=1, crop_width=16, clipA=[0, 65535])
    with np.load(run / "enc_x1.npz") as file:
        assert file["l0/l0/W"].shape == (256, 256)
    # the list is found below the root, too
    convert(
        pix2pix_convert, f"-b 10 -a {run}/args --val ct_reconst_val.txt -R radon -o converted/radon -m {run}/enc_x1.npz"
    )
    assert files("converted/radon") == ["testA/00001.png", "testA/00002.png"]
    with Image.open("converted/radon/testA/00001.png") as image:
        assert image.size == (16, 16) and image.mode == "I;16"
    back = train(pix2pix_train, line + " --btoa", PAIRED + CROP + THIN)
    convert(
        pix2pix_convert,
        f"-b 10 -a {back}/args --val ct_reconst_val.txt -R radon -o converted/btoa_list -m {back}/enc_x1.npz",
    )
    assert files("converted/btoa_list") == ["testB/00001.png", "testB/00002.png"]


def test_four_classes_in_dicom(noisy):
    """Classes as the released line has them: DICOM files whose values are 0 to 3."""
    for place in ("trainA", "testA"):
        shutil.copytree(Path("ct", place), Path("segmentation", place))
        target = Path("segmentation", place.replace("A", "B"))
        for name in files(Path("ct", place)):
            header = pydicom.dcmread(Path("ct", place, name))
            labels = np.digitize(header.pixel_array, np.quantile(header.pixel_array, (0.3, 0.6, 0.9)))
            header.PixelData = labels.astype("<u2").tobytes()
            header.PixelRepresentation, header.RescaleSlope, header.RescaleIntercept = 0, 1, 0
            header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            header.save_as(target / name)
    run = train(
        pix2pix_train,
        "-R segmentation -o result/dcm_classes -it dcm -e 200 -l1 0 -l2 1.0  -ldis 0 -cn 4",
        PAIRED + CROP + THIN,
    )
    assert_means(run, class_num=4, out_ch=4, lambda_dis=0)
    assert names(run) == {"enc_x1.npz", "dec_y1.npz"}
    convert(
        pix2pix_convert, f"-a {run}/args -it dcm -R segmentation/testA -o converted/dcm_classes -m {run}/enc_x1.npz"
    )
    assert len(files("converted/dcm_classes", "*.npy")) == len(files("segmentation/testA"))


def test_four_classes_with_weights(here):
    make_shapes.main("-o labels --make labels --size 24 -n 2 --num_test 1 --grey".split())
    run = train(
        pix2pix_train,
        "-R labels -o result/classes -it png -e 200 -l1 0 -l2 1.0 -ldis 0 -cn 4 --class_weight 0.5 1 1 2",
        PAIRED + CROP + THIN,
    )
    assert_means(run, class_weight=[0.5, 1, 1, 2], class_num=4, ch=1, out_ch=4)
    convert(pix2pix_convert, f"-a {run}/args -R labels/testA -o converted/classes -b 10 -m {run}/enc_x1.npz")
    (probabilities,) = Path("converted/classes").glob("*.npy")
    values = np.load(probabilities)
    assert values.shape == (4, 24, 24)
    np.testing.assert_allclose(values.sum(axis=0), 1, atol=1e-5)
    (picture,) = Path("converted/classes").glob("*.png")
    np.testing.assert_array_equal(np.asarray(Image.open(picture)), values.argmax(axis=0))


def test_cyclegan_of_jpg(shapes, vgg):
    run = train(
        cyclegan_train,
        "-R images -it jpg -cw 256 -ch 256 -o results -gc 64 128 256 -gd maxpool -gu resize "
        "-lix 1.0 -liy 1.0 -ltv 1e-3 -lreg 0.1 -lz 1 -n 0.03 -nz 0.03 -e 50 -nvis_A 5 -nvis_B 4 -lcA 10 "
        "-lcB 10 -lcAz 10 -lcBz 10",
        UNPAIRED + CROP + vgg + " --iteration 1",
    )
    assert_means(
        run,
        gen_chs=[64, 128, 256],
        gen_down="maxpool",
        gen_up="resize",
        lambda_identity_x=1,
        lambda_reg=0.1,
        lambda_dis_z=1,
        noise=0.03,
        noise_z=0.03,
        lambda_tv=1e-3,
        lambda_Az=10,
        ch=3,
    )
    assert names(run) == {f"{name}1.npz" for name in ("enc_x", "enc_y", "dec_x", "dec_y", "dis_x", "dis_y", "dis_z")}
    for name, domain, direction in (("enc_x1.npz", "A", "xy"), ("enc_y1.npz", "B", "yx")):
        # the weights' bare name, as in the README: they lie beside args
        report = convert(
            cyclegan_convert, f"-a {run}/args -it jpg -R images/test{domain} -o converted/{direction} -b 10 -m {name}"
        )
        assert report["model"]["direction"] == direction
        assert files(f"converted/{direction}") == ["00001.jpg", "00002.jpg"]


@pytest.fixture(scope="module")
def domains(phantom):
    """dicom/: one series is domain A, another is domain B."""
    for domain, series in zip("AB", phantom, strict=True):
        shutil.copytree(series, Path("dicom", f"train{domain}", series.name))
    share_tests("dicom")


def test_cyclegan_of_dicom(domains, vgg):
    run = train(
        cyclegan_train,
        "-R dicom/ -it dcm -e 50 -u none -huba -600 -hura 1000 -hubb -500 -hurb 1200 -la 1 -lix 1 -liy 1 -rr 20 -rt 20",
        UNPAIRED + " -cw 8 -ch 8" + THIN + vgg,
    )
    assert_means(
        run,
        clipA=[-600, 400],
        clipB=[-500, 700],
        lambda_air=1,
        random_rotation=20,
        random_translate=20,
        unet="none",
        ch=1,
    )
    convert(
        cyclegan_convert,
        f"-a {run}/args -it dcm -R dicom/testA -o converted/dicom -b 10 -m {run}/enc_x1.npz -oa "
        "-at -0.997 --perceptual_weights vgg.npz",
    )
    assert files("converted/dicom", "*.dcm") == files("dicom/testA", "*.dcm")
    maps = files("converted/dicom.report/analysis", "*_*.npy")
    assert len(maps) == 7 * len(files("dicom/testA"))


def test_cyclegan_of_stacks_of_resampled_slices(domains):
    run = train(
        cyclegan_train,
        "-R dicom -it dcm -huba -500 -hura 700 -hubb -500 -hurb 700 -e 50 -ns 3 -fs 20 -o result/stacks",
        UNPAIRED + CROP + THIN,
    )
    assert_means(run, stack=3, ch=3, out_ch=3, forceSpacing=20, clipA=[-500, 200])
    convert(cyclegan_convert, f"-a {run}/args -it dcm -R dicom/testB -o converted/stacks -m {run}/enc_y1.npz")
    assert files("converted/stacks") == files("dicom/testB")
    listed = {path.name: path.read_text().split() for path in run.glob("files_*.txt")}
    assert listed["files_trainA.txt"] == sorted(f"trainA/{name}" for name in files("dicom/trainA"))
    assert set(listed) == {f"files_{phase}{domain}.txt" for phase in ("train", "val") for domain in "AB"}
    assert {path.name for path in run.glob("*.dot")} == {"cg.dot", "cg_dis_x.dot", "cg_dis_y.dot"}
