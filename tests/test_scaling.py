"""The scaling model: formula and simulation agree where they must, and docs/scaling.md says what the script prints."""

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def benchmark():
    """Imports a module of benchmarks/, which is no package, once: what they have counted they keep."""
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip("the benchmarks are not installed")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module
    for name in ("scaling", "scaling_model", "scaling_subjects", "scaling_measure", "subjects"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def model(benchmark):
    return benchmark("scaling_model")


def flat(model, bandwidth=1e9, step=1e-5, launch=3e-6):
    link = model.Link(bandwidth, step, 2e-5)
    return model.Cluster("flat", link, link, launch=launch)


def stages_of(model):
    return [
        model.Compute(0.02),
        model.Ring("a", 11_000_000),
        model.Ring("b", 500),
        model.Compute(0.01),
        model.Ring("c", 3_000_001),
        model.Tree(8192, 1e-4),
    ]


def test_the_ring_by_hand(model):
    cluster = flat(model)
    # 4 ranks: 6 steps, each with a quarter of the bytes
    assert model.ring_time(4000, 4, cluster) == pytest.approx(3e-6 + 6 * (1e-5 + 1000 / 1e9), rel=1e-12)
    assert model.tree_time(model.Tree(1000, 1e-4), 5, cluster) == pytest.approx(1e-4 + 3 * (2e-5 + 1e-6), rel=1e-12)
    assert model.ring_time(4000, 1, cluster) == model.tree_time(model.Tree(1, 1), 1, cluster) == 0
    assert model.efficiency(0.06, stages_of(model)) == pytest.approx(0.5)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 13, 64, 512])
def test_without_jitter_the_simulation_is_the_formula(model, ranks):
    cluster, stages = flat(model), stages_of(model)
    seconds, error = model.simulate(stages, ranks, cluster)
    assert seconds == pytest.approx(model.update_time(stages, ranks, cluster), rel=1e-9) and error == 0


@pytest.mark.parametrize("ranks", [2, 3, 8, 9, 24, 64])
def test_machines_of_eight(model, ranks):
    """The formula adds latency and transfer; where links differ, a piece's latency passes during others' transfer."""
    cluster = model.Cluster("nodes", model.Link(5e9, 2e-5, 0), model.Link(1e11, 1e-6, 0), node=8)
    for size in (10, 100_000, 50_000_000):
        seconds, _ = model.simulate([model.Ring("a", size)], ranks, cluster)
        whole, latency = model.ring_time(size, ranks, cluster), model.ring_time(0, ranks, cluster)
        assert max(latency, whole - latency) * (1 - 1e-9) <= seconds <= whole * (1 + 1e-9), size
    assert cluster.crosses(8) == 0 and cluster.crosses(9) == 2 and cluster.crosses(64) == 8
    latency, _ = cluster.outgoing(16)
    assert np.flatnonzero(latency == 2e-5).tolist() == [7, 15]


@pytest.mark.parametrize("node", [1, 4])
@pytest.mark.parametrize("ranks", [2, 5, 8, 16])
def test_the_ring_is_the_one_that_events_give(model, ranks, node):
    cluster = model.Cluster("x", model.Link(1e9, 3e-5, 0), model.Link(4e9, 1e-6, 0), node=node)
    start = np.random.default_rng(ranks).exponential(1e-3, (1, ranks))
    expected = model.ring_by_events(start[0].tolist(), 300_000, cluster)
    np.testing.assert_allclose(model._ring(start, model.Ring("a", 300_000), cluster)[0], expected, rtol=1e-12)


def test_nobody_is_done_before_the_last_has_begun(model):
    start = np.zeros((1, 6))
    start[0, 2] = 1.0
    done = model._ring(start, model.Ring("a", 600), flat(model))
    assert (done > 1).all() and done.max() < 1.001
    done = model._tree(start, model.Tree(600, 0.0), flat(model))
    assert (done > 1).all() and done.max() < 1.001


def test_jitter_costs_what_the_slowest_of_all_costs(model):
    free = model.Cluster("free", *[model.Link(math.inf, 0.0, 0.0)] * 2, launch=0.0)
    stages = [model.Compute(1.0), model.Ring("a", 1)]
    one, _ = model.simulate(stages, 1, free, model.Jitter(0.05, 0, 0), updates=400, repeats=4)
    assert one == pytest.approx(math.exp(0.05**2 / 2), rel=0.01)
    # the mean of the largest of 64 normal numbers is 2.344
    many, error = model.simulate(stages, 64, free, model.Jitter(0.05, 0, 0), updates=100, repeats=4)
    assert many == pytest.approx(math.exp(0.05 * 2.344), rel=0.01) and 0 < error < 0.01
    # every update waits for somebody: 1 - (1 - 0.01)**64 of them
    stalled, _ = model.simulate(stages, 64, free, model.Jitter(0.0, 0.01, 2.0), updates=400, repeats=4)
    assert stalled == pytest.approx(1 + 2 * (1 - 0.99**64), rel=0.05)


def test_a_seed_decides_the_simulation(model):
    first, again, other = (
        model.simulate(stages_of(model), 8, flat(model), model.Jitter(0.05, 0.01, 1.0), seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.fixture
def page():
    path = ROOT / "docs" / "scaling.md"
    if not path.is_file():
        pytest.skip("the documents are not installed")
    return path.read_text(encoding="utf-8")


def block(page, name):
    begin, end = f"<!-- {name}: written by benchmarks/scaling.py -->\n", f"\n<!-- end of {name} -->"
    return page.split(begin)[1].split(end)[0]


@pytest.mark.parametrize("name", ["sent", "needed"])
def test_the_page_has_the_scripts_tables(benchmark, page, name):
    assert block(page, name) == benchmark("scaling").TABLES[name]()


def test_the_page_has_the_scripts_efficiencies(benchmark, page):
    """All by the formula; of the simulated ones those that take no minute."""
    scaling, subjects = benchmark("scaling"), benchmark("scaling_subjects")
    head, _, *rows = [line.strip("| ").split(" | ") for line in block(page, "predicted").splitlines()]
    assert head[2:] == [cluster.name for cluster in subjects.CLUSTERS]
    rows = [row[-len(subjects.CLUSTERS) - 1 :] for row in rows]
    cases = [(subject, ranks) for subject in subjects.SUBJECTS for ranks in scaling.RANKS]
    assert len(rows) == len(cases)
    for (subject, ranks), (number, *cells) in zip(cases, rows, strict=True):
        assert number == str(ranks)
        for cluster, found in zip(subjects.CLUSTERS, cells, strict=True):
            by_formula, simulated = found.split(" / ")
            assert by_formula == f"{100 * scaling.formula(subject, ranks, cluster):.0f}", (subject, ranks, cluster)
            if ranks == 8 or (ranks, cluster, subject) == (64, subjects.CLUSTERS[1], subjects.SUBJECTS[0]):
                assert simulated == f"{100 * scaling.simulated(subject, ranks, cluster):.0f}", (subject, ranks, cluster)


def test_tables_go_between_their_marks(benchmark):
    scaling = benchmark("scaling")
    text = "a\n<!-- x: written by benchmarks/scaling.py -->\nold\n<!-- end of x -->\nb"
    assert scaling.put(text, "x", "new") == text.replace("old", "new")
    assert scaling.put(text.replace("old\n", ""), "x", "new") == text.replace("old", "new")
    with pytest.raises(ValueError, match="no block 'y'"):
        scaling.put(text, "y", "new")


def test_messages_are_the_optimizers(benchmark):
    """One all-reduce an optimizer, in the order of the updates: the tutorial's generator has 2.87 million weights."""
    subjects, model = benchmark("scaling_subjects"), benchmark("scaling_model")
    found = subjects.counted(subjects.SUBJECTS[0])
    assert list(found.weights) == ["enc_x", "dec_y", "dis"]
    assert found.weights["enc_x"] + found.weights["dec_y"] == 2_873_061
    stages = subjects.stages(subjects.SUBJECTS[0], found, rate=1.0)
    assert [type(stage).__name__ for stage in stages] == ["Compute", "Ring", "Ring", "Compute", "Ring", "Tree"]
    assert [stage.size for stage in stages if isinstance(stage, model.Ring)] == [
        4 * number for number in found.weights.values()
    ]
    # 105 GFLOP of the generator at 512 x 512, three times of it, and less at 480 x 480
    generator = found.operations["generator"] - found.operations["dis"] / 3
    assert generator / 3 / (480 / 512) ** 2 == pytest.approx(105e9, rel=0.02)


@pytest.mark.parametrize("application", ["pix2pix", "cyclegan"])
def test_the_order_is_that_of_the_updates(benchmark, application):
    subjects, scaled = benchmark("subjects"), benchmark("scaling_subjects")
    _, updater = subjects.APPLICATIONS[application](16, 1)
    names, stepped = {id(optimizer): name for name, optimizer in updater.get_all_optimizers().items()}, []
    for optimizer in updater.get_all_optimizers().values():
        step = optimizer.update
        optimizer.update = lambda *a, step=step, own=optimizer, **k: (stepped.append(names[id(own)]), step(*a, **k))
    updater.update()
    subject = next(s for s in scaled.SUBJECTS if s.application == application)
    assert stepped == list(scaled.counted(subject).weights)
