"""Labels of unpaired images: each goes where its image goes, and those that do not fit are told."""

import numpy as np
import pytest
from PIL import Image

from medi2i.common.errors import Unreadable, UserError
from medi2i.common.kernels.gpu.augment import finish
from medi2i.common.options import UnpairedOptions
from medi2i.datasets import unpaired
from medi2i.datasets.examples import ImageCache
from medi2i.datasets.iterator import ImageIterator

CLASSES = 3


def write_label(path, classes):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(classes.astype(np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    """Three images of 20x17 pixels in two folders whose values are -1, 0, 1 where the labels are 0, 1, 2."""
    rng = np.random.default_rng(0)
    for name in ("p1/1", "p1/2", "p2/1"):
        classes = np.kron(rng.integers(0, CLASSES, (5, 5)), np.ones((4, 4)))[:, :17]
        (tmp_path / "trainA" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "trainA" / f"{name}.npy", (classes - 1).astype(np.float32))
        write_label(tmp_path / "labelsA" / f"{name}.png", classes)
    return tmp_path


def build(root, **given):
    return unpaired.labelled(*images_of(root, **given))


def images_of(root, **given):
    options = {
        "clipA": [-1, 1],
        "crop_height": 12,
        "crop_width": 12,
        "random_translate": 0,
        "shape_classes": 3,
        **given,
    }
    options = UnpairedOptions(root=str(root), **options)
    return options, "A", unpaired.build(options, "A", cache=ImageCache(50))


def classes_of(t, stack=1):
    """Class numbers (stack, H, W) of one-hot (stack * classes, H, W)."""
    assert set(np.unique(t)) <= {0, 1} and (t.reshape(stack, CLASSES, *t.shape[1:]).sum(axis=1) == 1).all()
    return t.reshape(stack, CLASSES, *t.shape[1:]).argmax(axis=1)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"random_translate": 5},
        {"random_translate": -1},
        {"random_rot90": True},
        {"crop_height": 24, "crop_width": 24, "random_translate": 3},
        {"stack": 2, "random_translate": -1},
    ],
)
def test_a_label_is_cut_and_turned_as_its_image(root, given):
    (*_, images), seen = images_of(root, **given), set()
    examples = build(root, **given)
    for seed in range(20):
        for index in range(len(examples)):
            x, t = examples.load(index, np.random.default_rng(seed))
            np.testing.assert_array_equal(classes_of(t, given.get("stack", 1)), np.rint(x + 1))
            np.testing.assert_array_equal(x, images.load(index, np.random.default_rng(seed)))
            seen.add(x.tobytes())
    assert len(seen) > 3 or given == {}
    x, t = examples.load(0, None)
    np.testing.assert_array_equal(classes_of(t, given.get("stack", 1)), np.rint(x + 1))


def test_what_is_turned_and_scaled_keeps_whole_classes_and_noise_leaves_them(root):
    examples = build(root, random_rotation=20, random_scale=0.2, random_translate=2, augment_noise=0.05)
    agreed = []
    for seed in range(20):
        x, t = examples.load(0, np.random.default_rng(seed))
        agreed.append((classes_of(t) == np.clip(np.rint(x + 1), 0, 2)).mean())
    assert np.mean(agreed) > 0.8  # but for edges, which the image has interpolated


def test_the_device_makes_the_same_of_it_and_the_iterator_gives_both(root):
    examples = build(root, random_translate=-1, random_rot90=True)
    for seed in range(5):
        x, t = examples.load(1, np.random.default_rng(seed))
        first, second = examples.uncut(1, np.random.default_rng(seed))
        np.testing.assert_array_equal(finish(first.values, first), x)
        np.testing.assert_array_equal(finish(second.values, second), t)
    iterator = ImageIterator(examples, 2, 0, workers=2, processes=True)
    x, t = iterator.next()[0]
    iterator.finalize()
    np.testing.assert_array_equal(classes_of(t), np.rint(x + 1))


def test_labels_that_do_not_fit_are_told_in_one_line(root):
    def told(words, **given):
        with pytest.raises(UserError, match=words) as caught:
            build(root, **given)
        assert "\n" not in str(caught.value)

    told(r"1\.png: holds values 2; with 2 classes they must be 0 to 1", shape_classes=2)
    write_label(root / "labelsA/p2/1.png", np.zeros((20, 16)))
    told(r"p2/1\.png: is 16x20 and its image, .*1\.npy, 17x20 \(width x height\)")
    (root / "labelsA/p2/1.png").unlink()
    told(r"labelsA: no labels of 1 of 3 images, among them p2/1\.npy")
    (root / "labelsA").rename(root / "elsewhere")
    told(r"labelsA: no such folder; with --shape_classes it should hold labels .* in .*trainA")


def test_a_label_with_another_value_is_told_when_it_is_read(root):
    write_label(root / "labelsA/p2/1.png", np.full((20, 17), 7))
    examples = build(root)
    with pytest.raises(Unreadable, match="holds values 7; with 3 classes"):
        examples.load(2, None)
