# SPDX-License-Identifier: Apache-2.0
"""A run from names to a record: plan, measure, keep. Knows nothing of terminals."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from numabench import capabilities, experiments, firmware, jobs, kernels, tiers, timing
from numabench.analysis import screen, stats
from numabench.backend import Backend, Hardware
from numabench.environment import Tree, job, snapshot
from numabench.errors import NumabenchError, Unsupported, UsageError
from numabench.experiments.base import represented
from numabench.machine import Machine
from numabench.measure import PASSES, TIGHT, groups, measure, most_passes
from numabench.record import Journal, Record, now
from numabench.series import Case, Options, Progress, Sample, Series, Table


def plan(names: Sequence[str], options: Options, machine: Machine) -> list[Case]:
    """All cases of the named experiments (none: the standard set), those that cannot run here with the reason.

    Raises UsageError for unknown names, CPUs, nodes, kernels and tiers; Unsupported for a tier this CPU lacks.
    """
    for cpu in options.cpus:
        machine.cpu(cpu)
    wanted = [experiments.find(name) for name in names] or [e for e in experiments.ALL if e.standard]
    families = {name: kernels.kernel(name, options.tier).family for name in options.kernels}
    cases: list[Case] = []
    for experiment in wanted:
        reason = experiment.unavailable(machine, options)
        if reason:
            cases.append(Case(experiment=experiment.name, kernel="", unit="", better="high", unavailable=reason))
            continue
        fitting = tuple(k for k, family in families.items() if family in experiment.families)
        if options.kernels and not fitting:
            if names:
                raise UsageError(
                    f"--kernel {', '.join(options.kernels)}: {experiment.name} measures "
                    f"{' and '.join(experiment.families)} kernels"
                )
            continue
        chosen = msgspec.structs.replace(options, kernels=fitting, tier=kernels.tier(options.tier).name)
        cases.extend(experiment.plan(machine, chosen))
    if options.kernels and not cases:
        raise UsageError(f"--kernel {', '.join(options.kernels)}: no experiment measures it")
    return cases


def estimate_seconds(cases: Sequence[Case], options: Options) -> tuple[float, float]:
    """Forecast of a run's time from sizes and windows: at the first checkpoint, and with all passes of the profile.

    The real one is told as it goes.
    """
    runnable = groups([case for case in cases if not case.unavailable])
    per_pass = sum((jobs.alone(group[0]) or jobs.family(group[0])).seconds(group, options) for group in runnable)
    passes = options.passes or PASSES[options.profile]
    least, most = per_pass * min(passes, stats.LEAST_PASSES), per_pass * passes
    return (min(least, options.budget_s), min(most, options.budget_s)) if options.budget_s else (least, most)


def run(
    names: Sequence[str],
    options: Options,
    *,
    machine: Machine | None = None,
    backend: Backend | None = None,
    progress: Callable[[Progress], None] | None = None,
    journal: Path | None = None,
    earlier: dict[tuple[str, str], tuple[Sample, ...]] | None = None,
) -> Record:
    """Measure and return the record. ``journal`` gets every finished sample; ``earlier`` are those of a run resumed.

    Raises UsageError, Unsupported (nothing can run), and whatever ends the run (KeyboardInterrupt).
    """
    machine = machine or Machine.load()
    cases = plan(names, options, machine)
    if all(case.unavailable for case in cases):
        raise Unsupported(f"nothing can run here: {cases[0].unavailable if cases else 'no case'}")
    made: dict[str, Any] = {
        "names": list(names),
        "options": msgspec.json.decode(msgspec.json.encode(options)),
        "cases": len(cases),
        "passes": most_passes(options),
        "precision": [options.precision] * 2 if options.precision else list(TIGHT[options.profile]),
    }
    started, created, environment = time.monotonic(), now(), snapshot(machine)
    environment |= {"host": os.uname().nodename, "job": job(), "firmware": firmware.snapshot(Tree())}
    with ExitStack() as stack:
        book = stack.enter_context(Journal(journal, made)) if journal else None
        can = {} if backend else capabilities.as_record(machine)
        taker = backend or stack.enter_context(Hardware(machine, options))
        if isinstance(taker, Hardware):
            with suppress(NumabenchError):  # a CPU that is gone: its cases will say so
                environment["clocks"] = timing.clocks({cpu for case in cases for cpu in case.cpus}, taker.clock)
        on_sample = book.add if book else None
        if options.tier == kernels.MEASURED:
            cases, environment["tiers"] = tiers.choose(cases, taker, options.seed)
        series = measure(cases, taker, options, progress, on_sample, earlier, machine)
        # Some answers need a second look: the best of many looks better than it is.
        more = [
            case
            for name in dict.fromkeys(c.experiment for c in cases)
            for case in _again(name, series, machine, options)
        ]
        if more:
            series += measure(more, taker, options, progress, on_sample, earlier)
    series = screen.judged(series, machine)
    made["represented"] = {
        name: found
        for name in ("latency", "bandwidth")
        if (mine := {(c.case.initiator, c.case.target) for c in series if c.case.experiment == name})
        and (found := represented(machine, options, mine))
    }
    environment["memory_errors_after"] = firmware.errors(Tree())
    environment["thermal_throttles_after"] = firmware.throttles(Tree())
    return build(machine, environment, made, series, created, time.monotonic() - started, can)


def _again(name: str, series: Sequence[Series], machine: Machine, options: Options) -> list[Case]:
    ask = getattr(experiments.find(name), "again", None)
    mine = [one for one in series if one.case.experiment == name and one.case.kernel]
    return list(ask(mine, machine, options)) if ask and mine else []


def build(
    machine: Machine,
    environment: dict[str, Any],
    made: dict[str, Any],
    series: Sequence[Series],
    created: str,
    took: float,
    can: dict[str, Any] | None = None,
) -> Record:
    """Put a record together; ``can`` is what probing the system calls found."""
    return Record(
        numabench=version("numabench"),
        created=created,
        duration_s=took,
        machine=machine,
        environment=environment,
        capabilities=(can or {}) | used(series),
        plan=made,
        series=tuple(series),
    )


def used(series: Sequence[Series]) -> dict[str, Any]:
    """What placing and proving could do in this run, as the samples show it."""
    seen = [sample.evidence for one in series for sample in one.samples]
    return {
        "placement": sorted({evidence.placement_how for evidence in seen}),
        "proof": sorted({evidence.proof for evidence in seen}),
        "clock": sorted({evidence.clock for evidence in seen}),
    }


def tables(record: Record) -> list[Table]:
    """The record as tables, experiment by experiment in the order they were planned."""
    found: list[Table] = []
    for name in dict.fromkeys(series.case.experiment for series in record.series):
        mine = [series for series in record.series if series.case.experiment == name and series.case.kernel]
        if mine:
            found.extend(experiments.find(name).summarise(mine, record.machine))
    return found
