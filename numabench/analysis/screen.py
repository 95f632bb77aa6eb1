# SPDX-License-Identifier: Apache-2.0
"""Matrices of a run against themselves: which cells do not fit their class, and what kind of oddity each is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from numabench.analysis import matrix
from numabench.analysis.matrix import Cell, Oddity, Pair
from numabench.machine import Machine
from numabench.series import FATAL, Case, Odd, OddVerdict, Sample, Series

CONTROLS = 2  # cells of the class that are as they should be, measured again along with an odd one
FLAG = "odd_cell"


def passes(samples: Iterable[Sample]) -> dict[int, float]:
    """{pass: figure} of the passes without a fatal flag; empty when fewer than half are sound."""
    found = list(samples)
    good = {s.number: s.value for s in found if not FATAL.keys() & set(s.flags)}
    return dict(sorted(good.items())) if 2 * len(good) >= len(found) else {}


def cells(machine: Machine, values: Mapping[Pair, Sequence[float]]) -> dict[Pair, Cell]:
    """Matrix cells with their link class and places; pairs without a figure are left out."""
    where = places(machine)
    found = {}
    for (i, j), mine in values.items():
        if not mine:
            continue
        target = machine.node(j)
        near = not set(machine.node(i).cpus).isdisjoint(target.local_cpus)
        link = f"{machine.relation(i, j)}/{machine.distance(i, j)}/{near}/{target.subtype}"
        found[i, j] = Cell(tuple(mine), link, (where[i][1], where[j][1]), (where[i][0], where[j][0]))
    return found


def places(machine: Machine) -> dict[int, tuple[int, int]]:
    """{node: (package, place within it)}; nodes without CPUs are places of a package of their own."""
    count: dict[int, int] = {}
    found = {}
    for node in machine.nodes:
        package = machine.cpu(node.cpus[0]).package if node.cpus else None
        key = -1 if package is None else package
        found[node.id] = (key, count.get(key, 0))
        count[key] = count.get(key, 0) + 1
    return found


def suspects(series: Iterable[Series], machine: Machine) -> list[Case]:
    """Cases far off their class, each class with controls that are not."""
    found: list[Case] = []
    for mine in _matrices(series):
        known = cells(machine, {pair: tuple(passes(_first(one)).values()) for pair, one in mine.items()})
        odd = {one.pair for one in matrix.oddities(known, _better(mine)) if one.kind == "unconfirmed"}
        for link in sorted({known[pair].link for pair in odd}):
            alike = [pair for pair in known if known[pair].link == link]
            chosen = [p for p in alike if p in odd] + [p for p in alike if p not in odd][:CONTROLS]
            found += [mine[pair].case for pair in chosen]
    return found


def judged(series: Sequence[Series], machine: Machine) -> list[Series]:
    """The series, those that do not fit their class with what is odd about them and, unless explained, a flag."""
    looked = []
    for mine in _matrices(series):
        known = cells(machine, {pair: tuple(passes(_first(one)).values()) for pair, one in mine.items()})
        again = {pair: tuple(passes(s for s in one.samples if s.again).values()) for pair, one in mine.items()}
        odd = matrix.oddities(known, _better(mine), {pair: values for pair, values in again.items() if values})
        looked.append((mine, known, odd, matrix.faults(odd, list(known))))
    directions = [
        (fault.nodes, _better(mine)) for mine, _, _, faults in looked for fault in faults if fault.what == "link"
    ]
    both = {pair for pair, _ in directions if {(pair, "low"), (pair, "high")} <= set(directions)}
    changed: dict[int, Series] = {}
    for mine, known, odd, faults in looked:
        fault_of = {one.pair: fault for fault in faults for one in fault.cells}
        for one in odd:
            it = mine[one.pair]
            made = Odd(
                verdict=_verdict(one, it, fault_of.get(one.pair), both),
                deviation=one.deviation,
                reference=one.reference,
                alike=sum(cell.link == known[one.pair].link for cell in known.values()),
                confidence=one.confidence,
                what=fault_of[one.pair].name if one.pair in fault_of else "",
            )
            changed[id(it)] = _marked(it, made)
    return [changed.get(id(one), one) for one in series]


def _matrices(series: Iterable[Series]) -> list[dict[Pair, Series]]:
    """Series that differ by their pair of nodes alone."""
    found: dict[tuple[object, ...], dict[Pair, Series]] = {}
    for one in series:
        case = one.case
        if case.initiator is None or case.target is None or not one.samples:
            continue
        key = (case.experiment, case.kernel, case.pages, case.tier, len(case.cpus), str(case.params))
        found.setdefault(key, {}).setdefault((case.initiator, case.target), one)
    return [mine for mine in found.values() if len(mine) > 1]


def _first(one: Series) -> list[Sample]:
    return [sample for sample in one.samples if not sample.again]


def _better(mine: Mapping[Pair, Series]) -> matrix.Better:
    return next(iter(mine.values())).case.better


def _verdict(one: Oddity, it: Series, fault: matrix.Fault | None, both: set[tuple[int, ...]]) -> OddVerdict:
    if one.kind == "noise":
        return "noise"
    if one.kind == "mode asymmetry":
        return "mode_asymmetry"
    if one.kind == "unconfirmed":
        return "unconfirmed"
    fits = [abs(value / one.reference - 1) <= matrix.WARN for value in passes(it.samples).values()]
    if "allocation_dependent" in it.flags and any(fits):
        return "allocation_dependent"
    if fault and fault.what == "link" and fault.nodes in both:
        return "link_direction"
    if fault and fault.what in ("node", "CPUs of node", "memory of node") and len(fault.cells) > 1:
        return "node"
    return "persistent_unexplained"


def _marked(one: Series, odd: Odd) -> Series:
    if odd.verdict in ("noise", "mode_asymmetry"):
        return msgspec.structs.replace(one, odd=odd)
    trust = "inferred" if one.trust == "proven" else one.trust
    return msgspec.structs.replace(one, odd=odd, flags=(*one.flags, FLAG), trust=trust)
