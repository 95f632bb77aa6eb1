# SPDX-License-Identifier: Apache-2.0
"""Frontend: how many cores compute should leave to tokenizer, HTTP and scheduler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from numabench import layout
from numabench.errors import UsageError
from numabench.experiments import base, serving
from numabench.layout import Slot
from numabench.machine import Machine
from numabench.series import Case, Cell, Options, Series, Table
from numabench.units import plural

PRESET = "llm-decode"
MOST = {"quick": 1, "standard": 4, "full": 4}
OWN, OTHER = "own node", "other node"
DUTIES = (0, 50, 100)  # percent of the time that the dispatcher works


class Frontend:
    """Decode on a node's cores but k, while a dispatcher idles or works on the last of them or on another node."""

    name = "frontend"
    question = "How many cores should compute leave for tokenizer, HTTP and scheduler?"
    families: tuple[str, ...] = ()
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Two cores at least."""
        return "one core: none to leave" if len(serving.everything(machine)[0].cpus) < 2 else None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """k = 0.. cores left x dispatcher at work for a part of the time x where it is."""
        here = serving.cut(machine, options)
        per = layout.per_node(here).slots
        node = max(per, key=lambda slot: len(slot.cpus) > 1)
        others = [slot for slot in per if slot.nodes != node.nodes]
        try:
            model = serving.model_for(here, options, PRESET, 1)
        except UsageError as error:
            yield Case(experiment=self.name, kernel=PRESET, unit="steps/s", better="high", unavailable=str(error))
            return
        places = [(OWN, node.cpus[-1]), *((OTHER, slot.cpus[-1]) for slot in others[-1:])]
        for left in range(min(MOST[options.profile], len(node.cpus) - 1) + 1):
            slot = Slot(node.cpus[: len(node.cpus) - left], node.nodes)
            for where, cpu in places:
                beside: serving.Params = {"aggressor": "cached", "aggressor_cpus": str(cpu), "left": left}
                for duty in DUTIES:
                    params = beside | {"where": where, "on": int(duty > 0), "duty": duty}
                    made = serving.case(self.name, options, model, (slot,), "cores", params=params)
                    yield serving.grouped(made, f"left-{left}-{where}")

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """Cores left down, how much the dispatcher works across; the ratio is to leaving none."""
        at = {_key(s.case): s for s in series if "left" in s.case.params}
        if not at:
            return []
        counts = sorted({left for left, _, _ in at})
        columns = sorted({(where, duty) for _, where, duty in at}, key=lambda c: (c[0] != OWN, c[1]))
        rows, tails = [], []
        for left in counts:
            found = [at.get((left, *column)) for column in columns]
            first = [at.get((0, *column)) for column in columns]
            rows.append((f"{left} left", tuple(map(base.cell, found, first))))
            known = (serving.quantile_cell(serving.p99(s)) if s is not None else Cell(text="-") for s in found)
            tails.append((f"{left} left", tuple(known)))
        words = [serving.scaled(list(at.values())), *_shares(at), *_best(at)]
        if not any(where == OTHER for _, where, _ in at):
            words.append("Dispatcher on another node: unavailable, this machine shows one node.")
        names = tuple(f"{'idle' if not duty else f'{duty} % at work'}, {where}" for where, duty in columns)
        return [
            Table(
                experiment=self.name,
                title=title,
                unit=unit,
                better=better,  # type: ignore[arg-type]
                corner="cores",
                columns=names,
                rows=tuple(cells),
                meaning=tuple(said),
            )
            for title, unit, better, cells, said in (
                ("Decode steps/s by cores left to the front end", "steps/s", "high", rows, words),
                ("p99 of a decode step", "ms", "low", tails, []),
            )
        ]


def _key(case: Case) -> tuple[int, str, int]:
    p = case.params
    # Records from before there were parts of the time hold on = 0 or 1.
    return int(p["left"]), str(p.get("where", OWN)), int(p.get("duty", 100 * int(p["on"])))


def _shares(at: dict[tuple[int, str, int], Series]) -> Iterator[str]:
    """How much of its CPU the dispatcher really got."""
    for (left, where, duty), one in at.items():
        share = serving.middle(one, "aggressor_closed_share")
        if share is not None and left == 0 and where == OWN:
            yield f"A dispatcher asked to work {duty} % of the time got {share * 100:.0f} % of a CPU beside all cores."


def _best(at: dict[tuple[int, str, int], Series]) -> Iterator[str]:
    """How many cores to leave, for each way the dispatcher works."""
    for where, duty in dict.fromkeys((where, duty) for _, where, duty in at if duty):
        known = [s for (_, w, d), s in at.items() if (w, d) == (where, duty) and s.usable]
        first = at.get((0, where, duty))
        if first is None or not first.usable or len(known) < 2:
            continue
        best = max(known, key=lambda s: s.estimate or 0)
        ratio = base.paired(best, first)
        name = f"With a dispatcher at work {duty} % of the time ({where})"
        if best is first or ratio is None or (ratio.ci is not None and ratio.ci[0] <= 1):
            yield f"{name}, leaving cores brings no throughput that these passes could detect."
        else:
            tail = serving.p99_ratio(best, first)
            yield (
                f"{name}, leaving {plural(int(best.case.params['left']), 'core')} gives "
                f"{base.in_words(ratio)} of the throughput of leaving none{f', p99 {tail}' if tail else ''}."
            )
