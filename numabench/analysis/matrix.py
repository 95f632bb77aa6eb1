# SPDX-License-Identifier: Apache-2.0
"""A machine against itself: cells of a node-by-node matrix that their peers do not explain.

Every cell has a class (link relation, distance, kind of memory). Its deviation is the logarithm of its figure over the
class's, signed so that positive is worse. A deviation that the same place of every package shares is the mode's
(sub-NUMA clusters, cluster-on-die), not a part's, and is taken off. What is left is compared with a limit and with the
scatter of the passes. The limits come from published matrices of sound machines: cells of one class stay within 4 %,
those that their sources could not explain are 4.9 % apart and more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal, NamedTuple

from numabench.analysis.stats import student_cdf

WARN, FAIL = 0.045, 0.08  # of a deviation, as a logarithm
# So much the places of two nodes may make of a pair, the same in both directions: within a package, across packages.
GEOMETRY, ACROSS = 0.15, 0.05
NOISE_SIGMAS = 4.0  # a deviation within the scatter of the passes is none
REPEAT_SIGMAS = 2.0  # and so is one that does not come back beyond its scatter when it is measured again
SIGMA_FLOOR = 0.005
MEDIAN = math.sqrt(math.pi / 2)  # standard error of a median over that of a mean, of normal figures
Pair = tuple[int, int]
Better = Literal["low", "high"]
Kind = Literal["noise", "persistent", "mode asymmetry", "unconfirmed"]


class Cell(NamedTuple):
    """One (initiator, target) pair: its figures pass by pass, its class, and the places of its nodes."""

    values: Sequence[float]
    link: str  # cells of one word are alike, such as "remote/21"
    places: tuple[int, int] = (0, 0)  # of the two nodes within their packages
    packages: tuple[int, int] = (0, 0)


class Oddity(NamedTuple):
    """A cell that does not fit. ``deviation`` is a share, positive is worse than its peers."""

    pair: Pair
    deviation: float
    reference: float  # what its class shows, in the matrix's unit
    confidence: float  # that the passes' scatter alone does not make it
    kind: Kind
    mode: float = 0.0  # share that all packages show in this place


class Fault(NamedTuple):
    """What a set of odd cells has in common."""

    what: Literal["memory of node", "CPUs of node", "node", "link", "pair"]
    nodes: tuple[int, ...]  # link: from, to; pair: both directions
    cells: tuple[Oddity, ...]

    @property
    def name(self) -> str:
        """Such as ``link 1->3`` or ``memory of node 2``."""
        if self.what == "link":
            return f"link {self.nodes[0]}->{self.nodes[1]}"
        if self.what == "pair":
            return f"link {self.nodes[0]}<->{self.nodes[1]}"
        return f"{self.what} {self.nodes[0]}"

    @property
    def worst(self) -> Oddity:
        """The cell that deviates most."""
        return max(self.cells, key=lambda cell: abs(cell.deviation))


def oddities(
    cells: Mapping[Pair, Cell],
    better: Better,
    again: Mapping[Pair, Sequence[float]] | None = None,
    limit: float = WARN,
) -> list[Oddity]:
    """Cells that deviate by more than ``limit`` and by more than their scatter, worst first; those of the mode too.

    ``again`` holds the figures of a second measurement. With it a cell is ``persistent`` when it deviates again in the
    same direction and ``noise`` when it does not; without it a cell is ``unconfirmed``.
    """
    first = _deviations(cells, better)
    second = {}
    if again:
        newer = {pair: cell._replace(values=again.get(pair) or cell.values) for pair, cell in cells.items()}
        second = _deviations(newer, better)
    found = []
    for pair, (off, mode, reference) in first.items():
        scatter = _scatter(cells, cells[pair].link)
        n = len(cells[pair].values)
        error = MEDIAN * scatter / math.sqrt(n)
        bound = max(limit, NOISE_SIGMAS * error if n > 1 else 0.0)
        if abs(off) <= bound:
            if abs(mode) > bound:
                found.append(
                    Oddity(pair, _share(mode, better), reference, _sure(mode, error, n), "mode asymmetry", mode)
                )
            continue
        kind: Kind = "unconfirmed"
        if again and pair in again:
            repeated, by_chance = (
                second[pair][0],
                REPEAT_SIGMAS * MEDIAN * scatter / math.sqrt(max(len(again[pair]), 1)),
            )
            kind = "persistent" if abs(repeated) > max(limit, by_chance) and repeated * off > 0 else "noise"
        found.append(Oddity(pair, _share(off, better), reference, _sure(off, error, n), kind, mode))
    return sorted(found, key=lambda one: (-abs(one.deviation), one.pair))


def deviations(cells: Mapping[Pair, Cell], better: Literal["low", "high"]) -> dict[Pair, float]:
    """{pair: its deviation as a share, positive is worse} of the pairs that have something to be held against."""
    return {pair: _share(off, better) for pair, (off, *_) in _deviations(cells, better).items()}


def _share(off: float, better: str) -> float:
    """A deviation as a share of its like, positive is worse: half of a bandwidth is 0.5, twice a latency 1."""
    return math.expm1(off) if better == "low" else -math.expm1(-off)


def compared(cells: Mapping[Pair, Cell], better: Better) -> set[Pair]:
    """The pairs that have something to be held against."""
    return set(_deviations(cells, better))


def _sure(off: float, error: float, n: int) -> float:
    """Confidence that a deviation is not scatter; one pass tells nothing about scatter, so it is a half at most."""
    if n < 2:
        return 0.5
    return min(0.999, 1 - 2 * student_cdf(-abs(off) / error, n - 1))


def _scatter(cells: Mapping[Pair, Cell], link: str) -> float:
    """Robust standard deviation of the logarithms over passes, pooled over the cells of a class."""
    off = []
    for cell in cells.values():
        if cell.link == link and len(cell.values) > 1:
            middle = median(cell.values)
            # Figures lie nearer to their own median than to the true one; of an odd number it is one of them, whose
            # distance of 0 tells nothing.
            odd = len(cell.values) % 2
            shrunk = 1.0 if odd else math.sqrt(len(cell.values) / (len(cell.values) - 1))
            off += sorted(shrunk * abs(math.log(value / middle)) for value in cell.values)[odd:]
    return max(1.4826 * median(off), SIGMA_FLOOR) if off else SIGMA_FLOOR


def _deviations(cells: Mapping[Pair, Cell], better: str) -> dict[Pair, tuple[float, float, float]]:
    """{pair: (deviation left, the mode's share of it, the class's figure)}; classes of one cell tell nothing."""
    sign = 1.0 if better == "low" else -1.0
    level = {pair: math.log(median(cell.values)) for pair, cell in cells.items() if cell.values}
    found = {}
    for link in {cells[pair].link for pair in level}:
        mine = {pair: level[pair] for pair in level if cells[pair].link == link}
        if len(mine) < 2:
            continue
        # A third from the good end: a slow node makes half of a class slow. Of two cells the better one is what the
        # machine can do, as nobody can say which one is odd.
        middle = sign * sorted(sign * value for value in mine.values())[round((len(mine) - 1) / 3)]
        off = {pair: sign * (value - middle) for pair, value in mine.items()}
        for pair in mine:
            mode = _mode(pair, cells, off)
            if mode is not None:
                found[pair] = (off[pair] - mode, mode, math.exp(middle))
    return found


def _mode(pair: Pair, cells: Mapping[Pair, Cell], off: Mapping[Pair, float]) -> float | None:
    """The part of a deviation that the same place of every other package shares, or the same pair the other way.

    None when that was not measured: on packages of several nodes a pair alone tells nothing.
    """
    me = cells[pair]
    packages = {package for cell in cells.values() for package in cell.packages}
    several = any(place for cell in cells.values() for place in cell.places)
    if several and len(packages) > 1:
        same = [
            other
            for other in off
            if cells[other].places == me.places and (len(set(cells[other].packages)) == len(set(me.packages)))
        ]
    elif several and pair[0] != pair[1]:
        same = [pair, pair[::-1]]
    else:
        return 0.0
    values = [off[other] for other in same if other in off]
    if len(values) < 2:
        return 0.0 if pair[0] == pair[1] else None
    if len(off) < 3 or min(values) < 0 < max(values):
        return 0.0
    shared = min(values, key=abs)
    alone = pair[0] != pair[1] and {pair, pair[::-1]}.issuperset(same)
    most = math.inf if not alone else GEOMETRY if len(set(me.packages)) == 1 else ACROSS
    return math.copysign(min(abs(shared), most), shared)


def faults(odd: Sequence[Oddity], pairs: Sequence[Pair]) -> list[Fault]:
    """Odd cells grouped by what they have in common: a node's memory, its CPUs, both, a link one way or both ways."""
    left = {one.pair: one for one in odd if one.kind in ("persistent", "unconfirmed")}
    found = []
    rows = {i: [pair for pair in pairs if pair[0] == i] for i, _ in pairs}
    columns = {j: [pair for pair in pairs if pair[1] == j] for _, j in pairs}
    for node in sorted(rows.keys() | columns.keys()):
        row, column = rows.get(node, []), columns.get(node, [])
        slow_row = len(row) > 1 and all(pair in left for pair in row)
        slow_column = len(column) > 1 and all(pair in left for pair in column)
        if not slow_row and not slow_column:
            continue
        mine = sorted({*(row if slow_row else []), *(column if slow_column else [])})
        what: Literal["node", "CPUs of node", "memory of node"] = (
            "node" if slow_row and slow_column else "CPUs of node" if slow_row else "memory of node"
        )
        found.append(Fault(what, (node,), tuple(left[pair] for pair in mine)))
    for group in found:
        for cell in group.cells:
            left.pop(cell.pair, None)
    for pair in list(left):
        one = left.pop(pair, None)
        if one is None:
            continue
        back = left.pop(pair[::-1], None) if pair[0] != pair[1] else None
        if back is not None:
            found.append(Fault("pair", tuple(sorted(pair)), (one, back)))
        else:
            found.append(Fault("node", (pair[0],), (one,)) if pair[0] == pair[1] else Fault("link", pair, (one,)))
    return sorted(found, key=lambda fault: (-abs(fault.worst.deviation), fault.name))
