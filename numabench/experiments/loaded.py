# SPDX-License-Identifier: Apache-2.0
"""Loaded latency: what a load takes while others keep the memory busy, and where the knee is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median

from msgspec.structs import replace

from numabench.analysis import stats
from numabench.experiments import base
from numabench.experiments.latency import STRIDE, WINDOW_PAGES
from numabench.experiments.mixes import MIXES
from numabench.jobs.loaded import FULL, delay
from numabench.machine import Machine
from numabench.series import Axis, Case, Options, Series, Table
from numabench.units import format_value

# Shares of the full rate that are offered; 0 is the idle machine.
LOADS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, FULL)
# So many points shall reach these shares of the most (method: the bend lies there).
ENOUGH, BEND = 4, (0.6, 0.95)
MIX = {"quick": ("read",), "standard": ("read", "mix_2_1"), "full": ("read", "mix_3_1", "mix_2_1", "update")}
OWN_CURVES = 8
KNEE = 2.0  # times the idle latency


class Loaded:
    """One core chases as in latency, the others of the node stream at a rising share of their rate.

    Its ends are latency and bandwidth once more: the same core and ring, the same kernel on the CPUs that load.
    """

    name = "loaded"
    question = "How does latency rise with load, and where is the knee?"
    families: tuple[str, ...] = ("stream",)
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Where no node has two cores and there is no second node to load from."""
        cores = [len(base.team(machine, options, i)) for i in machine.initiators()]
        return None if max(cores, default=0) > 1 or len(cores) > 1 else "needs two cores: one probes, the others load"

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """A curve per (initiator, target, loading node, mix): local, one of each class, crossed, every own node."""
        for number, (i, j, source, why) in enumerate(self._curves(machine, options)):
            for kernel in options.kernels or MIX[options.profile][: None if not number else 1]:
                yield from self._curve(machine, options, (i, j, why), source, kernel)

    def again(self, series: Sequence[Series], machine: Machine, options: Options) -> Iterator[Case]:
        """Points between those that jump over the bend: a load that is offered need not be reached."""
        for found in _by_curve(series).values():
            known = [s for s in found if s.usable and s.case.params["load"] and "probe" not in s.case.params]
            for load in between([(float(s.case.params["load"]), _reached(s)) for s in known]):
                yield replace(known[0].case, params=known[0].case.params | {"load": load})

    def _curves(self, machine: Machine, options: Options) -> list[tuple[int, int, int, str]]:
        """(initiator, target, node whose cores load, reason why not)."""
        near, bare = base.local_and_far(machine, options), base.nearest_to_bare(machine, options)
        first = [*near[:1], *near[1:][-1:], *bare[:1]] if options.profile == "quick" else [*near, *bare]
        found = [(i, j, i, why) for i, j, why in first]
        if options.profile == "quick":
            return list(dict.fromkeys(found))
        usable = [(i, j) for i, j, why in base.pairs(machine, options) if not why]
        if options.profile == "full":
            found += [(i, j, i, "") for i, j in usable]
        found += [(i, i, i, "") for i, j in usable if i == j][:OWN_CURVES]
        found += [(i, j, j, "") for i, j, why in near[1:] if machine.node(j).cpus and not why]
        return list(dict.fromkeys(found))

    def _curve(
        self, machine: Machine, options: Options, pair: tuple[int, int, str], source: int, kernel: str
    ) -> Iterator[Case]:
        i, j, why = pair
        probe, loads = self._roles(machine, options, i, source)
        if not why and not loads:
            pair = (i, j, f"needs two cores of node {source}: one probes, the others load")
        whole = base.point(
            self.name, machine, options, pair, kernel, cpus=(probe, *loads), least=base.GIB, unit="ns", job="loaded"
        )
        if not pair[2]:  # the ring that latency has
            size, suspect = base.size_for(machine, options, j, whole.cpus[:1], base.GIB, STRIDE)
            whole = replace(whole, bytes=size, cache_suspect=suspect)
        for load in LOADS:
            params: dict[str, int | float | str] = {"stride": STRIDE, "window": WINDOW_PAGES * 4096, "load": load}
            cpus = whole.cpus if load else whole.cpus[:1]
            yield replace(
                whole,
                cpus=cpus,
                targets=(j,) * len(cpus),
                params=params | ({"source": source} if source != i else {}),
                share=f"{i}-{j}-{source}-{kernel}",
            )
            if load == FULL and not pair[2]:  # what the load draws when nobody probes
                yield replace(
                    whole,
                    unit="GB/s",
                    better="high",
                    cpus=loads,
                    targets=(j,) * len(loads),
                    params={"load": load, "probe": 0} | ({"source": source} if source != i else {}),
                    share=f"{i}-{j}-{source}-{kernel}",
                )

    def _roles(self, machine: Machine, options: Options, i: int, source: int) -> tuple[int, tuple[int, ...]]:
        """The probing CPU of node i, and the CPUs of the loading node that share neither core nor L2 with it."""
        own = base.team(machine, options, i)
        if not own:
            return 0, ()
        probe = own[0]  # as in latency
        near = {c for cache in machine.caches if cache.level == 2 and probe in cache.cpus for c in cache.cpus} | {probe}
        others = [cpu for cpu in base.team(machine, options, source) if cpu != probe]
        apart = [cpu for cpu in others if cpu not in near]
        return probe, tuple(apart or others)

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """One curve a table, over the load that was reached; idle, knee and saturation in words."""
        return [self._table(*key, found) for key, found in _by_curve(series).items()]

    def _table(self, i: int | None, j: int | None, source: object, kernel: str, found: Sequence[Series]) -> Table:
        who = f"CPUs of {i}" if source is None else f"a CPU of {i}, load from {source}"
        name = f"{MIXES.get(kernel, kernel)}, {who}, node {j}"
        alone = next((s for s in found if "probe" in s.case.params), None)
        found = [s for s in found if s is not alone]
        known = [s for s in found if s.usable]
        reached = {s.case.label: _reached(s) for s in known}
        idle = next((s for s in known if not s.case.params["load"]), None)
        return Table(
            experiment=self.name,
            title=f"Latency under load, ns: {name}",
            unit="ns",
            better="low",
            corner="load",
            columns=("ns", "p99 ns"),
            rows=tuple(
                (
                    f"{format_value(reached[s.case.label])} GB/s" if s.usable else "-",
                    (base.cell(s, idle), base.values_cell(base.extras(s, "p99_ns").get("", []))),
                )
                for s in found
            ),
            axis=Axis(
                title="load, GB/s", values=tuple(reached.get(s.case.label, 0.0) for s in found), along="rows", log=False
            ),
            meaning=tuple(self._words(name, known, idle, alone)),
        )

    def _words(self, name: str, known: Sequence[Series], idle: Series | None, alone: Series | None) -> Iterator[str]:
        if idle is None or idle.estimate is None or len(known) < 3:
            return
        by_pass = [{x.number: (x.extras.get("gb_per_s", 0.0), x.value) for x in s.samples} for s in known]
        numbers = sorted(set.intersection(*map(set, by_pass)))
        knees = [knee([points[n] for points in by_pass]) for n in numbers]
        most = [max(points[n][0] for points in by_pass) for n in numbers]
        full = known[-1]
        ratio = base.paired(full, idle)
        top = stats.median_interval(most)
        peak = f"{format_value(median(most))} GB/s" + (
            f" [{format_value(top[0])}, {format_value(top[1])}]" if top else ""
        )
        peak += " besides the probe"
        said = f"{name}: idle {format_value(idle.estimate)} ns"
        if ratio:
            said += f", {base.in_words(ratio)} at full load"
        if alone and alone.estimate:
            ci = alone.ci
            span = f" [{format_value(ci[0])}, {format_value(ci[1])}]" if ci else ""
            peak += f", {format_value(alone.estimate)}{span} without it"
        yield f"{said}; at most {peak}."
        found = [k for k in knees if k is not None]
        if 2 * len(found) > len(knees):
            ci = stats.median_interval(found)
            span = f" [{format_value(ci[0])}, {format_value(ci[1])}]" if ci else " (too few passes for an interval)"
            share = median(k / m for k, m in zip(knees, most, strict=True) if k is not None)
            yield (
                f"{name}: latency has doubled at {format_value(median(found))}{span} GB/s, {share:.0%} of the most: "
                "plan below that."
            )
        else:
            yield f"{name}: latency did not double at the loads reached."


def _by_curve(series: Sequence[Series]) -> dict[tuple[int | None, int | None, object, str], list[Series]]:
    """By initiator, target, source of the load and kernel; each from the idle machine to a load without delay."""
    curves: dict[tuple[int | None, int | None, object, str], list[Series]] = {}
    for s in sorted(series, key=lambda s: -delay(float(s.case.params["load"]))):
        key = (s.case.initiator, s.case.target, s.case.params.get("source"), s.case.kernel)
        curves.setdefault(key, []).append(s)
    order = dict.fromkeys((s.case.initiator, s.case.target, s.case.params.get("source"), s.case.kernel) for s in series)
    return {key: curves[key] for key in order}


def _reached(series: Series) -> float:
    """GB/s of the load without the probe."""
    return median(base.extras(series, "gb_per_s").get("", [0.0]))


def between(points: Sequence[tuple[float, float]]) -> list[float]:
    """Loads to offer besides these, given what each reached (GB/s), until enough lie around the bend.

    All of them go into the widest gap there, evenly by delay: threads that wait at times run ahead at others, so that
    a delay of a piece's mean time leaves some of the rate unused, and loads above 1 (a shorter delay) fill it.
    """
    ordered = sorted(points, key=lambda point: -delay(point[0]))
    top = max((reached for _, reached in ordered), default=0.0)
    low, high = (share * top for share in BEND)
    lacking = ENOUGH - sum(low <= reached <= high for _, reached in ordered)
    gaps = [(min(b, high) - max(a, low), x, y) for (x, a), (y, b) in pairwise(ordered)]
    if lacking <= 0 or not gaps:
        return []
    _, x, y = max(gaps)
    steps = [delay(y) + (delay(x) - delay(y)) * k / (lacking + 1) for k in range(lacking, 0, -1)]
    return [round(1 / step, 3) if round(1 / step, 3) != FULL else 1.001 for step in steps]


def knee(points: Sequence[tuple[float, float]]) -> float | None:
    """Load at which latency has doubled, between the points (load, latency) around it; None if it never does."""
    ordered = sorted(points)
    limit = KNEE * ordered[0][1]
    for (x0, y0), (x1, y1) in pairwise(ordered):
        if y1 >= limit:
            return x0 + (x1 - x0) * max(limit - y0, 0.0) / (y1 - y0) if y1 > y0 else x1
    return None
