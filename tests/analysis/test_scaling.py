# SPDX-License-Identifier: Apache-2.0
"""Curves whose truth is known come back, and nothing is said beyond what was measured."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from numabench.analysis import scaling, stats

COUNTS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]


def curve(truth: Callable[[int], float], noise: float = 0.01, passes: int = 10, seed: int = 4) -> list[list[float]]:
    draw = random.Random(seed)
    return [[truth(n) * (1 + draw.gauss(0, noise)) for n in COUNTS] for _ in range(passes)]


def usl(n: int, serial: float, exchange: float) -> float:
    return 10 * n / (1 + serial * (n - 1) + exchange * n * (n - 1))


@pytest.mark.parametrize(
    ("name", "truth", "expected"),
    [
        ("ceiling", lambda n: min(10.0 * n, 95.0), {"rate": 10.0, "limit": 95.0}),
        ("amdahl", lambda n: usl(n, 0.08, 0.0), {"rate": 10.0, "serial": 0.08}),
        ("usl", lambda n: usl(n, 0.05, 0.003), {"rate": 10.0, "serial": 0.05, "exchange": 0.003, "peak": 17.8}),
    ],
)
def test_the_model_that_made_the_data_is_chosen(
    name: str, truth: Callable[[int], float], expected: dict[str, float]
) -> None:
    found = scaling.fit(COUNTS, curve(truth))
    assert found is not None
    assert found.fits[0].name == name
    assert found.chosen is found.fits[0]
    for key, value in expected.items():
        assert found.chosen.parameters[key] == pytest.approx(value, rel=0.12), key
        assert found.chosen.ci is not None
        low, high = found.chosen.ci[key]
        assert low <= value * 1.03, key
        assert high >= value * 0.97, key


def test_a_memory_ceiling_is_no_coherency_story() -> None:
    found = scaling.fit(COUNTS, curve(lambda n: min(10.0 * n, 62.0)))
    assert found is not None
    assert found.chosen is not None
    assert found.chosen.name == "ceiling"
    assert scaling.why_stopped(found, COUNTS, 32, bandwidth=60.0) == "bandwidth"
    assert "not the measured bandwidth" in scaling.why_stopped(found, COUNTS, 32, bandwidth=90.0)
    assert scaling.why_stopped(found, COUNTS, 32) == "a ceiling"


def test_no_limit_beyond_what_was_measured() -> None:
    straight = scaling.fit(COUNTS, curve(lambda n: 10.0 * n))
    assert straight is not None
    assert "limit" not in next(one for one in straight.fits if one.name == "ceiling").parameters
    rising = scaling.fit(COUNTS, curve(lambda n: usl(n, 0.02, 0.0001)))  # its peak is near 99
    assert rising is not None
    assert "peak" not in next(one for one in rising.fits if one.name == "usl").parameters


def test_too_little_is_not_fitted() -> None:
    assert scaling.fit([1, 2, 3, 4, 6], [[1.0, 2, 3, 4, 6]] * 10) is None
    assert scaling.fit(COUNTS, []) is None
    few = scaling.fit(COUNTS, curve(lambda n: 10.0 * n, passes=3))
    assert few is not None
    assert all(one.ci is None for one in few.fits)
    assert "no fit" in scaling.why_stopped(None, [1, 2], 2)


def test_undecided_is_said() -> None:
    """Without bends, a straight line is what all three models make of it."""
    found = scaling.fit(COUNTS, curve(lambda n: 10.0 * n, noise=0.2, passes=2))
    assert found is not None
    if found.chosen is None:
        assert "undecided" in scaling.why_stopped(found, COUNTS, 32)
    assert found.fits[1].aicc >= found.fits[0].aicc


def test_reasons_need_their_measurement() -> None:
    found = scaling.fit(COUNTS, curve(lambda n: usl(n, 0.05, 0.003)))
    assert scaling.why_stopped(found, COUNTS, 32, barrier_share=0.4) == "synchronisation"
    assert "no measured part" in scaling.why_stopped(found, COUNTS, 32, barrier_share=0.01)
    assert "more workers than cores" in scaling.why_stopped(found, COUNTS, 16)


def ratio(low: float, high: float, n: int = 10) -> stats.Ratio:
    return stats.Ratio((low * high) ** 0.5, (low, high), 0.02, n)


def test_one_more_helps_only_if_the_tail_stays() -> None:
    assert scaling.last_step(ratio(1.05, 1.1)) == "helps"
    assert scaling.last_step(ratio(1.05, 1.1), ratio(0.9, 1.2)) == "helps"
    assert scaling.last_step(ratio(1.05, 1.1), ratio(1.1, 1.3)) == "overhead"
    assert scaling.last_step(ratio(0.98, 1.02)) == "no detectable change"
    assert scaling.last_step(ratio(0.8, 0.9)) == "overhead"
    assert scaling.last_step(stats.Ratio(1.2, None, float("inf"), 3)) == "too few passes"


def test_kendall_and_regret() -> None:
    assert scaling.kendall([1, 2, 3, 4], [10, 20, 30, 40]) == 1
    assert scaling.kendall([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert scaling.kendall([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(2 / 3)
    assert scaling.kendall([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / 6**0.5)
    assert scaling.kendall([1, 1], [1, 2]) == 0
    assert scaling.regret([1, 3, 2], [10.0, 8.0, 9.0]) == pytest.approx(0.2)


def test_pareto_keeps_what_nothing_beats() -> None:
    points = [(10.0, 5.0), (8.0, 3.0), (7.0, 4.0), (12.0, 9.0), (10.0, 5.0)]
    assert scaling.pareto(points) == [0, 1, 3, 4]


@pytest.mark.parametrize(
    "truth", [lambda n: min(10.0 * n, 95.0), lambda n: usl(n, 0.08, 0.0), lambda n: usl(n, 0.05, 0.003)]
)
def test_a_fit_predicts_what_it_was_fitted_to(truth: Callable[[int], float]) -> None:
    found = scaling.fit(COUNTS, curve(truth))
    assert found
    assert found.chosen
    assert [scaling.predict(found.chosen, n) for n in COUNTS] == pytest.approx([truth(n) for n in COUNTS], rel=0.02)
