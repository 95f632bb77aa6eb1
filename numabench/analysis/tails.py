# SPDX-License-Identifier: Apache-2.0
"""Latency under load: percentiles with the sample they need, arrival times, queues, and the highest rate that holds."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from numabench.analysis import stats

TAIL_RESAMPLES = 200


class Quantile(NamedTuple):
    """A percentile of single values and its interval; ``value`` is None when there are fewer than ``need`` of them."""

    share: float
    value: float | None
    ci: tuple[float, float] | None
    n: int
    need: int

    def text(self) -> str:
        """``12.3 [11.9, 13.1]``, or what is missing."""
        if self.value is None or self.ci is None:
            if self.n >= self.need:
                return f"too few values kept of {self.n}"
            return f"n too small (need {self.need})"
        return f"{self.value:.4g} [{self.ci[0]:.4g}, {self.ci[1]:.4g}]"


def needed(share: float, confidence: float = 0.95) -> int:
    """Fewest values from which an upper limit of the percentile exists: the largest one lies above it so surely."""
    return math.ceil(math.log(1 - confidence) / math.log(share) - 1e-9)


def needed_for_bound(share: float, over: int = 0, confidence: float = 0.99) -> int:
    """Fewest requests that prove a bound on the percentile when ``over`` of them exceed it (binomial, one-sided)."""
    n = over + 1
    while _binomial(n, 1 - share)[over] > 1 - confidence:
        n += 1 if n < 4096 else n // 4096
    return n


def holds(values: Sequence[float], bound: float, share: float = 0.99, confidence: float = 0.99) -> bool | None:
    """Whether the percentile is at most ``bound``, so surely; None when the sample decides neither way."""
    return proven(len(values), sum(value > bound for value in values), share, confidence)


def proven(n: int, over: int, share: float = 0.99, confidence: float = 0.99) -> bool | None:
    """The same from counts: ``over`` of ``n`` independent values exceed the bound."""
    if n and _binomial(n, 1 - share)[over] <= 1 - confidence:
        return True
    # The other side: so many over the bound would be that rare if the bound held.
    if over and 1 - _binomial(n, 1 - share)[over - 1] <= 1 - confidence:
        return False
    return None


@lru_cache(maxsize=256)
def _binomial(n: int, p: float) -> list[float]:
    """P(B <= k) for k = 0 .. n."""
    import numpy as np

    k = np.arange(1, n + 1)
    logs = np.concatenate(([0.0], np.cumsum(np.log((n - k + 1) / k) + math.log(p / (1 - p))))) + n * math.log1p(-p)
    return np.minimum(np.cumsum(np.exp(logs)), 1.0).tolist()  # type: ignore[no-any-return]


def quantile(values: Sequence[float], share: float) -> Quantile:
    """A percentile of independent values with its distribution-free 95 % interval by order statistics.

    Near the least sample the upper end is the one-sided 95 % limit (David and Nagaraja 2003, ch. 7.1).
    """
    n, need = len(values), needed(share)
    if n < need:
        return Quantile(share, None, None, n, need)
    ordered, (low, at, high) = sorted(values), _ranks(n, share)
    return Quantile(share, ordered[at - 1], (ordered[low - 1], ordered[high - 1]), n, need)


@lru_cache(maxsize=256)
def _ranks(n: int, share: float) -> tuple[int, int, int]:
    """Of the lower limit, the percentile and the upper limit, the smallest value being 1."""
    below = _binomial(n, share)
    # The r-th smallest (from 1) is above the percentile with probability P(B <= r - 1), at or below it otherwise.
    low = next((r for r in range(n, 0, -1) if below[r - 1] <= 0.025), 1)
    high = next((r for r in range(1, n + 1) if 1 - below[r - 1] <= 0.025), n)
    return low, math.ceil(share * n), high


def pooled(runs: Sequence[tuple[int, Sequence[float]]], share: float, seed: int = 1) -> Quantile:
    """A percentile over several runs, each given as (how many values, the largest of them).

    Runs differ from each other more than chance explains, so the interval by order statistics is widened to that of
    whole runs resampled (from six runs on). ``value`` is None when there are too few values, or too few were kept.
    """
    n, need = sum(count for count, _ in runs), needed(share)
    found = _pooled(runs, share) if n >= need else None
    if found is None:
        return Quantile(share, None, None, n, need)
    low, value, high = found
    if len(runs) >= stats.LEAST_PASSES:
        draw = random.Random(seed)  # noqa: S311 - resampling, no secret
        again = (_pooled(draw.choices(runs, k=len(runs)), share) for _ in range(TAIL_RESAMPLES))
        others = sorted(one[1] for one in again if one is not None)
        if others:
            low = min(low, others[round(0.025 * (len(others) - 1))])
            high = max(high, others[round(0.975 * (len(others) - 1))])
    return Quantile(share, value, (low, high), n, need)


def pooled_ratio(
    above: Sequence[tuple[int, Sequence[float]]], below: Sequence[tuple[int, Sequence[float]]], share: float
) -> tuple[float, tuple[float, float] | None] | None:
    """Ratio of two pooled percentiles whose runs are pairs, with the 95 % interval over pairs resampled (from six on).

    None where either has no percentile.
    """
    a, b = pooled(above, share).value, pooled(below, share).value
    if a is None or not b:
        return None
    pairs = list(zip(above, below, strict=True))
    if len(pairs) < stats.LEAST_PASSES:
        return a / b, None
    draw, found = random.Random(1), []  # noqa: S311 - resampling, no secret
    for _ in range(TAIL_RESAMPLES):
        chosen = draw.choices(pairs, k=len(pairs))
        one, other = _pooled([x for x, _ in chosen], share), _pooled([y for _, y in chosen], share)
        if one is not None and other is not None and other[1]:
            found.append(one[1] / other[1])
    found.sort()
    last = len(found) - 1
    return a / b, (found[round(0.025 * last)], found[round(0.975 * last)]) if len(found) > TAIL_RESAMPLES / 2 else None


def _pooled(runs: Sequence[tuple[int, Sequence[float]]], share: float) -> tuple[float, float, float] | None:
    """Lower limit, percentile, upper limit; None when values that were not kept could be among them."""
    n = sum(count for count, _ in runs)
    kept = sorted((value for _, values in runs for value in values), reverse=True)
    unseen = unseen_below(runs)
    at = [n - rank for rank in _ranks(n, share)]
    if at[0] >= len(kept) or kept[at[0]] < unseen:
        return None
    return kept[at[0]], kept[at[1]], kept[at[2]]


def unseen_below(runs: Sequence[tuple[int, Sequence[float]]]) -> float:
    """Values that were not kept are at most this; -inf when all were."""
    return max((values[-1] if values else math.inf for count, values in runs if len(values) < count), default=-math.inf)


def wider(quantiles: Sequence[Quantile]) -> tuple[float | None, tuple[float, float] | None]:
    """A percentile over independent runs: the median of the runs', with the wider of two intervals.

    Queues make requests of one run depend on each other, so the interval over runs stands beside the widest of one
    run. (None, None) when a run's sample was too small; no interval below six runs.
    """
    values = [q.value for q in quantiles if q.value is not None]
    if not values or len(values) < len(quantiles):
        return None, None
    middle, runs = median(values), stats.median_interval(values)
    if runs is None:
        return middle, None
    inner = [(q.ci[0] - q.value, q.ci[1] - q.value) for q in quantiles if q.ci is not None and q.value is not None]
    low, high = median(a for a, _ in inner), median(b for _, b in inner)
    return middle, (min(runs[0], middle + low), max(runs[1], middle + high))


def settled(values: Sequence[float], windows: int = 10) -> bool:
    """Whether latencies in their order have no warm-up left: of ten windows the last five medians lie within 5 %."""
    size = len(values) // windows
    if size < 1:
        return False
    medians = [median(values[i * size : (i + 1) * size]) for i in range(windows)][windows // 2 :]
    rising = all(a < b for a, b in pairwise(medians))
    return max(medians) <= 1.05 * min(medians) and not (rising and medians[-1] > 1.02 * medians[0])


def arrivals(rate_hz: float, count: int, seed: int, kind: str = "poisson") -> list[int]:
    """Times of ``count`` requests, ns from the start: a seeded Poisson process, or ``constant`` gaps."""
    draw = random.Random(seed)  # noqa: S311 - a schedule, no secret
    at, times = 0.0, []
    for _ in range(count):
        at += draw.expovariate(rate_hz) if kind == "poisson" else 1 / rate_hz
        times.append(round(at * 1e9))
    return times


def queue(scheduled: Sequence[float], service: Sequence[float], servers: int = 1) -> list[float]:
    """Latencies from the scheduled arrival when requests wait in one line for ``servers`` (Lindley's recursion)."""
    free = [0.0] * servers
    latencies = []
    for arrival, work in zip(scheduled, service, strict=True):
        at = min(range(servers), key=free.__getitem__)
        free[at] = max(free[at], arrival) + work
        latencies.append(free[at] - arrival)
    return latencies


def late(lateness: Sequence[float], latencies: Sequence[float]) -> bool:
    """Whether the generator spoiled the run: p99 of its lateness above 5 % of the median latency."""
    if not lateness or not latencies:
        return True
    return sorted(lateness)[math.ceil(0.99 * len(lateness)) - 1] > 0.05 * median(latencies)


def highest_rate(
    probe: Callable[[float], bool | None], low: float, high: float, steps: int = 6
) -> tuple[float | None, list[tuple[float, bool | None]]]:
    """The greatest rate at which ``probe`` says True, by halving (None: not even ``low``), and all that was probed.

    An undecided probe counts as not held: the rate promised is one that was proven.
    """
    tried: list[tuple[float, bool | None]] = [(low, probe(low))]
    if not tried[0][1]:
        return None, tried
    best = low
    for _ in range(steps):
        middle = (best + high) / 2
        answer = probe(middle)
        tried.append((middle, answer))
        best, high = (middle, high) if answer else (best, middle)
    return best, tried
