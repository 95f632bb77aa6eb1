# SPDX-License-Identifier: Apache-2.0
"""Migration: what it costs to move a thread off its caches, or pages to another node, and how often it happens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from numabench.analysis import stats
from numabench.experiments import base
from numabench.jobs.converge import SETTLED
from numabench.machine import Machine
from numabench.series import Case, Options, Series, Table
from numabench.units import format_bytes, format_value, plural

PAGE_STEPS = {"base": 4096, "thp": 2 << 20}
MOVED = {"quick": (64 * base.MIB,), "standard": (64 * base.MIB, base.GIB)}
BESIDE = {"quick": (0, 1), "standard": (0, 1, 2), "full": (0, 1, 2)}  # threads that compute, times the cores
FALLBACK = {"L2": 512 << 10, "L3": 8 * base.MIB}  # where the system names no such cache


class Migration:
    """A working set read before and after a hop within an L3, to another L3, to another node; pages moved and timed.

    A thread left to the scheduler against a pinned one, others beside it; pages that the system moves by itself.
    """

    name = "migration"
    question = "What does moving a thread, or its pages, cost?"
    families: tuple[str, ...] = ("stream",)
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """With one core there is nowhere to go."""
        cores = [cpu for i in machine.initiators() for cpu in base.team(machine, options, i)]
        return None if len(cores) > 1 else "needs two cores"

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Hop kinds x working sets of half an L2, half an L3, four times the caches; pages by kind, size and class."""
        usable = [(i, j) for i, j, why in base.pairs(machine, options) if not why]
        nodes = list(dict.fromkeys(i for i, _ in usable))
        if not nodes:
            return
        cpus = [cpu for i in nodes for cpu in base.team(machine, options, i)]
        home = machine.cpu(cpus[0]).node or 0
        for name, (a, b) in self._hops(machine, cpus).items():
            for size_name, size in self._sizes(machine, options, cpus[0], home).items():
                yield self._case(
                    machine,
                    options,
                    home,
                    unit="us",
                    cpus=(a, b),
                    bytes=size,
                    params={"hop": name, "set": size_name},
                    job="hop",
                )
        yield from self._left_alone(machine, options, cpus[0], home)
        far = [p for p in base.local_and_far(machine, options)[1:] if not p[2]]
        for _, j, _ in far:
            for kind in (options.pages,) if options.pages else PAGE_STEPS:
                for size in MOVED.get(options.profile, MOVED["standard"]):
                    for a, b in ((home, j), (j, home)) if not machine.node(j).cpus else ((home, j),):
                        yield self._move(machine, options, (home, a, b), kind, min(size, options.bytes or size))
            if options.profile != "quick" and machine.cpus_of(j):
                yield self._converge(machine, options, home, j)
        if not far:
            yield Case(
                experiment=self.name,
                kernel="read",
                unit="ns",
                better="low",
                job="move",
                params={"to": "another node"},
                unavailable="one node",
            )

    def _case(self, machine: Machine, options: Options, target: int, **more: Any) -> Case:
        """A case on memory of one node, touched there; the lower its figure the better."""
        given: dict[str, Any] = {
            "kernel": (options.kernels or ("read",))[0],
            "target": target,
            "touch_cpus": base.touchers(machine, target),
            "pages": options.pages or "thp",
            "tier": options.tier,
        }
        return Case(experiment=self.name, better="low", **(given | more))

    def _move(self, machine: Machine, options: Options, trip: tuple[int, int, int], kind: str, size: int) -> Case:
        """By a CPU of one node, from the second to the third: memory without CPUs is demoted to and promoted from."""
        home, origin, to = trip
        why = "" if kind in PAGE_STEPS else f"{kind} pages are not moved one by one"
        return self._case(
            machine,
            options,
            origin,
            kernel="read",
            unit="ns",
            initiator=home,
            cpus=base.team(machine, options, home)[:1],
            pages=kind,
            bytes=size,
            params={"to": to, "step": PAGE_STEPS.get(kind, 4096), "size": size},
            job="move",
            unavailable=why,
        )

    def _converge(self, machine: Machine, options: Options, home: int, there: int) -> Case:
        """Pages first touched on another node, read from home until the system has brought them."""
        return self._case(
            machine,
            options,
            there,
            kernel="read",
            unit="s",
            initiator=home,
            cpus=base.team(machine, options, home)[:1],
            pages=options.pages if options.pages in PAGE_STEPS else "base",
            bytes=options.bytes or MOVED["quick"][0],
            params={"by": "the system"},
            job="converge",
        )

    def _left_alone(self, machine: Machine, options: Options, cpu: int, home: int) -> Iterator[Case]:
        """Pinned and left to the scheduler, beside no, as many, twice as many computing threads as there are cores."""
        cores = len(machine.one_cpu_per_core(machine.allowed_cpus))
        asked = "--cpus" if options.cpus else "--nodes" if options.nodes else ""
        for times in BESIDE[options.profile]:
            for roams in (False, True):
                yield self._case(
                    machine,
                    options,
                    home,
                    unit="us",
                    cpus=machine.allowed_cpus if roams else (cpu,),
                    bytes=next(iter(self._sizes(machine, options, cpu, home).values())),
                    params={"roams": int(roams), "beside": times * cores},
                    job="wander",
                    unavailable=f"threads left to the scheduler go wherever they may, {asked} or not" if asked else "",
                )

    def _hops(self, machine: Machine, cpus: Sequence[int]) -> dict[str, tuple[int, int]]:
        """From the first core: to one of the same L3, of another L3 of the node, of each kind of other node."""
        a = machine.cpu(cpus[0])
        found: dict[str, tuple[int, int]] = {}
        for cpu in cpus[1:]:
            b = machine.cpu(cpu)
            if a.node == b.node:
                name = "same L3" if a.l3 == b.l3 else "other L3"
            elif a.node is not None and b.node is not None:
                name = f"other node, distance {machine.distance(a.node, b.node)}"
            else:
                continue
            found.setdefault(name, (a.id, b.id))
        return found

    def _sizes(self, machine: Machine, options: Options, cpu: int, home: int) -> dict[str, int]:
        known = {f"L{c.level}": c.bytes for c in machine.caches if cpu in c.cpus and c.type != "instruction"}
        halves = {f"half of {name}": (known.get(name) or FALLBACK[name]) // 2 // 4096 * 4096 for name in ("L2", "L3")}
        largest, _ = base.size_for(machine, options, home, (cpu,), 4 * 2 * halves["half of L3"])
        return {name: size for name, size in halves.items() if size < largest} | {"memory": largest}

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """The extra time of the first pass after a hop; ns per page moved."""
        hops = [s for s in series if s.case.job == "hop"]
        tables = []
        if hops:
            names = list(dict.fromkeys(str(s.case.params["hop"]) for s in hops))
            sets = list(dict.fromkeys((str(s.case.params["set"]), s.case.bytes) for s in hops))
            at = {(str(s.case.params["hop"]), str(s.case.params["set"])): s for s in hops}
            tables.append(
                Table(
                    experiment=self.name,
                    title="Thread moved: extra time of the first pass over its data, us",
                    unit="us",
                    better="low",
                    corner="hop",
                    columns=tuple(f"{name} ({format_bytes(size)})" for name, size in sets),
                    rows=tuple(
                        (hop, tuple(base.values_cell(self._cost(at.get((hop, name)))) for name, _ in sets))
                        for hop in names
                    ),
                    meaning=tuple(line for s in hops for line in self._words(s)),
                )
            )
        moves = [s for s in series if s.case.job == "move" and s.case.cpus]
        if moves:
            rows = {
                f"node {s.case.target} to {s.case.params['to']}, {s.case.pages}, {format_bytes(s.case.bytes)}": [s]
                for s in moves
            }
            words = []
            for s in moves:
                if s.usable and s.estimate:
                    rate = int(s.case.params["step"]) / s.estimate
                    words.append(
                        f"Moving {s.case.pages} pages from node {s.case.target} to {s.case.params['to']} runs at "
                        f"{format_value(rate)} GB/s ({format_bytes(s.case.bytes)} at once)."
                    )
            table = base.rows_table(self.name, "Pages moved, ns each", "", rows, ("ns a page",), meaning=tuple(words))
            tables.append(table)
        alone = [s for s in series if s.case.job == "wander"]
        came = [s for s in series if s.case.job == "converge"]
        return tables + ([self._roaming(alone, hops)] if alone else []) + ([self._balanced(came)] if came else [])

    def _roaming(self, found: Sequence[Series], hops: Sequence[Series]) -> Table:
        """Steps of a pinned thread and of one left to the scheduler, others beside it."""
        at = {(int(s.case.params["beside"]), int(s.case.params["roams"])): s for s in found}
        words = []
        for (beside, roams), s in at.items():
            pinned = at.get((beside, 0))
            ratio = base.paired(s, pinned) if roams and pinned else None
            if ratio:
                words.append(
                    f"{plural(int(beside), 'thread')} beside it: a thread left to the scheduler takes "
                    f"{base.in_words(ratio)} of a pinned one{self._moved(s, hops)}."
                )
        figures = {"mean": "", "p50": "p50_us", "p99": "p99_us", "moves a second": "moves_per_s"}
        return Table(
            experiment=self.name,
            title=f"Pinned or not: a step of one thread ({format_bytes(found[0].case.bytes)} read over and over), us",
            unit="us",
            better="low",
            corner="threads beside it",
            columns=tuple(figures),
            rows=tuple(
                (
                    f"{beside}, {'left to the scheduler' if roams else 'pinned'}",
                    tuple(
                        base.cell(s, at.get((beside, 0)))
                        if not name or not s.usable
                        else base.values_cell(base.extras(s, name).get("", []))
                        for name in figures.values()
                    ),
                )
                for (beside, roams), s in at.items()
            ),
            meaning=tuple(words),
        )

    def _moved(self, s: Series, hops: Sequence[Series]) -> str:
        """How often it was moved, and what part of its time that costs if each move is the dearest hop measured."""
        often = base.extras(s, "moves_per_s").get("", [])
        if not often:
            return "; how often it was moved the system does not tell"
        if not median(often):
            return " and is not moved"
        said = f" and is moved {format_value(median(often))} times a second"
        same = [cost for h in hops if h.case.bytes == s.case.bytes and (cost := self._cost(h))]
        if same:
            dearest = max(median(cost) for cost in same)
            said += f", which costs {max(median(often) * dearest / 1e4, 0.0):.2g} % of its time at most"
        return said

    def _balanced(self, found: Sequence[Series]) -> Table:
        """How long the system takes to bring pages to their reader."""
        return base.rows_table(
            self.name,
            f"Pages moved by the system itself: seconds until {SETTLED:.0%} are with their reader",
            "",
            {
                f"node {s.case.target} to {s.case.initiator}, {s.case.pages}, {format_bytes(s.case.bytes)}": [s]
                for s in found
            },
            ("s",),
        )

    def _cost(self, s: Series | None) -> list[float]:
        return base.extras(s, "hop_us").get("", []) if s else []

    def _words(self, s: Series) -> Iterator[str]:
        cost = self._cost(s)
        if not cost or not s.usable:
            return
        ci = stats.median_interval(cost)
        span = f" [{format_value(ci[0])}, {format_value(ci[1])}]" if ci else " (too few passes for an interval)"
        where = f"A hop ({s.case.params['hop']}) with {format_bytes(s.case.bytes)} of data ({s.case.params['set']})"
        if ci and ci[0] <= 0:
            yield f"{where} costs nothing measurable: {format_value(median(cost))} us{span}."
        else:
            yield f"{where} costs {format_value(median(cost))} us{span} the first time the data are read."
