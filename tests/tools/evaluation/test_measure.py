"""Means, deviations and bootstrap intervals."""

import math

import numpy as np
import pytest

from medi2i.tools.evaluation.measure import Summary, summarise


def test_mean_and_deviation():
    summary = summarise([1.0, 2.0, 3.0, 6.0], ["a"] * 4)
    assert (summary.count, summary.mean) == (4, 3.0)
    assert summary.sd == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3))
    assert 1.0 <= summary.low < 3.0 < summary.high <= 6.0


def test_the_same_seed_gives_the_same_interval_and_equal_values_none():
    values = list(np.random.default_rng(1).normal(size=30))
    assert summarise(values, ["a"] * 30, seed=5) == summarise(values, ["a"] * 30, seed=5)
    assert summarise(values, ["a"] * 30, seed=5) != summarise(values, ["a"] * 30, seed=6)
    assert summarise([4.0] * 9, ["a"] * 9) == Summary(9, 4.0, 0.0, 4.0, 4.0)


def test_interval_of_many_slices_is_that_of_the_normal_distribution():
    values = np.random.default_rng(2).normal(10, 2, size=400)
    summary = summarise(values, ["a"] * 400)
    half = 1.96 * summary.sd / 20
    assert summary.low == pytest.approx(summary.mean - half, abs=0.1 * half)
    assert summary.high == pytest.approx(summary.mean + half, abs=0.1 * half)


def test_series_that_differ_widen_the_interval():
    values = [1.0] * 50 + [3.0] * 50
    one = summarise(values, ["a"] * 100)
    two = summarise(values, ["a"] * 50 + ["b"] * 50)
    assert one.high - one.low < 0.5
    assert (two.low, two.high) == (1.0, 3.0)  # both drawn from one series happens half the time


def test_what_is_not_a_number_is_left_out_and_infinity_is_told():
    assert summarise([math.nan, 2.0, 4.0], ["a"] * 3).mean == 3.0
    assert summarise([math.nan], ["a"]).count == 0
    infinite = summarise([math.inf, 2.0], ["a"] * 2)
    assert infinite.mean == math.inf and math.isnan(infinite.sd)
    single = summarise([2.0], ["a"])
    assert single.mean == 2.0 and math.isnan(single.low)
