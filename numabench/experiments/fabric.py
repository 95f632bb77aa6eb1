# SPDX-License-Identifier: Apache-2.0
"""Fabric: what the links give when all nodes use them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from numabench import kernels
from numabench.analysis import stats
from numabench.experiments import base
from numabench.machine import Machine
from numabench.series import Case, Cell, Options, Series, Table
from numabench.units import format_value

SHIFTS = ONE_TARGET = 8
THREAD_BYTES = 100 * base.MIB
OFF_SHARE, OFF_DEVIATIONS, LEAST_CLASS = 0.05, 4.0, 4  # when a link does not fit its class (method 1.7)
ALONE = {"quick": 16, "standard": 64, "full": 1 << 20}


class Fabric:
    """All nodes' teams in one window: each at home, each at its k-th neighbour, all at one, one at all."""

    name = "fabric"
    question = "What do the links give when all nodes are busy at once, and which link is slow then?"
    families: tuple[str, ...] = ("stream",)
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Never: all at home remains."""
        return None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Patterns x read and 1R:1W, and the pairs alone for comparison."""
        usable = [(i, j) for i, j, why in base.pairs(machine, options) if not why]
        nodes = list(dict.fromkeys(i for i, _ in usable))
        targets = list(dict.fromkeys(j for _, j in usable))
        known = kernels.tier(options.tier).kernels
        chosen = options.kernels or tuple(name for name in ("read", "update") if name in known)
        patterns = self._patterns(machine, nodes, targets)
        if len(nodes) < 2:
            yield Case(experiment=self.name, kernel=chosen[0], unit="GB/s", better="high", unavailable="one node")
        for kernel in chosen[: 1 if options.profile == "quick" else None]:
            for pattern, links in patterns.items():
                yield self._together(machine, options, kernel, pattern, links)
        for i, j in usable[: ALONE[options.profile]] if len(nodes) > 1 else []:
            alone = {"pattern": "alone"}
            yield base.point(self.name, machine, options, (i, j, ""), chosen[0], params=alone)

    def _patterns(self, machine: Machine, nodes: list[int], targets: list[int]) -> dict[str, list[tuple[int, int]]]:
        """Name of a pattern: (initiator, target) pairs that are busy together. O(nodes) of them."""
        found = {"all at home": [(i, i) for i in nodes if i in targets]}
        homes = [i for i in nodes if i in targets]
        for k in range(1, min(len(homes) - 1, SHIFTS) + 1) if len(homes) > 1 else []:
            found[f"shift {k}"] = [(i, homes[(at + k) % len(homes)]) for at, i in enumerate(homes)]
        packages: dict[int | None, list[int]] = {}
        for i in homes:
            packages.setdefault(machine.cpu(machine.node(i).cpus[0]).package, []).append(i)
        groups = list(packages.values())
        if len(groups) == 2 and len(groups[0]) == len(groups[1]) > 1:
            swap = dict(zip(groups[0], groups[1], strict=True))
            found["packages exchange"] = [*swap.items(), *((b, a) for a, b in swap.items())]
        if len(targets) > 1:
            for j in targets[:ONE_TARGET]:
                found[f"all to {j}"] = [(i, j) for i in nodes]
            for i in nodes[:ONE_TARGET]:
                found[f"{i} to all"] = [(i, j) for j in targets]
        return found

    def _together(
        self, machine: Machine, options: Options, kernel: str, pattern: str, links: list[tuple[int, int]]
    ) -> Case:
        """Every core of a link's initiator streams from its target; with several targets they take turns."""
        goals: dict[int, list[int]] = {}
        for i, j in links:
            goals.setdefault(i, []).append(j)
        cpus, targets = [], []
        for i, wanted in goals.items():
            for at, cpu in enumerate(base.team(machine, options, i)):
                cpus.append(cpu)
                targets.append(wanted[at % len(wanted)])
        each = []
        for j in dict.fromkeys(targets):
            mine = [cpu for cpu, target in zip(cpus, targets, strict=True) if target == j]
            size, suspect = base.size_for(machine, options, j, mine, THREAD_BYTES * len(mine))
            each.append((size // len(mine), suspect))
        return Case(
            experiment=self.name,
            kernel=kernel,
            unit="GB/s",
            better="high",
            cpus=tuple(cpus),
            targets=tuple(targets),
            pages=options.pages or "thp",
            tier=options.tier,
            bytes=min(size for size, _ in each) * len(cpus),
            cache_suspect=any(suspect for _, suspect in each),
            params={"pattern": pattern},
            job="fabric",
        )

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """Patterns with total, worst team, fairness, and what is left of the same pairs alone; then the links."""
        together = [s for s in series if s.case.params.get("pattern") != "alone" and s.case.targets]
        alone = {(s.case.initiator, s.case.target): s for s in series if s.case.params.get("pattern") == "alone"}
        if not together:
            return []
        kernel = together[0].case.kernel
        rows, words = [], []
        for s in together:
            teams = base.extras(s, "node")
            worst = min(teams, key=lambda name: median(teams[name]), default=None)
            fair = [min(r) / max(r) for r in zip(*teams.values(), strict=True)]
            kept = self._kept(s, alone, machine)
            name = str(s.case.params["pattern"]) + (f", {s.case.kernel}" if s.case.kernel != kernel else "")
            rows.append(
                (
                    name,
                    (
                        base.cell(s),
                        base.values_cell(teams[worst]) if worst else Cell(unavailable=s.unavailable),
                        base.values_cell(fair),
                        base.values_cell(kept),
                    ),
                )
            )
            ci = stats.median_interval(kept)
            if ci and ci[1] < 0.95 and len(alone) > 1:
                words.append(f"{name}: {median(kept):.2f}x [{ci[0]:.2f}, {ci[1]:.2f}] of what the pairs give alone.")
        table = Table(
            experiment=self.name,
            title=f"All at once, {kernel}, GB/s",
            unit="GB/s",
            better="high",
            corner="pattern",
            columns=("total", "worst team", "least/most", "of alone"),
            rows=tuple(rows),
            meaning=tuple(words or self._fine(alone, all(len(s.samples) >= stats.LEAST_PASSES for s in together))),
        )
        links = self._links(together, kernel, machine)
        return [table] + ([self._matrix(links, alone, machine, kernel)] if len(links) > 1 else [])

    def _fine(self, alone: dict[tuple[int | None, int | None], Series], sure: bool) -> tuple[str, ...]:
        if len(alone) < 2:
            return ("One node: only what it gives itself; there are no links.",)
        if not sure:
            return (f"Fewer than {stats.LEAST_PASSES} passes: no verdict on what the patterns lose.",)
        return ("No pattern is shown to lose more than 5 % against its pairs alone.",)

    def _kept(self, s: Series, alone: dict[tuple[int | None, int | None], Series], machine: Machine) -> list[float]:
        """Total over the sum of the pairs alone, pass by pass; a pair of several counts by its share of threads."""
        pairs = [(machine.cpu(cpu).node, target) for cpu, target in zip(s.case.cpus, s.case.targets, strict=True)]
        sizes = {i: sum(node == i for node, _ in pairs) for i, _ in pairs}
        shares = {pair: pairs.count(pair) / sizes[pair[0]] for pair in pairs}
        found = []
        for sample in s.samples:
            each = [
                share * x.value
                for pair, share in shares.items()
                if pair in alone
                for x in alone[pair].samples
                if x.number == sample.number
            ]
            if len(each) == len(shares):
                found.append(sample.value / sum(each))
        return found

    def _links(self, together: Sequence[Series], kernel: str, machine: Machine) -> dict[tuple[int, int], list[float]]:
        """(initiator, target): GB/s of that team while all others were busy, from the patterns of one link a node."""
        links: dict[tuple[int, int], list[float]] = {}
        for s in together:
            pattern = str(s.case.params["pattern"])
            if s.case.kernel == kernel and (pattern.startswith("shift") or pattern == "all at home"):
                goals = {machine.cpu(c).node: j for c, j in zip(s.case.cpus, s.case.targets, strict=True)}
                links |= {(int(name), goals[int(name)]): rates for name, rates in base.extras(s, "node").items()}
        return links

    def _matrix(
        self,
        links: dict[tuple[int, int], list[float]],
        alone: dict[tuple[int | None, int | None], Series],
        machine: Machine,
        kernel: str,
    ) -> Table:
        initiators, targets = (sorted({pair[at] for pair in links}) for at in (0, 1))
        words = []
        for group in machine.pair_classes().values():
            mine = {pair: median(links[pair]) for pair in group if links.get(pair)}
            if len(mine) < LEAST_CLASS:
                continue
            middle = median(mine.values())
            for pair, z in zip(mine, stats.modified_z(list(mine.values())), strict=True):
                if mine[pair] < middle * (1 - OFF_SHARE) and z < -OFF_DEVIATIONS:
                    words.append(
                        f"The link from node {pair[0]} to node {pair[1]} gives {format_value(mine[pair])} GB/s when "
                        f"all are busy, {mine[pair] / middle:.2f}x of the median of its class ({len(mine)} links)."
                    )
        return Table(
            experiment=self.name,
            title=f"Links while all others are busy, {kernel}, GB/s",
            unit="GB/s",
            better="high",
            corner="",
            columns=tuple(f"node {j}" for j in targets),
            rows=tuple(
                (f"CPUs of {i}", tuple(base.values_cell(links.get((i, j), []), alone.get((i, j))) for j in targets))
                for i in initiators
            ),
            matrix=True,
            meaning=tuple(words),
        )
