# SPDX-License-Identifier: Apache-2.0
"""What the experiments on instances share: the model scaled to this machine, cases of a division, figures in words."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import msgspec

from numabench import layout, presets
from numabench.analysis import stats, tails
from numabench.environment import free_bytes
from numabench.errors import UsageError
from numabench.experiments import base
from numabench.jobs.instance import model_of
from numabench.layout import Slot
from numabench.machine import Machine
from numabench.presets import Model
from numabench.series import Case, Cell, Options, Series, Table

# A p99 needs 299; to be sure of a bound on it, 459 with none over it, 662 with one, 838 with two.
REQUESTS = {"quick": 320, "standard": 662, "full": 838}
Params = dict[str, int | float | str]


def cut(machine: Machine, options: Options) -> Machine:
    """The machine that --cpus and --nodes leave."""
    for cpu in options.cpus:
        if cpu not in machine.allowed_cpus:
            raise UsageError(f"--cpus {cpu}: not allowed here; allowed are {', '.join(map(str, machine.allowed_cpus))}")
    cpus = set(options.cpus or machine.allowed_cpus)
    for node in options.nodes:
        cpus &= {c for n in options.nodes for c in machine.node(n).cpus}
        machine.node(node)
    return machine.restrict(cpus=cpus, nodes=options.nodes or None)


def model_for(machine: Machine, options: Options, preset: str, copies: int, batch: int | None = None) -> Model:
    """The preset scaled so that the machine holds ``copies`` of it. Raises UsageError when it does not."""
    targets = machine.targets()
    here = machine.source == "this machine"
    free = sum((free_bytes(t) if here else machine.node(t).memory_bytes) or 0 for t in targets)
    l2 = min((c.bytes for c in machine.caches if c.level == 2), default=1 << 20)
    given = {"l2_bytes": l2} if preset == "cached" else {} if batch is None else {"batch": batch}
    llc = machine.llc_bytes(machine.allowed_cpus)
    return presets.fit(preset, llc, free, copies, options.bytes, **given)


def part_of(model: Model, ranks: int) -> Model:
    """What each of so many ranks has of a model."""
    return presets.make(
        model.preset,
        batch=model.batch,
        dtype=model.dtype,
        layers=model.layers,
        ctx=model.ctx or 2048,
        shard=model.shard * ranks,
    )


def case(
    experiment: str,
    options: Options,
    model: Model,
    slots: Sequence[Slot],
    binding: str,
    *,
    unit: str = "steps/s",
    better: str = "high",
    params: Params | None = None,
) -> Case:
    """One division: its instances side by side. ``params`` are those of ``jobs.instance``."""
    fields: Params = {
        "preset": model.preset,
        "batch": model.batch,
        "dtype": model.dtype,
        "layers": model.layers,
        "instances": len(slots),
        "threads": len(slots[0].cpus),
        "binding": binding,
        "nodes": "|".join(",".join(map(str, slot.nodes)) for slot in slots),
    }
    if model.ctx:
        fields["ctx"] = model.ctx
    if model.shard > 1:
        fields["shard"] = model.shard
    if binding == "none":
        fields |= {"weights": "first-touch", "loader": "main"}
    return Case(
        experiment=experiment,
        kernel=model.preset,
        unit=unit,
        better=better,  # type: ignore[arg-type]
        cpus=tuple(cpu for slot in slots for cpu in slot.cpus),
        pages=options.pages or "thp",
        tier=options.tier,
        bytes=model.weight_bytes,
        params=fields | (params or {}),
        job="instance",
    )


def with_params(one: Case, **params: int | float | str) -> Case:
    """The same case with other params."""
    return msgspec.structs.replace(one, params=one.params | params)


def grouped(one: Case, word: str) -> Case:
    """The same case, served by the same processes as all others of that word in a pass."""
    return msgspec.structs.replace(one, share=word)


def everything(machine: Machine) -> tuple[Slot, ...]:
    """One instance over all cores: the usual way to start a model."""
    return layout.whole(machine).slots


def name_of(one: Case) -> str:
    """A division as people read it: ``2 x 8, pinned``."""
    p = one.params
    how = {"cores": "pinned", "node": "node-bound", "none": "unbound"}[str(p["binding"])]
    extra = ", shared weights" if p.get("weights") == "shared" else ", ranks of one model" if p.get("ranks") else ""
    return f"{p['instances']} x {p['threads']}, {how}{extra}"


def middle(series: Series, name: str) -> float | None:
    """Median over passes of one of the further figures; None where a pass has none."""
    found = [sample.extras[name] for sample in series.samples if name in sample.extras]
    return median(found) if found and len(found) == len(series.samples) else None


def milliseconds(series: Series, name: str, share: float = 0.0) -> Cell:
    """A latency over passes as a cell of text, with the reason when the sample was too small."""
    value = middle(series, name)
    if value is None:
        need = f"n too small (need {tails.needed(share)})" if share else "-"
        return Cell(text=need)
    found = [sample.extras[name] for sample in series.samples]
    ci = stats.median_interval(found)
    return Cell(text=f"{value / 1e6:.2f}" + (f" [{ci[0] / 1e6:.2f}, {ci[1] / 1e6:.2f}]" if ci else ""))


def runs(series: Sequence[Series] | Series) -> list[tuple[int, tuple[float, ...]]]:
    """Steps or requests of every pass: how many, and the longest, ns."""
    found = [series] if isinstance(series, Series) else series
    return [(x.tail_of, x.tail) for s in found for x in s.samples if x.tail_of]


def p99(series: Series) -> tails.Quantile:
    """Of the steps or requests kept, all passes together; of records without them the median of the passes' own."""
    if any(sample.tail_of for sample in series.samples):
        return tails.pooled(runs(series), 0.99)
    value = middle(series, "p99_ns")
    found = [sample.extras["p99_ns"] for sample in series.samples if "p99_ns" in sample.extras]
    return tails.Quantile(0.99, value, stats.median_interval(found) if value else None, 0, tails.needed(0.99))


def keeps(series: Series, bound_ns: float) -> bool | None:
    """Whether p99 of a step is at most the bound, 99 % sure from all passes together; None: not decided."""
    known = runs(series)
    if not known:
        value = p99(series).value
        return None if value is None else value <= bound_ns
    over = sum(value > bound_ns for _, values in known for value in values)
    found = tails.proven(sum(n for n, _ in known), over)
    return None if found and bound_ns < tails.unseen_below(known) else found


def quantile_cell(found: tails.Quantile) -> Cell:
    """A percentile in ms, or what its sample lacks."""
    if found.value is None:
        return Cell(text=found.text() if found.n else "-")
    ci = f" [{found.ci[0] / 1e6:.2f}, {found.ci[1] / 1e6:.2f}]" if found.ci else ""
    return Cell(text=f"{found.value / 1e6:.2f}{ci}")


def table(experiment: str, title: str, series: Sequence[Series], first: Series | None, meaning: Sequence[str]) -> Table:
    """Divisions down; throughput with its ratio to ``first``, step times, memory, latency at a share of the peak."""
    rows = []
    open_loop = any(one.case.params.get("requests") for one in series)
    for one in series:
        ram = middle(one, "ram_bytes")
        cells: tuple[Cell, ...] = (
            base.cell(one, first),
            milliseconds(one, "p50_ns"),
            quantile_cell(p99(one)),
            Cell(text=f"{ram / 2**30:.2f}" if ram else "-"),
        )
        if open_loop:
            asked = one.case.params.get("requests")
            opened = milliseconds(one, "open_p99_ns", 0.99) if asked else Cell(text="-")
            alone = asked and middle(one, "open_requests") is None
            cells += (Cell(text="no core left to send from") if alone else opened,)
        rows.append((name_of(one.case), cells))
    return Table(
        experiment=experiment,
        title=title,
        unit="steps/s",
        better="high",
        corner="instances x threads",
        columns=("steps/s", "p50 ms", "p99 ms", "GiB", *(("p99 ms at 70 % load",) if open_loop else ())),
        rows=tuple(rows),
        meaning=tuple(meaning),
    )


def scaled(series: Sequence[Series]) -> str:
    """What the model is, and what was made smaller for it to fit, in words."""
    made = model_of(series[0].case)
    size = f"{made.bytes_per_step / 1e6:.0f} MB and {made.flops_per_step / 1e9:.1f} GFLOP a step"
    return f"Model: {presets.names([made])}, {made.dtype}, {'; '.join(made.scaled) or 'whole'}: {size}."


def p99_ratio(more: Series, less: Series) -> str:
    """Ratio of p99 over all passes together, its interval from resampled passes, in words; empty without."""
    known = {s.number: (s.tail_of, s.tail) for s in less.samples if s.tail_of}
    both = [((s.tail_of, s.tail), known[s.number]) for s in more.samples if s.tail_of and s.number in known]
    found = tails.pooled_ratio([a for a, _ in both], [b for _, b in both], 0.99) if both else None
    if found is None:
        return ""
    value, ci = found
    return f"{value:.2f}x" + (f" [{ci[0]:.2f}, {ci[1]:.2f}]" if ci else " (too few passes for an interval)")


def extra_ratio(more: Series, less: Series, name: str) -> stats.Ratio | None:
    """Ratio of one of the further figures, paired by pass."""
    known = {s.number: s.extras.get(name) for s in less.samples}
    pairs = [(s.extras.get(name), known.get(s.number)) for s in more.samples]
    whole = [(a, b) for a, b in pairs if a and b]
    return stats.ratio([a for a, _ in whole], [b for _, b in whole]) if whole and len(whole) == len(pairs) else None


def explained(series: Series) -> str:
    """Predicted against measured time of a step, from ceilings measured in the same passes; empty without."""
    ratio, least = middle(series, "measured_over_predicted"), middle(series, "predicted_ns")
    if ratio is None or least is None:
        return ""
    dominant = presets.PARTS[round(middle(series, "dominant") or 0)]
    found = presets.Prediction(predicted_ns=least, measured_ns=least * ratio, dominant=dominant)
    share = middle(series, "allreduce_share")
    summed = f", {share:.1%} all-reduce" if share else ""
    return (
        f"{name_of(series.case)}: predicted {least / 1e6:.2f} ms from measured ceilings, mostly {dominant}{summed}; "
        f"measured {least * ratio / 1e6:.2f} ms: {found.verdict}."
    )
