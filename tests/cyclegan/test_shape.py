"""Shape consistency: what is compared, who learns of it, when it begins, and what it refuses."""

import json

import numpy as np
import pytest
import ranks
from PIL import Image
from run_files import arrays_of, only_run, save_segmentor, saved_arrays

from medi2i.common import losses
from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.common.networks.checkpoint import Segmentor, find_run, load_generator
from medi2i.common.options import UnpairedOptions, load_args
from medi2i.common.training.log import read_log
from medi2i.common.training.optimizers import make_optimizer
from medi2i.common.training.randomness import RandomState
from medi2i.cyclegan import convert, net, train
from medi2i.cyclegan.updater import CycleganUpdater

NO_TERM = dict(lambda_A=0, lambda_B=0, lambda_Az=0, lambda_Bz=0, lambda_dis_x=0, lambda_dis_y=0, lambda_domain=0)
CLASSES = 3
GENERATORS = {"enc_x", "enc_y", "dec_x", "dec_y"}


def options_of(**given):
    given = {"gen_chs": [3, 4], "gen_nblock": 1, "dis_chs": [4], "weight_decay": 0, "lambda_shape": 2, **given}
    options = UnpairedOptions(clipA=[-200, 600], clipB=[-1024, 2000], batch_size=2, epoch=10, **given)
    options.ch = options.out_ch = options.stack
    return options


def images(seed, stack=1):
    return np.random.default_rng(seed).uniform(-1, 1, (2, stack, 8, 12)).astype(np.float32)


def labels(seed, stack=1):
    """One-hot (2, stack * CLASSES, 8, 12)."""
    classes = np.random.default_rng(seed).integers(CLASSES, size=(2, stack, 8, 12))
    return np.eye(CLASSES, dtype=np.float32)[classes].transpose(0, 1, 4, 2, 3).reshape(2, -1, 8, 12).copy()


def updater_of(options, segmentors=None, epochs=2):
    """After ``epochs`` of 10; examples have labels where the options say so."""
    np.random.seed(0)
    networks = net.build(options)
    optimizers = {n: make_optimizer("SGD", link, 1.0, 0.0) for n, link in networks.trained().items()}
    iterators = {}
    for name, seed in (("main", 1), ("second", 2)):
        examples = list(images(seed, options.stack))
        if options.shape_classes:
            examples = list(zip(examples, labels(seed, options.stack), strict=True))
        iterators[name] = chainer.iterators.SerialIterator(examples, 2, shuffle=False)
        for _ in range(epochs):
            iterators[name].next()
    return CycleganUpdater(iterators, optimizers, networks, options, RandomState(0), segmentors=segmentors)


def weights(links):
    return {name: np.concatenate([p.array.ravel() for p in link.params()]) for name, link in links.items()}


def moved(before, links):
    return {name for name, now in weights(links).items() if (now != before[name]).any()}


def of(terms, word):
    return {term.name: term for term in terms if word in term.name}


def frozen(tmp_path):
    runs = [
        save_segmentor(tmp_path / name, clip, seed) for name, clip, seed in (("a", (-200, 600), 1), ("b", (0, 900), 2))
    ]
    return runs, {
        "x": Segmentor.load(runs[0], (-200, 600), 1, "clipA"),
        "y": Segmentor.load(runs[1], (-1024, 2000), 1, "clipB"),
    }


@pytest.mark.parametrize("stack", [1, 2])
def test_translations_are_to_have_the_labels_of_their_originals(stack):
    updater = updater_of(options_of(shape_classes=CLASSES, stack=stack), epochs=8)
    x, y = images(1, stack), images(2, stack)
    classes = {name: losses.unfold_stack(labels(seed, stack), stack).array for name, seed in (("x", 1), ("y", 2))}
    made = updater.update_generators(x, y, classes["x"], classes["y"])
    n = updater.networks
    terms = of(updater.generator_terms(made), "shape")
    for term, segmentor, image, truth in (
        ("dec_y/loss_shape", n.seg_y, made.x_y, classes["x"]),
        ("dec_x/loss_shape", n.seg_x, made.y_x, classes["y"]),
    ):
        with chainer.using_config("train", False):
            expected = losses.class_mismatch(segmentor(image)[-1], truth)
        assert terms[term].weight == 2 and float(terms[term].value.array) == pytest.approx(
            float(expected.array), rel=1e-5
        )
    for name, real, fake in (("x", (x, "x"), (made.y_x, "y")), ("y", (y, "y"), (made.x_y, "x"))):
        terms = updater.segmentor_terms(name, made)
        expected = [
            losses.class_mismatch(getattr(n, f"seg_{name}")(image)[-1], classes[who]) for image, who in (real, fake)
        ]
        assert [(term.name, term.weight) for term in terms] == [(f"seg_{name}/loss_{k}", 1.0) for k in ("real", "fake")]
        assert [float(t.value.array) for t in terms] == pytest.approx([float(e.array) for e in expected], rel=1e-5)


def test_generators_learn_through_segmentors_which_stay_and_the_reverse():
    updater = updater_of(options_of(shape_classes=CLASSES, **NO_TERM), epochs=8)
    links = updater.networks.trained()
    x, y, classes_x, classes_y = images(1), images(2), labels(1), labels(2)
    before = weights(links)
    made = updater.update_generators(x, y, classes_x, classes_y)
    assert moved(before, links) == GENERATORS
    before = weights(links)
    updater.minimise(("seg_y",), updater.segmentor_terms("y", made))
    assert moved(before, links) == {"seg_y"}
    before = weights(links)
    updater.update()
    assert moved(before, links) == {*GENERATORS, "seg_x", "seg_y"}


def test_from_a_fifth_of_the_training_shapes_are_to_stay_and_in_the_last_fifth_segmentors_learn_from_translations():
    for given in ({}, {"iteration": 100, "epoch": 1000}):
        options = options_of(shape_classes=CLASSES, **NO_TERM)
        options.iteration, options.epoch = given.get("iteration"), given.get("epoch", 10)
        updater = updater_of(options, epochs=0)
        links = updater.networks.trained()
        before = weights(links)
        reporter, found = chainer.Reporter(), {}
        with reporter.scope(found):
            updater.update()
        assert {name for name in found if "seg" in name or "shape" in name} == {"seg_x/loss_real", "seg_y/loss_real"}
        assert moved(before, links) == {"seg_x", "seg_y"}
        options.minutes, updater.elapsed = 5, lambda: 60.0
        assert updater.progress() == pytest.approx(0.2)
        with reporter.scope(found := {}):
            updater.update()
        assert {name for name in found if "shape" in name} == {"dec_x/loss_shape", "dec_y/loss_shape"}
        assert {name for name in found if "seg" in name} == {"seg_x/loss_real", "seg_y/loss_real"}
        options.minutes = None
    updater.iteration = 20
    assert updater.progress() == pytest.approx(0.2)
    options.minutes = 5
    updater.elapsed = lambda: 90.0
    assert updater.progress() == pytest.approx(0.3)


def test_without_labels_both_segmentors_are_to_see_the_same_and_stay_as_they_are(tmp_path):
    _, segmentors = frozen(tmp_path)
    updater = updater_of(options_of(**NO_TERM), segmentors)
    x, y = images(1), images(2)
    made = updater.translate(x, y)
    terms = of(updater.generator_terms(made), "shape")
    for term, (one, image), (other, original) in (
        ("dec_y/loss_shape", ("y", made.x_y), ("x", x)),
        ("dec_x/loss_shape", ("x", made.y_x), ("y", y)),
    ):
        truth = segmentors[other].judge(original)[-1].array
        expected = losses.class_mismatch(segmentors[one].judge(image)[-1], truth)
        assert float(terms[term].value.array) == pytest.approx(float(expected.array), rel=1e-5)
    links, judges = updater.networks.trained(), weights(segmentors)
    assert not any(name.startswith("seg") for name in links)
    before = weights(links)
    updater.update()
    assert moved(before, links) == GENERATORS and moved(judges, segmentors) == set()


def test_what_learns_may_begin_with_the_segmentors_of_runs(tmp_path):
    runs, segmentors = frozen(tmp_path)
    networks = net.build(options_of(shape_classes=CLASSES, segmentor=[str(run) for run in runs]))
    for name, link in (("x", networks.seg_x), ("y", networks.seg_y)):
        np.testing.assert_array_equal(link.judge(images(1))[-1].array, segmentors[name].judge(images(1))[-1].array)
    both = net.build(options_of(shape_classes=CLASSES, segmentor=[str(runs[0])]))
    assert both.seg_x is not both.seg_y and both.seg_x.scale != both.seg_y.scale  # the domains' clips differ
    fresh = net.build(options_of(shape_classes=CLASSES))
    assert (fresh.seg_x.scale, fresh.seg_x.shift) == (1, 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two npy images of each domain, with values that say the class, and labels."""
    root = tmp_path_factory.mktemp("domains")
    rng = np.random.default_rng(0)
    for domain in "AB":
        for folder in ("train", "labels"):
            (root / f"{folder}{domain}").mkdir()
        for number in range(3):
            classes = np.kron(rng.integers(0, CLASSES, (4, 4)), np.ones((4, 4)))
            np.save(root / f"train{domain}/{number}.npy", (400 * classes - 200).astype(np.float32))
            Image.fromarray(classes.astype(np.uint8)).save(root / f"labels{domain}/{number}.png")
    return root


WORDS = ["-ca", -200, 600, "-cb", -1024, 2000, "-gc", 3, 4, "-gnb", 1, "-dc", 4, "-g", -1, "--nvis_A", 0, "--nvis_B", 0]
WORDS += ["-cw", 16, "-ch", 16, "-e", 4, "--display_interval", 1, "--lambda_shape", 1]


def words(data, out, *more):
    return [str(word) for word in ("-R", data, "-o", out, *WORDS, *more)]


def test_a_run_has_its_segmentors_and_converts_as_any_other(data, tmp_path):
    assert train.main(words(data, tmp_path / "out", "--shape_classes", CLASSES, "--ema", 0.9, "--summary")) == 0
    run = only_run(tmp_path / "out")
    assert {"seg_x4.npz", "seg_y4.npz", "opt_seg_x4.npz"} <= {path.name for path in run.iterdir()}
    assert load_args(run).shape_classes == CLASSES and find_run(run).epochs == (4,)
    entries = read_log(run / "log.jsonl")
    for name, first in (("dec_y/loss_shape", 3), ("seg_x/loss_fake", 10)):  # an update is 1/12 of the training
        assert [name in entry for entry in entries] == [number >= first for number in range(1, 13)]
    assert all("seg_y/loss_real" in entry and "seg_x/learning_rate" in entry for entry in entries)
    assert convert.main([str(run), "-R", str(data / "trainA"), "-o", str(tmp_path / "converted")]) == 0
    assert load_generator(run).options.shape_classes == CLASSES
    # What is trained on starts with the segmentors beside the weights, and without them from fresh ones.
    again = words(data, tmp_path / "again", "--shape_classes", CLASSES, "-m", run / "enc_x4.npz", "-e", 1)
    assert train.main(again) == 0
    for path in run.glob("seg_*"):
        path.unlink()
    assert train.main(again) == 0


@pytest.mark.parametrize("labelled", [True, False])
def test_what_is_interrupted_ends_as_what_is_not(data, tmp_path, labelled):
    more = ["--shape_classes", CLASSES] if labelled else ["--segmentor", save_segmentor(tmp_path / "classes")]
    assert train.main(words(data, tmp_path / "straight", *more)) == 0
    assert train.main(words(data, tmp_path / "parts", *more, "--max_hours", 0)) == 0
    straight, parts = (only_run(tmp_path / name) for name in ("straight", "parts"))
    for _ in range(4):
        assert train.main(["--resume", str(parts)]) == 0
    assert train.main(["--resume", str(parts), "--max_hours", "1"]) == 0
    one, other = arrays_of(straight), arrays_of(parts)
    other = {name: array for name, array in other.items() if "4.npz" in name}
    assert one.keys() == other.keys() and any("seg_x4" in name for name in one) == labelled
    assert all(np.array_equal(one[name], other[name]) for name in one)
    last = [json.loads((run / "log.jsonl").read_text().splitlines()[-1]) for run in (straight, parts)]
    assert last[0]["dec_y/loss_shape"] == last[1]["dec_y/loss_shape"]


def test_what_does_not_fit_is_told_in_one_line(data, tmp_path, capsys):
    def told(*more, root=data):
        assert train.main(words(root, tmp_path / "none", *more)) == 1
        (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
        assert not (tmp_path / "none").exists()
        return line

    assert "--lambda_shape: needs --segmentor RUN_A RUN_B" in (line := told()) and "--shape_classes" in line
    assert "--shape_classes: labels are for --lambda_shape" in told("--lambda_shape", 0, "--shape_classes", 3)
    assert "--shape_classes: 1 class" in told("--shape_classes", 1)
    assert "holds values 2; with 2 classes they must be 0 to 1" in told("--shape_classes", 2)
    three, two = save_segmentor(tmp_path / "three"), save_segmentor(tmp_path / "two", class_num=2)
    assert "two 2 classes in stacks of 1; for --lambda_shape both" in told("--segmentor", three, two)
    assert "tells apart 2 classes in stacks of 1, and --shape_classes says 3" in told(
        "--segmentor", two, "--shape_classes", 3
    )
    far, colour = save_segmentor(tmp_path / "far", (3000, 4000)), save_segmentor(tmp_path / "colour", stack=3)
    assert "was trained on values from 3000 to 4000" in told("--segmentor", three, far)
    assert "takes images of 3 channels, these have 1" in told("--segmentor", colour)
    deep = save_segmentor(tmp_path / "deep", gen_chs=[3] * 6)
    assert "image of 16x16" in told("--segmentor", deep)
    for domain in "AB":
        (tmp_path / f"unlabelled/train{domain}").mkdir(parents=True)
        for path in (data / f"train{domain}").iterdir():
            (tmp_path / f"unlabelled/train{domain}" / path.name).symlink_to(path)
    (tmp_path / "unlabelled/labelsA").symlink_to(data / "labelsA")
    assert "labelsB: no such folder" in told("--shape_classes", 3, root=tmp_path / "unlabelled")


def test_labels_of_resampled_images_are_refused(data):
    from medi2i.datasets import unpaired

    options = UnpairedOptions(root=str(data), shape_classes=3)
    images = unpaired.build(options, "A")
    options.forceSpacing = 1.0
    with pytest.raises(UserError, match="--shape_classes: labels are not resampled"):
        unpaired.labelled(options, "A", images)


@pytest.mark.skipif(ranks.no_mpi() is not None, reason=str(ranks.no_mpi()))
def test_two_ranks_train_it_together(data, tmp_path):
    more = ["--shape_classes", CLASSES, "--communicator", "naive", "-e", 2]
    status, out, err = ranks.finish(ranks.start("-m", "medi2i.cyclegan.train", *words(data, tmp_path / "out", *more)))
    assert status == 0, out + err
    run = only_run(tmp_path / "out")
    assert saved_arrays(run, 2, ["seg_x", "seg_y"])
    status, out, err = ranks.finish(
        ranks.start("-m", "medi2i.cyclegan.train", "--resume", run, "-e", 3, "--communicator", "naive")
    )
    assert status == 0, out + err
