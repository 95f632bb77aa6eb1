# SPDX-License-Identifier: Apache-2.0
"""Intervals, ratios and gates over passes. The unit of inference is the pass, never the window inside it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import NamedTuple

CHECKPOINTS = (6, 8, 10, 15, 20, 30)  # the only numbers of passes at which a run may stop
LEAST_PASSES = 6  # fewer give no 95 % interval of a median
RESAMPLES = 2000
# Two-sided 97.5 % points of Student's t for 1..30 degrees of freedom (standard table); 1.96 beyond.
_T = [
    float(point)
    for point in (
        "12.706 4.303 3.182 2.776 2.571 2.447 2.365 2.306 2.262 2.228 2.201 2.179 2.160 2.145 2.131 "
        "2.120 2.110 2.101 2.093 2.086 2.080 2.074 2.069 2.064 2.060 2.056 2.052 2.048 2.045 2.042"
    ).split()
]


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the median by order statistics (binomial, distribution-free); None below six values."""
    n = len(values)
    ordered = sorted(values)
    best = None
    for low in range(n // 2):  # [x(low + 1), x(n - low)] misses with probability 2 P(B <= low)
        missed = 2 * sum(math.comb(n, k) for k in range(low + 1)) / 2**n
        if missed > 0.05:
            break
        best = (ordered[low], ordered[n - 1 - low])
    return best


class Ratio(NamedTuple):
    """A ratio of paired figures, its 95 % interval (None below six pairs), and what could have been detected."""

    value: float
    ci: tuple[float, float] | None
    mde: float  # smallest detectable change at 80 % power, as a share
    n: int


def ratio(numerators: Sequence[float], denominators: Sequence[float], seed: int = 1) -> Ratio:
    """Mean log-ratio of pairs taken in the same pass, exponentiated.

    The interval is the hull of Student's t and the studentised bootstrap over pairs (Efron, Tibshirani 1993, ch. 12);
    a plain percentile bootstrap covers too little for so few pairs.
    """
    logs = [math.log(a / b) for a, b in zip(numerators, denominators, strict=True)]
    n = len(logs)
    mean = fmean(logs)
    if n < LEAST_PASSES:
        return Ratio(math.exp(mean), None, math.inf, n)
    error = stdev(logs) / math.sqrt(n)
    if error == 0:
        return Ratio(math.exp(mean), (math.exp(mean), math.exp(mean)), 0.0, n)
    t = _T[n - 2] if n <= 31 else 1.96
    low, high = mean - t * error, mean + t * error
    rng = random.Random(seed)  # noqa: S311 - resampling, no secret
    pivots = []
    for _ in range(RESAMPLES):
        again = rng.choices(logs, k=n)
        spread = stdev(again)
        if spread > 0:
            pivots.append((fmean(again) - mean) / (spread / math.sqrt(n)))
    pivots.sort()
    if pivots:
        low = min(low, mean - pivots[int(0.975 * (len(pivots) - 1))] * error)
        high = max(high, mean - pivots[int(0.025 * len(pivots))] * error)
    return Ratio(math.exp(mean), (math.exp(low), math.exp(high)), math.expm1((t + 0.84) * error), n)


def variation(values: Sequence[float]) -> float:
    """Coefficient of variation; 0 for fewer than two values."""
    return stdev(values) / abs(fmean(values)) if len(values) > 1 and fmean(values) else 0.0


def half_width(ci: tuple[float, float] | None, estimate: float) -> float:
    """Half the interval as a share of the estimate; infinite without an interval."""
    return (ci[1] - ci[0]) / 2 / abs(estimate) if ci and estimate else math.inf


def steady(windows: Sequence[float]) -> bool:
    """Whether the last windows have settled: 21 windows in three groups of 7.

    Gates of Mess 2.0: the last group varies by at most 5 %, the groups' means drift by at most 3 %.
    """
    if len(windows) < 21:
        return False
    groups = [windows[-21:-14], windows[-14:-7], windows[-7:]]
    means = [fmean(group) for group in groups]
    return variation(groups[-1]) <= 0.05 and max(means) - min(means) <= 0.03 * fmean(means)


def drift_p(values: Sequence[float]) -> float:
    """Chance of a rank correlation with time as strong as this one without drift (Spearman, normal limit)."""
    n = len(values)
    if n < LEAST_PASSES or len(set(values)) == 1:
        return 1.0
    ordered = sorted(range(n), key=lambda i: values[i])
    rank = {index: place for place, index in enumerate(ordered)}
    rho = 1 - 6 * sum((rank[i] - i) ** 2 for i in range(n)) / (n * (n * n - 1))
    return math.erfc(abs(rho) * math.sqrt(n - 1) / math.sqrt(2))


def knee(counts: Sequence[int], per_pass: Sequence[Sequence[float]], share: float = 0.95) -> int:
    """Fewest threads whose median over passes reaches ``share`` of the best median."""
    medians = [median(column) for column in zip(*per_pass, strict=True)]
    return next(n for n, value in zip(counts, medians, strict=True) if value >= share * max(medians))
