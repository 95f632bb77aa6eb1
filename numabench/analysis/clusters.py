# SPDX-License-Identifier: Apache-2.0
"""How near CPUs lie to each other, and whether that changed, found from what a hand-over between two of them costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations, pairwise
from statistics import median
from typing import NamedTuple

GAP = 1.2  # between the dearest pair inside and the cheapest pair across: less is no border

Groups = frozenset[frozenset[int]]


class Partition(NamedTuple):
    """A way to divide the items: every measured pair inside a group costs at most ``limit``, every other one more."""

    groups: Groups
    limit: float
    gap: float  # cheapest pair across over dearest pair inside


def partitions(costs: Mapping[tuple[int, int], float], gap: float = GAP) -> list[Partition]:
    """Divisions that the costs (by pair, either order) show, finest first; only those with several groups.

    Wherever the sorted costs leave a gap, pairs below it are joined; it is a border only if the groups that come of it
    hold no measured pair from above the gap.
    """
    items = sorted({item for pair in costs for item in pair})
    ordered = sorted(costs.values())
    found = []
    for limit, width in [(a, b / a) for a, b in pairwise(ordered) if b > gap * a]:
        groups = _joined(items, [pair for pair, cost in costs.items() if cost <= limit])
        inside = [cost for (a, b), cost in costs.items() if any(a in group and b in group for group in groups)]
        if len(groups) > 1 and max(inside, default=0.0) <= limit:
            found.append(Partition(groups, limit, width))
    return found


def _joined(items: Sequence[int], pairs: Collection[tuple[int, int]]) -> Groups:
    group = {item: {item} for item in items}
    for a, b in pairs:
        if group[a] is not group[b]:
            group[a] |= group[b]
            for item in group[b]:
                group[item] = group[a]
    return frozenset(frozenset(members) for members in group.values())


def restricted(groups: Collection[Collection[int]], items: Collection[int]) -> Groups:
    """A division as it looks among some of the items; items in no group stand alone."""
    found = [frozenset(group) & frozenset(items) for group in groups]
    alone = frozenset(items) - frozenset(item for group in found for item in group)
    return frozenset([group for group in found if group] + [frozenset((item,)) for item in alone])


def together(groups: Groups) -> set[tuple[int, int]]:
    """The pairs that share a group."""
    return {pair for group in groups for pair in combinations(sorted(group), 2)}


def split(costs: Sequence[float], factor: float) -> tuple[float, float] | None:
    """Medians below and above the widest gap of the sorted costs; None where no gap is as wide as the factor."""
    ordered = sorted(costs)
    width, at = max(((b / a, i) for i, (a, b) in enumerate(pairwise(ordered), 1)), default=(1.0, 0))
    return (median(ordered[:at]), median(ordered[at:])) if width >= factor else None
