# SPDX-License-Identifier: Apache-2.0
"""Before and after: how large a change is, how sure, what could have been seen, and what that amounts to. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import msgspec

from numabench.analysis import stats

ALPHA = 0.05  # share of false alarms that is put up with
POWER = 0.9  # with which a change of the printed size is found
IN_HAND = 0.02  # more of it: the resampled limit of the next comparison is not known
THRESHOLD = 0.01  # a smaller change is of no interest
EFFECT = 0.10  # the change a comparison should be able to see; noise above it gives no verdict
Better = Literal["low", "high"]
Verdict = Literal["better", "worse", "equivalent", "small change", "no detectable change", "not comparable"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """New over base. ``mde``: change that a comparison like this finds with 90 % power, None below six on a side."""

    ratio: float
    ci: tuple[float, float] | None  # 95 %, of this cell alone
    n: int  # blocks, passes or runs; of the smaller side
    p: float  # two-sided, Student's or Welch's t
    q: float  # corrected for the number of cells (Benjamini and Hochberg 1995)
    mde: float | None
    verdict: Verdict
    reasons: tuple[str, ...] = ()  # why it cannot be compared
    wilcoxon_p: float | None = None  # signed ranks of pairs, beside the interval


def judge(
    ratios: Sequence[stats.Ratio], better: Sequence[Better], threshold: float = THRESHOLD, cells: int = 0
) -> list[Change]:
    """Verdicts on all cells of one comparison together; ``cells`` counts more of them than are judged here.

    better or worse: q at most 5 %, the interval excludes 1, and the change exceeds the threshold. With no change
    anywhere at most one comparison in twenty says so of any cell. equivalent: the whole interval lies within the
    threshold. small change: excludes 1 but is below it. The detectable change holds for a cell that is the only one
    changed, for which the correction is as strict as Bonferroni's.
    """
    m = max(cells, len(ratios), 1)
    ps = [p_value(r) for r in ratios]
    qs = benjamini_hochberg(ps, m)
    return [
        Change(
            ratio=r.value,
            ci=r.ci,
            n=r.n,
            p=p,
            q=q,
            mde=_mde(r, m, threshold),
            verdict=_verdict(r, q, b, threshold),
            reasons=() if r.ci else (f"{r.n} on a side; {stats.LEAST_PASSES} are needed",),
        )
        for r, p, q, b in zip(ratios, ps, qs, better, strict=True)
    ]


def _verdict(r: stats.Ratio, q: float, better: Better, threshold: float) -> Verdict:
    if r.ci is None:
        return "not comparable"
    limit = math.log1p(threshold)
    low, high = (math.log(x) if x > 0 else -math.inf for x in r.ci)
    if q <= ALPHA and (low > 0 or high < 0):
        if abs(math.log(r.value)) > limit:
            return "better" if (r.value < 1) == (better == "low") else "worse"
        return "equivalent" if -limit < low and high < limit else "small change"
    return "equivalent" if -limit < low and high < limit else "no detectable change"


def _mde(r: stats.Ratio, cells: int, threshold: float) -> float | None:
    if r.ci is None:
        return None
    if not r.error:
        return threshold
    limit = max(r.limit, stats.student_t(1 - ALPHA / 2 / cells, r.df))
    return math.expm1(r.error * detectable(r.df, limit, math.log1p(threshold) / r.error))


def p_value(r: stats.Ratio) -> float:
    """Two-sided probability of a ratio this far from 1 without a change; 1 when there is no interval."""
    if r.ci is None:
        return 1.0
    if not r.error:
        return float(r.value == 1)
    return min(1.0, 2 * stats.student_cdf(-abs(math.log(r.value)) / r.error, r.df))


def detectable(df: int, limit: float, least: float = 0.0, power: float = POWER) -> float:
    """Smallest change, in standard errors as estimated, that a further comparison alike finds with this power.

    Found means: beyond ``limit`` standard errors and beyond ``least``, which is in standard errors too. The error is
    itself uncertain, here and in the further comparison; both are averaged over, so the power holds for the figure as
    printed, over many comparisons, and not only where the error were known.
    """
    import numpy as np

    scale, weight, z, phi = _grid(df)
    # With S = sqrt(chi-square / df): this error is S1 times the true one, the other S2 times; the true change of d
    # errors is then S1 d true ones, and it has to pass max(S1 least, S2 limit).
    bar = np.maximum(least * scale[:, None], limit * scale[None, :])
    weights = weight[:, None] * weight[None, :]

    def short(d: float) -> float:
        return float((weights * np.interp(scale[:, None] * d - bar, z, phi)).sum()) - power - IN_HAND

    low, high = 0.0, 2 * (limit + least) + 50.0
    for _ in range(26):
        middle = (low + high) / 2
        low, high = (middle, high) if short(middle) < 0 else (low, middle)
    return high


@lru_cache(maxsize=64)
def _grid(df: int) -> tuple[Any, Any, Any, Any]:
    """Midpoints and weights of sqrt(chi-square / df), and a table of the normal distribution."""
    import numpy as np

    wide = min(1.0, 5 / math.sqrt(2 * df))
    scale = np.linspace(max(1e-3, 1 - wide), 1 + max(wide, 5 / math.sqrt(2 * df)), 56)
    logs = (df - 1) * np.log(scale) - df * scale**2 / 2
    weight = np.exp(logs - logs.max())
    z = np.linspace(-8, 8, 1601)
    phi = np.array([math.erfc(-x / math.sqrt(2)) / 2 for x in z])
    return scale, weight / weight.sum(), z, phi


def benjamini_hochberg(ps: Sequence[float], cells: int = 0) -> list[float]:
    """Corrected probabilities: at most 5 % of the cells with q up to 0.05 are false (Benjamini and Hochberg 1995).

    Holds for independent tests and for those that depend on each other positively (Benjamini and Yekutieli 2001).
    """
    m = max(cells, len(ps))
    corrected, least = [1.0] * len(ps), 1.0
    for rank in range(len(ps), 0, -1):
        at = sorted(range(len(ps)), key=ps.__getitem__)[rank - 1]
        least = min(least, ps[at] * m / rank)
        corrected[at] = least
    return corrected


def holm(ps: Sequence[float]) -> list[float]:
    """Corrected probabilities that keep any false one of the family at 5 %, however they depend (Holm 1979)."""
    corrected, most = [1.0] * len(ps), 0.0
    for done, at in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        most = max(most, min(1.0, ps[at] * (len(ps) - done)))
        corrected[at] = most
    return corrected


class Spread(NamedTuple):
    """What A against A showed: whether it may be trusted, and why not."""

    ratio: float
    ci: tuple[float, float] | None
    half_width: float
    trouble: str  # empty: none


def same_against_same(r: stats.Ratio, effect: float = EFFECT, threshold: float = THRESHOLD) -> Spread:
    """A command against itself: its interval must hold 1 (within the threshold) and be narrower than the effect sought.

    An interval leaves 1 out in one case of twenty by chance alone; the threshold is the user's, as for A against B.
    """
    width = stats.half_width(r.ci, r.value)
    trouble = ""
    if r.ci is None:
        trouble = f"{r.n} blocks; {stats.LEAST_PASSES} are needed"
    elif not r.ci[0] <= 1 <= r.ci[1] and abs(math.log(r.value)) > math.log1p(threshold):
        trouble = f"the same command differs from itself: {r.value:.3f} [{r.ci[0]:.3f}, {r.ci[1]:.3f}]"
    elif width > effect:
        trouble = f"the same command varies by +-{width:.1%} over {r.n} blocks, more than the {effect:.0%} to be seen"
    return Spread(r.value, r.ci, width, trouble)


@lru_cache(maxsize=32)
def _signed_ranks(n: int) -> tuple[float, ...]:
    """P(W <= w) of the sum of the ranks with a plus, for n untied differences."""
    ways = [1]
    for rank in range(1, n + 1):
        longer = ways + [0] * rank
        for w, count in enumerate(ways):
            longer[w + rank] += count
        ways = longer
    seen, tail = 0, []
    for count in ways:
        seen += count
        tail.append(seen / 2**n)
    return tuple(tail)


def wilcoxon(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Two-sided p of the signed-rank test on log ratios, counted out (Wilcoxon 1945); pairs without difference drop.

    With ties in size the mean ranks are used and the sum is rounded towards the middle.
    """
    logs = [math.log(a / b) for a, b in zip(numerators, denominators, strict=True) if a != b]
    n = len(logs)
    if not n:
        return 1.0
    sizes = sorted(map(abs, logs))
    rank = {size: sizes.index(size) + (sizes.count(size) + 1) / 2 for size in sizes}
    plus = sum(rank[abs(x)] for x in logs if x > 0)
    return min(1.0, 2 * _signed_ranks(n)[math.ceil(min(plus, n * (n + 1) / 2 - plus))])
