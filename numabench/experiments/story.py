# SPDX-License-Identifier: Apache-2.0
"""Story: what architecture alone gives on this machine, and which step gave it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from numabench import layout
from numabench.errors import UsageError
from numabench.experiments import base, serving
from numabench.layout import Slot
from numabench.machine import Machine
from numabench.series import Case, Options, Series, Table

PRESET = "llm-decode"


class Setting(NamedTuple):
    """All that the steps change, at one point of the story."""

    logical: bool = True  # threads on all CPUs, siblings too
    pinned: bool = False
    workers: bool = False  # each thread touches its own slice first
    divided: str = ""  # "", node, part
    thp: bool = False


STEPS: tuple[tuple[str, str, dict[str, bool | str]], ...] = (
    ("naive", "one process, all CPUs, unpinned, main thread loads", {}),
    ("cores", "one thread per core", {"logical": False}),
    ("pinned", "threads pinned", {"pinned": True}),
    ("workers", "each thread loads its own part", {"workers": True}),
    ("nodes", "one instance per node", {"divided": "node"}),
    ("parts", "smaller instances", {"divided": "part"}),
    ("thp", "huge pages", {"thp": True}),
)


class Story:
    """From the naive start to the tuned one, one change a step; then each change taken back alone."""

    name = "story"
    question = "How much does architecture alone give on this machine, and which step gave it?"
    families: tuple[str, ...] = ()
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """One core knows no steps but the pages."""
        return "one core: nothing to arrange" if len(serving.everything(machine)[0].cpus) < 2 else None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """The steps that this machine has, those it has not with the reason; then leave-one-out, unless quick."""
        here = serving.cut(machine, options)
        cores = serving.everything(here)[0].cpus
        missing = {}
        if all(len(here.siblings(cpu)) == 1 for cpu in cores):
            missing["cores"] = "one thread per core already"
        if len(here.initiators()) < 2:
            missing["nodes"] = "this machine shows one node"
        if _part(here) == max(len(slot.cpus) for slot in layout.per_node(here).slots):
            missing["parts"] = "a node is as small as it gets"
        try:
            model = serving.model_for(here, options, PRESET, max(len(cores) // max(_part(here), 1), 1))
        except UsageError as error:
            yield Case(experiment=self.name, kernel=PRESET, unit="steps/s", better="high", unavailable=str(error))
            return

        def made(setting: Setting, name: str, at: int) -> Case:
            slots, binding, fields = _arm(here, setting)
            pages = "thp" if setting.thp else "base"
            chosen = Options(profile=options.profile, pages=pages, tier=options.tier)  # type: ignore[arg-type]
            params: serving.Params = {"arm": at, "step": name, **fields}
            return serving.case(self.name, chosen, model, slots, binding, params=params)

        setting, taken = Setting(), []
        for at, (name, _, change) in enumerate(STEPS):
            if name in missing:
                why: serving.Params = {"arm": at, "step": name}
                yield Case(
                    experiment=self.name, kernel=PRESET, unit="steps/s", better="high", params=why,
                    unavailable=missing[name],
                )  # fmt: skip
                continue
            setting = setting._replace(**change)  # type: ignore[arg-type]
            taken.append((name, change))
            yield made(setting, name, at)
        if options.profile == "quick":
            return
        for i, (name, change) in enumerate(taken[1:]):
            back: dict[str, bool | str] = {key: getattr(Setting(), key) for key in change}
            if name == "parts" and any(n == "nodes" for n, _ in taken):
                back = {"divided": "node"}
            if name != "nodes":
                yield made(setting._replace(**back), f"without {name}", len(STEPS) + i)  # type: ignore[arg-type]

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """The waterfall: every step's ratio to the one before, the total, and what each change is worth at the end."""
        steps = [s for s in series if "step" in s.case.params and not str(s.case.params["step"]).startswith("without")]
        lone = [s for s in series if str(s.case.params.get("step", "")).startswith("without")]
        usable = [s for s in steps if s.usable]
        if not usable:
            return []
        first, last = usable[0], usable[-1]
        about = {name: text for name, text, _ in STEPS}
        rows, before = [], None
        for one in steps:
            name = about[str(one.case.params["step"])]
            rows.append((name, (base.cell(one, before), base.cell(one, first), serving.milliseconds(one, "p50_ns"))))
            before = one if one.usable else before
        for one in lone:
            name = str(one.case.params["step"])
            rows.append(
                (f"all, {name}", (base.cell(one, last), base.cell(one, first), serving.milliseconds(one, "p50_ns")))
            )
        return [
            Table(
                experiment=self.name,
                title="One change a step; the model never changes",
                unit="steps/s",
                better="high",
                corner="step",
                columns=("against the step before", "against the start", "p50 ms"),
                rows=tuple(rows),
                meaning=(serving.scaled(usable), *_words(usable, first, last)),
            )
        ]


def _words(usable: Sequence[Series], first: Series, last: Series) -> list[str]:
    sums = {sample.evidence.checksum for one in usable for sample in one.samples}
    words = []
    total = base.paired(last, first)
    if total:
        words.append(f"All steps together: {base.in_words(total)} of the naive start.")
    if len(sums) == 1:
        words.append("Outputs are the same to the bit in every arm: not a line of the model changed.")
    else:
        words.append(f"Outputs differ between arms ({len(sums)} checksums): these ratios compare different work.")
    return words


def _part(machine: Machine) -> int:
    """Cores of an instance smaller than a node: an L3's, or half of the node."""
    node = max(len(slot.cpus) for slot in layout.per_node(machine).slots)
    allowed = frozenset(machine.allowed_cpus)
    l3 = [len(machine.one_cpu_per_core(allowed.intersection(d))) for d in machine.l3_domains()]
    smallest = min((n for n in l3 if n), default=node)
    return smallest if smallest < node else max(node // 2, 1)


def _arm(machine: Machine, setting: Setting) -> tuple[tuple[Slot, ...], str, serving.Params]:
    """Slots, binding and params of one point of the story."""
    whole = serving.everything(machine)
    fields: serving.Params = {"loader": "workers" if setting.workers else "main"}
    if setting.divided == "node":
        slots = layout.per_node(machine).slots
    elif setting.divided == "part":
        slots = layout.split(machine, _part(machine)).slots
    elif setting.logical:
        slots = (Slot(tuple(c for n in machine.initiators() for c in machine.cpus_of(n, smt=True)), whole[0].nodes),)
    else:
        slots = whole
    if not setting.divided:
        fields["weights"] = "first-touch"
    return slots, "cores" if setting.pinned else "none", fields
