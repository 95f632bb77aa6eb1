# SPDX-License-Identifier: Apache-2.0
"""Neighbour: does one model hurt another, does distance cure it, and what does the distance cost?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from numabench import layout
from numabench.analysis import stats
from numabench.errors import UsageError
from numabench.experiments import base, serving
from numabench.layout import Slot
from numabench.machine import Machine
from numabench.series import Case, Cell, Options, Series, Table

VICTIMS = {
    "quick": ("llm-decode",),
    "standard": ("llm-decode", "recsys", "llm-prefill"),
    "full": ("llm-decode", "recsys", "llm-prefill"),
}
AGGRESSORS = ("hog-read", "hog-write", "cached", "llm-decode")
NAMES = {"hog-read": "reads", "hog-write": "writes", "cached": "computes in its cache", "llm-decode": "decodes"}
REQUESTS = {"quick": 60, "standard": 80, "full": 60}  # of a pass; percentiles are of all passes together
SHARE = 0.5  # of the victim's own rate when it is left alone
SHARED, ALONE = "same cores, unbound", "alone"


class Neighbour:
    """A victim with and without an aggressor at work, side by side in time: unbound on the same cores, near, far.

    The victim serves a closed loop, then Poisson arrivals at half of the rate it reached in the same pass when left
    alone, the same ones with the aggressor and without.
    """

    name = "neighbour"
    question = "Does model B hurt model A, and does isolation cure it?"
    families: tuple[str, ...] = ()
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Two cores at least."""
        return "one core: no neighbour" if len(serving.everything(machine)[0].cpus) < 2 else None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Victims x aggressors x distances, each idle and at work; the victim alone on all cores of its node."""
        here = serving.cut(machine, options)
        victim, whole, distances = _distances(here)
        open_loop: serving.Params = {"requests": REQUESTS[options.profile], "share": SHARE, "tail": "open"}
        for preset in VICTIMS[options.profile]:
            try:
                model = serving.model_for(here, options, preset, 2)
            except UsageError as error:
                yield Case(experiment=self.name, kernel=preset, unit="steps/s", better="high", unavailable=str(error))
                continue
            for aggressor in AGGRESSORS[:3] if options.profile == "quick" else AGGRESSORS:
                for where, cpus in distances:
                    beside: serving.Params = {
                        "aggressor": aggressor,
                        "aggressor_cpus": ",".join(map(str, cpus)),
                        "where": where,
                        "wait": "polite",
                    }
                    how = "node" if where == SHARED else "cores"
                    for on in (0, 1):
                        made = serving.case(
                            self.name, options, model, (victim,), how, params=beside | open_loop | {"on": on}
                        )
                        yield serving.grouped(made, f"{preset}-{aggressor}-{where}")
            for slot in (victim, whole):
                alone: serving.Params = {"where": ALONE, "wait": "polite"}
                yield serving.grouped(
                    serving.case(self.name, options, model, (slot,), "cores", params=alone),
                    f"{preset}-alone-{len(slot.cpus)}",
                )

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """Throughput left with the aggressor at work, latencies at a fixed rate, and what keeping apart costs."""
        pairs: dict[tuple[str, str, str], dict[int, Series]] = {}
        for one in series:
            p = one.case.params
            if p.get("aggressor"):
                key = (one.case.kernel, str(p["aggressor"]), str(p["where"]))
                pairs.setdefault(key, {})[int(p["on"])] = one
        places = list(dict.fromkeys(where for _, _, where in pairs))
        rows, tails = [], []
        words: list[str] = []
        for kernel, aggressor in dict.fromkeys((k, a) for k, a, _ in pairs):
            cells = []
            for where in places:
                found = pairs.get((kernel, aggressor, where), {})
                cells.append(base.cell(found.get(1), found.get(0)))
                if len(found) == 2 and serving.middle(found[0], "open_requests") is not None:
                    name = f"{kernel}, neighbour {NAMES[aggressor]}, {where}"
                    tails.append((name, _latencies(found[0], found[1])))
                if len(found) == 2:
                    words.extend(_hurt(kernel, NAMES[aggressor], where, found[0], found[1]))
            rows.append((f"{kernel}, neighbour {NAMES[aggressor]}", tuple(cells)))
        ratios = [base.paired(found[1], found[0]) for found in pairs.values() if len(found) == 2]
        if not any(ratio and ratio.ci for ratio in ratios):
            words = ["Too few passes to say what a neighbour takes away."]
        elif not words:
            words = ["No neighbour measured takes throughput or latency away that these passes could detect."]
        if not tails:
            words.append("Latencies at a fixed rate: not valid here, no core is left to send requests from.")
        words.extend(_cost(series))
        if len(machine.initiators()) < 2:
            words.append("Other node: unavailable, this machine shows one node.")
        throughput = Table(
            experiment=self.name,
            title="Steps/s with the neighbour at work, and against the same without",
            unit="steps/s",
            better="high",
            corner="",
            columns=tuple(places) or ("-",),
            rows=tuple(rows) or (("-", (Cell(text="-"),)),),
            meaning=tuple(words),
        )
        latencies = Table(
            experiment=self.name,
            title=f"Latency from the scheduled arrival at {SHARE * 100:.0f} % of the rate without the neighbour",
            unit="ms",
            better="low",
            corner="",
            columns=("p50 without", "p50 with", "p99 without", "p99 with", "p99 with / without"),
            rows=tuple(tails),
        )
        return [throughput, latencies] if tails else [throughput]


def _latencies(idle: Series, busy: Series) -> tuple[Cell, ...]:
    return (
        serving.milliseconds(idle, "open_p50_ns", 0.5),
        serving.milliseconds(busy, "open_p50_ns", 0.5),
        serving.quantile_cell(serving.p99(idle)),
        serving.quantile_cell(serving.p99(busy)),
        Cell(text=serving.p99_ratio(busy, idle) or "-"),
    )


def _hurt(kernel: str, what: str, where: str, idle: Series, busy: Series) -> Iterator[str]:
    """What the neighbour takes away, where an interval shows it."""
    ratio = base.paired(busy, idle)
    if ratio and ratio.ci and ratio.ci[1] < 1:
        yield f"{kernel} keeps {base.in_words(ratio)} of its throughput while a neighbour ({where}) {what}."
    slower: stats.Ratio | None = serving.extra_ratio(busy, idle, "open_p50_ns")
    if slower and slower.ci and slower.ci[0] > 1:
        tail = serving.p99_ratio(busy, idle)
        yield (
            f"{kernel} at a fixed rate: median latency {base.in_words(slower)}, p99 {tail or 'not known'} while a "
            f"neighbour ({where}) {what}."
        )


def _cost(series: Sequence[Series]) -> Iterator[str]:
    """The peak that a victim gives up when it leaves the other cores of its node."""
    alone: dict[str, list[Series]] = {}
    for one in series:
        if one.case.params.get("where") == ALONE and one.usable:
            alone.setdefault(one.case.kernel, []).append(one)
    for kernel, found in alone.items():
        part, whole = min(found, key=lambda s: len(s.case.cpus)), max(found, key=lambda s: len(s.case.cpus))
        ratio = base.paired(part, whole) if part is not whole else None
        if ratio:
            yield (
                f"Keeping apart costs {kernel}: on {len(part.case.cpus)} of {len(whole.case.cpus)} cores, left alone, "
                f"it does {base.in_words(ratio)} of what it does on all of them."
            )


def _distances(machine: Machine) -> tuple[Slot, Slot, list[tuple[str, tuple[int, ...]]]]:
    """The victim, half of a node's cores; the node; CPUs for an aggressor at every distance there is.

    One core is left to send requests from, if there are more than two and no other node has one.
    """
    per = layout.per_node(machine).slots
    first = max(per, key=lambda slot: len(slot.cpus) > 1)
    half = max(len(first.cpus) // 2, 1)
    victim = Slot(first.cpus[:half], first.nodes)
    found: list[tuple[str, tuple[int, ...]]] = []
    siblings = tuple(s for cpu in victim.cpus for s in machine.siblings(cpu) if s != cpu and s in machine.allowed_cpus)
    others = [slot for slot in per if slot.nodes != first.nodes]
    spare = 1 if not others and len(first.cpus) > 2 else 0
    rest = first.cpus[half : len(first.cpus) - spare]
    l3 = {machine.cpu(cpu).l3 for cpu in victim.cpus}
    near = tuple(cpu for cpu in rest if machine.cpu(cpu).l3 in l3)
    far = tuple(cpu for cpu in rest if machine.cpu(cpu).l3 not in l3)
    if rest:
        found.append((SHARED, rest))
    if siblings:
        found.append(("same cores (siblings)", siblings))
    if near:
        found.append(("same node" if not far and l3 == {None} else "same L3", near))
    if far:
        found.append(("same node", far))
    if others:
        found.append(("other node", others[-1].cpus[:half]))
    return victim, first, found
