# SPDX-License-Identifier: Apache-2.0
"""Watch a program, name what is in its way, and try the one change that would prove it where the program is ours."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, NamedTuple

import msgspec

from numabench import _core, filecache
from numabench.analysis import compare, stats
from numabench.analysis.diagnosis import Cause, Facts, Finding, busy, findings
from numabench.commands import Arm, Metric, RanTooLong, Runner
from numabench.counters import Counters, events
from numabench.environment import cgroup_without_quota
from numabench.errors import NumabenchError, Unsupported
from numabench.machine import Machine
from numabench.processes import STEP_S, Observer
from numabench.record import Record
from numabench.series import Progress
from numabench.units import format_numbers

Slower = Mapping[tuple[int, int], float]
Outcome = Literal["proven", "withdrawn", "undecided", "not tried"]
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
MOST = 0.9  # share of the CPU time, of the bytes, that stands for all
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


class Way(NamedTuple):
    """A change to try: the command as it is, the command changed, in words, and what it may gain at most."""

    base: Arm
    changed: Arm
    what: str
    predicted: float | None = None


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen, what it means, and what trying it showed."""

    schema: int = 1
    kind: str = "numabench-diagnosis"
    target: str
    facts: Facts
    findings: tuple[Finding, ...]
    tried: tuple[Tried, ...]
    healthy: bool

    def standing(self) -> list[Finding]:
        """Findings that no intervention took back."""
        gone = {t.cause for t in self.tried if t.outcome == "withdrawn"}
        return [f for f in self.findings if f.cause not in gone]


def slower(record: Record) -> dict[tuple[int, int], float]:
    """Time of an access by (initiator, target) over one to its own node: by latency or by bandwidth, the larger."""
    found: dict[tuple[int, int], float] = {}
    for name in ("latency", "bandwidth"):
        seen: dict[tuple[int, int], float] = {}  # time of an access, in any unit; thp pages where there are some
        for series in sorted(record.series, key=lambda s: s.case.pages == "thp"):
            case, value = series.case, series.estimate
            if case.experiment != name or case.kernel not in ("chase", "read") or not series.usable or not value:
                continue
            if case.initiator is not None and case.target is not None:
                seen[case.initiator, case.target] = value if case.better == "low" else 1 / value
        for (i, j), took in seen.items():
            if (i, i) in seen:
                found[i, j] = max(found.get((i, j), 0.0), took / seen[i, i])
    return found


def diagnose_pid(
    pid: int,
    machine: Machine,
    seconds: float,
    factors: Slower,
    tell: Callable[[Progress], None] | None = None,
) -> Diagnosis:
    """Watch a process that is not ours; nothing is changed, so nothing is proven. Raises Unsupported."""
    if not os.path.isdir(f"/proc/{pid}"):
        raise Unsupported(f"--pid {pid}: no such process")
    observer = Observer(pid, machine)
    observer.watch(seconds, _telling(tell, seconds, f"process {pid}"))
    facts = _enough(observer.facts(), f"process {pid}")
    found = findings(facts, factors)
    tried = tuple(
        Tried(cause=f.cause, what="", outcome="not tried", reason="the process is not ours; -- CMD tries it")
        for f in found
    )
    return Diagnosis(target=f"process {pid}", facts=facts, findings=tuple(found), tried=tried, healthy=not found)


def diagnose_command(
    command: tuple[str, ...],
    machine: Machine,
    seconds: float,
    factors: Slower,
    *,
    attempt: bool = True,
    blocks: int = stats.LEAST_PASSES,
    timeout_s: float = 120.0,
    tell: Callable[[Progress], None] | None = None,
) -> Diagnosis:
    """Run a command under observation, then as it is and changed in blocks. Raises CommandFailed, Unsupported."""
    runner = Runner(Metric.parse("wall"), machine=machine, timeout_s=timeout_s)
    arm = Arm(name="as it is", command=command)
    facts, ends = _observed(runner, arm, machine, seconds, tell)
    found = findings(_enough(facts, command[0]), factors)
    tried = []
    for finding in found:
        reason = "" if attempt else "--no-try"
        if not ends:
            reason = "it did not end by itself, so there is no time to compare"
        elif not finding.trusted:
            reason = "the CPUs are contended; that comes first"
        tried.append(
            Tried(cause=finding.cause, what="", outcome="not tried", reason=reason)
            if reason
            else _try(runner, arm, finding, facts, machine, seconds, blocks, tell)
        )
    gone = {t.cause for t in tried if t.outcome == "withdrawn"}
    return Diagnosis(
        target=" ".join(command),
        facts=facts,
        findings=tuple(found),
        tried=tuple(tried),
        healthy=all(f.cause in gone for f in found),
    )


def _enough(facts: Facts, what: str) -> Facts:
    if facts.seconds < LEAST_S:
        raise Unsupported(f"{what} was seen for {facts.seconds:.2f} s only; nothing can be said of it")
    if not busy(facts) and not facts.throttled_share:
        raise Unsupported(f"{what} did not use the CPU while it was watched; nothing can be said of it")
    return facts


def _telling(tell: Callable[[Progress], None] | None, seconds: float, label: str) -> Callable[[float], None] | None:
    if tell is None:
        return None
    return lambda left: tell(
        Progress(done=round((seconds - left) * 10), total=round(seconds * 10), label=f"watching {label}",
                 elapsed_s=seconds - left, left_s=left)
    )  # fmt: skip


def _observed(
    runner: Runner, arm: Arm, machine: Machine, seconds: float, tell: Callable[[Progress], None] | None
) -> tuple[Facts, bool]:
    """Facts of one run, and whether it ended by itself."""
    seen: list[Facts] = []
    counting = Counters(events())
    counting.add(threading.get_native_id(), from_exec=True)

    def during(pid: int) -> None:
        observer = Observer(pid, machine, counting=counting)
        observer.watch(seconds, _telling(tell, seconds, arm.name))
        seen.append(observer.facts())

    try:
        runner.run(arm, during=during)
    except RanTooLong:
        return seen[0], False
    finally:
        counting.close()
    return seen[0], True


def _changes(arm: Arm, finding: Finding, facts: Facts, machine: Machine) -> tuple[list[Way], str]:
    """The command with only the suspected factor changed, in the ways to try in turn; none of them: the reason."""
    replace = msgspec.structs.replace
    if finding.cause in ("misplaced", "page cache residue"):
        return _placed(arm, finding, facts, machine)
    if finding.cause == "bouncing":
        cpus = _own_cpus(facts, machine)
        what = f"on CPUs {format_numbers(cpus)} only"
        ways = [Way(arm, replace(arm, name="pinned", cpus=cpus), what)]
        return ways, ""
    if finding.cause == "oversubscribed":
        fewer = dict.fromkeys(_THREADS, str(len(facts.allowed)))
        what = f"with {_THREADS[0]}={len(facts.allowed)} and its like"
        return [Way(arm, replace(arm, name="fewer threads", variables=fewer), what)], ""
    if finding.cause == "throttled":
        group = cgroup_without_quota()
        if group is None:
            return [], "no cgroup without a quota may be entered from here"

        def leave() -> None:
            with open(f"{group}/cgroup.procs", "w") as file:
                file.write(str(os.getpid()))

        return [Way(arm, replace(arm, name="without quota", prepare=leave), "in a cgroup without a quota")], ""
    return [], "other work on the machine is not ours to stop"


def _own_cpus(facts: Facts, machine: Machine) -> tuple[int, ...]:
    """As many of the allowed CPUs as there are busy threads: nearest to the pages first, one of each core first."""
    near = sorted(machine.initiators(), key=lambda node: -facts.anonymous.get(node, 0))
    order = [c for node in near for c in machine.cpus_of(node)] + [
        c for n in near for c in machine.cpus_of(n, smt=True)
    ]
    cpus = [cpu for cpu in dict.fromkeys(order) if cpu in facts.allowed]
    return tuple(sorted(cpus[: max(1, len(busy(facts)))])) or facts.allowed


def _placed(arm: Arm, finding: Finding, facts: Facts, machine: Machine) -> tuple[list[Way], str]:
    """Threads and pages brought together: a file by where it is read in, threads by their CPUs, pages by moving."""
    replace, node, gain = msgspec.structs.replace, finding.node or 0, finding.gain
    runs = max(facts.run_by_node, key=facts.run_by_node.__getitem__)
    alone = facts.run_by_node[runs] > MOST * sum(facts.run_by_node.values())
    at_most, after = (gain.at_most, gain.at_most_after) if gain else (None, None)
    ways = []
    if finding.files and alone and machine.cpus_of(node) and machine.cpus_of(runs):
        base, other = (
            replace(arm, name=name, before=partial(_read_in, finding.files, machine.cpus_of(at)[0]))
            for name, at in ((arm.name, node), ("read in again", runs))
        )
        what = f"with what it maps dropped from the page cache and read in on node {runs}"
        ways.append(Way(base, other, what, after))
    cpus = machine.cpus_of(node, smt=True)
    if cpus:
        what = f"on the CPUs of node {node} ({format_numbers(cpus)})"
        ways.append(Way(arm, replace(arm, name="near its pages", cpus=cpus), what, at_most))
    if alone and not finding.files:
        mover = replace(arm, name="pages moved", attend=Mover(machine, finding, runs))
        ways.append(Way(arm, mover, f"with its pages moved to node {runs} while it runs", after))
    return ways, f"no CPU of node {node} may be used, and it runs on several nodes"


def _read_in(files: tuple[str, ...], cpu: int) -> None:
    for file in files:
        try:
            filecache.place(file, cpu)
        except NumabenchError as error:
            raise Unsupported(str(error)) from error


class Mover:
    """Moves the pages of a process, once they are there, from the node of a finding to another."""

    def __init__(self, machine: Machine, finding: Finding, target: int) -> None:
        self._machine, self._finding, self._target = machine, finding, target

    def __call__(self, pid: int) -> None:
        """Wait until most of the bytes seen before are on their node, and move them. Raises Unsupported."""
        source = self._finding.node
        observer = Observer(pid, self._machine)
        while source is not None and observer.step():
            if observer.on(source) >= MOST * self._finding.bytes:
                self._move(observer, source)
                return
            time.sleep(STEP_S)

    def _move(self, observer: Observer, source: int) -> None:
        for pid in observer.pids():
            try:
                _core.move_process(pid, source, self._target)
            except Unsupported:
                if observer.step():  # else it has ended meanwhile
                    raise


def _try(
    runner: Runner,
    arm: Arm,
    finding: Finding,
    facts: Facts,
    machine: Machine,
    seconds: float,
    blocks: int,
    tell: Callable[[Progress], None] | None,
) -> Tried:
    """Change only the suspected factor, see that it did change, and compare in blocks."""
    ways, reason = _changes(arm, finding, facts, machine)
    what = ""
    for way in ways:
        what = way.what
        try:
            again, ends = _observed(runner, way.changed, machine, seconds, tell)
        except Unsupported as error:
            reason = str(error)
            continue
        if not ends:
            reason = "changed, it did not end in time"
        elif any(f.cause == finding.cause for f in findings(again)):
            reason = "the command does not follow this change (it sets its own CPUs, threads or memory)"
        else:
            return _compared(runner, way, finding.cause, blocks, tell)
    return Tried(cause=finding.cause, what=what, outcome="not tried", reason=reason)


def _compared(runner: Runner, way: Way, cause: Cause, blocks: int, tell: Callable[[Progress], None] | None) -> Tried:
    """The changed command over the command as it is, in blocks."""
    arm, other = way.base, way.changed
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
    outcome, reason = judged(change)
    return Tried(
        cause=cause,
        what=way.what,
        outcome=outcome,
        reason=reason,
        ratio=change.ratio,
        ci=change.ci,
        mde=change.mde,
        predicted=way.predicted,
    )


def judged(change: compare.Change) -> tuple[Outcome, str]:
    """What a try shows: faster proves; no faster takes back, but only where a tenth would have been seen."""
    if change.verdict == "better" or (change.verdict == "small change" and change.ratio < 1):
        return "proven", ""
    if change.verdict == "no detectable change" and (change.mde is None or change.mde > compare.EFFECT):
        return "undecided", "the runs differ too much from each other; more --blocks, or a calmer machine"
    return "withdrawn", "it is no faster when only this is changed"
