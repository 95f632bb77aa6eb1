# SPDX-License-Identifier: Apache-2.0
"""How often the intervals cover the truth and the tests err, by simulation with fixed seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from numabench.analysis import stats

RUNS = 1200


def slack(share: float, runs: int = RUNS) -> float:
    """Four standard errors of a simulated share, and half a per cent because the claims are rounded."""
    return 4 * math.sqrt(share * (1 - share) / runs) + 0.005


def draw(sigma: float, n: int, rng: np.random.Generator) -> list[float]:
    """Log ratios of mean 0, 2 % wide: normal for sigma 0, else lognormal of this shape."""
    if not sigma:
        return [float(x) for x in rng.normal(0, 0.02, n)]
    return [0.02 * (math.exp(x) - math.exp(sigma**2 / 2)) for x in rng.normal(0, sigma, n)]


def covers(ci: tuple[float, float] | None, truth: float) -> bool:
    return ci is not None and ci[0] <= truth <= ci[1]


# Skewness costs coverage: shape 0.75 (skewness 3.3) gives the figures the method names, shape 1 (6.2) less.
@pytest.mark.parametrize(
    ("sigma", "n", "claimed"),
    [
        (0.0, 6, 0.97),
        (0.0, 10, 0.97),
        (0.0, 20, 0.96),
        (0.75, 6, 0.92),
        (0.75, 10, 0.94),
        (0.75, 20, 0.94),
        (1.0, 6, 0.90),
        (1.0, 10, 0.92),
        (1.0, 20, 0.93),
    ],
)
def test_the_interval_of_a_ratio_covers_as_often_as_claimed(sigma: float, n: int, claimed: float) -> None:
    rng = np.random.default_rng([n, int(sigma * 100)])
    found = [stats.ratio([math.exp(x) for x in draw(sigma, n, rng)], [1.0] * n).ci for _ in range(RUNS)]
    assert abs(sum(covers(ci, 1.0) for ci in found) / RUNS - claimed) < slack(claimed)


@pytest.mark.parametrize("sigma", [0.0, 1.0])
@pytest.mark.parametrize(("n", "claimed"), [(6, 0.969), (8, 0.992), (10, 0.979), (15, 0.965), (20, 0.959)])
def test_the_interval_of_a_median_covers_whatever_the_noise(sigma: float, n: int, claimed: float) -> None:
    rng = np.random.default_rng([n, int(sigma)])
    truth = 0.02 * (1 - math.exp(sigma**2 / 2)) if sigma else 0.0
    found = [stats.median_interval(draw(sigma, n, rng)) for _ in range(RUNS)]
    assert abs(sum(covers(ci, truth) for ci in found) / RUNS - claimed) < slack(claimed)


@pytest.mark.parametrize("n", [6, 10, 20])
def test_a_change_of_the_detectable_size_is_found_four_times_in_five(n: int) -> None:
    """By Student's t, for which it is computed; the hull is wider and finds it a little more rarely."""
    rng = np.random.default_rng(n)
    shift = 0.02 * stats.detectable(n) / math.sqrt(n)
    student = hull = 0
    for _ in range(RUNS):
        logs = [x + shift for x in draw(0.0, n, rng)]
        error = float(np.std(logs, ddof=1)) / math.sqrt(n)
        student += float(np.mean(logs)) - stats.student_t(0.975, n - 1) * error > 0
        ci = stats.ratio([math.exp(x) for x in logs], [1.0] * n).ci
        hull += ci is not None and ci[0] > 1
    assert abs(student / RUNS - 0.8) < slack(0.8)
    assert 0.6 < hull / RUNS <= student / RUNS


def test_looking_at_the_checkpoints_keeps_the_coverage() -> None:
    """Stop at the first checkpoint with half-widths of at most 2 %: the interval then shown still covers."""
    rng = np.random.default_rng(11)
    covered, early = 0, 0
    for _ in range(RUNS):
        values = [1 + float(x) for x in rng.normal(0, 0.02, stats.CHECKPOINTS[-1])]
        n, ci = stopped(values, 0.02)
        early += n < stats.CHECKPOINTS[-1]
        covered += covers(ci, 1.0)
    assert covered / RUNS > 0.94 - 4 * math.sqrt(0.94 * 0.06 / RUNS)
    assert early > RUNS / 2


def stopped(values: Sequence[float], target: float) -> tuple[int, tuple[float, float] | None]:
    for n in range(1, len(values) + 1):
        ci = stats.median_interval(values[:n])
        if stats.may_stop(n, [stats.half_width(ci, 1.0)], target):
            return n, ci
    return len(values), stats.median_interval(values)


@pytest.mark.parametrize("n", [6, 10, 20])
def test_drift_is_seldom_claimed_of_noise_and_found_where_it_is(n: int) -> None:
    rng = np.random.default_rng(n)
    false = sum(stats.drift_p([float(x) for x in rng.normal(0, 1, n)]) < 0.01 for _ in range(RUNS))
    true = sum(stats.drift_p([i + float(x) for i, x in enumerate(rng.normal(0, 0.3, n))]) < 0.01 for _ in range(RUNS))
    assert false / RUNS < 0.01 + 4 * math.sqrt(0.01 * 0.99 / RUNS)
    assert true / RUNS > 0.5


def test_counted_and_approximated_rank_probabilities_meet() -> None:
    for n in (stats.EXACT_RANKS, stats.EXACT_RANKS + 1):
        rng = np.random.default_rng(n)
        false = sum(stats.drift_p([float(x) for x in rng.normal(0, 1, n)]) < 0.05 for _ in range(RUNS))
        assert abs(false / RUNS - 0.05) < slack(0.05)


def test_variance_components_find_what_was_put_in() -> None:
    rng = np.random.default_rng(4)
    found = []
    for _ in range(200):
        levels = rng.normal(100, 3, 10)
        found.append(stats.between_within([[float(x) for x in rng.normal(level, 2, 32)] for level in levels]))
    between, within = (float(x) for x in np.sqrt(np.mean(np.square(found), axis=0)))
    assert between == pytest.approx(0.03, rel=0.1)
    assert within == pytest.approx(0.02, rel=0.03)


def test_steady_noise_passes_and_a_ramp_does_not() -> None:
    rng = np.random.default_rng(8)
    calm = [stats.steady([float(x) for x in rng.normal(100, 1, 21)]) for _ in range(RUNS)]
    ramp = [stats.steady([float(x) + 0.2 * i for i, x in enumerate(rng.normal(100, 1, 21))]) for _ in range(RUNS)]
    assert abs(sum(calm) / RUNS - 0.95) < slack(0.95)
    assert sum(ramp) / RUNS < 0.1


def test_the_interval_of_a_knee_holds_the_knee() -> None:
    counts = (1, 2, 4, 6, 8, 12, 16)
    truth = [min(10.0 * n, 80.0) for n in counts]  # 8 is the first at 95 % of the best
    rng = np.random.default_rng(6)
    found = []
    for _ in range(60):
        passes = [
            [x * float(e) for x, e in zip(truth, rng.normal(1, 0.02, len(counts)), strict=True)] for _ in range(10)
        ]
        found.append(stats.knee_interval(counts, passes))
    assert sum(covers(k.ci, 8) for k in found) >= 0.9 * len(found)
    assert sum(k.value == 8 for k in found) >= 0.8 * len(found)
    assert all(k.safe is None or k.safe >= 8 for k in found)
    assert all(k.ci != (counts[0], counts[-1]) for k in found)
