# SPDX-License-Identifier: Apache-2.0
"""What every experiment is, and what they share: who measures from where, sizes, and tables of series."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple, Protocol

from numabench import kernels
from numabench.analysis import stats
from numabench.environment import free_bytes
from numabench.errors import UsageError
from numabench.machine import Machine, PairClass
from numabench.series import Axis, Case, Cell, Odd, Options, Series, Table
from numabench.units import format_value

MIB, GIB, LINE = 1 << 20, 1 << 30, 64
# Up to so many pairs of nodes are measured each; beyond, so many of each class.
ALL_PAIRS, PER_CLASS = {"quick": 16, "standard": 64, "full": 1 << 30}, {"quick": 1, "standard": 3, "full": 1 << 30}
SURPRISE = 0.05  # between two distances
FEW = 4  # cells of a class, below which nobody can say which of them is odd


class Experiment(Protocol):
    """A question, the cases that answer it, and how the answer is put. Planning touches no hardware.

    ``families`` are those of the kernels that --kernel may choose; ``standard`` puts it into runs without names.
    """

    name: str
    question: str
    families: tuple[str, ...]
    standard: bool

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Why it cannot run on this machine at all."""

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """The cases, those that cannot run here with the reason."""

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """Tables with their meaning in words."""


def pairs(machine: Machine, options: Options) -> list[tuple[int, int, str]]:
    """(initiator, target, reason why not) for every pair of nodes; with --nodes only among those.

    Raises UsageError when --nodes names a node that is not there.
    """
    for node in options.nodes:
        if all(node != found.id for found in machine.nodes):
            raise UsageError(
                f"--nodes {node}: there is no such node; nodes here: {', '.join(str(n.id) for n in machine.nodes)}"
            )
    wanted = options.nodes or tuple(node.id for node in machine.nodes)
    found = []
    for i in wanted:
        if not machine.node(i).cpus:
            continue  # a target only
        for j in wanted:
            why = machine.unavailable_reason(i, initiator=True) or machine.unavailable_reason(j) or ""
            if not why and not team(machine, options, i):
                why = f"none of the CPUs asked for is on node {i}"
            found.append((i, j, why))
    return found


def chosen(machine: Machine, options: Options) -> list[tuple[int, int, str]]:
    """The pairs to measure: all of a small machine; of a large one its diagonal and some of each class of alike pairs.

    Classes are those of ``Machine.pair_classes`` (relation, distance, nearness, kind of target). The members are drawn
    by the seed, so that another seed looks for surprises elsewhere; the full profile takes all.
    """
    found = pairs(machine, options)
    usable = {(i, j) for i, j, why in found if not why}
    if len(usable) <= ALL_PAIRS[options.profile]:
        return found
    rng = random.Random(options.seed)  # noqa: S311 - which pairs stand for their class, no secret
    keep = {(i, j) for i, j in usable if i == j} if options.profile != "quick" else set()
    for members in machine.pair_classes().values():
        mine = [pair for pair in members if pair in usable]
        keep |= set(rng.sample(mine, min(PER_CLASS[options.profile], len(mine))))
    keep |= {(i, i) for i, _ in keep if (i, i) in usable}  # what their ratios refer to
    return [(i, j, why) for i, j, why in found if why or (i, j) in keep]


def represented(
    machine: Machine, options: Options, measured: Collection[tuple[int | None, int | None]]
) -> dict[str, str]:
    """Pairs of nodes that were not measured, each with one of its class that was; as ``initiator-target``."""
    usable = {(i, j) for i, j, why in pairs(machine, options) if not why}
    return {f"{i}-{j}": f"{a}-{b}" for (i, j), (a, b) in _represented(machine, usable, measured).items()}


def _represented(
    machine: Machine, wanted: Collection[tuple[int, int]], measured: Collection[tuple[int | None, int | None]]
) -> dict[tuple[int, int], tuple[int, int]]:
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for members in machine.pair_classes().values():
        stands = next((pair for pair in members if pair in measured), None)
        if stands:
            found |= {pair: stands for pair in members if pair in wanted and pair not in measured}
    return found


class Unlike(NamedTuple):
    """A class of pairs that the system calls alike, and the members that differ most."""

    key: PairClass
    members: tuple[tuple[int, int], ...]
    low: Series
    high: Series


def unlike(series: Sequence[Series], machine: Machine) -> Iterator[Unlike]:
    """Classes with two members more than a surprise apart, whose intervals do not touch."""
    at = {(s.case.initiator, s.case.target): s for s in series if s.usable and s.ci}
    for key, members in machine.pair_classes().items():
        mine = [at[pair] for pair in members if pair in at]
        if len(mine) < 2:
            continue
        low, high = (pick(mine, key=lambda s: s.estimate or 0.0) for pick in (min, max))
        if not (low.estimate and high.estimate and low.ci and high.ci):
            continue
        if high.estimate / low.estimate > 1 + SURPRISE and high.ci[0] > low.ci[1]:
            yield Unlike(key, members, low, high)


def opened(series: Sequence[Series], machine: Machine, options: Options) -> list[tuple[int, int, str]]:
    """All that a plan left out of classes whose members turned out not to be alike, as ``pairs`` has them."""
    done = {(s.case.initiator, s.case.target) for s in series}
    more = {pair for found in unlike(series, machine) for pair in found.members if pair not in done}
    return [(i, j, why) for i, j, why in pairs(machine, options) if (i, j) in more]


def odd_cells(series: Sequence[Series]) -> Iterator[str]:
    """Cells that do not fit the pairs that should be like them, in words; what was noise is not among them."""
    found: dict[str, list[tuple[Series, Odd]]] = {}
    for one in series:
        if one.odd and one.odd.verdict != "noise":
            found.setdefault(one.odd.what, []).append((one, one.odd))
    for what, mine in found.items():
        one, odd = max(mine, key=lambda pair: abs(pair[1].deviation))
        case, unit = one.case, one.case.unit
        times = 1 + odd.deviation if case.better == "low" else 1 - odd.deviation
        like = f"{times:.2f}x its like ({format_value(odd.reference)} {unit})"
        if odd.verdict == "mode_asymmetry":
            yield f"{len(mine)} cells differ in the same way in every package, at most {like}: the mode's, no fault."
            continue
        where = f"CPUs of {case.initiator} to node {case.target}"
        where = f"{what} ({len(mine)} cells), most {where}" if len(mine) > 1 else where
        few = f"; {odd.alike} cells are alike, too few to say which of them is odd" if odd.alike < FEW else ""
        yield f"Odd: {where}: {format_value(one.estimate or 0.0)} {unit}, {like}: {odd.verdict}{few}."


def team(machine: Machine, options: Options, node: int) -> tuple[int, ...]:
    """CPUs of a node to measure from: one per core, or those asked for. Raises UsageError for a CPU not allowed."""
    for cpu in options.cpus:
        if cpu not in machine.allowed_cpus:
            raise UsageError(f"--cpus {cpu}: not allowed here; allowed are {', '.join(map(str, machine.allowed_cpus))}")
    cpus = machine.cpus_of(node, smt=bool(options.cpus))
    return tuple(cpu for cpu in cpus if not options.cpus or cpu in options.cpus)


def touchers(machine: Machine, target: int) -> tuple[int, ...]:
    """Who touches a buffer first: one CPU per core nearest to the target, at most 16."""
    return machine.one_cpu_per_core(machine.nearest_cpus(target))[:16]


def size_for(
    machine: Machine, options: Options, target: int, cpus: Sequence[int], least: int, stride: int = LINE
) -> tuple[int, bool]:
    """Bytes of a memory-sized working set on the target, and whether caches may still hold part of it.

    Four times the last-level caches in reach and at least ``least``, cut to a quarter of the target's free memory. With
    a ``stride`` of several lines only one line of each is cached: the full profile takes so much more memory, the
    others say that caches may hold some.
    """
    reach = machine.llc_bytes(tuple(dict.fromkeys((*cpus, *machine.nearest_cpus(target)))))
    sparse = max(stride // LINE, 1)
    wanted = max(4 * reach * (sparse if options.profile == "full" else 1), least)
    if options.bytes:
        return options.bytes, options.bytes < 4 * reach * sparse
    free = free_bytes(target) if machine.source == "this machine" else machine.node(target).memory_bytes
    room = (free or wanted * 4) // 4
    size = min(wanted, room) // (2 * MIB) * (2 * MIB)
    return max(size, 2 * MIB), size < 4 * reach * sparse


def point(
    name: str,
    machine: Machine,
    options: Options,
    pair: tuple[int, int, str],
    kernel: str,
    *,
    cpus: Sequence[int] = (),
    least: int = 0,
    unit: str = "GB/s",
    **more: Any,
) -> Case:
    """A case from an (initiator, target, reason why not) of ``pairs``; by default all its cores, memory-sized."""
    i, j, why = pair
    cpus = tuple(cpus) or team(machine, options, i)
    size, suspect = (0, False) if why else size_for(machine, options, j, cpus, least or 100 * MIB * len(cpus))
    given: dict[str, Any] = {
        "initiator": i,
        "target": j,
        "cpus": cpus,
        "touch_cpus": () if why else touchers(machine, j),
        "pages": options.pages or "thp",
        "tier": options.tier,
        "bytes": size,
        "cache_suspect": suspect,
        "unavailable": why,
        "better": "low" if unit in ("ns", "us") else "high",
    }
    return Case(experiment=name, kernel=kernel, unit=unit, **(given | more))


def local_and_far(machine: Machine, options: Options) -> list[tuple[int, int, str]]:
    """Pairs of the first initiator: its own node, then one target of each other class, the farthest last."""
    found = pairs(machine, options)
    usable = {(i, j) for i, j, why in found if not why}
    local = next(((i, j, why) for i, j, why in found if i == j), None)
    if local is None:
        return [next(iter(found))] if found else []
    far = []
    for members in machine.pair_classes().values():
        mine = [(i, j) for i, j in members if i == local[0] and j != i and (i, j) in usable]
        far.extend([(*mine[0], "")] if mine else [])
    return [local, *sorted(far, key=lambda p: machine.distance(p[0], p[1]) or 0)]


def nearest_to_bare(machine: Machine, options: Options) -> list[tuple[int, int, str]]:
    """Each node without CPUs as the target of the initiator that is nearest to it."""
    found = []
    usable = [(i, j) for i, j, why in pairs(machine, options) if not why]
    for j in dict.fromkeys(j for _, j in usable if not machine.node(j).cpus):
        near = set(machine.nearest_cpus(j))
        mine = [i for i, target in usable if target == j]
        found.append((next((i for i in mine if near & set(team(machine, options, i))), mine[0]), j, ""))
    return found


def cell(series: Series | None, base: Series | None = None) -> Cell:
    """A series as a table cell, with its ratio to ``base`` paired by pass."""
    if series is None:
        return Cell(unavailable="not asked for")
    if series.estimate is None:
        return Cell(unavailable=series.unavailable)
    ratio = paired(series, base) if base is not None and base is not series else None
    return Cell(
        value=series.estimate,
        ci=series.ci,
        ratio=ratio.value if ratio else None,
        ratio_ci=ratio.ci if ratio else None,
        flags=series.flags,
    )


def bus_cell(series: Series | None) -> Cell:
    """GB/s on the bus: between no and full write-allocate, which only memory counters could tell apart."""
    if series is None or series.estimate is None:
        return Cell(unavailable="not measured")
    kernel = kernels.tiers()[series.case.tier].kernels.get(series.case.kernel)
    if kernel is None:
        return Cell(unavailable="a kernel that this version does not have")
    low, high = (format_value(series.estimate * times) for times in (1, kernels.bus_most(kernel)))
    return Cell(text=low if low == high else f"{low} to {high}")


def extras(series: Series, prefix: str) -> dict[str, list[float]]:
    """Further figures of all passes whose name starts with ``prefix``, by the rest of the name."""
    names = dict.fromkeys(name for sample in series.samples for name in sample.extras if name.startswith(prefix))
    return {name[len(prefix) :]: [s.extras[name] for s in series.samples if name in s.extras] for name in names}


def values_cell(values: Sequence[float], base: Series | None = None) -> Cell:
    """Figures of passes as a cell: median and interval; with ``base`` the ratio to its estimate, without interval."""
    if not values:
        return Cell(unavailable="not measured")
    middle = median(values)
    ratio = middle / base.estimate if base is not None and base.estimate else None
    return Cell(value=middle, ci=stats.median_interval(values), ratio=ratio)


def paired(series: Series, base: Series) -> stats.Ratio | None:
    """Ratio of two series over the passes that both have; None without a common pass."""
    if not series.usable or not base.usable:
        return None
    known = {sample.number: sample.value for sample in base.samples}
    common = [(sample.value, known[sample.number]) for sample in series.samples if sample.number in known]
    return stats.ratio([a for a, _ in common], [b for _, b in common]) if common else None


def matrix(
    experiment: str, title: str, series: Sequence[Series], machine: Machine, meaning: tuple[str, ...] = ()
) -> Table | None:
    """Initiators as rows, targets as columns; the ratio is to the initiator's own node."""
    if not series:
        return None
    at = {(s.case.initiator, s.case.target): s for s in series}
    initiators = sorted({i for i, _ in at if i is not None})
    targets = sorted({j for _, j in at if j is not None})
    first = series[0].case
    alike = _represented(machine, {(i, j) for i in initiators for j in targets}, at)

    def of(i: int, j: int) -> Cell:
        if (i, j) in alike:
            return Cell(unavailable="not measured: the system calls it like {} to {}".format(*alike[i, j]))
        return cell(at.get((i, j)), at.get((i, i)))

    return Table(
        experiment=experiment,
        title=title,
        unit=first.unit,
        better=first.better,
        corner="",
        columns=tuple(f"node {j}" for j in targets),
        rows=tuple((f"CPUs of {i}", tuple(of(i, j) for j in targets)) for i in initiators),
        matrix=True,
        meaning=meaning,
    )


def penalty(series: Sequence[Series], what: str) -> tuple[str, ...]:
    """The worst remote pair against local, in words with its interval; on one node the reason why there is none."""
    at = {(s.case.initiator, s.case.target): s for s in series}
    if len({s.case.target for s in series}) < 2:
        return ("Remote cases are unavailable: this machine shows one node.",)
    found = []
    for (i, j), one in at.items():
        local = at.get((i, i))
        ratio = paired(one, local) if i != j and local is not None else None
        if ratio:
            found.append((ratio, i, j))
    if not found:
        return ("No remote pair could be compared with its local one.",)
    better = series[0].case.better
    ratio, i, j = (max if better == "low" else min)(found, key=lambda item: item[0].value)
    return (f"{what} from node {i} to node {j} is {in_words(ratio)} of the local one.",)


def in_words(ratio: stats.Ratio) -> str:
    """``1.88x [1.87, 1.90]``, with what it does not show when it shows nothing."""
    if ratio.ci is None:
        return f"{ratio.value:.2f}x (too few passes for an interval)"
    text = f"{ratio.value:.2f}x [{ratio.ci[0]:.2f}, {ratio.ci[1]:.2f}]"
    if ratio.ci[0] <= 1 <= ratio.ci[1]:
        text += f" (no detectable difference; {ratio.mde * 100:.1f} % would show)"
    return text


def rows_table(
    experiment: str,
    title: str,
    corner: str,
    rows: dict[str, list[Series]],
    columns: Sequence[str],
    base: dict[str, Series] | None = None,
    meaning: tuple[str, ...] = (),
    axis: Axis | None = None,
) -> Table:
    """A plain table of series; ``base`` gives each row what its ratios refer to."""
    first = next(iter(rows.values()))[0].case
    return Table(
        experiment=experiment,
        title=title,
        unit=first.unit,
        better=first.better,
        corner=corner,
        columns=tuple(columns),
        rows=tuple((name, tuple(cell(s, (base or {}).get(name)) for s in found)) for name, found in rows.items()),
        axis=axis,
        meaning=meaning,
    )
