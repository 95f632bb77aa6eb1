# SPDX-License-Identifier: Apache-2.0
"""Levels of a memory hierarchy found in a curve of latency over working-set size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

# A level stays within FLAT for at least LEAST_OCTAVES of size, differs from the next by LEAST_RATIO, and pays for
# itself with so much squared error (in octaves of latency, times octaves of size).
LEAST_OCTAVES, FLAT, LEAST_RATIO, PRICE = 0.74, 1.3, 1.5, 0.25
# A cache ends where this share of the rise to the next level has come. With true LRU all of a ring misses as soon as it
# does not fit; with random replacement a ring 1.19 times the cache, a quarter of an octave more, misses this often:
# the hit rate h of a ring of S lines in C satisfies h = exp(-(1 - h) S / C).
RISE = 0.3


class Level(NamedTuple):
    """One level: its latency (the last: in the last octave), and the working set that fits; None: no end seen."""

    value: float
    bytes: float | None


def isotonic(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The rising sequence nearest to the values in least squares (pool adjacent violators, Ayer et al. 1955)."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, count
    for value, weight in zip(values, weights, strict=True):
        mean, total, count = value, weight, 1
        while pools and pools[-1][0] >= mean:
            other, more, length = pools.pop()
            mean, total, count = (mean * total + other * more) / (total + more), total + more, count + length
        pools.append((mean, total, count))
    return [mean for mean, _, count in pools for _ in range(count)]


def levels(sizes: Sequence[float], values: Sequence[float]) -> list[Level]:
    """Plateaus of rising ``values`` over rising ``sizes`` (at least 3): piecewise constant in logs, best by price."""
    at = [math.log2(size) for size in sizes]
    edges = [at[0], *((a + b) / 2 for a, b in pairwise(at)), at[-1]]
    spans = [b - a for a, b in pairwise(edges)]
    raw = [math.log2(value) for value in values]
    curve = isotonic(raw, spans)
    return _ends(at, curve, _cut(at, curve, spans, _flat(at, raw)))


def _flat(at: Sequence[float], raw: Sequence[float]) -> list[tuple[int, int]]:
    """Shortest stretches [first, last] that are long and flat enough to be a level."""
    found = []
    for first in range(len(at)):
        last = next((i for i in range(first + 1, len(at)) if at[i] - at[first] >= LEAST_OCTAVES), None)
        if last is not None and max(raw[first : last + 1]) - min(raw[first : last + 1]) <= math.log2(FLAT):
            found.append((first, last))
    return found


def _cut(
    at: Sequence[float], curve: Sequence[float], spans: Sequence[float], flat: Sequence[tuple[int, int]]
) -> list[tuple[int, int, float]]:
    """Segments [first, last) with their level, by dynamic programming over the end of the last segment."""
    n = len(at)
    # best[end] = all candidates (cost, level, path) worth keeping: the cheapest for each last segment
    best: list[list[tuple[float, float, list[tuple[int, int, float]]]]] = [[] for _ in range(n + 1)]
    best[0] = [(0.0, -math.inf, [])]
    for end in range(1, n + 1):
        for start in range(end):
            inside = {i for first, last in flat if start <= first and last < end for i in range(first, last + 1)}
            if not inside:
                continue
            level = median(curve[i] for i in inside)
            error = sum(w * (y - level) ** 2 for y, w in zip(curve[start:end], spans[start:end], strict=True))
            fitting = [c for c in best[start] if level - c[1] >= math.log2(LEAST_RATIO)]
            if fitting:
                cost, _, path = min(fitting, key=lambda c: c[0])
                best[end].append((cost + error + PRICE, level, [*path, (start, end, level)]))
    return min(best[n], key=lambda c: c[0])[2] if best[n] else [(0, n, median(curve))]


def _ends(at: Sequence[float], curve: Sequence[float], parts: Sequence[tuple[int, int, float]]) -> list[Level]:
    found = []
    for (start, _, low), after in zip(parts, [*parts[1:], None], strict=True):
        if after is None:
            last = [value for x, value in zip(at, curve, strict=True) if x >= max(at[start], at[-1] - 1)]
            found.append(Level(2 ** median(last), None))
            continue
        limit = math.log2(2**low + RISE * (2 ** after[2] - 2**low))
        i = next(i for i in range(start, len(curve)) if curve[i] > limit)
        share = (limit - curve[i - 1]) / (curve[i] - curve[i - 1]) if i else 0.0
        found.append(Level(2**low, 2 ** (at[i - 1] + share * (at[i] - at[i - 1]) if i else at[0])))
    return found
