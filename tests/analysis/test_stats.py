# SPDX-License-Identifier: Apache-2.0
"""Intervals hold what they promise, checked by simulation and against tables."""

from __future__ import annotations

import math
import random

import pytest

from numabench.analysis import stats


@pytest.mark.parametrize(
    ("n", "low", "high"), [(6, 1, 6), (8, 1, 8), (10, 2, 9), (15, 4, 12), (20, 6, 15), (30, 10, 21)]
)
def test_median_interval_is_the_order_statistics(n: int, low: int, high: int) -> None:
    values = list(range(1, n + 1))
    random.Random(n).shuffle(values)
    assert stats.median_interval(values) == (low, high)


def test_no_interval_below_six() -> None:
    assert stats.median_interval([1, 2, 3, 4, 5]) is None
    assert stats.ratio([1.0] * 5, [2.0] * 5).ci is None


@pytest.mark.parametrize("n", [6, 10])
def test_ratio_interval_covers_the_truth(n: int) -> None:
    rng, hits, rounds = random.Random(11), 0, 300
    for seed in range(rounds):
        a = [1.9 * math.exp(rng.gauss(0, 0.02)) for _ in range(n)]
        b = [math.exp(rng.gauss(0, 0.02)) for _ in range(n)]
        found = stats.ratio(a, b, seed)
        assert found.ci is not None
        hits += found.ci[0] <= 1.9 <= found.ci[1]
    assert hits / rounds > 0.93  # 95 % less three standard errors of 300 rounds would be 0.91


def test_ratio_of_identical_pairs_is_exact() -> None:
    found = stats.ratio([2.0] * 6, [1.0] * 6)
    assert found.value == pytest.approx(2.0)
    assert found.ci is not None
    assert list(found.ci) == pytest.approx([2.0, 2.0])


def test_steady_wants_three_level_groups() -> None:
    assert stats.steady([1.0] * 21)
    assert not stats.steady([1.0] * 20)
    assert not stats.steady([1 + i / 100 for i in range(21)])
    assert not stats.steady([1.0, 1.2] * 11)


def test_drift_is_seen_and_noise_is_not() -> None:
    assert stats.drift_p([float(i) for i in range(12)]) < 0.01
    rng = random.Random(2)
    alarms = sum(stats.drift_p([rng.random() for _ in range(12)]) < 0.01 for _ in range(500))
    assert alarms <= 15


def test_knee_is_the_first_that_is_good_enough() -> None:
    assert stats.knee([1, 2, 4, 8], [[10, 19.2, 20, 20], [10, 19.1, 20, 20.1]]) == 2
