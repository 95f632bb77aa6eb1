# SPDX-License-Identifier: Apache-2.0
"""The rule: best round against the failing bound, median round against passing silently."""

from __future__ import annotations

import math

import pytest

from numabench.analysis.verdict import Better, Limits, Verdict, exit_code, judge, overall, rounds

HIGH = Limits(fail_low=90.0, warn_low=95.0)
LOW = Limits(fail_high=110.0, warn_high=105.0)


@pytest.mark.parametrize(
    ("values", "better", "limits", "verdict"),
    [
        ((100, 100, 100), "high", HIGH, "PASS"),
        ((80, 80, 91), "high", HIGH, "WARN"),
        ((80, 80, 99), "high", HIGH, "WARN"),  # one good round of three does not pass silently
        ((80, 99, 99), "high", HIGH, "PASS"),  # one busy round does not fail
        ((80, 85, 89), "high", HIGH, "FAIL"),
        ((94, 94, 94), "high", HIGH, "WARN"),
        ((100, 100, 100), "low", LOW, "PASS"),
        ((130, 130, 108), "low", LOW, "WARN"),
        ((111, 130, 130), "low", LOW, "FAIL"),
        ((130, 100, 100), "low", LOW, "PASS"),
        ((100, 100, 100), "high", Limits(fail_high=90.0), "FAIL"),  # too good to be true
        ((), "high", HIGH, "INCONCLUSIVE"),
        ((math.nan, 100), "high", HIGH, "INCONCLUSIVE"),
        ((math.inf,), "high", HIGH, "INCONCLUSIVE"),
        ((0.0, 100.0), "low", LOW, "INCONCLUSIVE"),
        ((-1.0,), "low", LOW, "INCONCLUSIVE"),
    ],
)
def test_rule(values: tuple[float, ...], better: Better, limits: Limits, verdict: str) -> None:
    assert judge(values, better, limits).verdict == verdict


def test_margin_is_the_distance_to_failing() -> None:
    assert judge((99.0,), "high", HIGH).margin == pytest.approx(0.1)
    assert judge((121.0,), "low", LOW).margin == pytest.approx(-0.1)


@pytest.mark.parametrize(("n", "count"), [(1, 1), (2, 2), (3, 3), (6, 3), (10, 3)])
def test_rounds_are_medians_of_consecutive_passes(n: int, count: int) -> None:
    found = rounds([float(i) for i in range(n)])
    assert len(found) == count
    assert found == tuple(sorted(found))


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        (["PASS", "WARN"], "WARN"),
        (["WARN", "INCONCLUSIVE"], "INCONCLUSIVE"),
        (["INCONCLUSIVE", "SUSPECT"], "SUSPECT"),
        (["SUSPECT", "MISSING"], "MISSING"),
        (["MISSING", "FAIL", "SKIP"], "FAIL"),
        (["SKIP", "PASS"], "PASS"),
        (["SKIP"], "INCONCLUSIVE"),
        ([], "INCONCLUSIVE"),
    ],
)
def test_the_worst_counts_and_skips_are_no_pass(verdicts: list[Verdict], worst: str) -> None:
    assert overall(verdicts) == worst


def test_exit_codes() -> None:
    codes = {"PASS": 0, "WARN": 0, "FAIL": 1, "SUSPECT": 3, "MISSING": 3, "INCONCLUSIVE": 3, "SKIP": 3}
    assert {verdict: exit_code(verdict) for verdict in codes} == codes  # type: ignore[arg-type]
    assert exit_code("WARN", strict=True) == 1
