# SPDX-License-Identifier: Apache-2.0
"""Groups come out of the costs between their members, and only where there is a border."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from numabench.analysis.clusters import partitions, restricted, together


def costs(levels: list[tuple[int, float]], n: int, noise: float = 0.02) -> dict[tuple[int, int], float]:
    """Cost of the first level (group size, cost) whose groups of consecutive items hold both."""
    rng = random.Random(2)
    return {
        (a, b): next(cost for size, cost in levels if a // size == b // size) * (1 + rng.uniform(-noise, noise))
        for a, b in combinations(range(n), 2)
    }


def sizes(found) -> list[list[int]]:  # type: ignore[no-untyped-def]
    return [sorted(len(group) for group in part.groups) for part in found]


def test_nested_levels_are_found_finest_first() -> None:
    found = partitions(costs([(2, 20.0), (8, 60.0), (16, 200.0)], 16))
    assert sizes(found) == [[2] * 8, [8, 8]]
    assert found[0].gap == pytest.approx(3, rel=0.1)


def test_no_border_no_groups() -> None:
    assert partitions(costs([(16, 50.0)], 16, noise=0.08)) == []
    assert partitions({(0, 1): 30.0}) == []
    assert partitions({}) == []


def test_one_odd_pair_is_no_group() -> None:
    """A cheap pair joins two CPUs; a dear pair inside would-be groups spoils the border."""
    given = costs([(4, 40.0), (8, 100.0)], 8)
    given[0, 3] = 120.0
    assert all(len(part.groups) != 2 for part in partitions(given))


def test_unmeasured_pairs_do_not_matter() -> None:
    given = costs([(4, 40.0), (8, 100.0)], 8)
    for pair in ((0, 2), (5, 7), (1, 6)):
        del given[pair]
    assert sizes(partitions(given)) == [[4, 4]]


def test_claims_are_cut_to_what_was_measured() -> None:
    groups = restricted([(0, 1, 2, 3), (4, 5)], (0, 2, 5, 9))
    assert groups == {frozenset({0, 2}), frozenset({5}), frozenset({9})}
    assert together(groups) == {(0, 2)}
