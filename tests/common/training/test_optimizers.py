"""Optimizers against their papers' formulas, written here once more in NumPy with float64."""

import numpy as np
import pytest

from medi2i.common.choices import OPTIMIZERS
from medi2i.common.compat import chainer
from medi2i.common.training.optimizers import RateControl, make_optimizer, orthogonal

STEPS = 5
RATE = 0.01
START = np.array([0.5, -1.0, 2.0, 0.01])


def gradients():
    """One gradient a step: large, tiny, of changing sign."""
    return np.random.RandomState(1).randn(STEPS, 4) * np.array([1, 1e-3, 30, 0.1])


LOSSES = [3.0, 2.0, 2.5, 2.499, 0.1]


def momentum(decay=lambda p: 0):
    # Polyak, 1964: v = mu v - lr g; p = p + v.
    p, v = START.copy(), 0
    for g in gradients():
        v = 0.9 * v - RATE * (g + decay(p))
        p = p + v
    return p


def nesterov():
    # Chainer's form, which the released codes ran: the paper (Bengio et al., 2013) has the v of the step before.
    p, v = START.copy(), 0
    for g in gradients():
        v = 0.9 * v - RATE * g
        p = p + 0.9**2 * v - (1 + 0.9) * RATE * g
    return p


def adagrad():
    # Duchi et al., 2011.
    p, h = START.copy(), 0
    for g in gradients():
        h = h + g * g
        p = p - RATE * g / (np.sqrt(h) + 1e-8)
    return p


def rmsprop():
    # Tieleman and Hinton, 2012.
    p, h = START.copy(), 0
    for g in gradients():
        h = 0.99 * h + 0.01 * g * g
        p = p - RATE * g / (np.sqrt(h) + 1e-8)
    return p


def adadelta():
    # Zeiler, 2012, algorithm 1; the released codes hand the learning rate over as its rho.
    p, square, moved = START.copy(), 0, 0
    for g in gradients():
        square = RATE * square + (1 - RATE) * g * g
        step = -np.sqrt((moved + 1e-6) / (square + 1e-6)) * g
        moved = RATE * moved + (1 - RATE) * step * step
        p = p + step
    return p


def adam(decay=0.0, eta=1.0):
    # Kingma and Ba, 2015, the efficient form of section 2; the decay of Loshchilov and Hutter, 2019.
    p, m, v = START.copy(), 0, 0
    for t, g in enumerate(gradients(), start=1):
        m, v = 0.1 * m + 0.9 * g, 0.999 * v + 0.001 * g * g
        alpha = RATE * np.sqrt(1 - 0.999**t) / (1 - 0.1**t)
        p = p - eta * (alpha * m / (np.sqrt(v) + 1e-8) + decay * p)
    return p


def adabound(decay=0.0):
    # Luo et al., 2019: the step per element is held between bounds that meet at the final rate 0.1.
    p, m, v = START.copy(), 0, 0
    for t, g in enumerate(gradients(), start=1):
        m, v = 0.1 * m + 0.9 * g, 0.999 * v + 0.001 * g * g
        alpha = RATE * np.sqrt(1 - 0.999**t) / (1 - 0.1**t)
        lower, upper = 0.1 * (1 - 1 / (0.001 * t + 1)), 0.1 * (1 + 1 / (0.001 * t))
        p = p - np.clip(alpha / (np.sqrt(v) + 1e-8), lower, upper) * m - decay * p
    return p


def eve(decay=0.0):
    # Koushik and Hayashi, arXiv 1611.01505v3, algorithm 1 with f* = 0, c = 10, beta3 = 0.999.
    p, m, v, d, last = START.copy(), 0, 0, 1.0, None
    for t, (g, loss) in enumerate(zip(gradients(), LOSSES, strict=True), start=1):
        if t > 1:
            d = 0.999 * d + 0.001 * min(max(abs(loss - last) / min(loss, last), 0.1), 10)
        last = loss
        m, v = 0.1 * m + 0.9 * g, 0.999 * v + 0.001 * g * g
        p = p - RATE / d * (m / (1 - 0.1**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) - decay * p
    return p


def one_parameter():
    link = chainer.Link()
    with link.init_scope():
        link.p = chainer.Parameter(START.astype(np.float32))
    return link


def step(optimizer, gradient, loss):
    optimizer.target.p.grad = gradient.astype(np.float32)
    if type(optimizer).__name__ == "Eve":
        optimizer.update(loss=np.array(loss, np.float32))
    else:
        optimizer.update()


def run(name, weight_decay=0.0, norm="l2"):
    optimizer = make_optimizer(name, one_parameter(), RATE, weight_decay, norm)
    for gradient, loss in zip(gradients(), LOSSES, strict=True):
        step(optimizer, gradient, loss)
    return optimizer.target.p.array


@pytest.mark.parametrize(
    "name, expected",
    [
        ("SGD", momentum),
        ("Momentum", momentum),
        ("NesterovAG", nesterov),
        ("AdaGrad", adagrad),
        ("RMSprop", rmsprop),
        ("AdaDelta", adadelta),
        ("Adam", adam),
        ("AdaBound", adabound),
        ("Eve", eve),
        ("Muon", adam),  # of what has one axis
    ],
)
def test_formula(name, expected):
    assert run(name) == pytest.approx(expected(), rel=1e-5, abs=1e-6)


def test_every_option_has_an_optimizer():
    for name in OPTIMIZERS:
        make_optimizer(name, one_parameter(), RATE, 0.0)


@pytest.mark.parametrize("shape", [(3, 2, 3, 3), (5, 2), (1, 4)])
def test_muon_moves_a_matrix_by_the_singular_vectors_of_its_momentum(shape):
    link = chainer.Link()
    with link.init_scope():
        link.W = chainer.Parameter(np.random.RandomState(0).randn(*shape).astype(np.float32))
    expected, m, rows = link.W.array.astype(np.float64), 0, shape[0]
    optimizer = make_optimizer("Muon", link, RATE, 0.1)
    for scale in (1, 1e-3, 30):
        gradient = (scale * np.random.RandomState(1).randn(*shape)).astype(np.float64)
        link.W.grad = gradient.astype(np.float32)
        optimizer.update()
        if scale == 30:  # is longer than the momentum
            gradient *= np.linalg.norm(m) / np.linalg.norm(gradient)
        m = 0.95 * m + gradient
        u, s, v = np.linalg.svd((gradient + 0.95 * m).reshape(rows, -1), full_matrices=False)
        s /= np.sqrt((s**2).sum())
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        expected -= RATE * 0.2 * np.sqrt(max(rows, expected.size // rows)) * (u * s @ v).reshape(shape) + 0.1 * expected
    assert link.W.array == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_one_gradient_that_is_far_too_long_does_not_turn_muon_for_long():
    """Ten steps after it those of a matrix and of a bias are as before, as they would be without it."""
    moved = {}
    for outlier in (1, 1e6):
        link = chainer.Link()
        with link.init_scope():
            link.W, link.b = (chainer.Parameter(np.zeros(shape, np.float32)) for shape in ((4, 6), (5,)))
        optimizer, rng = make_optimizer("Muon", link, RATE, 0), np.random.RandomState(4)
        for step in range(60):
            length = outlier if step == 30 else 1
            link.W.grad = (length * (1 + rng.randn(4, 6))).astype(np.float32)
            link.b.grad = (length * (1 + rng.randn(5))).astype(np.float32)
            if step == 50:
                before = link.W.array.copy(), link.b.array.copy()
            optimizer.update()
        moved[outlier] = [(p.array - b).mean() for p, b in zip((link.W, link.b), before, strict=True)]
    np.testing.assert_allclose(moved[1e6], moved[1], rtol=0.3)
    assert max(moved[1]) < 0


def test_what_is_nearly_orthogonal_has_singular_values_near_1():
    for scale in (1e-6, 1, 1e6):
        for shape in ((32, 288), (288, 32), (1, 9)):
            matrix = (scale * np.random.RandomState(2).randn(*shape)).astype(np.float32)
            found = np.linalg.svd(orthogonal(matrix), compute_uv=False)
            assert found.min() > 0.68 and found.max() < 1.21
    # Those from a fiftieth of the norm on are there.
    values = np.geomspace(0.02, 1, 500)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert values.min() > 0.68 and values.max() < 1.21


@pytest.mark.parametrize("name, expected", [("Adam", adam), ("AdaBound", adabound), ("Eve", eve), ("Muon", adam)])
def test_weight_decay_of_the_adam_family_is_decoupled(name, expected):
    for norm in ("l1", "l2"):  # the norm is the others'
        assert run(name, 0.1, norm) == pytest.approx(expected(0.1), rel=1e-5, abs=1e-6)


def test_weight_decay_of_the_others_joins_the_gradient():
    assert run("SGD", 0.1) == pytest.approx(momentum(lambda p: 0.1 * p), rel=1e-5, abs=1e-6)
    assert run("SGD", 0.1, "l1") == pytest.approx(momentum(lambda p: 0.1 * np.sign(p)), rel=1e-5, abs=1e-6)


def test_eve_slows_down_while_the_loss_jumps_and_counts_a_loss_below_its_least_as_a_jump():
    optimizer = make_optimizer("Eve", one_parameter(), RATE, 0.0)
    for loss in (1.0, 1000.0, -5.0):
        step(optimizer, gradients()[0], loss)
    feedback = 1.0
    for _ in range(2):
        feedback = 0.999 * feedback + 0.001 * 10
    assert float(optimizer.d_tilde) == pytest.approx(feedback)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_saved_and_restored_exactly_and_without_pickle(tmp_path, name):
    optimizer = make_optimizer(name, one_parameter(), RATE, 1e-3)
    for i in range(2):
        step(optimizer, gradients()[i], LOSSES[i])
    chainer.serializers.save_npz(str(tmp_path / "opt.npz"), optimizer)
    assert all(a.dtype != object for a in np.load(tmp_path / "opt.npz", allow_pickle=False).values())
    other = make_optimizer(name, one_parameter(), RATE, 1e-3)
    other.target.p.array[:] = optimizer.target.p.array
    chainer.serializers.load_npz(str(tmp_path / "opt.npz"), other)
    for i in range(2, STEPS):
        step(optimizer, gradients()[i], LOSSES[i])
        step(other, gradients()[i], LOSSES[i])
    assert (other.target.p.array == optimizer.target.p.array).all()


def test_the_state_of_eve_has_the_released_names(tmp_path):
    optimizer = make_optimizer("Eve", one_parameter(), RATE, 0.0)
    step(optimizer, gradients()[0], 3.0)
    chainer.serializers.save_npz(str(tmp_path / "opt.npz"), optimizer)
    with np.load(tmp_path / "opt.npz") as file:
        assert {"t", "epoch", "d_tilde", "f", "p/m", "p/v", "p/t"} == set(file.files)
        assert float(file["d_tilde"]) == 1 and float(file["f"]) == 3


@pytest.mark.parametrize("name", ["Adam", "AdaBound", "Eve", "Muon"])
def test_float16_parameters_and_small_gradients(name):
    link = chainer.Link()
    with link.init_scope():
        link.p = chainer.Parameter(np.full(3, 0.25, np.float16))
    optimizer = make_optimizer(name, link, RATE, 0.0)
    link.p.grad = np.array([1e-4, 0, -1e-4], np.float16)
    optimizer.update(**({"loss": np.ones(())} if name == "Eve" else {}))
    assert link.p.array.dtype == np.float16
    assert link.p.array == pytest.approx([0.24, 0.25, 0.26], rel=1e-2)


def test_float16_parameters_keep_a_float32_copy():
    link = chainer.Link()
    with link.init_scope():
        link.p = chainer.Parameter(np.ones(1, np.float16))
    optimizer = make_optimizer("SGD", link, 1.0, 0.0)
    optimizer.momentum = 0.0
    for _ in range(100):  # a step of 1e-4 alone is lost in float16 near 1
        link.p.grad = np.full(1, 1e-4, np.float16)
        optimizer.update()
    assert float(link.p.array[0]) == pytest.approx(0.99, abs=1e-3)


@pytest.mark.parametrize("name", ["Adam", "AdaBound", "Eve", "Momentum", "RMSprop"])
def test_factor_scales_every_step(name):
    def moved(factor):
        optimizer = make_optimizer(name, one_parameter(), RATE, 0.0)
        control = RateControl(optimizer)
        control.set_factor(factor)
        assert control.rate == pytest.approx(RATE * factor)
        step(optimizer, gradients()[0], 1.0)
        return optimizer.target.p.array - START

    assert moved(0.25) == pytest.approx(moved(1) / 4, rel=1e-3, abs=1e-7)
    assert abs(moved(0)).max() < 1e-9 + np.finfo(np.float32).eps


def test_adadelta_has_no_rate():
    control = RateControl(make_optimizer("AdaDelta", one_parameter(), RATE, 0.0))
    control.set_factor(0.5)
    assert np.isnan(control.rate)
    with pytest.raises(ValueError, match="AdaDelta"):
        control.slow_down(control.optimizer.target, 0.5)


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_a_pretrained_part_learns_more_slowly(name):
    link = chainer.Chain()
    with link.init_scope():
        link.base, link.slow, link.rest = one_parameter(), one_parameter(), one_parameter()
    optimizer = make_optimizer(name, link, RATE, 0.0)
    control = RateControl(optimizer)
    control.slow_down(link.base, 0)
    control.slow_down(link.slow, 0.1)
    control.set_factor(0.5)
    for child in link.children():
        child.p.grad = gradients()[0].astype(np.float32)
    optimizer.update()
    base, slow, rest = (child.p.array - START.astype(np.float32) for child in (link.base, link.slow, link.rest))
    assert (base == 0).all()
    assert slow == pytest.approx(rest * 0.1, rel=1e-2, abs=1e-6)
    assert abs(rest).min() > 1e-6
