# SPDX-License-Identifier: Apache-2.0
"""Levels come out of curves made from caches of known size, whatever they replace by."""

from __future__ import annotations

import math
import random

import pytest

from numabench.analysis.levels import isotonic, levels

KIB = 1024
SIZES = [4 * KIB * 2 ** (k / 4) for k in range(60)]


def hits(size: float, cache: float, policy: str) -> float:
    """Hit rate of a ring of ``size`` bytes walked again and again."""
    if size <= cache:
        return 1.0
    if policy == "lru":
        return 0.0
    h = 0.5
    for _ in range(200):  # fixed point of h = exp(-(1 - h) size / cache)
        h = math.exp(-(1 - h) * size / cache)
    return h


def curve(caches: list[float], costs: list[float], policy: str, noise: float = 0.0) -> list[float]:
    rng = random.Random(1)
    found = []
    for size in SIZES:
        value, reach = 0.0, 1.0
        for cache, cost in zip(caches, costs, strict=False):
            value += reach * hits(size, cache, policy) * cost
            reach *= 1 - hits(size, cache, policy)
        found.append((value + reach * costs[-1]) * (1 + rng.gauss(0, noise)))
    return found


@pytest.mark.parametrize("policy", ["lru", "random"])
@pytest.mark.parametrize("noise", [0.0, 0.03])
@pytest.mark.parametrize("caches", [[32, 256, 8192], [48, 1024, 32768], [64, 2048]])
def test_caches_are_found_within_a_step(caches: list[float], policy: str, noise: float) -> None:
    sizes = [cache * KIB for cache in caches]
    costs = [*(1.0, 4.0, 15.0)[: len(caches)], 100.0]
    found = levels(SIZES, curve(sizes, costs, policy, noise))
    assert len(found) == len(caches) + 1
    for level, cache in zip(found, sizes, strict=False):
        assert level.bytes is not None
        assert 2**-0.3 < level.bytes / cache < 2**0.3
    assert found[-1].bytes is None
    assert [level.value for level in found] == pytest.approx(costs, rel=0.15)


def test_one_level_when_there_is_nothing_to_see() -> None:
    found = levels(SIZES, [10.0 + i / 100 for i in range(len(SIZES))])
    assert len(found) == 1
    assert found[0].bytes is None


def test_slow_rise_is_no_level() -> None:
    """A wide transition between two levels must not become a third."""
    rise = [1.0 if s < 64 * KIB else min(16.0, (s / (64 * KIB)) ** 1.0) for s in SIZES]
    assert len(levels(SIZES, rise)) == 2


def test_isotonic_pools_and_keeps_the_mean() -> None:
    values, weights = [1.0, 3.0, 2.0, 4.0], [1.0, 1.0, 2.0, 1.0]
    found = isotonic(values, weights)
    assert found == pytest.approx([1.0, 7 / 3, 7 / 3, 4.0])
    assert isotonic([1.0, 2.0], [1, 1]) == [1.0, 2.0]
