# SPDX-License-Identifier: Apache-2.0
"""Percentiles say nothing that the sample does not carry, and a stall is not hidden."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest

from numabench.analysis import tails


def test_samples_that_percentiles_need() -> None:
    assert [tails.needed(share) for share in (0.5, 0.9, 0.95, 0.99, 0.999)] == [5, 29, 59, 299, 2995]
    assert [tails.needed_for_bound(0.99, over) for over in (0, 1, 2, 5)] == [459, 662, 838, 1307]
    assert [tails.needed_for_bound(0.95, over) for over in (0, 1, 2, 5)] == [90, 130, 165, 259]
    assert [tails.needed_for_bound(0.9, over) for over in (0, 1, 2, 5)] == [44, 64, 81, 127]


def test_too_few_are_named() -> None:
    found = tails.quantile(list(range(298)), 0.99)
    assert found.value is None
    assert found.text() == "n too small (need 299)"
    assert tails.quantile(list(range(299)), 0.99).value == 296


@pytest.mark.parametrize(("share", "n"), [(0.5, 40), (0.95, 200), (0.99, 700)])
def test_intervals_cover(share: float, n: int) -> None:
    """The true percentile of an exponential lies inside in at least 95 % of runs, but for three standard errors."""
    draw, truth, runs = random.Random(5), -math.log(1 - share), 1500
    inside = 0
    for _ in range(runs):
        found = tails.quantile([draw.expovariate(1) for _ in range(n)], share)
        assert found.ci is not None
        inside += found.ci[0] <= truth <= found.ci[1]
    assert inside / runs >= 0.95 - 3 * (0.95 * 0.05 / runs) ** 0.5


def test_a_bound_is_held_broken_or_open() -> None:
    assert tails.holds([1.0] * 459, 2.0) is True
    assert tails.holds([1.0] * 458, 2.0) is None
    assert tails.holds([1.0] * 660 + [3.0], 2.0) is None
    assert tails.holds([1.0] * 661 + [3.0], 2.0) is True
    assert tails.holds([1.0] * 400 + [3.0] * 20, 2.0) is False
    assert tails.holds([], 2.0) is None


def test_over_runs_the_wider_interval_counts() -> None:
    draw = random.Random(2)
    runs = [tails.quantile([draw.expovariate(1) for _ in range(400)], 0.95) for _ in range(6)]
    value, ci = tails.wider(runs)
    assert value is not None
    assert ci is not None
    assert ci[0] <= min(q.value or 0 for q in runs)
    assert ci[1] >= max(q.value or 0 for q in runs)
    assert tails.wider([*runs, tails.quantile([1.0], 0.95)]) == (None, None)
    assert tails.wider(runs[:3])[1] is None


def test_poisson_schedule_is_seeded_and_right() -> None:
    times = tails.arrivals(1000.0, 20000, seed=3)
    assert times == tails.arrivals(1000.0, 20000, seed=3)
    assert times != tails.arrivals(1000.0, 20000, seed=4)
    assert times == sorted(times)
    gaps = [b - a for a, b in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1e6, rel=0.03)
    assert (sum((g - mean) ** 2 for g in gaps) / len(gaps)) ** 0.5 == pytest.approx(mean, rel=0.05)
    even = tails.arrivals(1000.0, 5, seed=1, kind="constant")
    assert even == [1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000]


def test_queue_waits_in_line() -> None:
    assert tails.queue([0, 1, 2], [5, 5, 5]) == [5, 9, 13]
    assert tails.queue([0, 1, 2], [5, 5, 5], servers=2) == [5, 5, 8]
    assert tails.queue([0, 10, 20], [5, 5, 5]) == [5, 5, 5]


def test_mean_of_a_simulated_queue_is_the_known_one() -> None:
    """M/D/1: mean wait = rho / (2 (1 - rho)) services (Pollaczek-Khinchine)."""
    rho, n = 0.7, 60000
    latencies = tails.queue([t / 1e9 for t in tails.arrivals(rho, n, seed=8)], [1.0] * n)
    assert sum(latencies) / n == pytest.approx(1 + rho / (2 * (1 - rho)), rel=0.05)


def test_an_injected_stall_is_seen_by_the_open_loop_only() -> None:
    """100 requests a second of 1 ms; one takes 2 s. 200 arrive meanwhile: a closed loop sends none of them."""
    n = 2000
    service = [1e6] * n
    service[800] = 2e9
    closed = tails.quantile(service, 0.99)
    opened = tails.quantile(tails.queue([float(t) for t in tails.arrivals(100.0, n, seed=1)], service), 0.99)
    assert closed.value == 1e6
    assert opened.value is not None
    assert opened.value > 1e9


def test_late_generators_and_unsettled_runs() -> None:
    assert not tails.late([1.0] * 100, [100.0] * 100)
    assert tails.late([1.0] * 90 + [50.0] * 10, [100.0] * 100)
    assert tails.late([], [1.0])
    assert tails.settled([10.0] * 100)
    assert tails.settled([30.0] * 20 + [10.0] * 80)
    assert not tails.settled([10.0 + i for i in range(100)])
    assert not tails.settled([1.0] * 3)


def test_highest_rate_is_found_and_proven() -> None:
    best, tried = tails.highest_rate(lambda rate: rate <= 70, 10, 100, steps=8)
    assert best is not None
    assert 69.5 <= best <= 70
    assert all(answer == (rate <= 70) for rate, answer in tried)
    assert tails.highest_rate(lambda rate: False, 10, 100) == (None, [(10, False)])
    assert tails.highest_rate(lambda rate: None if rate > 50 else True, 10, 100, steps=8)[0] == pytest.approx(50, abs=1)


def test_a_percentile_over_runs_is_that_of_all_their_values() -> None:
    draw = random.Random(3)
    runs = [[draw.lognormvariate(0, 0.3) * (2 if run == 2 else 1) for _ in range(120)] for run in range(8)]
    everything = sorted(value for run in runs for value in run)
    found = tails.pooled([(len(run), sorted(run, reverse=True)[:40]) for run in runs], 0.99)
    assert found.n == 960
    assert found.value == everything[math.ceil(0.99 * 960) - 1]
    alone = tails.quantile(everything, 0.99)
    assert found.ci is not None
    assert alone.ci is not None
    # One slow run in eight: the values are not independent, which the interval of their ranks alone does not know.
    assert found.ci[0] < alone.ci[0]
    assert found.ci[1] >= alone.ci[1]


def test_values_that_were_not_kept_are_not_made_up() -> None:
    fast, slow = [1.0 + i * 1e-4 for i in range(500)], [100.0 + i for i in range(500)]
    runs = [(500, sorted(run, reverse=True)[:5]) for run in (fast, slow)]
    found = tails.pooled(runs, 0.99)
    assert found.value is None
    assert "too few values kept of 1000" in found.text()
    assert tails.unseen_below(runs) == 595.0
    assert tails.pooled([(100, fast[:100]), (100, slow[:100])], 0.99).text() == "n too small (need 299)"
