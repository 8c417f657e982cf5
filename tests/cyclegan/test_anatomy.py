"""Frozen segmentation networks in CycleGAN: what of a cycle is compared, and in which unit."""

import numpy as np
import pytest
from run_files import only_run, save_segmentor

from medi2i.common.compat import chainer
from medi2i.common.networks.checkpoint import Segmentor
from medi2i.common.options import UnpairedOptions, load_args
from medi2i.common.training.optimizers import make_optimizer
from medi2i.common.training.randomness import RandomState
from medi2i.cyclegan import net, train
from medi2i.cyclegan.updater import CycleganUpdater

NO_TERM = dict(lambda_A=0, lambda_B=0, lambda_Az=0, lambda_Bz=0, lambda_dis_x=0, lambda_dis_y=0, lambda_domain=0)
CLIPS = {"clipA": [-200, 600], "clipB": [-1024, 2000]}


def images(seed, count=2):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 1, 8, 12)).astype(np.float32)


def updater_of(options, segmentors):
    options.ch = options.out_ch = 1
    np.random.seed(0)
    networks = net.build(options)
    optimizers = {n: make_optimizer("SGD", link, 1.0, 0.0) for n, link in networks.trained().items()}
    iterators = {
        name: chainer.iterators.SerialIterator(list(images(seed)), 2, shuffle=False)
        for name, seed in (("main", 1), ("second", 2))
    }
    return CycleganUpdater(iterators, optimizers, networks, options, RandomState(0), segmentors=segmentors)


def test_each_image_is_compared_with_its_cycle_by_the_segmentor_of_its_domain(tmp_path):
    runs = [
        save_segmentor(tmp_path / name, clip, seed) for name, clip, seed in (("a", (-200, 600), 1), ("b", (0, 9), 2))
    ]
    segmentors = {
        "x": Segmentor.load(runs[0], CLIPS["clipA"], 1, "clipA"),
        "y": Segmentor.load(runs[1], CLIPS["clipB"], 1, "clipB"),
    }
    options = UnpairedOptions(gen_chs=[3, 4], gen_nblock=1, dis_chs=[4], weight_decay=0, lambda_anatomy=2, **NO_TERM)
    updater = updater_of(options, segmentors)
    n, x, y = updater.networks, images(1), images(2)
    terms = {t.name: t for t in updater.generator_terms(updater.translate(x, y)) if t.name.endswith("anatomy")}
    assert set(terms) == {"dec_x/loss_anatomy", "dec_y/loss_anatomy"}
    for name, image, again in (("x", x, n.translate_back(n.translate(x))), ("y", y, n.translate(n.translate_back(y)))):
        levels = zip(segmentors[name].judge(again), segmentors[name].judge(image), strict=True)
        expected = np.mean([abs(a.array - b.array).mean() for a, b in levels])
        term = terms[f"dec_{name}/loss_anatomy"]
        assert term.weight == 2 and float(term.value.array) == pytest.approx(expected, rel=1e-4) and expected > 0

    before = [p.array.copy() for one in segmentors.values() for p in one.params()]
    weights = {name: [p.array.copy() for p in link.params()] for name, link in n.trained().items()}
    updater.update()
    for name, link in n.trained().items():
        moved = any((p.array != old).any() for p, old in zip(link.params(), weights[name], strict=True))
        assert moved == (not name.startswith("dis")), name
    after = [p.array for one in segmentors.values() for p in one.params()]
    assert all((one == other).all() for one, other in zip(before, after, strict=True))


def test_a_training_with_it_resumes_and_without_a_segmentor_it_is_refused(tmp_path, capsys):
    run_of_both = save_segmentor(tmp_path / "classes")
    for domain in "AB":
        (tmp_path / f"data/train{domain}").mkdir(parents=True)
        for number in range(2):
            np.save(tmp_path / f"data/train{domain}/{number}.npy", 400 * images(number, 1)[0, 0])
    words = ["-R", tmp_path / "data", "-ca", -200, 600, "-cb", -1024, 2000, "-gc", 3, 4, "-gnb", 1, "-dc", 4, "-g", -1]
    words += ["--nvis_A", 0, "--nvis_B", 0, "-e", 1, "-cw", 8, "-ch", 8, "--lambda_anatomy", 1, "--segmentor"]
    assert train.main([str(word) for word in (*words, run_of_both, "-o", tmp_path / "out")]) == 0
    run = only_run(tmp_path / "out")
    assert "dec_x/loss_anatomy" in (run / "log.jsonl").read_text()
    assert load_args(run).segmentor == [str(run_of_both)] and not list(run.glob("seg*"))
    assert train.main(["--resume", str(run), "-e", "2"]) == 0
    capsys.readouterr()
    assert train.main([str(word) for word in (*words[:-1], "-o", tmp_path / "none")]) == 1
    assert "--lambda_anatomy: needs --segmentor RUN_A RUN_B" in capsys.readouterr().err
    assert train.main([str(word) for word in (*words, *3 * [run_of_both], "-o", tmp_path / "none")]) == 1
    assert "--segmentor: 3 values; it takes 2 at most" in capsys.readouterr().err
