# SPDX-License-Identifier: Apache-2.0
"""Story: what architecture alone gives on this machine, and which step gave it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from numabench import layout
from numabench.errors import UsageError
from numabench.experiments import base, serving
from numabench.experiments.divide import sizes
from numabench.layout import Slot
from numabench.machine import Machine
from numabench.presets import Model
from numabench.series import Case, Cell, Options, Series, Table

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
    ("again", "the same once more: what differs without a change", {}),
    ("cores", "one thread per core", {"logical": False}),
    ("pinned", "threads pinned", {"pinned": True}),
    ("workers", "each thread loads its own part", {"workers": True}),
    ("nodes", "one instance per node", {"divided": "node"}),
    ("parts", "smaller instances", {"divided": "part"}),
    ("thp", "huge pages", {"thp": True}),
)
ABOUT = {name: text for name, text, _ in STEPS}
CANDIDATE, AGAIN = "size ", "fresh "  # how further arms are named
BEST = "best"  # of the divisions measured with all of that, beside the last step once more


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
            if name != "again":
                taken.append((name, change))
            yield made(setting, name, at)
        yield from self._candidates(here, options, model, setting)
        if options.profile == "quick":
            return
        for i, (name, change) in enumerate(taken[1:]):
            back: dict[str, bool | str] = {key: getattr(Setting(), key) for key in change}
            if name == "parts" and any(n == "nodes" for n, _ in taken):
                back = {"divided": "node"}
            if name != "nodes":
                yield made(setting._replace(**back), f"without {name}", len(STEPS) + i)  # type: ignore[arg-type]

    def _candidates(self, machine: Machine, options: Options, model: Model, setting: Setting) -> Iterator[Case]:
        """Other sizes of instance with everything else as in the last step."""
        final = len(_arm(machine, setting)[0][0].cpus)
        for threads in sizes(machine):
            if threads != final:
                slots = layout.split(machine, threads).slots
                params: serving.Params = {"arm": 50 + threads, "step": f"{CANDIDATE}{threads}", "loader": "workers"}
                chosen = Options(profile=options.profile, pages="thp", tier=options.tier)
                yield serving.case(self.name, chosen, model, slots, "cores", params=params)

    def again(self, series: Sequence[Series], machine: Machine, options: Options) -> list[Case]:
        """The last step and the best division in passes of their own: the best of many looks better than it is."""
        usable = [s for s in series if s.usable]
        steps = [s for s in usable if str(s.case.params["step"]) in ABOUT]
        others = [s for s in usable if str(s.case.params["step"]).startswith(CANDIDATE)]
        best = max(others, key=lambda s: s.estimate or 0, default=None)
        if not steps or best is None or (best.estimate or 0) <= (steps[-1].estimate or 0):
            return []
        cases = {"last": steps[-1].case, BEST: best.case, "start": steps[0].case}
        return [
            serving.with_params(case, step=f"{AGAIN}{name}", arm=100 + i)
            for i, (name, case) in enumerate(cases.items())
        ]

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """The waterfall: every step's ratio to the one before, the total, and what each change is worth at the end."""
        named = [s for s in series if "step" in s.case.params]
        steps = [s for s in named if str(s.case.params["step"]) in ABOUT]
        lone = [s for s in named if str(s.case.params["step"]).startswith("without")]
        sized = [s for s in named if str(s.case.params["step"]).startswith(CANDIDATE)]
        fresh = {str(s.case.params["step"]): s for s in named if str(s.case.params["step"]).startswith(AGAIN)}
        usable = [s for s in steps if s.usable]
        if not usable:
            return []
        first, last = usable[0], usable[-1]
        rows, before = [], None
        for one in steps:
            rows.append((ABOUT[str(one.case.params["step"])], _row(one, before, first)))
            before = one if one.usable and one.case.params["step"] != "again" else before
        best, base_of_best = fresh.get(f"{AGAIN}{BEST}"), fresh.get(f"{AGAIN}last")
        if best is not None and base_of_best is not None:
            name = f"best division ({serving.name_of(best.case)}), measured again"
            rows.append((name, _row(best, base_of_best, fresh.get(f"{AGAIN}start"))))
        for one in lone:
            rows.append((f"all, {one.case.params['step']}", _row(one, last, first)))
        for one in sized:
            rows.append((f"all, {serving.name_of(one.case)}", _row(one, last, first)))
        return [
            Table(
                experiment=self.name,
                title="One change a step; the model never changes",
                unit="steps/s",
                better="high",
                corner="step",
                columns=("against the step before", "against the start", "p50 ms", "p99 ms"),
                rows=tuple(rows),
                meaning=(serving.scaled(usable), *_words([*usable, *lone, *sized], first, last, fresh)),
            )
        ]


def _row(one: Series, before: Series | None, first: Series | None) -> tuple[Cell, ...]:
    p50, p99 = serving.milliseconds(one, "p50_ns"), serving.quantile_cell(serving.p99(one))
    return base.cell(one, before), base.cell(one, first), p50, p99


def _words(usable: Sequence[Series], first: Series, last: Series, fresh: dict[str, Series]) -> list[str]:
    sums = {sample.evidence.checksum for one in [*usable, *fresh.values()] for sample in one.samples}
    words = []
    again = next((s for s in usable if s.case.params["step"] == "again"), None)
    same = base.paired(again, first) if again is not None else None
    if same is not None:
        shown = same.ci is not None and (same.ci[0] > 1 or same.ci[1] < 1)
        words.append(
            f"The same against the same: {base.in_words(same)}."
            + (" The machine is too noisy for steps of this size." if shown else "")
        )
    total = base.paired(last, first)
    if total:
        tail = serving.p99_ratio(last, first)
        words.append(
            f"All steps together: {base.in_words(total)} of the naive start{f'; p99 {tail} of it' if tail else ''}."
        )
    best, start = fresh.get(f"{AGAIN}{BEST}"), fresh.get(f"{AGAIN}start")
    ratio = base.paired(best, start) if best is not None and start is not None else None
    if best is not None and ratio:
        words.append(f"With the best division ({serving.name_of(best.case)}): {base.in_words(ratio)}, measured again.")
    elif best is None:
        words.append("No other division measured beats the last step.")
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
