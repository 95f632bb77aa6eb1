# SPDX-License-Identifier: Apache-2.0
"""Intervals, ratios and gates over passes. The unit of inference is the pass, never the window inside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

CHECKPOINTS = (6, 8, 10, 15, 20, 30)  # the only numbers of passes at which a run may stop
LEAST_PASSES = 6  # fewer give no 95 % interval of a median
RESAMPLES = 10_000
POWER = 0.8  # of the smallest detectable change
GROUP = 7  # windows of a group in the gates of the steady state; three groups are looked at
EXACT_RANKS = 12  # up to here the null distribution of a rank correlation is counted out


class Ratio(NamedTuple):
    """A ratio of paired figures, its 95 % interval (None below six pairs), and what could have been detected."""

    value: float
    ci: tuple[float, float] | None
    mde: float  # smallest change detectable with 80 % power, as a share; infinite below six pairs
    n: int
    error: float = math.inf  # standard error of the log ratio
    df: int = 0  # its degrees of freedom
    limit: float = math.inf  # half of the interval in standard errors


class Knee(NamedTuple):
    """Where a curve stops paying: the smallest count that reaches a share of the best figure."""

    value: int  # median over resampled passes
    ci: tuple[int, int] | None  # None below six passes
    safe: int | None  # smallest count whose interval of the share lies above the share; None if there is none
    n: int  # passes


def median_interval(values: Sequence[float], correlation: float = 0.0) -> tuple[float, float] | None:
    """95 % interval of the median by order statistics (binomial, distribution-free); None below six values.

    ``correlation`` is that of neighbours in time: n values say what n (1 - r) / (1 + r) independent ones do (Bayley
    and Hammersley, JRSS Suppl. 8, 1946). The ranks move apart; below six it is the hull with Student's t, at most half
    of the range beyond what was seen.
    """
    n = len(values)
    if n < LEAST_PASSES:
        return None
    ordered = sorted(values)
    place, missed = 0, 0.0
    for low in range(n // 2):  # [x(low + 1), x(n - low)] misses with probability 2 P(B <= low)
        missed += math.comb(n, low) / 2 ** (n - 1)
        if missed > 0.05:
            break
        place = low
    worth = n * (1 - correlation) / (1 + correlation)
    if correlation > 0:
        place = min(place, max(math.floor((n - 1) / 2 - 0.98 * n / math.sqrt(worth)), 0))
    low_end, high_end = ordered[place], ordered[n - 1 - place]
    if worth < LEAST_PASSES:
        reach = student_t(0.975, max(round(worth) - 1, 1)) * stdev(values) / math.sqrt(max(worth, 2.0))
        least, most = ordered[0], ordered[-1]
        down = max(median(values) - reach, least - (most - least) / 2, least / 2)
        low_end, high_end = min(low_end, down), max(high_end, min(median(values) + reach, most + (most - least) / 2))
    return low_end, high_end


def correlation(columns: Sequence[Sequence[float]]) -> float:
    """Correlation of neighbours in time, 0 to 0.9, pooled over columns of figures that are each in the order of time.

    What so few figures take off it, (1 + 4 rho) / n, is added (Marriott and Pope, Biometrika 41, 1954); of a single
    column r stands for rho there. Columns of fewer than six figures, and those that do not vary, say nothing.
    """
    total = weight = 0.0
    for column in columns:
        middle = fmean(column) if len(column) >= LEAST_PASSES else 0.0
        off = [x - middle for x in column]
        square = sum(x * x for x in off)
        if len(column) >= LEAST_PASSES and square > 0:
            total += len(column) * sum(a * b for a, b in pairwise(off)) / square
            weight += len(column)
    if not weight:
        return 0.0
    r, n = total / weight, weight / sum(len(column) >= LEAST_PASSES for column in columns)
    rho = (n * r + 1) / (n - 4) if len(columns) > 1 else r + (1 + 4 * r) / n
    return min(max(rho, 0.0), 0.9)


def half_width(ci: tuple[float, float] | None, estimate: float) -> float:
    """Half the interval as a share of the estimate; infinite without an interval."""
    return (ci[1] - ci[0]) / 2 / abs(estimate) if ci and estimate else math.inf


def may_stop(n: int, half_widths: Iterable[float], target: float) -> bool:
    """Whether a run may end after ``n`` passes: at a checkpoint, every half-width at most the target share.

    Looking only at the checkpoints and only at widths, never at significance, keeps the coverage of the intervals.
    """
    return n in CHECKPOINTS and all(width <= target for width in half_widths)


def ratio(numerators: Sequence[float], denominators: Sequence[float], seed: int = 1) -> Ratio:
    """Mean log-ratio of pairs taken in the same pass, exponentiated.

    The interval is the hull of Student's t and the studentised bootstrap over pairs (Efron and Tibshirani 1993,
    ch. 12); a plain percentile bootstrap covers too little. Raises ValueError for unequal or no figures, or some <= 0.
    """
    if not numerators or min(*numerators, *denominators) <= 0:
        raise ValueError("a ratio needs at least one pair, and positive figures")
    # Sorted, so that the resamples, and with them the interval, do not depend on the order of the pairs.
    logs = sorted(math.log(a) - math.log(b) for a, b in zip(numerators, denominators, strict=True))
    n, mean = len(logs), fmean(logs)
    if n < LEAST_PASSES:
        return Ratio(math.exp(mean), None, math.inf, n)
    error = stdev(logs) / math.sqrt(n)
    if error <= 1e-15 * max(map(abs, logs)):  # equal but for rounding
        return Ratio(math.exp(mean), (math.exp(mean), math.exp(mean)), 0.0, n, 0.0, n - 1, 0.0)
    low, high = _pivots(logs, seed)
    return _hull(mean, error, n - 1, low, high, n)


def unpaired_ratio(numerators: Sequence[float], denominators: Sequence[float], seed: int = 1) -> Ratio:
    """Ratio of geometric means of two independent samples, such as the passes of two runs.

    The interval is the hull of Welch's t (Satterthwaite's degrees of freedom, rounded down) and the studentised
    bootstrap of both; ``n`` is the smaller of the two, none exists below six. Raises ValueError as ``ratio`` does.
    """
    import numpy as np

    if not numerators or not denominators or min(*numerators, *denominators) <= 0:
        raise ValueError("a ratio needs figures on both sides, and positive ones")
    sides = [sorted(math.log(x) for x in side) for side in (numerators, denominators)]
    mean, n = fmean(sides[0]) - fmean(sides[1]), min(map(len, sides))
    if n < LEAST_PASSES:
        return Ratio(math.exp(mean), None, math.inf, n)
    parts = [stdev(side) ** 2 / len(side) for side in sides]
    error = math.sqrt(sum(parts))
    if error <= 1e-15 * max(abs(x) for side in sides for x in side):
        return Ratio(math.exp(mean), (math.exp(mean), math.exp(mean)), 0.0, n, 0.0, n - 1, 0.0)
    df = math.floor(error**4 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, sides, strict=True)) + 1e-9)
    means: Any = 0.0
    variance: Any = 0.0
    for sign, place, side in zip((1, -1), (0, 1), sides, strict=True):
        data = (np.asarray(side) - fmean(side)) / error
        counts = _resamples(len(side), seed + place)
        middle = counts @ data / len(side)
        means = means + sign * middle
        variance = variance + np.maximum(counts @ data**2 / len(side) - middle**2, 0.0) / (len(side) - 1)
    whole = variance > 1e-12
    low, high = np.quantile(means[whole] / np.sqrt(variance[whole]), (0.025, 0.975))
    return _hull(mean, error, df, float(low), float(high), n)


def _hull(mean: float, error: float, df: int, low: float, high: float, n: int) -> Ratio:
    """The wider of Student's t and the resampled pivots on each side."""
    t = student_t(0.975, df)
    down, up = max(t, high), max(t, -low)
    ends = _exp(mean - down * error), _exp(mean + up * error)
    return Ratio(math.exp(mean), ends, detectable(df + 1) * error, n, error, df, max(down, up))


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf


def _pivots(logs: Sequence[float], seed: int) -> tuple[float, float]:
    """2.5 % and 97.5 % points of the studentised mean over resamples; resamples of equal values have none."""
    import numpy as np

    n = len(logs)
    data = np.asarray(logs)
    data = (data - data.mean()) / data.std()
    counts = _resamples(n, seed)
    means = counts @ data / n
    variance = np.maximum(counts @ data**2 / n - means**2, 0.0) / (n - 1)
    whole = variance > 1e-12
    if not whole.any():
        return 0.0, 0.0
    low, high = np.quantile(means[whole] / np.sqrt(variance[whole]), (0.025, 0.975))
    return float(low), float(high)


@lru_cache(maxsize=8)
def _resamples(n: int, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """How often each of n values is drawn, one row per resample."""
    import numpy as np

    return np.random.default_rng(seed).multinomial(n, [1 / n] * n, size=RESAMPLES).astype(np.float64)


def variation(values: Sequence[float]) -> float:
    """Coefficient of variation; 0 for fewer than two values."""
    return stdev(values) / abs(fmean(values)) if len(values) > 1 and fmean(values) else 0.0


def between_within(passes: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Coefficients of variation (between passes, within a pass) from the windows of each pass.

    Variance components of a one-way layout with random effects (Searle, Casella and McCulloch 1992, ch. 3): the scatter
    that windows alone would give the means of passes is taken off the first. 0 where there is nothing to compare.
    """
    groups = [windows for windows in passes if windows]
    total = sum(map(len, groups))
    if not total or not fmean(x for windows in groups for x in windows):
        return 0.0, 0.0
    grand = fmean(x for windows in groups for x in windows)
    means = [fmean(windows) for windows in groups]
    inner = sum((x - mean) ** 2 for windows, mean in zip(groups, means, strict=True) for x in windows)
    within = inner / (total - len(groups)) if total > len(groups) else 0.0
    between = 0.0
    if len(groups) > 1:
        outer = sum(len(windows) * (mean - grand) ** 2 for windows, mean in zip(groups, means, strict=True))
        size = (total - sum(len(windows) ** 2 for windows in groups) / total) / (len(groups) - 1)
        between = max(0.0, (outer / (len(groups) - 1) - within) / size)
    return math.sqrt(between) / abs(grand), math.sqrt(within) / abs(grand)


def allocation_dependent(between: float, within: float) -> bool:
    """Whether fresh allocations differ: more than 2 % between passes, and more than half of the variance."""
    return between > 0.02 and between > within


def modified_z(values: Sequence[float]) -> tuple[float, ...]:
    """Distance of each value from the median in robust standard deviations (Iglewicz and Hoaglin 1993).

    More than 3.5 is an outlier, to be counted and shown, never deleted. When more than half of the values are equal the
    mean absolute deviation takes the place of the median one.
    """
    if not values:
        return ()
    middle = median(values)
    off = [abs(value - middle) for value in values]
    scale = median(off) / 0.6745 or fmean(off) * 1.253314
    return tuple((value - middle) / scale if scale else 0.0 for value in values)


def steady(windows: Sequence[float]) -> bool:
    """Whether the last 21 windows, three groups of 7, have settled; False for fewer.

    Gates of Mess 2.0: the last group varies by at most 5 %, the groups' means drift by at most 3 %, and the 95 %
    interval of the slope contains 0.
    """
    if len(windows) < 3 * GROUP:
        return False
    last = windows[-3 * GROUP :]
    groups = [last[at : at + GROUP] for at in range(0, 3 * GROUP, GROUP)]
    means = [fmean(group) for group in groups]
    if variation(groups[-1]) > 0.05 or max(means) - min(means) > 0.03 * abs(fmean(means)):
        return False
    return _flat(last)


def _flat(values: Sequence[float]) -> bool:
    """Whether the 95 % interval of the least-squares slope over the places of the values contains 0."""
    n = len(values)
    if max(values) == min(values):
        return True
    r = _correlation(values, range(n))
    return 1 - r * r > 1e-12 and abs(r) * math.sqrt((n - 2) / (1 - r * r)) <= student_t(0.975, n - 2)


def drift_p(values: Sequence[float], positions: Sequence[float] | None = None) -> float:
    """Probability of a rank correlation with the positions as strong as this one without drift (Spearman).

    Without positions the values are in the order of the run. Counted out up to 12 values, by Student's t beyond;
    1 below six values or when all are equal.
    """
    n = len(values)
    at = range(n) if positions is None else positions
    if len(at) != n:
        raise ValueError("as many positions as values are needed")
    if n < LEAST_PASSES or len(set(values)) == 1 or len(set(at)) == 1:
        return 1.0
    rho = max(-1.0, min(1.0, _correlation(_ranks(values), _ranks(at))))
    if n <= EXACT_RANKS:
        tail = _rank_tail(n)
        least = (1 - abs(rho)) * (n**3 - n) / 6  # the sum of squared rank differences of a rise as strong
        return min(1.0, 2 * tail[min(math.floor(least + 1e-6), len(tail) - 1)])
    if abs(rho) > 1 - 1e-12:
        return 0.0
    return 2 * student_cdf(-abs(rho) * math.sqrt((n - 2) / (1 - rho * rho)), n - 2)


def _correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    x, y = fmean(xs), fmean(ys)
    scale = math.sqrt(sum((a - x) ** 2 for a in xs)) * math.sqrt(sum((b - y) ** 2 for b in ys))
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / scale if scale else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1, equal values sharing the mean of theirs."""
    ordered = sorted(values)
    first: dict[float, int] = {}
    count: dict[float, int] = {}
    for place, value in enumerate(ordered, start=1):
        first.setdefault(value, place)
        count[value] = count.get(value, 0) + 1
    return [first[value] + (count[value] - 1) / 2 for value in values]


@lru_cache(maxsize=8)
def _rank_tail(n: int) -> tuple[float, ...]:
    """P(D <= d) for d = 0, 1, ... of the sum D of squared rank differences over all permutations of n."""
    # One polynomial per set of places taken; coefficients are fields of 40 bits (12! is below 2^29) of one integer.
    field, ways = 40, [1] + [0] * (2**n - 1)
    for taken in range(2**n - 1):
        i = taken.bit_count()
        for j in range(n):
            if not taken >> j & 1:
                ways[taken | 1 << j] += ways[taken] << field * (i - j) ** 2
    most = (n**3 - n) // 3
    counts = [ways[-1] >> field * d & (1 << field) - 1 for d in range(most + 1)]
    seen, tail = 0, []
    for count in counts:
        seen += count
        tail.append(seen / math.factorial(n))
    return tuple(tail)


def knee(counts: Sequence[int], per_pass: Sequence[Sequence[float]], share: float = 0.95) -> int:
    """Fewest threads whose median over passes reaches ``share`` of the best median."""
    medians = [median(column) for column in zip(*per_pass, strict=True)]
    return next(n for n, value in zip(counts, medians, strict=True) if value >= share * max(medians))


def knee_interval(
    counts: Sequence[int], per_pass: Sequence[Sequence[float]], share: float = 0.95, seed: int = 1
) -> Knee:
    """The knee with its 95 % interval; ``per_pass[p][i]`` is the figure of pass p at the rising ``counts[i]``.

    Passes are resampled whole. Percentile intervals of so few are too narrow: below 30 passes the interval is
    widened by one measured count on each side.
    """
    import numpy as np

    n = len(per_pass)
    if n < LEAST_PASSES:
        return Knee(knee(counts, per_pass, share), None, None, n)
    data = np.asarray(per_pass, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))
    medians = np.stack([np.median(column[drawn], axis=1) for column in data.T], axis=1)
    shares = medians / medians.max(axis=1, keepdims=True)
    places = (shares >= share).argmax(axis=1)
    low, middle, high = (int(x) for x in np.quantile(places, (0.025, 0.5, 0.975), method="closest_observation"))
    if n < CHECKPOINTS[-1]:
        low, high = max(low - 1, 0), min(high + 1, len(counts) - 1)
    sure = np.quantile(shares, 0.025, axis=0) >= share
    safe = counts[int(sure.argmax())] if sure.any() else None
    return Knee(counts[middle], (counts[low], counts[high]), safe, n)


def student_cdf(t: float, df: int) -> float:
    """P(T <= t) of Student's t with a whole number of degrees of freedom (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan(t / math.sqrt(df))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    term, total = 1.0, 0.0
    for k in range(df // 2):
        total += term
        # even: 1, 1/2, 1*3/(2*4) ...; odd: 1, 2/3, 2*4/(3*5) ...
        term *= square * ((2 * k + 2) / (2 * k + 3) if df % 2 else (2 * k + 1) / (2 * k + 2))
    if df % 2:
        return 0.5 + (angle + sine * math.cos(angle) * total) / math.pi
    return 0.5 + sine * total / 2


@lru_cache(maxsize=128)
def student_t(p: float, df: int) -> float:
    """The p quantile of Student's t, 0.5 <= p < 1."""
    return _root(lambda t: student_cdf(t, df) - p, 0.0, 1e4)


@lru_cache(maxsize=64)
def detectable(n: int) -> float:
    """Smallest mean of n differences, in standard errors, that a two-sided 5 % t test finds with 80 % power."""
    df, limit = n - 1, student_t(0.975, n - 1)
    # Given S = sqrt(chi-square / df) the test statistic is normal: integrate over the density of S (midpoints).
    step = 3.0 / 400
    scales = [(i + 0.5) * step for i in range(400)]
    logs = [(df - 1) * math.log(s) - df * s * s / 2 for s in scales]
    weights = [math.exp(x - max(logs)) for x in logs]

    def power(shift: float) -> float:
        found = (math.erfc((limit * s - shift) / math.sqrt(2)) / 2 for s in scales)
        return sum(w * p for w, p in zip(weights, found, strict=True)) / sum(weights)

    return _root(lambda shift: power(shift) - POWER, 0.0, 50.0)


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function passes through 0, by halving."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
