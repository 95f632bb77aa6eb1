# SPDX-License-Identifier: Apache-2.0
"""Idle latency: one dependent load from node i to memory of node j."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from numabench.analysis import stats
from numabench.experiments import base
from numabench.machine import Machine
from numabench.series import Case, Options, Series, Table
from numabench.units import format_value

# Several lines: a prefetcher that fetches a neighbour too would hide part of the misses (97 ns instead of 142 at one
# line in a 256 MiB ring on a Xeon with AVX-512).
STRIDE = 256
WINDOW_PAGES = 64  # random order within so many base pages, then on: the TLB holds them, no prefetcher follows


class Latency:
    """Pointer chase of one thread per initiator over a ring on each target (as multichase; see docs/method)."""

    name = "latency"
    question = "How much longer does one dependent load take from node i to memory of node j?"
    families: tuple[str, ...] = ("chase",)
    standard = True

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Never: one node still has a local latency."""
        return None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Every initiator x target; base pages too on the first local pair, to show what the TLB costs."""
        kinds = (options.pages,) if options.pages else ("thp", "base")
        yield from self._cases(machine, options, base.chosen(machine, options), kinds)

    def again(self, series: Sequence[Series], machine: Machine, options: Options) -> list[Case]:
        """The rest of each class of pairs whose members differ."""
        first = series[0].case
        main = [s for s in series if s.case.pages == first.pages]
        options = replace(options, tier=first.tier)
        return list(self._cases(machine, options, base.opened(main, machine, options), (first.pages,)))

    def _cases(
        self, machine: Machine, options: Options, pairs: Sequence[tuple[int, int, str]], kinds: Sequence[str]
    ) -> Iterator[Case]:
        first = True
        for i, j, why in pairs:
            cpus = base.team(machine, options, i)[:1]
            size, suspect = (0, False) if why else base.size_for(machine, options, j, cpus, base.GIB, STRIDE)
            for kind in kinds:
                if kind != kinds[0] and not first:
                    continue
                params: dict[str, int | float | str] = {"stride": STRIDE, "window": WINDOW_PAGES * 4096}
                yield Case(
                    experiment=self.name,
                    kernel="chase",
                    unit="ns",
                    better="low",
                    initiator=i,
                    target=j,
                    cpus=cpus,
                    touch_cpus=() if why else base.touchers(machine, j),
                    pages=kind,
                    tier=options.tier,
                    bytes=size,
                    params=params,
                    cache_suspect=suspect,
                    unavailable=why,
                )
            first = first and bool(why)

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """The matrix, and what base pages cost."""
        kind = series[0].case.pages
        main = [s for s in series if s.case.pages == kind]
        meaning = list(base.penalty(main, "A dependent load"))
        for other in series:
            twin = next(
                (s for s in main if (s.case.initiator, s.case.target) == (other.case.initiator, other.case.target)),
                None,
            )
            ratio = base.paired(other, twin) if twin and other is not twin else None
            if ratio and twin and other.estimate and twin.estimate:
                meaning.append(
                    f"With {other.case.pages} pages it takes {format_value(other.estimate)} ns, "
                    f"{base.in_words(ratio)} of {kind}."
                )
        meaning += [*_asleep(main), *base.odd_cells(main), *_against_slit(main, machine)]
        table = base.matrix(self.name, "Idle latency, ns per dependent load", main, machine, tuple(meaning))
        return [table] if table else []


def _asleep(series: Sequence[Series]) -> Iterator[str]:
    """What it costs that all cores of another node sleep, where that is most."""
    ratios = {
        (s.case.initiator, s.case.target): stats.ratio(seen, [1.0] * len(seen))
        for s in series
        if (seen := [sample.evidence.twins["asleep"] for sample in s.samples if "asleep" in sample.evidence.twins])
    }
    if ratios:
        (i, j), ratio = max(ratios.items(), key=lambda item: item[1].value)
        yield (
            f"A core of the target is kept awake; while all of node {j} sleep, a load from node {i} takes "
            f"{base.in_words(ratio)} of what it took."
        )


def _against_slit(series: Sequence[Series], machine: Machine) -> Iterator[str]:
    """Where the distance table of the firmware puts two targets of a node in the wrong order."""
    for i in dict.fromkeys(s.case.initiator for s in series):
        mine = [s for s in series if s.case.initiator == i and s.usable and s.ci]
        known = [(machine.distance(i, s.case.target), s) for s in mine if i is not None and s.case.target is not None]
        wrong = [
            (a, b)
            for near, a in known
            for far, b in known
            if near and far and near < far and a.ci and b.ci and a.ci[0] > b.ci[1] * (1 + base.SURPRISE)
        ]
        for a, b in wrong[:1]:
            yield (
                f"From node {i} the firmware puts node {a.case.target} nearer than node {b.case.target}; measured it "
                f"is {format_value(a.estimate or 0)} against {format_value(b.estimate or 0)} ns."
            )
