# SPDX-License-Identifier: Apache-2.0
"""Frontend: how many cores compute should leave to tokenizer, HTTP and scheduler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from numabench.errors import UsageError
from numabench.experiments import base, serving
from numabench.layout import Slot
from numabench.machine import Machine
from numabench.series import Case, Cell, Options, Series, Table

PRESET = "llm-decode"
MOST = {"quick": 1, "standard": 4, "full": 4}


class Frontend:
    """Decode on all cores but k while a dispatcher works, or not, on the last of them."""

    name = "frontend"
    question = "How many cores should compute leave for tokenizer, HTTP and scheduler?"
    families: tuple[str, ...] = ()
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Two cores at least."""
        return "one core: none to leave" if len(serving.everything(machine)[0].cpus) < 2 else None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """k = 0.. cores left, the dispatcher idle and busy."""
        here = serving.cut(machine, options)
        whole = serving.everything(here)[0]
        try:
            model = serving.model_for(here, options, PRESET, 1)
        except UsageError as error:
            yield Case(experiment=self.name, kernel=PRESET, unit="steps/s", better="high", unavailable=str(error))
            return
        for left in range(min(MOST[options.profile], len(whole.cpus) - 1) + 1):
            slot = Slot(whole.cpus[: len(whole.cpus) - left], whole.nodes)
            beside: serving.Params = {"aggressor": "cached", "aggressor_cpus": str(whole.cpus[-1]), "left": left}
            for on in (0, 1):
                made = serving.case(self.name, options, model, (slot,), "cores", params=beside | {"on": on})
                yield serving.grouped(made, f"left-{left}")

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """Cores left down, idle and busy across; the ratio is to leaving none, the dispatcher busy."""
        at = {(int(s.case.params["left"]), int(s.case.params["on"])): s for s in series if "left" in s.case.params}
        if not at:
            return []
        first = at.get((0, 1))
        counts = sorted({left for left, _ in at})
        rows = tuple(
            (f"{left} left", (base.cell(at.get((left, 0))), base.cell(at.get((left, 1)), first))) for left in counts
        )
        known = [s for (_, on), s in at.items() if on and s.usable]
        words = [serving.scaled(list(at.values()))]
        if first is not None and first.usable and len(known) > 1:
            best = max(known, key=lambda s: s.estimate or 0)
            ratio = base.paired(best, first)
            left = best.case.params["left"]
            if best is first or ratio is None or (ratio.ci is not None and ratio.ci[0] <= 1):
                words.append("With a busy dispatcher, leaving cores brings nothing that these passes could detect.")
            else:
                words.append(
                    f"With a busy dispatcher, leaving {left} core(s) gives {base.in_words(ratio)} of the throughput of "
                    "leaving none."
                )
        return [
            Table(
                experiment=self.name,
                title="Decode steps/s by cores left to the front end",
                unit="steps/s",
                better="high",
                corner="cores",
                columns=("dispatcher idle", "dispatcher busy"),
                rows=rows or (("-", (Cell(text="-"), Cell(text="-"))),),
                meaning=tuple(words),
            )
        ]
