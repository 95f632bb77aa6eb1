# SPDX-License-Identifier: Apache-2.0
"""Load: what p99 at which request rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from numabench import layout
from numabench.errors import UsageError
from numabench.experiments import base, serving
from numabench.jobs.instance import free_cpu
from numabench.layout import Slot
from numabench.machine import Machine
from numabench.series import Case, Cell, Options, Series, Table

PRESET = "llm-decode"
SHARES = {
    "quick": (0.5, 0.8),
    "standard": (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95),
    "full": (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95),
}
STEPS = {"quick": 1, "standard": 4, "full": 16}  # decode steps of a request
BOUND_STEPS = 5.0  # the bound on p99, in median service times
STALL_S = 1.0
PROMPT, ANSWER = 128, 16  # rows and decode steps of a whole request
WHOLE = {"standard": 70, "full": 40}  # requests of a pass; their p99 is that of all passes together
NO_CORE = "latency not valid: generator shares cores (it needs one that no instance uses)"


class Load:
    """Open-loop Poisson arrivals at shares of the closed loop's rate; latency counts from the scheduled arrival."""

    name = "load"
    question = "What p99 do I get at which request rate, and what would a closed loop have said?"
    families: tuple[str, ...] = ()
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """The generator needs a core of its own."""
        return NO_CORE if len(serving.everything(machine)[0].cpus) < 2 else None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Up to three divisions that leave a core free x rates; the highest rate under the bound; a planted stall."""
        here = serving.cut(machine, options)
        divisions = _divisions(here)[: 1 if options.profile == "quick" else 3]
        try:
            model = serving.model_for(here, options, PRESET, max(len(d) for d in divisions))
        except UsageError as error:
            yield Case(experiment=self.name, kernel=PRESET, unit="ns", better="low", unavailable=str(error))
            return
        common: serving.Params = {"requests": serving.REQUESTS[options.profile], "steps": STEPS[options.profile]}
        for slots in divisions:
            used = [cpu for slot in slots for cpu in slot.cpus]
            if free_cpu(here, used) is None:
                yield Case(experiment=self.name, kernel=PRESET, unit="ns", better="low", unavailable=NO_CORE)
                continue
            share = f"{len(slots)}x{len(slots[0].cpus)}"
            for rate in SHARES[options.profile]:
                made = serving.case(
                    self.name, options, model, slots, "cores", unit="ns", better="low", params=common | {"share": rate}
                )
                yield serving.grouped(made, share)
            if options.profile != "quick":
                asked: serving.Params = {"bound_ms": options.p99_s * 1e3} if options.p99_s else {}
                bound = common | (asked or {"bound_steps": BOUND_STEPS})
                made = serving.case(self.name, options, model, slots, "cores", unit="requests/s", params=bound)
                yield serving.grouped(made, share)
            yield from _whole_requests(options, here, slots)
        stall = common | {"share": 0.5, "stall_s": STALL_S}
        yield serving.case(
            self.name, options, model, divisions[0], "cores", unit="ns", better="low", params=stall
        )  # fmt: skip

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """Rates down: latency, service and queueing side by side; then the stall as both loops saw it."""
        whole = [s for s in series if s.case.params.get("tail")]
        rates = [s for s in series if s.case.unit == "ns" and not s.case.params.get("stall_s") and s not in whole]
        if not series:
            return []
        known = [s for s in series if s.case.params.get("preset")]
        words = [serving.scaled(known)] if known else []
        words += _highest(series) + _stall(series) + _requests(whole)
        rows = tuple((f"{serving.name_of(s.case)}, {_share(s)}", _row(s)) for s in rates if s.case.params.get("preset"))
        columns = ("requests/s", "p50 ms", "p99 ms", "p99 at most", "service p99 ms", "closed loop p99 ms")
        return [
            Table(
                experiment=self.name,
                title="Latency from the scheduled arrival, Poisson arrivals",
                unit="ms",
                better="low",
                corner="division, share of its peak",
                columns=columns,
                rows=rows,
                meaning=tuple(words),
            )
        ]


def _divisions(machine: Machine) -> list[tuple[Slot, ...]]:
    """One instance on all cores but one, one per node short of a core each, and halves of a node."""
    whole = serving.everything(machine)[0]
    found: list[tuple[Slot, ...]] = [(Slot(whole.cpus[:-1], whole.nodes),)]
    per = layout.per_node(machine).slots
    if len(per) > 1 and min(len(slot.cpus) for slot in per) > 1:
        found.append(layout.per_node(machine, reserve=1).slots)
    least = min(len(slot.cpus) for slot in per)
    if least >= 4:
        slots = layout.split(machine, least // 2).slots
        found.append((*slots[:-1], slots[-1]._replace(cpus=slots[-1].cpus)) if len(slots) == 1 else slots[:-1])
    return found


def _whole_requests(options: Options, machine: Machine, slots: tuple[Slot, ...]) -> Iterator[Case]:
    """A prompt and the steps that answer it, a batch of the encoder or of the recommender; but for quick.

    They are too long for a p99 of each pass.
    """
    if options.profile == "quick":
        return
    steps: dict[str, serving.Params] = {PRESET: {"prompt": PROMPT, "steps": ANSWER}, "encoder": {}, "recsys": {}}
    for preset, more in steps.items():
        try:
            # Room for the prompt's weights in f32 beside those of decode: three copies of two bytes each.
            model = serving.model_for(machine, options, preset, len(slots) * (3 if more else 1))
        except UsageError as error:
            yield Case(experiment="load", kernel=preset, unit="ns", better="low", unavailable=str(error))
            continue
        params = more | {"requests": WHOLE[options.profile], "share": 0.7, "quantile": 0.5, "tail": "open"}
        yield serving.case("load", options, model, slots, "cores", unit="ns", better="low", params=params)


def _requests(series: Sequence[Series]) -> list[str]:
    """Latency of whole requests, p99 from all passes together."""
    words = []
    for one in series:
        prompt = one.case.params.get("prompt")
        what = f"{PROMPT} prompt rows and {ANSWER} steps" if prompt else f"one {one.case.params['preset']} batch"
        name = f"{serving.name_of(one.case)}, requests of {what} at 70 % of the peak"
        if one.estimate is None:
            words.append(f"{name}: {one.unavailable}.")
            continue
        tail = serving.quantile_cell(serving.p99(one)).text
        doubt = "" if one.usable else f" Not to be trusted: {', '.join(one.flags)}."
        words.append(f"{name}: median {one.estimate / 1e6:.0f} ms, p99 {tail} ms from the scheduled arrival.{doubt}")
    return words


def _share(series: Series) -> str:
    return f"{float(series.case.params['share']) * 100:.0f} %"


def _row(series: Series) -> tuple[Cell, ...]:
    if series.estimate is None:
        return (Cell(unavailable=series.unavailable),) * 6
    rate, high = serving.middle(series, "open_per_s"), serving.middle(series, "open_p99_high_ns")
    p99 = base.cell(series)
    return (
        Cell(text=f"{rate:.1f}" if rate else "-"),
        serving.milliseconds(series, "open_p50_ns", 0.5),
        Cell(
            value=series.estimate / 1e6,
            ci=(series.ci[0] / 1e6, series.ci[1] / 1e6) if series.ci else None,
            flags=p99.flags,
        ),
        Cell(text=f"{high / 1e6:.2f}" if high else "-"),
        serving.milliseconds(series, "open_service_p99_ns", 0.99),
        serving.milliseconds(series, "p99_ns", 0.99),
    )


def _highest(series: Sequence[Series]) -> list[str]:
    words = []
    for one in series:
        if one.case.unit != "requests/s":
            continue
        if one.estimate is None:
            words.append(f"Highest rate: {one.unavailable}.")
            continue
        bound = (serving.middle(one, "bound_ns") or 0) / 1e6
        peak = serving.middle(one, "peak_per_s") or 0
        span = f" [{one.ci[0]:.1f}, {one.ci[1]:.1f}]" if one.ci else ""
        words.append(
            f"{serving.name_of(one.case)}: up to {one.estimate:.1f}{span} requests/s p99 is proven to stay below "
            f"{bound:.1f} ms (99 % sure); the closed loop's peak is {peak:.1f}."
        )
    return words


def _stall(series: Sequence[Series]) -> list[str]:
    """What a planted stall does to p99 as both loops see it."""
    for one in series:
        if one.case.params.get("stall_s") and one.estimate is not None:
            closed = serving.middle(one, "stalled_closed_p95_ns"), serving.middle(one, "stalled_closed_p99_ns")
            count = serving.middle(one, "stalled_closed_requests") or 0
            told = (
                f"p99 {closed[1] / 1e6:.1f} ms" if closed[1] else f"p95 {closed[0] / 1e6:.1f} ms" if closed[0] else "-"
            )
            return [
                f"With one request held up for {float(one.case.params['stall_s']):.1f} s: p99 from the scheduled "
                f"arrival {one.estimate / 1e6:.1f} ms; a closed loop of {count:.0f} requests says {told}."
            ]
    return []
