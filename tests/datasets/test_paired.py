import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

from medi2i.common.errors import UserError
from medi2i.common.options import PairedOptions
from medi2i.datasets import paired, preparing
from medi2i.datasets.dicom.header_checks import Unreadable
from medi2i.datasets.examples import ImageCache, load_numbered
from medi2i.datasets.iterator import ImageIterator
from medi2i.datasets.scaling import Clip
from medi2i.datasets.writing import write_image

HEAD = Path(__file__).parents[3] / "shared" / "data" / "ct-head"


def grey(number, height=19, width=23):
    """An image whose pixels say which one it is and where they are."""
    return (np.arange(height * width).reshape(1, height, width) * 7 + number * 31) % 256


def folders(root, names, kind="png", size=(19, 23), phase="train"):
    for folder in (f"{phase}A", f"{phase}B"):
        for number, name in enumerate(names):
            write_image(root / folder / f"{name}.{kind}", grey(number + 100 * folder.endswith("B"), *size))


def build(root, phase="train", **options):
    options = {"random_translate": 0, "crop_height": 19, "crop_width": 23, **options}
    how = {"train": paired.build, "val": paired.build_validation}[phase]
    return how(PairedOptions(root=str(root), **options), cache=ImageCache(50))


BYTE = Clip(0, 255)


def unit(image, clip=BYTE):
    return clip.to_unit(image)


def test_folders_pair_by_name_in_the_order_of_their_numbers(tmp_path):
    folders(tmp_path, ["s10", "s9", "p2/s1"])
    dataset = build(tmp_path)
    assert [dataset.name(i) for i in range(len(dataset))] == ["s9", "s10", "p2/s1"]
    x, t = dataset.load(0)
    np.testing.assert_array_equal(x, unit(grey(1)))
    np.testing.assert_array_equal(t, unit(grey(101)))
    assert x.dtype == t.dtype == np.float32
    assert (dataset.in_channels, dataset.out_channels, dataset.size) == (1, 1, (19, 23))
    assert dataset.clip_in == dataset.clip_out == Clip(0, 255)


def test_btoa_swaps_images_and_clips_stay_with_their_domain(tmp_path):
    folders(tmp_path, ["a"])
    dataset = build(tmp_path, btoa=True, clipA=[0, 100])
    x, t = dataset.load(0)
    np.testing.assert_array_equal(x, unit(grey(100)))
    np.testing.assert_array_equal(t, unit(grey(0), Clip(0, 100)))
    assert (dataset.clip_in, dataset.clip_out) == (Clip(0, 255), Clip(0, 100))
    options = paired.complete(PairedOptions(btoa=True), dataset)
    assert (options.clipA, options.clipB) == ([0, 100], [0, 255])


def test_continued_from_released_args_clip_a_is_the_inputs_and_grey_pictures_have_three_channels(tmp_path, caplog):
    folders(tmp_path, ["a"])
    dataset = build(tmp_path, btoa=True, clipA=[0, 100], released=True)
    x, t = dataset.load(0)
    np.testing.assert_array_equal(x, unit(grey(100), Clip(0, 100)).repeat(3, axis=0))
    np.testing.assert_array_equal(t, unit(grey(0)).repeat(3, axis=0))
    options = paired.complete(PairedOptions(btoa=True, released=True), dataset)
    assert (options.clipA, options.clipB, options.ch, options.out_ch) == ([0, 100], [0, 255], 3, 3)
    assert build(tmp_path, grey=True, released=True).in_channels == 1 and "--btoa" not in caplog.text
    build(tmp_path, btoa=True, clipA=[0, 100])
    assert "--btoa: --clipA is of domain A, here the output" in caplog.text


def test_colours_of_released_args_become_whole_grey_levels(tmp_path):
    image = np.arange(3 * 19 * 23).reshape(3, 19, 23) * 11 % 256
    for folder in ("trainA", "trainB"):
        write_image(tmp_path / folder / "a.png", image)
    luminance = np.float32([0.299, 0.587, 0.114]) @ image.reshape(3, -1)
    for released, wanted in ((True, np.rint(luminance)), (None, luminance)):
        x, t = build(tmp_path, grey=True, released=released).load(0)
        np.testing.assert_allclose(x.ravel(), wanted / 127.5 - 1, atol=1e-5)
        np.testing.assert_array_equal(x, t)


def test_list_with_several_columns_and_kinds(tmp_path):
    for number, name in enumerate(["a.png", "b.npy", "c.jpg", "d.csv"]):
        write_image(tmp_path / name, np.full((17, 18), 10.0 * number))
    (tmp_path / "pairs.txt").write_text("a.png\tc.jpg\tb.npy\td.csv\n")
    dataset = build(tmp_path, train="pairs.txt", from_col=[1, 0], to_col=[3], crop_height=17, crop_width=18)
    x, t = dataset.load(0)
    np.testing.assert_allclose(x[:, 0, 0], [20 / 127.5 - 1, -1], atol=1e-6)
    np.testing.assert_array_equal(t, np.full((1, 17, 18), 30))  # plain numbers are not scaled
    assert not dataset.clip_out.scales
    options = paired.complete(PairedOptions(), dataset)
    assert (options.clipA, options.clipB, options.ch, options.out_ch) == ([0, 255], None, 2, 1)
    assert (
        build(tmp_path, train="pairs.txt", to_col=[2], clipB=[0, 40], crop_height=17, crop_width=18).load(0)[1][0, 0, 0]
        == -0.5
    )
    with pytest.raises(UserError, match="--clipA"):
        build(tmp_path, train="pairs.txt", from_col=[0, 2], to_col=[3])


def test_16_bit_and_colour(tmp_path):
    for folder in ("trainA", "trainB"):
        write_image(tmp_path / folder / "a.png", np.full((16, 16), 65535), bits=16)
    assert build(tmp_path, crop_height=16, crop_width=16).load(0)[0].max() == 1.0
    colour = np.stack([grey(0)[0], grey(1)[0], grey(2)[0]])
    write_image(tmp_path / "c" / "trainA" / "a.png", colour)
    write_image(tmp_path / "c" / "trainA" / "b.png", grey(5))
    write_image(tmp_path / "c" / "trainB" / "a.png", grey(3))
    write_image(tmp_path / "c" / "trainB" / "b.png", grey(4))
    dataset = build(tmp_path / "c")
    assert (dataset.in_channels, dataset.out_channels) == (3, 1)
    np.testing.assert_array_equal(dataset.load(0)[0], unit(colour))
    np.testing.assert_array_equal(dataset.load(1)[0], unit(grey(5)).repeat(3, axis=0))
    dataset = build(tmp_path / "c", grey=True)
    assert dataset.in_channels == 1
    np.testing.assert_allclose(dataset.load(0)[0][0], unit(np.tensordot([0.299, 0.587, 0.114], colour, 1)), atol=1e-6)


def test_classes_are_one_hot_and_stay_so_when_rotated(tmp_path):
    labels = np.arange(19 * 23).reshape(1, 19, 23) // 20 % 3
    for name in ("a", "b", "c"):
        write_image(tmp_path / "trainA" / f"{name}.png", grey(0))
        write_image(tmp_path / "trainB" / f"{name}.png", labels)
    dataset = build(tmp_path, class_num=3, random_rotation=20, random_translate=3)
    x, t = dataset.load(0)
    assert (dataset.in_channels, dataset.out_channels, t.shape) == (1, 3, (3, 19, 23))
    np.testing.assert_array_equal(t.argmax(axis=0), labels[0])
    for seed in range(5):
        turned = dataset.load(0, np.random.default_rng(seed))[1]
        assert set(np.unique(turned)) == {0, 1}
        np.testing.assert_array_equal(turned.sum(axis=0), 1)
    stacked = build(tmp_path, class_num=3, stack=2)
    assert (len(stacked), stacked.in_channels, stacked.out_channels) == (2, 2, 6)
    np.testing.assert_array_equal(stacked.load(0)[1].reshape(2, 3, 19, 23).argmax(axis=1), labels.repeat(2, axis=0))
    options = paired.complete(PairedOptions(class_num=3), dataset)
    assert (options.ch, options.out_ch, options.clipA, options.clipB) == (1, 3, [0, 255], None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"class_num": 2}, r"a.png: holds values 2, 3; with 2 classes they must be 0 to 1"),
        ({"class_num": 1}, "--class_num: 1 class"),
        ({"class_num": 4, "to_col": [1, 1]}, "--to_col should name one"),
    ],
)
def test_images_without_classes_are_told_at_once(tmp_path, options, words):
    write_image(tmp_path / "trainA" / "a.png", grey(0))
    write_image(tmp_path / "trainB" / "a.png", np.arange(19 * 23).reshape(1, 19, 23) % 4)
    with pytest.raises(UserError, match=words):
        build(tmp_path, **options)


def test_stacks_are_neighbours_and_never_cross_folders(tmp_path, caplog):
    folders(tmp_path, ["p1/s3", "p1/s1", "p1/s2", "p2/s5", "p2/s6", "p3/s9"])
    with caplog.at_level(logging.WARNING):
        dataset = build(tmp_path, stack=2)
    assert "the series of p3/s9 has 1 image(s), fewer than the stack of 2" in caplog.text
    names = [[pair.inputs[0].stem for pair in dataset.members(i)] for i in range(len(dataset))]
    assert names == [["p1/s1", "p1/s2"], ["p1/s2", "p1/s3"], ["p2/s5", "p2/s6"]]
    np.testing.assert_array_equal(dataset.load(1)[0], np.concatenate([unit(grey(2)), unit(grey(0))]))
    assert (dataset.name(1), dataset.in_channels) == ("p1/s3", 2)
    with pytest.raises(UserError, match="--stack"):
        build(tmp_path, stack=4)


def test_every_problem_with_pairs_is_listed_before_training(tmp_path, caplog):
    folders(tmp_path, ["a", "b", "c", "d"])
    (tmp_path / "trainB" / "a.png").unlink()
    (tmp_path / "trainA" / "b.png").unlink()
    write_image(tmp_path / "trainB" / "c.png", grey(0, 19, 24))
    write_image(tmp_path / "trainB" / "e.png", grey(0))
    with pytest.raises(UserError, match=r"5 problem\(s\) with pairs: .*has 3 images and .*has 4") as caught:
        build(tmp_path)
    assert "and 2 more" in str(caught.value)
    for line in (
        f"{tmp_path}/trainA/a.png has no partner in {tmp_path}/trainB",
        f"{tmp_path}/trainB/b.png has no partner in {tmp_path}/trainA",
        f"{tmp_path}/trainB/e.png has no partner in {tmp_path}/trainA",
        f"{tmp_path}/trainA/c.png is 23x19, {tmp_path}/trainB/c.png is 24x19",
    ):
        assert line in caplog.text


def test_every_problem_of_a_list_is_told_with_its_line(tmp_path, caplog):
    write_image(tmp_path / "a.png", grey(0))
    write_image(tmp_path / "b.png", grey(0, 20, 20))
    (tmp_path / "pairs.txt").write_text(
        "a.png\ta.png\n\na.png a.png\na.png\tnone.png\nnone2.png\ta.png\na.png\tb.png\n"
    )
    with pytest.raises(UserError, match=r"pairs.txt: 4 problem\(s\)"):
        build(tmp_path, train="pairs.txt")
    for words in ("line 3 has 1 column(s)", "line 4: ", "none.png does not exist", "line 5: ", "b.png is 20x20"):
        assert words in caplog.text


def test_list_of_one_column_is_told_once(tmp_path, caplog):
    (tmp_path / "pairs.txt").write_text("a.png\nb.png\nc.png\nd.png\n")
    with pytest.raises(UserError, match=r"pairs.txt: no line has more than 1 column\(s\); --from_col .* need 2"):
        build(tmp_path, train="pairs.txt")
    assert caplog.text == ""


def test_unreadable_files_are_left_out_with_their_partners_and_counted(tmp_path, caplog):
    folders(tmp_path, ["a", "b", "c", "d"])
    (tmp_path / "trainA" / "a.png").write_bytes(b"")
    (tmp_path / "trainB" / "c.png").write_text("no picture")
    dataset = build(tmp_path)
    assert [dataset.name(i) for i in range(len(dataset))] == ["b", "d"]
    assert "2 of 4 pairs left out" in caplog.text
    assert "trainA/a.png: " in caplog.text and "trainB/c.png: " in caplog.text
    for name in ("b", "d"):
        (tmp_path / "trainA" / f"{name}.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 4 pairs can be read"):
        build(tmp_path)


def test_missing_folders_and_no_validation(tmp_path):
    with pytest.raises(UserError, match="trainA: no such folder.*list file"):
        build(tmp_path)
    assert build(tmp_path, "val") is None
    with pytest.raises(UserError, match="none.txt: no such list file"):
        build(tmp_path, "val", val="none.txt")
    (tmp_path / "trainA").mkdir()
    (tmp_path / "trainB").mkdir()
    with pytest.raises(UserError, match="trainA: the folder is empty"):
        build(tmp_path)


def test_pattern_chooses_files(tmp_path):
    folders(tmp_path, ["x_axial", "x_other"])
    dataset = build(tmp_path, fn_pattern="*_axial*")
    assert [dataset.name(i) for i in range(len(dataset))] == ["x_axial"]
    (tmp_path / "l.txt").write_text("trainA/x_axial.png\ttrainB/x_other.png\ntrainA/x_other.png\ttrainB/x_axial.png\n")
    assert len(build(tmp_path, train="l.txt", fn_pattern="other")) == 1


@pytest.mark.parametrize(
    ("translate", "given", "multiple", "size"),
    [
        (4, (None, None), 1, (32, 48)),
        (0, (None, None), 1, (48, 64)),
        (10, (None, None), 1, (16, 32)),
        (30, (None, None), 1, (48, 64)),
        (4, (40, None), 8, (40, 48)),
        (4, (None, 67), 1, (32, 67)),
        (0, (None, None), 32, (32, 64)),
    ],
)
def test_crop(tmp_path, translate, given, multiple, size):
    folders(tmp_path, ["a"], size=(48, 67))
    options = PairedOptions(root=str(tmp_path), random_translate=translate, crop_height=given[0], crop_width=given[1])
    dataset = paired.build(options, multiple=multiple, cache=ImageCache(1))
    assert dataset.size == size
    assert dataset.load(0, np.random.default_rng(0))[0].shape == (1, *size)


@pytest.mark.parametrize(
    ("options", "multiple", "words"),
    [
        ({"crop_height": 50}, 1, "--crop_height: 50 is larger than the smallest image.* 48 .*crop that works is 48"),
        ({"crop_width": 66}, 4, "--crop_width: 66 is not a multiple of 4.*the largest crop that works is 64"),
        ({}, 128, "--crop_height: the smallest image has 48 .*at least 128"),
    ],
)
def test_crop_that_does_not_fit(tmp_path, options, multiple, words):
    folders(tmp_path, ["a"], size=(48, 67))
    with pytest.raises(UserError, match=words):
        paired.build(PairedOptions(root=str(tmp_path), **options), multiple=multiple, cache=ImageCache(1))


@pytest.mark.parametrize("translate", [3, -1])
def test_same_change_for_both_images_and_noise_for_the_input_only(tmp_path, translate):
    for folder in ("trainA", "trainB"):
        write_image(tmp_path / folder / "a.png", grey(0))
    augmented = {"random_translate": translate, "random_rotation": 15, "random_scale": 0.1, "random_rot90": True}
    dataset = build(tmp_path, **augmented)
    seen = set()
    for seed in range(6):
        x, t = dataset.load(0, np.random.default_rng(seed))
        np.testing.assert_array_equal(x, t)
        seen.add(x.tobytes())
    assert len(seen) == 6
    noisy = build(tmp_path, **augmented, augment_noise=0.1)
    x, t = noisy.load(0, np.random.default_rng(0))
    np.testing.assert_array_equal(t, dataset.load(0, np.random.default_rng(0))[1])
    assert 0.08 < (x - t).std() < 0.12
    toned = build(tmp_path, **augmented, random_gamma=1.0)
    x, t = toned.load(0, np.random.default_rng(0))
    np.testing.assert_array_equal(t, dataset.load(0, np.random.default_rng(0))[1])
    between = (t > -0.99) & (t < 0.99)
    power = np.log((x[between] + 1) / 2) / np.log((t[between] + 1) / 2)
    assert power.std() < 0.03 and abs(power.mean() - 1) > 0.05  # but for what was interpolated, one power for all


def test_validation_is_never_augmented(tmp_path):
    folders(tmp_path, ["a"], phase="test")
    dataset = build(
        tmp_path, "val", random_translate=3, random_rotation=15, random_scale=0.1, augment_noise=0.3, random_rot90=True
    )
    for array, expected in zip(dataset.load(0, np.random.default_rng(0)), dataset.load(0), strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("options", "multiple", "size"),
    [
        ({"random_translate": -1}, 1, (48, 67)),
        ({"random_translate": -1}, 10, (40, 60)),
        ({"random_translate": 0}, 1, (20, 10)),
        ({"random_translate": -1, "gen_fc": 1}, 1, (20, 10)),
        ({"random_translate": -1, "latent_dim": 3}, 1, (20, 10)),
    ],
)
def test_validation_takes_whole_images_where_crops_come_from_anywhere(tmp_path, options, multiple, size):
    folders(tmp_path, ["a"], phase="test", size=(48, 67))
    options = PairedOptions(root=str(tmp_path), crop_height=20, crop_width=10, **options)
    dataset = paired.build(options, "val", multiple=multiple, cache=ImageCache(1))
    assert dataset.size == dataset.load(0)[0].shape[1:] == size


def test_validation_with_other_channels_than_training_is_refused(tmp_path):
    folders(tmp_path, ["a"])
    write_image(tmp_path / "testA" / "a.png", np.zeros((3, 19, 23)))
    write_image(tmp_path / "testB" / "a.png", np.zeros((1, 19, 23)))
    options = paired.complete(PairedOptions(root=str(tmp_path), crop_height=19, crop_width=23), build(tmp_path))
    with pytest.raises(UserError, match=r"input images have 3 channel\(s\), those of training 1; --grey"):
        paired.build(options, "val", cache=ImageCache(1))


def test_file_that_changes_meanwhile(tmp_path):
    folders(tmp_path, ["a"])
    dataset = build(tmp_path)
    write_image(tmp_path / "trainA" / "a.png", grey(0, 5, 5))
    with pytest.raises(Unreadable, match="changed meanwhile"):
        dataset.load(0)


def test_images_are_decoded_once(tmp_path, monkeypatch):
    folders(tmp_path, ["a", "b", "c"])
    dataset = build(tmp_path)
    read, decoded = preparing.read_image, []
    monkeypatch.setattr(preparing, "read_image", lambda path, *a, **how: decoded.append(path) or read(path, *a, **how))
    for _ in range(3):
        for i in range(3):
            dataset.load(i)
    assert len(decoded) == len(set(decoded)) == 6


def test_worker_processes_give_the_same_batches(tmp_path):
    folders(tmp_path, ["a", "b", "c", "d", "e"])
    dataset = build(tmp_path, random_translate=-1, random_rotation=10, random_rot90=True)
    batches = []
    for workers, processes in ((0, False), (2, True)):
        iterator = ImageIterator(dataset, 2, 3, workers=workers, processes=processes)
        batches.append([np.stack([np.stack(example) for example in iterator.next()]) for _ in range(4)])
        iterator.finalize()
    np.testing.assert_array_equal(batches[0], batches[1])


def test_datasets_cross_processes_without_their_cache(tmp_path):
    folders(tmp_path, ["a"])
    dataset = build(tmp_path)
    dataset.load(0)
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(copy.domain_in.cache) == 0
    assert copy.domain_in.cache is copy.domain_out.cache
    dataset.share_cache()
    copy.share_cache(3)
    assert dataset.domain_in.cache.budget + 3 * copy.domain_in.cache.budget == pytest.approx(50 * 2**20, abs=9)
    np.testing.assert_array_equal(copy.load(0), dataset.load(0))


def test_generators_of_examples_differ():
    draws = [load_numbered(lambda _, rng: rng.random(), 1, seed, number)[0] for seed in (0, 1) for number in (0, 1)]
    assert len(set(draws)) == 4


@pytest.mark.skipif(not HEAD.is_dir(), reason="the head CT is not here")
def test_dicom_pairs_of_a_real_ct(tmp_path):
    files = sorted(HEAD.glob("*.dcm"))[40:46]
    lines = [f"{a}\t{b}" for a, b in zip(files, files[::-1], strict=True)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    dataset = paired.build(PairedOptions(root=str(tmp_path), train="pairs.txt", stack=3), cache=ImageCache(50))
    assert (len(dataset), dataset.in_channels, dataset.size) == (4, 3, (240, 240))
    assert dataset.clip_in == Clip(-1024, 2000)
    x, t = dataset.load(0)
    first = dataset.members(0)[0].inputs[0]
    np.testing.assert_array_equal(x[0], dataset.domain_in.unit(first)[0, 8:248, 8:248])
    heights = [pair.inputs[0].height for pair in dataset.members(0)]
    np.testing.assert_allclose(np.diff(heights), 1.5)
    assert -1 <= x.min() < -0.9 and x.max() > 0.5
    hu = dataset.clip_in.from_unit(x)
    np.testing.assert_allclose(hu, np.rint(hu), atol=1e-3)
