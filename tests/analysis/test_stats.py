# SPDX-License-Identifier: Apache-2.0
"""Intervals, gates and tests against hand-computed and tabulated figures, and properties of any data."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numabench.analysis import stats

figures = st.floats(1.0, 1e6)
some = st.lists(figures, min_size=6, max_size=24)


@pytest.mark.parametrize(
    ("n", "low", "high"), [(6, 1, 6), (8, 1, 8), (10, 2, 9), (15, 4, 12), (20, 6, 15), (30, 10, 21)]
)
def test_the_median_interval_is_the_tabulated_order_statistics(n: int, low: int, high: int) -> None:
    values = [float(x) for x in range(1, n + 1)]
    random.Random(n).shuffle(values)
    assert stats.median_interval(values) == (low, high)


@pytest.mark.parametrize("n", range(6))
def test_no_interval_below_six_values(n: int) -> None:
    assert stats.median_interval([1.0] * n) is None
    if n:
        found = stats.ratio([2.0] * n, [1.0] * n)
        assert found.ci is None
        assert math.isinf(found.mde)
        assert found.value == pytest.approx(2.0)


@given(some, st.randoms(use_true_random=False), st.integers(-10, 10))
def test_the_median_interval_scales_and_ignores_order(values: list[float], shuffle: random.Random, power: int) -> None:
    ci = stats.median_interval(values)
    assert ci is not None
    mixed = shuffle.sample(values, len(values))
    scale = 2.0**power  # exact in binary
    assert stats.median_interval([x * scale for x in mixed]) == (ci[0] * scale, ci[1] * scale)


@given(st.lists(st.tuples(figures, figures), min_size=6, max_size=12), st.randoms(use_true_random=False))
def test_a_ratio_ignores_scale_and_the_order_of_pairs(pairs: list[tuple[float, float]], shuffle: random.Random) -> None:
    a, b = zip(*pairs, strict=True)
    found = stats.ratio(a, b)
    assert found.value == pytest.approx(math.exp(sum(math.log(x / y) for x, y in pairs) / len(pairs)))
    mixed_a, mixed_b = zip(*shuffle.sample(pairs, len(pairs)), strict=True)
    assert stats.ratio(mixed_a, mixed_b) == found
    scaled = stats.ratio([8 * x for x in a], [2 * y for y in b])
    assert scaled.value == pytest.approx(4 * found.value)
    assert scaled.ci is not None
    assert found.ci is not None
    # A spread near the rounding error of the logarithms differs with the scale.
    assert scaled.ci[0] == pytest.approx(4 * found.ci[0], rel=1e-6)
    assert scaled.ci[1] == pytest.approx(4 * found.ci[1], rel=1e-6)
    assert found.ci[0] <= found.value * (1 + 1e-12)
    assert found.value <= found.ci[1] * (1 + 1e-12)


def test_a_ratio_is_at_least_as_wide_as_students_interval() -> None:
    # Logs 0.1, ..., 0.6: mean 0.35, sd sqrt(0.035), t(0.975, 5) = 2.5706.
    found = stats.ratio([math.exp(0.1 * i) for i in range(1, 7)], [1.0] * 6)
    error = math.sqrt(0.035 / 6)
    assert found.value == pytest.approx(math.exp(0.35))
    assert found.ci is not None
    assert found.ci[0] <= math.exp(0.35 - 2.5705 * error)
    assert found.ci[1] >= math.exp(0.35 + 2.5705 * error)
    assert found.mde == pytest.approx(3.5139 * error, rel=1e-4)


def test_a_ratio_of_equal_pairs_has_no_width() -> None:
    found = stats.ratio([3.0] * 7, [2.0] * 7)
    assert found.value == pytest.approx(1.5)
    assert found.ci == (found.value, found.value)
    assert found.mde == 0.0


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([0.0] * 6, [1.0] * 6), ([1.0], [-1.0])])
def test_a_ratio_of_nonsense_is_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match=r"pair|positive|argument"):
        stats.ratio(a, b)


@pytest.mark.parametrize(
    ("cv", "n", "percent"),
    [
        (0.01, 6, 2.0),
        (0.02, 6, 4.1),
        (0.05, 6, 10.1),
        (0.01, 10, 1.4),
        (0.02, 10, 2.8),
        (0.05, 10, 7.0),
        (0.01, 20, 0.9),
        (0.02, 20, 1.9),
        (0.05, 20, 4.7),
    ],
)
def test_the_detectable_change_is_the_tabulated_one(cv: float, n: int, percent: float) -> None:
    assert 100 * stats.detectable(n) * cv * math.sqrt(2 / n) == pytest.approx(percent, abs=0.051)


# Standard table of Student's t, two-sided 95 %.
@pytest.mark.parametrize(
    ("df", "t"), [(1, 12.706), (2, 4.303), (5, 2.571), (9, 2.262), (19, 2.093), (30, 2.042), (120, 1.980)]
)
def test_students_t_is_the_tabulated_one(df: int, t: float) -> None:
    assert stats.student_t(0.975, df) == pytest.approx(t, abs=5e-4)
    assert stats.student_cdf(-t, df) == pytest.approx(0.025, abs=2e-5)


def test_half_width_is_a_share_and_infinite_without_an_interval() -> None:
    assert stats.half_width((98.0, 102.0), 100.0) == pytest.approx(0.02)
    assert stats.half_width((-102.0, -98.0), -100.0) == pytest.approx(0.02)
    assert math.isinf(stats.half_width(None, 100.0))


def test_a_run_stops_only_at_checkpoints_when_all_are_tight() -> None:
    assert [n for n in range(31) if stats.may_stop(n, [0.01, 0.02], 0.02)] == [6, 8, 10, 15, 20, 30]
    assert not stats.may_stop(10, [0.01, 0.021], 0.02)
    assert not stats.may_stop(10, [math.inf], 0.02)


def test_variance_components_by_hand() -> None:
    # Means 10 and 14, grand mean 12; within (2 + 2) / 2 = 2; between (16 - 2) / 2 = 7.
    between, within = stats.between_within([[9.0, 11.0], [13.0, 15.0]])
    assert between == pytest.approx(math.sqrt(7) / 12)
    assert within == pytest.approx(math.sqrt(2) / 12)
    assert stats.allocation_dependent(between, within)
    # Equal means: nothing between, however much within.
    assert stats.between_within([[9.0, 11.0], [11.0, 9.0]]) == pytest.approx((0.0, math.sqrt(2) / 10))
    assert stats.between_within([]) == (0.0, 0.0)
    assert stats.between_within([[5.0]]) == (0.0, 0.0)
    assert stats.between_within([[5.0], [7.0]]) == pytest.approx((math.sqrt(2) / 6, 0.0))


@pytest.mark.parametrize(
    ("between", "within", "expected"), [(0.03, 0.02, True), (0.019, 0.001, False), (0.03, 0.04, False)]
)
def test_allocation_dependence_needs_size_and_share(between: float, within: float, expected: bool) -> None:
    assert stats.allocation_dependent(between, within) is expected


@given(st.lists(st.lists(figures, min_size=2, max_size=6), min_size=2, max_size=6), st.floats(1e-3, 1e3))
def test_variance_components_ignore_scale(passes: list[list[float]], scale: float) -> None:
    expected = stats.between_within(passes)
    found = stats.between_within([[x * scale for x in windows] for windows in passes])
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_modified_z_by_hand() -> None:
    # Median 3, absolute deviations 2 1 0 1 97: their median is 1.
    assert stats.modified_z([1.0, 2.0, 3.0, 4.0, 100.0]) == pytest.approx((-1.349, -0.6745, 0.0, 0.6745, 65.4265))
    # More than half are equal: the mean deviation, 7 / 7, stands in.
    assert stats.modified_z([5.0] * 6 + [12.0])[-1] == pytest.approx(7 / 1.253314)
    assert stats.modified_z([5.0] * 6) == (0.0,) * 6
    assert stats.modified_z([]) == ()


def test_steady_needs_21_windows_and_every_gate() -> None:
    noise = [100.0, 100.5, 99.5, 100.2, 99.8, 100.4, 99.6]
    assert not stats.steady(noise * 2)
    assert stats.steady(noise * 3)
    assert stats.steady([500.0] * 9 + noise * 3)  # what came before does not matter
    scattered = [*noise[:5], 80.0, 120.0]
    assert not stats.steady(noise * 2 + scattered)
    assert not stats.steady([x * 1.04 for x in noise] + noise * 2)
    slope = [x + 0.04 * i for i, x in enumerate(noise * 3)]  # 0.8 % over all: only the slope gate sees it
    assert not stats.steady(slope)
    assert not stats.steady(slope[::-1])
    assert stats.steady([7.0] * 21)


def test_a_perfect_order_of_six_has_probability_two_in_720() -> None:
    assert stats.drift_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == pytest.approx(2 / 720)
    assert stats.drift_p([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]) == pytest.approx(2 / 720)
    # One neighbouring pair swapped: 5 such orders and the perfect one, on either side.
    assert stats.drift_p([1.0, 2.0, 3.0, 4.0, 6.0, 5.0]) == pytest.approx(12 / 720)
    assert stats.drift_p([1.0, 2.0, 3.0, 6.0, 5.0, 4.0], [1, 2, 3, 6, 5, 4]) == pytest.approx(2 / 720)
    assert stats.drift_p([1.0] * 8) == 1.0
    assert stats.drift_p([1.0, 2.0, 3.0, 4.0, 5.0]) == 1.0
    with pytest.raises(ValueError, match="as many positions"):
        stats.drift_p([1.0] * 6, [1.0])


@given(some)
def test_drift_is_the_same_either_way_and_a_probability(values: list[float]) -> None:
    p = stats.drift_p(values)
    assert 0 <= p <= 1
    assert stats.drift_p(values[::-1]) == pytest.approx(p, abs=1e-9)
    assert stats.drift_p([math.log(x) for x in values]) == pytest.approx(p, abs=1e-9) or len(
        {math.log(x) for x in values}
    ) < len(set(values))


def test_the_knee_of_a_clean_curve() -> None:
    counts = (1, 2, 4, 8, 16)
    curve = [10.0, 20.0, 39.0, 40.0, 40.1]
    passes = [[x * (1 + 0.001 * p) for x in curve] for p in range(30)]
    assert stats.knee(counts, passes) == 4
    assert stats.knee_interval(counts, passes) == stats.Knee(4, (4, 4), 4, 30)
    assert stats.knee_interval(counts, passes[:10]) == stats.Knee(4, (2, 8), 4, 10)  # widened below 30 passes
    assert stats.knee_interval(counts, passes[:5]) == stats.Knee(4, None, None, 5)


def test_an_unsure_knee_is_not_called_safe() -> None:
    rng = random.Random(2)
    counts = (1, 2, 4, 8)
    passes = [[10.0, 20.0, 38.0 * rng.gauss(1, 0.02), 40.0 * rng.gauss(1, 0.02)] for _ in range(30)]
    found = stats.knee_interval(counts, passes)
    assert found.ci == (4, 8)
    assert found.safe == 8


def test_importing_loads_no_numpy() -> None:
    code = "import sys, numabench.analysis.stats; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
