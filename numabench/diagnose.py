# SPDX-License-Identifier: Apache-2.0
"""Watch a program, name what is in its way, and try the one change that would prove it where the program is ours."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from numabench import interventions
from numabench.analysis import bounds, compare, stats
from numabench.analysis.bounds import Bound, Halved
from numabench.analysis.diagnosis import Cause, Facts, Finding, busy, findings
from numabench.ceilings import Known
from numabench.commands import Arm, CommandFailed, Metric, RanTooLong, Run, Runner
from numabench.counters import Counters, events
from numabench.errors import Unsupported
from numabench.machine import Machine
from numabench.processes import Observer
from numabench.series import Progress

Outcome = Literal["proven", "withdrawn", "undecided", "not tried"]
Tell = Callable[[Progress], None]
FOLLOWS = 0.75  # of its busy threads at most are left when it was asked for half
CLEARLY = 1.25  # so much slower once, it needs no blocks to say that more threads help
_ENDLESS = "it did not end by itself, so there is no time to compare"
LEAST_S = 0.2  # shorter than this nothing can be said of a program


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One intervention: the command with only the suspected factor changed, over the command as it is."""

    cause: Cause
    what: str
    outcome: Outcome
    reason: str = ""
    ratio: float | None = None  # of the wall times, changed over as it is
    ci: tuple[float, float] | None = None
    mde: float | None = None
    predicted: float | None = None  # the gain that was to be expected at most, old time over new


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen, what it means, and what trying it showed."""

    schema: int = 1
    kind: str = "numabench-diagnosis"
    target: str
    facts: Facts
    findings: tuple[Finding, ...]
    tried: tuple[Tried, ...]
    healthy: bool
    bounds: tuple[Bound, ...] = ()  # what it runs against; no fault
    figures: tuple[str, ...] = ()  # that the bounds were judged by
    halved: Halved | None = None  # the try with half of its threads; None: it has one

    def standing(self) -> list[Finding]:
        """Findings that no intervention took back."""
        gone = {t.cause for t in self.tried if t.outcome == "withdrawn"}
        return [f for f in self.findings if f.cause not in gone]


def diagnose_pid(
    pid: int,
    machine: Machine,
    seconds: float,
    known: Known,
    tell: Tell | None = None,
) -> Diagnosis:
    """Watch a process that is not ours; nothing is changed, so nothing is proven. Raises Unsupported."""
    if not os.path.isdir(f"/proc/{pid}"):
        raise Unsupported(f"--pid {pid}: no such process")
    observer = Observer(pid, machine)
    observer.watch(seconds, _telling(tell, seconds, f"process {pid}"))
    facts = _enough(observer.facts(), f"process {pid}")
    found, foreign = findings(facts, known.slower), "the process is not ours; -- CMD tries it"
    tried = tuple(Tried(cause=f.cause, what="", outcome="not tried", reason=foreign) for f in found)
    halved = Halved(outcome="not tried", reason=foreign) if len(busy(facts)) > 1 else None
    return _told(f"process {pid}", facts, found, tried, known, halved)


def diagnose_command(
    command: tuple[str, ...],
    machine: Machine,
    seconds: float,
    known: Known,
    *,
    attempt: bool = True,
    blocks: int = stats.LEAST_PASSES,
    timeout_s: float = 120.0,
    tell: Tell | None = None,
) -> Diagnosis:
    """Run a command under observation, then as it is and changed in blocks. Raises CommandFailed, Unsupported."""
    runner = Runner(Metric.parse("wall"), machine=machine, timeout_s=timeout_s)
    arm = Arm(name="as it is", command=command)
    facts, run = _observed(runner, arm, machine, seconds, tell)
    found = findings(_enough(facts, command[0]), known.slower)
    tried = []
    for finding in found:
        reason = "" if attempt else "--no-try"
        if run is None:
            reason = _ENDLESS
        elif not finding.trusted:
            reason = "the CPUs are contended; that comes first"
        tried.append(
            Tried(cause=finding.cause, what="", outcome="not tried", reason=reason)
            if reason
            else _try(runner, arm, finding, facts, machine, seconds, blocks, tell)
        )
    halved = None
    if len(busy(facts)) > 1:
        reason = "" if attempt else "--no-try"
        if not _healthy(found, tried):
            reason = "what is in its way comes first"
        if run is None or reason:
            halved = Halved(outcome="not tried", reason=reason or _ENDLESS)
        else:
            halved = _halve(runner, arm, facts, run.wall_s, machine, seconds, blocks, tell)
    return _told(" ".join(command), facts, found, tried, known, halved)


def _healthy(found: Sequence[Finding], tried: Sequence[Tried]) -> bool:
    gone = {t.cause for t in tried if t.outcome == "withdrawn"}
    return all(f.cause in gone for f in found)


def _told(
    target: str, facts: Facts, found: Sequence[Finding], tried: Sequence[Tried], known: Known, halved: Halved | None
) -> Diagnosis:
    """All of it with what bounds the program; what cannot be judged is not seen."""
    judged = bounds.judge(facts, known.ceilings, halved)
    return Diagnosis(
        target=target,
        facts=msgspec.structs.replace(facts, unseen=(*facts.unseen, *judged.unseen)),
        findings=tuple(found),
        tried=tuple(tried),
        healthy=_healthy(found, tried),
        bounds=judged.bounds,
        figures=judged.figures,
        halved=halved,
    )


def _enough(facts: Facts, what: str) -> Facts:
    if facts.seconds < LEAST_S:
        raise Unsupported(f"{what} was seen for {facts.seconds:.2f} s only; nothing can be said of it")
    if not busy(facts) and not facts.throttled_share:
        raise Unsupported(f"{what} did not use the CPU while it was watched; nothing can be said of it")
    return facts


def _telling(tell: Tell | None, seconds: float, label: str) -> Callable[[float], None] | None:
    if tell is None:
        return None
    return lambda left: tell(
        Progress(done=round((seconds - left) * 10), total=round(seconds * 10), label=f"watching {label}",
                 elapsed_s=seconds - left, left_s=left)
    )  # fmt: skip


def _observed(
    runner: Runner, arm: Arm, machine: Machine, seconds: float, tell: Tell | None
) -> tuple[Facts, Run | None]:
    """Facts of one run, and what it took; None: it did not end by itself."""
    seen: list[Facts] = []
    counting = Counters(events())
    counting.add(threading.get_native_id(), from_exec=True)

    def during(pid: int) -> None:
        observer = Observer(pid, machine, counting=counting)
        observer.watch(seconds, _telling(tell, seconds, arm.name))
        seen.append(observer.facts())

    try:
        run = runner.run(arm, during=during)
    except RanTooLong:
        return seen[0], None
    finally:
        counting.close()
    return seen[0], run


def _try(
    runner: Runner,
    arm: Arm,
    finding: Finding,
    facts: Facts,
    machine: Machine,
    seconds: float,
    blocks: int,
    tell: Tell | None,
) -> Tried:
    """Change only the suspected factor, see that it did change, and compare in blocks."""
    ways, reason = interventions.changes(arm, finding, facts, machine)
    what = ""
    for way in ways:
        what = way.what
        try:
            again, run = _observed(runner, way.changed, machine, seconds, tell)
        except Unsupported as error:
            reason = str(error)
            continue
        if run is None:
            reason = "changed, it did not end in time"
        elif any(f.cause == finding.cause for f in findings(again)):
            reason = "the command does not follow this change (it sets its own CPUs, threads or memory)"
        else:
            change = _compared(runner, way.base, way.changed, blocks, tell)
            outcome, reason = judged(change)
            return Tried(
                cause=finding.cause,
                what=way.what,
                outcome=outcome,
                reason=reason,
                ratio=change.ratio,
                ci=change.ci,
                mde=change.mde,
                predicted=way.predicted,
            )
    return Tried(cause=finding.cause, what=what, outcome="not tried", reason=reason)


def _halve(
    runner: Runner, arm: Arm, facts: Facts, wall_s: float, machine: Machine, seconds: float, blocks: int,
    tell: Tell | None,
) -> Halved:  # fmt: skip
    """Half of its threads on half of its CPUs: once, and in blocks unless that was clearly slower."""
    changed, half = interventions.halved(arm, facts, machine)
    threads = len(busy(facts))
    try:
        again, run = _observed(runner, changed, machine, seconds, tell)
    except CommandFailed as error:
        return Halved(outcome="not tried", reason=str(error))
    if run is None:
        return Halved(outcome="not tried", reason="with half of its threads it did not end in time")
    if len(busy(again)) > FOLLOWS * threads:
        return Halved(outcome="not tried", reason="it follows neither OMP_NUM_THREADS and its like nor fewer CPUs")
    if run.wall_s > CLEARLY * wall_s:
        return Halved(outcome="slower", threads=threads, half=half, ratio=run.wall_s / wall_s)
    change = _compared(runner, arm, changed, blocks, tell)
    return Halved(outcome=scaled(change), threads=threads, half=half, ratio=change.ratio, ci=change.ci)


def scaled(change: compare.Change) -> bounds.Scaled:
    """What half of the threads show; as fast, only where a tenth would have been seen."""
    if change.verdict in ("better", "worse"):
        return "faster" if change.verdict == "better" else "slower"
    if change.verdict == "no detectable change" and (change.mde is None or change.mde > compare.EFFECT):
        return "undecided"
    return "as fast"


def _compared(runner: Runner, arm: Arm, other: Arm, blocks: int, tell: Tell | None) -> compare.Change:
    """The changed command over the command as it is, in blocks."""
    values: dict[str, list[float]] = {arm.name: [], other.name: []}
    spent = 0.0
    for block in runner.blocks((arm, other), blocks, warm=False):
        for name, run in block.runs.items():
            values[name].append(run.value)
            spent += run.wall_s
        if tell:
            done = block.number + 1
            left = spent / done * (blocks - done)
            tell(Progress(done=done, total=blocks, label=f"trying {other.name}", elapsed_s=spent, left_s=left))
    if arm.before:
        arm.before()  # files are left where they were
    (change,) = compare.judge([stats.ratio(values[other.name], values[arm.name])], ["low"])
    return change


def judged(change: compare.Change) -> tuple[Outcome, str]:
    """What a try shows: faster proves; no faster takes back, but only where a tenth would have been seen."""
    if change.verdict == "better" or (change.verdict == "small change" and change.ratio < 1):
        return "proven", ""
    if change.verdict == "no detectable change" and (change.mde is None or change.mde > compare.EFFECT):
        return "undecided", "the runs differ too much from each other; more --blocks, or a calmer machine"
    return "withdrawn", "it is no faster when only this is changed"
