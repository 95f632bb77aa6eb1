# SPDX-License-Identifier: Apache-2.0
"""Verdicts from figures and limits. Pure; the only place that says what passes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Literal, NamedTuple

Verdict = Literal["PASS", "WARN", "FAIL", "SKIP", "INCONCLUSIVE", "SUSPECT", "MISSING"]
Better = Literal["low", "high"]
WORST_FIRST: tuple[Verdict, ...] = ("FAIL", "MISSING", "SUSPECT", "INCONCLUSIVE", "WARN", "PASS", "SKIP")
ROUNDS = 3
EXIT = {"PASS": 0, "WARN": 0, "FAIL": 1, "SUSPECT": 3, "MISSING": 3, "INCONCLUSIVE": 3, "SKIP": 3}


class Limits(NamedTuple):
    """Bounds of a figure in its unit; None: no bound on that side. The warning lies inside the failure."""

    fail_low: float | None = None
    warn_low: float | None = None
    fail_high: float | None = None
    warn_high: float | None = None


class Judged(NamedTuple):
    """A verdict, the figure it rests on (best round), and the distance to the nearest failing bound as a share."""

    verdict: Verdict
    value: float
    middle: float
    margin: float | None


def rounds(passes: Sequence[float], count: int = ROUNDS) -> tuple[float, ...]:
    """Passes in the order of the run as ``count`` rounds, each the median of its share; fewer when there are fewer."""
    n = len(passes)
    count = min(count, n)
    return tuple(median(passes[n * i // count : n * (i + 1) // count]) for i in range(count))


def best(values: Sequence[float], better: Better) -> float:
    """The best round: what the machine can do when nothing is in its way."""
    return min(values) if better == "low" else max(values)


def judge(values: Sequence[float], better: Better, limits: Limits) -> Judged:
    """FAIL when the best round is past a failing bound; WARN when past a warning one, or the median is past a failing.

    A busy round cannot fail a machine, and one that is slow two times of three cannot pass silently.

    INCONCLUSIVE without values or with values that are no positive finite numbers.
    """
    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        return Judged("INCONCLUSIVE", math.nan, math.nan, None)
    middle, top = median(values), best(values, better)
    # A bound on the good side (a figure too good to be true) is judged by the round nearest to the bound.
    worst = best(values, "low" if better == "high" else "high")
    against_low, against_high = (top, worst) if better == "high" else (worst, top)
    failed = _below(against_low, limits.fail_low) or _above(against_high, limits.fail_high)
    warned = _below(against_low, limits.warn_low) or _above(against_high, limits.warn_high)
    warned = warned or _below(middle, limits.fail_low) or _above(middle, limits.fail_high)
    margins = []
    if limits.fail_low:
        margins.append(against_low / limits.fail_low - 1)
    if limits.fail_high:
        margins.append(1 - against_high / limits.fail_high)
    verdict: Verdict = "FAIL" if failed else "WARN" if warned else "PASS"
    return Judged(verdict, top, middle, min(margins) if margins else None)


def _below(value: float, bound: float | None) -> bool:
    return bound is not None and value < bound


def _above(value: float, bound: float | None) -> bool:
    return bound is not None and value > bound


def spread(values: Sequence[float]) -> float:
    """Largest over smallest round, less 1; 0 below two."""
    return max(values) / min(values) - 1 if len(values) > 1 and min(values) > 0 else 0.0


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of a machine's verdicts; INCONCLUSIVE when nothing but skips is left."""
    seen = set(verdicts)
    found: Verdict = next((verdict for verdict in WORST_FIRST if verdict in seen), "SKIP")
    return "INCONCLUSIVE" if found == "SKIP" else found


def exit_code(verdict: Verdict, strict: bool = False) -> int:
    """0 passed, 1 failed, 3 no verdict; with ``strict`` a warning fails."""
    return 1 if strict and verdict == "WARN" else EXIT[verdict]
