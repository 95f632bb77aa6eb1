# SPDX-License-Identifier: Apache-2.0
"""Which division a record speaks for, and the gain it has measured. Nothing is recommended with an invented gain."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from numabench import layout
from numabench.analysis import stats
from numabench.errors import UsageError
from numabench.experiments import serving
from numabench.experiments.base import in_words, paired
from numabench.layout import Goal, Layout
from numabench.machine import Machine
from numabench.record import Record
from numabench.series import Series
from numabench.units import format_numbers, plural

NOT_MEASURED = "not measured here (numabench run divide measures it)"


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A layout, the measured gain in words, why it was taken, and the threads at which decode stops gaining."""

    layout: Layout
    gain: str
    why: tuple[str, ...]
    decode_threads: int | None = None


def here(record: Record, affinity: Sequence[int] | None, nodes: Sequence[int] | None) -> tuple[Machine, str]:
    """The record's machine cut to what may be used where the command will run, and what to say about that.

    ``affinity`` None: the record is of another machine and is taken as it is.
    """
    machine = record.machine
    if affinity is None:
        return machine, "The record is of another machine: its CPU lists, not cut to what is allowed here."
    left = machine.restrict(cpus=affinity, nodes=nodes)
    if left.allowed_cpus == machine.allowed_cpus and left.allowed_nodes == machine.allowed_nodes:
        return left, ""
    return left, f"Cut to what is allowed here: CPUs {format_numbers(left.allowed_cpus)}."


def choose(
    record: Record, machine: Machine, goal: Goal | None = None, reserve: int = 0, p99_ns: float | None = None
) -> Choice:
    """The best division that the record measured; without one, an instance per node and no gain.

    Raises UsageError when nothing measured keeps the bound, or a goal does not fit the machine.
    """
    decode = _knee(record, "read")
    best, default = _best(record, p99_ns)
    if goal is not None or best is None:
        if p99_ns is not None and goal is None:
            raise UsageError("--p99: the record has no division whose p99 keeps the bound (numabench run divide)")
        made = _goal(goal or "one-per-node", machine, reserve)
        why = [] if goal else ["The record has no measured division; one instance per node is the usual start."]
        return Choice(layout=made, gain=NOT_MEASURED, why=(*why, *_evidence(record)), decode_threads=decode)
    params = best.case.params
    count, threads = int(params["instances"]), int(params["threads"])
    why = [f"Best of the divisions measured: {count} x {threads} threads, {best.case.params['preset']}."]
    try:
        made = layout.divide(machine, count, threads)
    except UsageError as error:
        made = layout.per_node(machine, reserve)
        return Choice(
            layout=made,
            gain=NOT_MEASURED,
            why=(*why, f"It does not fit here: {error}. One instance per node instead.", *_evidence(record)),
            decode_threads=decode,
        )
    if reserve:
        made = _shorter(made, reserve)
        why.append(f"{plural(reserve, 'core')} of each instance left to the front end; that was not measured.")
    ratio = paired(best, default) if default is not None and default is not best else None
    if default is best:
        gain, said = "none: the default was not beaten", "Dividing brings nothing measurable here."
    elif ratio is None:
        gain, said = NOT_MEASURED, "The default was not measured beside it."
    else:
        gain = f"{in_words(ratio)} of one unbound process over all cores"
        said = f"Throughput {gain}."
        if ratio.ci is not None and ratio.ci[0] <= 1 <= ratio.ci[1]:
            said += " Dividing brings nothing measurable here."
    return Choice(
        layout=made, gain=gain, why=(*why, said, *_evidence(record)), decode_threads=min(threads, decode or threads)
    )


def _best(record: Record, p99_ns: float | None) -> tuple[Series | None, Series | None]:
    """The best bound division and the default, from the round that confirmed them if there was one."""
    known = [s for s in record.series if s.case.experiment == "divide" and not s.case.params.get("ranks")]
    found = [s for s in known if s.usable and s.samples]
    confirmed = [s for s in found if s.case.params.get("confirm")]
    default = next((s for s in confirmed or found if s.case.params["binding"] == "none"), None)
    bound = [s for s in confirmed or found if s.case.params["binding"] != "none"]
    if p99_ns is not None:
        bound = [s for s in bound if serving.keeps(s, p99_ns)]
        if not bound:  # those measured again are the fastest; slower ones may keep the bound
            bound = [s for s in found if s.case.params["binding"] != "none" and serving.keeps(s, p99_ns)]
            default = next((s for s in found if s.case.params["binding"] == "none"), None)
    best = max(bound, key=lambda s: s.estimate or 0, default=None)
    return best, default


def _goal(goal: Goal, machine: Machine, reserve: int) -> Layout:
    if goal == "whole":
        return layout.whole(machine, reserve)
    if goal == "one-per-node":
        return layout.per_node(machine, reserve)
    domains = [
        sum(1 for cpu in machine.one_cpu_per_core(d) if cpu in machine.allowed_cpus) for d in machine.l3_domains()
    ]
    per_l3 = min((n for n in domains if n), default=0)
    largest = max(len(slot.cpus) for slot in layout.per_node(machine, reserve).slots)
    return layout.split(machine, per_l3 if 0 < per_l3 < largest else max(largest // 2, 1), reserve)


def _shorter(made: Layout, reserve: int) -> Layout:
    least = min(len(slot.cpus) for slot in made.slots)
    if reserve >= least:
        raise UsageError(f"--reserve {reserve}: an instance has {plural(least, 'core')}")
    kept = tuple(cpu for slot in made.slots for cpu in slot.cpus[len(slot.cpus) - reserve :])
    slots = tuple(s._replace(cpus=s.cpus[: len(s.cpus) - reserve]) for s in made.slots)
    return made._replace(slots=slots, reserved=kept)


def _knee(record: Record, kernel: str) -> int | None:
    """Threads at which local reads of one node stop gaining, from the record's thread ladder."""
    found = [
        s
        for s in record.series
        if s.case.experiment == "scaling" and s.case.kernel == kernel and s.case.initiator == s.case.target and s.usable
    ]
    by_pass = [{sample.number: sample.value for sample in s.samples} for s in found]
    common = sorted(set.intersection(*map(set, by_pass))) if by_pass else []
    if len(found) < 2 or not common:
        return None
    return stats.knee_interval([len(s.case.cpus) for s in found], [[v[p] for v in by_pass] for p in common]).safe


def _evidence(record: Record) -> list[str]:
    """What the record measured of remote memory: the reason to stay on one node."""
    said = []
    for experiment, what, worst in (("bandwidth", "reads", min), ("latency", "loads", max)):
        found = [s for s in record.series if s.case.experiment == experiment and s.case.kernel in ("read", "chase")]
        at = {(s.case.initiator, s.case.target, s.case.pages): s for s in found}
        ratios = [
            (ratio, i, j)
            for (i, j, pages), one in at.items()
            if i != j and (local := at.get((i, i, pages))) is not None and (ratio := paired(one, local))
        ]
        if ratios:
            ratio, i, j = worst(ratios, key=lambda item: item[0].value)
            unit = "bandwidth" if experiment == "bandwidth" else "latency"
            said.append(f"Remote {what}, node {i} to {j}: {in_words(ratio)} of the local {unit}.")
    return said
