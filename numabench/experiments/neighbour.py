# SPDX-License-Identifier: Apache-2.0
"""Neighbour: does one model hurt another, and does distance cure it?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from numabench import layout
from numabench.errors import UsageError
from numabench.experiments import base, serving
from numabench.layout import Slot
from numabench.machine import Machine
from numabench.series import Case, Cell, Options, Series, Table

VICTIMS = {"quick": ("llm-decode",), "standard": ("llm-decode", "llm-prefill"), "full": ("llm-decode", "llm-prefill")}
AGGRESSORS = ("hog-read", "hog-write", "cached", "llm-decode")
NAMES = {"hog-read": "reads", "hog-write": "writes", "cached": "computes in its cache", "llm-decode": "decodes"}


class Neighbour:
    """A victim with and without an aggressor at work, the two side by side in time, near and far."""

    name = "neighbour"
    question = "Does model B hurt model A, and does isolation cure it?"
    families: tuple[str, ...] = ()
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Two cores at least."""
        return "one core: no neighbour" if len(serving.everything(machine)[0].cpus) < 2 else None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Victims x aggressors x distances, each idle and at work."""
        here = serving.cut(machine, options)
        victim, distances = _distances(here)
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
                    }
                    for on in (0, 1):
                        made = serving.case(
                            self.name, options, model, (victim,), "cores", params=beside | {"on": on, "wait": "polite"}
                        )
                        yield serving.grouped(made, f"{preset}-{aggressor}-{where}")

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """Throughput left with the aggressor at work, by distance."""
        pairs: dict[tuple[str, str, str], dict[int, Series]] = {}
        for one in series:
            p = one.case.params
            if p.get("aggressor"):
                key = (one.case.kernel, str(p["aggressor"]), str(p["where"]))
                pairs.setdefault(key, {})[int(p["on"])] = one
        places = list(dict.fromkeys(where for _, _, where in pairs))
        rows, words = [], []
        for kernel, aggressor in dict.fromkeys((k, a) for k, a, _ in pairs):
            cells = []
            for where in places:
                found = pairs.get((kernel, aggressor, where), {})
                cells.append(base.cell(found.get(1), found.get(0)))
                ratio = base.paired(found[1], found[0]) if len(found) == 2 else None
                if ratio and ratio.ci and ratio.ci[1] < 1:
                    words.append(
                        f"{kernel} keeps {base.in_words(ratio)} of its throughput while a neighbour on the {where} "
                        f"{NAMES[aggressor]}."
                    )
            rows.append((f"{kernel}, neighbour {NAMES[aggressor]}", tuple(cells)))
        if not words:
            words = ["No neighbour measured takes throughput away that these passes could detect."]
        if len(machine.initiators()) < 2:
            words.append("Other node: unavailable, this machine shows one node.")
        return [
            Table(
                experiment=self.name,
                title="Steps/s with the neighbour at work, and against the same without",
                unit="steps/s",
                better="high",
                corner="",
                columns=tuple(places) or ("-",),
                rows=tuple(rows) or (("-", (Cell(text="-"),)),),
                meaning=tuple(words),
            )
        ]


def _distances(machine: Machine) -> tuple[Slot, list[tuple[str, tuple[int, ...]]]]:
    """The victim, half of the first node's cores, and CPUs for an aggressor at every distance there is."""
    per = layout.per_node(machine).slots
    first = max(per, key=lambda slot: len(slot.cpus) > 1)
    half = max(len(first.cpus) // 2, 1)
    victim = Slot(first.cpus[:half], first.nodes)
    found: list[tuple[str, tuple[int, ...]]] = []
    siblings = tuple(s for cpu in victim.cpus for s in machine.siblings(cpu) if s != cpu and s in machine.allowed_cpus)
    if siblings:
        found.append(("same cores (siblings)", siblings))
    rest = first.cpus[half:]
    l3 = {machine.cpu(cpu).l3 for cpu in victim.cpus}
    near = tuple(cpu for cpu in rest if machine.cpu(cpu).l3 in l3)
    far = tuple(cpu for cpu in rest if machine.cpu(cpu).l3 not in l3)
    if near:
        found.append(("same node" if not far and l3 == {None} else "same L3", near))
    if far:
        found.append(("same node", far))
    others = [slot for slot in per if slot.nodes != first.nodes]
    if others:
        found.append(("other node", others[-1].cpus[:half]))
    return victim, found
