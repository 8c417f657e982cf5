"""The files that make_shapes and make_sinograms write."""

import numpy as np
import pytest
from PIL import Image

from medi2i.tools import make_shapes, make_sinograms


def pixels(path):
    with Image.open(path) as image:
        return np.array(image)


def test_pairs_have_equal_names_and_ellipses_lie_in_their_rectangles(tmp_path):
    out = tmp_path / "shapes"
    argv = ["-o", str(out), "--size", "37", "51", "--num", "3", "--num_test", "2", "--seed", "4"]
    assert make_shapes.main(argv) == 0
    assert {p.name: sorted(f.name for f in p.iterdir()) for p in out.iterdir() if p.is_dir()} == {
        "trainA": ["00001.png", "00002.png", "00003.png"],
        "trainB": ["00001.png", "00002.png", "00003.png"],
        "testA": ["00001.png", "00002.png"],
        "testB": ["00001.png", "00002.png"],
    }
    assert (out / "test.txt").read_text() == "testA/00001.png\ttestB/00001.png\ntestA/00002.png\ttestB/00002.png\n"
    for name in ("00001.png", "00002.png", "00003.png"):
        rectangles, ellipses = pixels(out / "trainA" / name), pixels(out / "trainB" / name)
        assert rectangles.shape == (37, 51, 3) and rectangles.dtype == np.uint8
        inside = ellipses.max(axis=2) > 0
        assert np.all(rectangles.max(axis=2)[inside] > 0)
        assert 0.6 < inside.sum() / (rectangles.max(axis=2) > 0).sum() < 0.98


def test_the_same_seed_makes_the_same_images_and_a_shorter_set_is_its_beginning(tmp_path):
    for name, seed, count in (("a", "7", "2"), ("b", "7", "3"), ("c", "8", "2")):
        make_shapes.main(["-o", str(tmp_path / name), "--num", count, "--num_test", "1", "--seed", seed])
    first = [(tmp_path / name / "trainA" / "00002.png").read_bytes() for name in "abc"]
    assert first[0] == first[1] != first[2]
    train, test = ((tmp_path / "a" / phase / "00001.png").read_bytes() for phase in ("trainA", "testA"))
    assert train != test


def test_labels_are_class_numbers_beside_grey_pictures(tmp_path):
    out = tmp_path / "labels"
    assert make_shapes.main(["-o", str(out), "--make", "labels", "--num", "12", "--num_test", "0", "--grey"]) == 0
    labels = np.stack([pixels(path) for path in sorted((out / "trainB").iterdir())])
    pictures = np.stack([pixels(path) for path in sorted((out / "trainA").iterdir())])
    assert labels.shape == pictures.shape == (12, 64, 64)
    assert sorted(np.unique(labels)) == [0, 1, 2, 3]
    assert pictures[labels > 0].mean() > 100 > 10 > pictures[labels == 0].mean()


def test_textures_are_unpaired_colour_images(tmp_path):
    out = tmp_path / "textures"
    assert make_shapes.main(["-o", str(out), "--make", "textures", "--num", "2", "--num_test", "0", "-it", "jpg"]) == 0
    brown, striped = (pixels(out / f"train{domain}" / "00001.jpg").astype(int) for domain in "AB")
    meadow = np.array([89, 153, 64])
    assert np.abs(brown[0, 0] - meadow).max() < 6 and np.abs(striped[0, 0] - meadow).max() < 6
    shape_a, shape_b = (np.abs(image - meadow).max(axis=2) > 40 for image in (brown, striped))
    assert np.any(shape_a != shape_b)
    assert striped[shape_b].std() > 80 > 15 > brown[shape_a].std(axis=0).max()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--size", "16", "17", "18"], "--size: 3 values"),
        (["--make", "labels", "-it", "jpg"], "--imgtype: jpg would blur class numbers"),
        (["--size", "8"], "must be at least 16"),
    ],
)
def test_wrong_options_are_told_before_anything_is_written(tmp_path, capsys, argv, message):
    assert make_shapes.main(["-o", str(tmp_path / "out"), *argv]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_images_is_not_mixed_with_new_ones(tmp_path, capsys):
    for tool in (make_shapes, make_sinograms):
        (tmp_path / "mine.png").write_bytes(b"x")
        assert tool.main(["-o", str(tmp_path), "--num", "1"]) == 1
        assert "is not empty; give a new folder" in capsys.readouterr().err


def test_sinogram_rows_are_rays_and_columns_angles():
    image = np.zeros((24, 24))
    image[9:15, 5:19] = 2.0
    sinogram = make_sinograms.sinogram(image)
    assert sinogram.shape == (24, 24)
    np.testing.assert_allclose(sinogram[:, 0], image.sum(axis=0), atol=1e-9)  # angle 0 sums the columns
    np.testing.assert_allclose(sinogram[:, 12], image.sum(axis=1)[::-1][np.r_[-1, 0:23]], atol=1e-6)  # 90 degrees: rows
    np.testing.assert_allclose(sinogram.sum(axis=0), image.sum(), rtol=0.01)


def test_sinograms_are_written_as_16_bit_png_or_float_npy(tmp_path):
    for kind in ("png", "npy"):
        argv = ["-o", str(tmp_path / kind), "--size", "33", "--num", "2", "--num_test", "1", "-it", kind]
        assert make_sinograms.main(argv) == 0
    image, rays = (np.load(tmp_path / "npy" / f"train{domain}" / "00002.npy") for domain in "BA")
    assert image.dtype == np.float32 and image.shape == rays.shape == (33, 33)
    assert 0.25 < image.max() <= 1
    np.testing.assert_allclose(rays, make_sinograms.sinogram(image), atol=2e-3)
    stored = pixels(tmp_path / "png" / "trainA" / "00002.png")
    assert stored.dtype == np.uint16
    np.testing.assert_allclose(stored / 65535 * 33, rays, atol=33 / 65535)
    np.testing.assert_allclose(pixels(tmp_path / "png" / "trainB" / "00002.png") / 65535, image, atol=1 / 65535)
    assert (tmp_path / "npy" / "test.txt").read_text() == "testA/00001.npy\ttestB/00001.npy\n"


@pytest.mark.parametrize("size", ["-s", "-z", "--size"])
@pytest.mark.parametrize("tool, shape", [(make_shapes, (24, 24, 3)), (make_sinograms, (24, 24))])
def test_spellings_of_the_released_helpers(tmp_path, tool, shape, size):
    assert tool.main([size, "24", "-n", "1", "--num_test", "0", "--outdir", str(tmp_path / "out")]) == 0
    assert pixels(tmp_path / "out/trainA/00001.png").shape == shape


def test_kinds_of_images_are_spelled_as_suffixes(tmp_path):
    assert make_shapes.main(["-n", "1", "--num_test", "0", "-it", "JPEG", "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/train.txt").read_text() == "trainA/00001.jpg\ttrainB/00001.jpg\n"
