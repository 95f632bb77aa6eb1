# SPDX-License-Identifier: Apache-2.0
"""Core to core: what handing one cache line to another core costs, and whether the home of the line matters."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import combinations
from statistics import median

from numabench.analysis import clusters
from numabench.experiments import base
from numabench.machine import Machine
from numabench.series import Case, Cell, Options, Series, Table
from numabench.units import format_numbers, format_value

PRIMITIVES = {
    "pingpong_flag": "store and load",
    "pingpong_cas": "compare and swap",
    "pingpong_add": "fetch and add",
}
ALL_PAIRS = {"quick": 4, "standard": 16, "full": 1 << 20}  # so many CPUs are measured each with each
ROWS, PER_CLASS, HOME_PAIRS = 32, {"quick": 2, "standard": 8, "full": 0}, 2
BYTES = 2 << 20
CONTEND = "contend_add"  # all threads on one line, as multichase's fairness has it
LEAST = 0.02  # effect of the home that is worth a sentence; many are compared
KINDS = ("SMT siblings", "same L2", "same L3", "same node", "same package")


class CoreToCore:
    """Two threads pass a line back and forth: pairs of each class, the line at home with either or elsewhere."""

    name = "c2c"
    question = "What does handing a cache line to another core cost, and does the line's home node matter?"
    families: tuple[str, ...] = ("shared", "contend")
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """With a single CPU."""
        return None if len(self._cpus(machine, options)) > 1 else "needs two CPUs"

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """A matrix of CPUs, samples of every class, on some pairs other homes and primitives; teams on one line."""
        cpus = self._cpus(machine, options)
        primitives = [name for name in options.kernels or PRIMITIVES if name != CONTEND]
        if primitives:
            yield from self._pairs(machine, options, cpus, primitives)
        if not options.kernels or CONTEND in options.kernels:
            for count in self._teams(machine, cpus):
                yield self._case(machine, options, CONTEND, cpus[:count], machine.cpu(cpus[0]).node)

    def _pairs(
        self, machine: Machine, options: Options, cpus: Sequence[int], primitives: Sequence[str]
    ) -> Iterator[Case]:
        kernel = primitives[0]
        classes: dict[str, list[tuple[int, int]]] = {}
        for a, b in combinations(cpus, 2):
            classes.setdefault(kind(machine, a, b), []).append((a, b))
        rng = random.Random(options.seed)  # noqa: S311 - which pairs stand for their class, no secret
        chosen = set(combinations(self._rows(machine, cpus, options), 2))
        for members in classes.values():
            chosen |= set(rng.sample(members, min(PER_CLASS[options.profile], len(members))))
        for a, b in sorted(chosen):
            yield self._case(machine, options, kernel, (a, b), machine.cpu(a).node)
        for members in classes.values():
            for a, b in sorted(chosen & set(members))[:HOME_PAIRS]:
                for home in self._homes(machine, a, b):
                    for name in primitives:
                        if (name, home) != (kernel, machine.cpu(a).node):
                            yield self._case(machine, options, name, (a, b), home)

    def _teams(self, machine: Machine, cpus: Sequence[int]) -> list[int]:
        """How many CPUs, in the order of their numbers: one, doubled up to all, and the whole of the first node."""
        own = sum(machine.cpu(c).node == machine.cpu(cpus[0]).node for c in cpus)
        return sorted({1 << k for k in range(len(cpus).bit_length())} | {own, len(cpus)})

    def _cpus(self, machine: Machine, options: Options) -> tuple[int, ...]:
        """CPUs to measure: all allowed, of the nodes and CPUs asked for."""
        nodes = {i for i, _, why in base.pairs(machine, options) if not why}
        found = [c for c in machine.allowed_cpus if machine.cpu(c).node in nodes]
        return tuple(c for c in found if not options.cpus or c in options.cpus)

    def _rows(self, machine: Machine, cpus: Sequence[int], options: Options) -> tuple[int, ...]:
        """Everything on a small machine, else the first core of each L3, or of each node where none is known."""
        if len(cpus) <= ALL_PAIRS[options.profile]:
            return tuple(cpus)
        first: dict[tuple[int | None, int | None], int] = {}
        for c in cpus:
            first.setdefault((machine.cpu(c).l3, machine.cpu(c).node), c)
        return tuple(first.values())[: ROWS if options.profile != "quick" else ALL_PAIRS["quick"]]

    def _homes(self, machine: Machine, a: int, b: int) -> list[int]:
        """Nodes for the line: of either CPU, and a third, one without CPUs if there is any."""
        own = [n for c in (a, b) if (n := machine.cpu(c).node) is not None and machine.node(n).memory_bytes]
        others = [n for n in machine.targets() if n not in own]
        return list(dict.fromkeys(own + sorted(others, key=lambda n: bool(machine.node(n).cpus))[:1]))

    def _case(self, machine: Machine, options: Options, kernel: str, cpus: Sequence[int], home: int | None) -> Case:
        usable = home in machine.targets()
        return Case(
            experiment=self.name,
            kernel=kernel,
            unit="ns",
            better="low",
            target=home if usable else machine.targets()[0],
            cpus=tuple(cpus),
            pages=options.pages or "thp",
            tier=options.tier,
            bytes=BYTES,
            params={"threads": len(cpus)} if kernel == CONTEND else {"a": cpus[0], "b": cpus[1]},
        )

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """The matrix with the groups it shows, and what class, primitive and home make of it."""
        together = [s for s in series if s.case.kernel == CONTEND]
        pairs = [s for s in series if s.case.kernel != CONTEND]
        return [
            *(self._of_pairs(pairs, machine) if pairs else []),
            *([self._contention(together)] if together else []),
        ]

    def _of_pairs(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        kernel = series[0].case.kernel
        matrix: dict[tuple[int, int], Series] = {}
        for s in series:
            if s.case.kernel == kernel:
                matrix.setdefault((s.case.cpus[0], s.case.cpus[1]), s)
        tables = [self._matrix(kernel, matrix, machine)] if len(matrix) > 1 else []
        return [*tables, self._classes(series, machine)]

    def _matrix(self, kernel: str, matrix: dict[tuple[int, int], Series], machine: Machine) -> Table:
        cpus = sorted({c for pair in matrix for c in pair})
        costs = {pair: s.estimate for pair, s in matrix.items() if s.usable and s.estimate}
        rows = []
        for a in cpus:
            row = [matrix.get((min(a, b), max(a, b))) for b in cpus]
            rows.append(
                (
                    f"CPU {a}",
                    tuple(Cell(text="") if a == b else base.cell(s) for b, s in zip(cpus, row, strict=True)),
                )
            )
        return Table(
            experiment=self.name,
            title=f"Core to core, {PRIMITIVES.get(kernel, kernel)}, ns one way",
            unit="ns",
            better="low",
            corner="",
            columns=tuple(f"CPU {b}" for b in cpus),
            rows=tuple(rows),
            matrix=True,
            meaning=tuple(structure(costs, machine)),
        )

    def _contention(self, found: Sequence[Series]) -> Table:
        """By size of team: what an addition takes, all together; and who gets how many."""
        alone, most = found[0], found[-1]
        ratio = base.paired(most, alone)
        words = []
        if ratio and most is not alone:
            words.append(
                f"{len(most.case.cpus)} CPUs that add to one line take turns at {format_value(most.estimate or 0)} ns, "
                f"{base.in_words(ratio)} of one CPU alone."
            )
        fair = {len(s.case.cpus): base.extras(s, "fairness").get("", []) for s in found}
        least = min((n for n in fair if n > 1 and fair[n]), key=lambda n: median(fair[n]), default=0)
        if least:
            words.append(
                f"Among {least} the one with the fewest turns gets {median(fair[least]):.2f}x of the one with most."
            )
        return Table(
            experiment=self.name,
            title="One line, all add to it: ns an addition, all together",
            unit="ns",
            better="low",
            corner="CPUs",
            columns=("ns", "least/most turns"),
            rows=tuple(
                (
                    format_numbers(s.case.cpus),
                    (base.cell(s, alone), base.values_cell(base.extras(s, "fairness").get("", []))),
                )
                for s in found
            ),
            meaning=tuple(words),
        )

    def _classes(self, series: Sequence[Series], machine: Machine) -> Table:
        """Classes of pairs down; primitives with the line at home with the first CPU, then the other homes."""
        rows: dict[str, dict[str, list[Series]]] = {}
        for s in series:
            a, b = s.case.cpus
            homes = {machine.cpu(a).node: "", machine.cpu(b).node: ", at the reader's"}
            where = homes.get(s.case.target, ", at a third") if machine.cpu(a).node != s.case.target else ""
            rows.setdefault(kind(machine, a, b), {}).setdefault(s.case.kernel + where, []).append(s)
        columns = list(dict.fromkeys(name for row in rows.values() for name in row))
        words: list[str] = []
        for name, row in rows.items():
            for column, found in list(row.items())[:1]:
                cell = self._median(found)
                if cell.value is not None:
                    words.append(f"{name}: {format_value(cell.value)} ns one way, {self._head(column)}.")
            for column, found in row.items():
                words += self._home_effect(name, column, found, row.get(column.partition(",")[0], []))
        return Table(
            experiment=self.name,
            title="Core to core by class of pair, ns one way (median of pairs)",
            unit="ns",
            better="low",
            corner="",
            columns=tuple(self._head(name) for name in columns),
            rows=tuple((name, tuple(self._median(row.get(c, [])) for c in columns)) for name, row in rows.items()),
            meaning=tuple(words),
        )

    def _head(self, column: str) -> str:
        kernel, _, home = column.partition(",")
        return PRIMITIVES.get(kernel, kernel) + (f",{home}" if home else "")

    def _median(self, found: Sequence[Series]) -> Cell:
        known = [s for s in found if s.usable]
        if len(known) == 1 or (found and not known):
            return base.cell((known or list(found))[0])
        values = [s.estimate for s in known if s.estimate is not None]
        return Cell(value=median(values)) if values else Cell(unavailable="no pair of this class was measured so")

    def _home_effect(self, name: str, column: str, found: Sequence[Series], own: Sequence[Series]) -> Iterator[str]:
        if "," not in column:
            return
        for s in found:
            twin = next((o for o in own if o.case.cpus == s.case.cpus), None)
            ratio = base.paired(s, twin) if twin else None
            if ratio and ratio.ci and (ratio.ci[0] > 1 + LEAST or ratio.ci[1] < 1 - LEAST):
                yield (
                    f"{name}, CPUs {s.case.cpus[0]} and {s.case.cpus[1]}, {self._head(column)} node ({s.case.target}): "
                    f"{base.in_words(ratio)} of the line at the first CPU's node."
                )


def kind(machine: Machine, a: int, b: int) -> str:
    """How two CPUs lie to each other as the system says it, nearest relation first."""
    one, two = machine.cpu(a), machine.cpu(b)
    shared = {
        "SMT siblings": one.core == two.core,
        "same L2": any(c.level == 2 and a in c.cpus and b in c.cpus for c in machine.caches),
        "same L3": one.l3 is not None and one.l3 == two.l3,
        "same node": one.node is not None and one.node == two.node,
        "same package": one.package is not None and one.package == two.package,
    }
    near = next((name for name in KINDS if shared[name]), None)
    if near:
        return near
    far = machine.distance(one.node, two.node) if one.node is not None and two.node is not None else None
    return f"distance {far}" if far else "other package"


def structure(costs: dict[tuple[int, int], float], machine: Machine) -> Iterator[str]:
    """Groups that the timing shows against those that the system claims, each in a sentence."""
    cpus = sorted({c for pair in costs for c in pair})
    claims = {
        "cores": machine.cores,
        "L2 caches": [c.cpus for c in machine.caches if c.level == 2],
        "L3 caches": machine.l3_domains(),
        "nodes": [n.cpus for n in machine.nodes if n.cpus],
        "packages": [p.cpus for p in machine.packages],
    }
    named = {name: clusters.restricted(groups, cpus) for name, groups in claims.items() if groups}
    pairs = set(costs)

    def inside(groups: clusters.Groups) -> set[tuple[int, int]]:
        return clusters.together(groups) & pairs

    seen = clusters.partitions(costs)
    for part in seen:
        names = [name for name, groups in named.items() if inside(groups) == inside(part.groups)]
        groups = "; ".join(format_numbers(sorted(group)) for group in sorted(part.groups, key=min))
        border = f"up to {format_value(part.limit)} ns inside, at least {part.gap:.2f}x across"
        if names:
            yield f"Timing shows the {' and '.join(names)} as groups: CPUs {groups} ({border})."
        else:
            yield f"Timing groups CPUs {groups} ({border}), which the system does not say: its topology may be hidden."
    known = [inside(part.groups) for part in seen]
    for name, division in named.items():
        if inside(division) and inside(division) != pairs and inside(division) not in known:
            yield f"The system divides these CPUs into {name}; timing shows no border there."
