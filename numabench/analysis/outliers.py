# SPDX-License-Identifier: Apache-2.0
"""Machines that are worse than their like: robust z, size of the effect, false discoveries. One array a metric."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from numabench.analysis.verdict import Better

if TYPE_CHECKING:
    Floats = np.ndarray[Any, np.dtype[np.float64]]
    Bools = np.ndarray[Any, np.dtype[np.bool_]]

DELTA = 0.05  # least deficit worth a verdict
LEAST_Z = 6.0
FALSE_SHARE = 0.01  # of the discoveries, expected
SIGMA_FLOOR = 0.005  # of a logarithm: only guards against figures that are equal by rounding
OUTLIERS_FROM, FAIL_FROM = 8, 32  # machines of a class: fewer allow no outlier at all, or no more than a warning
COHORT_SUSPECT = 0.10  # more than this share flagged on one metric: the class is wrong, not its machines
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


class Centre(NamedTuple):
    """Centre and spread of the logarithms of one metric over a class; lower is worse."""

    median: float
    sigma: float
    n: int


def logs(values: Floats, better: Better) -> Floats:
    """Logarithms, signed so that lower is worse; figures that are not positive and finite become NaN."""
    good = np.isfinite(values) & (values > 0)
    found = np.log(np.where(good, values, 1.0))
    return np.where(good, found if better == "high" else -found, np.nan)


def centre(r: Floats) -> Centre | None:
    """Median and 1.4826 MAD, which stand up to just below half of the machines being bad; None without figures."""
    known = r[np.isfinite(r)]
    if not known.size:
        return None
    middle = float(np.median(known))
    return Centre(middle, max(1.4826 * float(np.median(np.abs(known - middle))), SIGMA_FLOOR), int(known.size))


def z_and_deficit(r: Floats, of: Centre) -> tuple[Floats, Floats]:
    """Robust z (negative is worse) and deficit as a share of the centre; NaN stays NaN."""
    return (r - of.median) / of.sigma, -np.expm1(r - of.median)


def p_values(z: Floats) -> Floats:
    """One-sided normal tail; 1 for NaN. Real tails are heavier, hence the effect size and the repeats beside it."""
    return np.where(np.isfinite(z), 0.5 * _erfc(-np.nan_to_num(z, nan=0.0) / math.sqrt(2)), 1.0)


def q_values(p: Floats) -> Floats:
    """Benjamini and Hochberg (1995): least false discovery rate at which each would be called."""
    n = p.size
    if not n:
        return p
    order = np.argsort(p)
    scaled = p[order] * n / np.arange(1, n + 1)
    found = np.empty(n)
    found[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return found


def flags(z: Floats, deficit: Floats, q: Floats) -> Bools:
    """Worse by six robust sigmas, and by 5 %, and within 1 % of false discoveries over all machines and metrics."""
    with np.errstate(invalid="ignore"):
        return (z < -LEAST_Z) & (deficit > DELTA) & (q <= FALSE_SHARE)


def expected_false(hosts: int, metrics: int, chance: float, visits: int) -> float:
    """Machines that transient dips alone would flag in every visit: hosts x metrics x chance^visits."""
    return float(hosts * metrics * chance**visits)


def drifted(history: Floats) -> float | None:
    """Deficit of a machine against its own past, or None: its last three visits are all below the median of eight or
    more before them, by more than 5 % and six of its own sigmas. ``history`` holds `logs` in the order of time.
    """
    if history.size < 11:
        return None
    past, last = history[:-3], history[-3:]
    of = centre(past)
    if of is None or not np.all(np.isfinite(last)):
        return None
    fall = of.median - float(np.max(last))
    return float(-np.expm1(-fall)) if fall > max(-math.log1p(-DELTA), LEAST_Z * of.sigma) else None
