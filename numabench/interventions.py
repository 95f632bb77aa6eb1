# SPDX-License-Identifier: Apache-2.0
"""The one change that would prove a cause: a command with only the suspected factor changed."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import NamedTuple

import msgspec

from numabench import _core, filecache
from numabench.analysis.diagnosis import Facts, Finding, busy
from numabench.commands import Arm
from numabench.environment import cgroup_without_quota
from numabench.errors import NumabenchError, Unsupported
from numabench.machine import Machine
from numabench.processes import STEP_S, Observer
from numabench.units import format_numbers

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
MOST = 0.9  # share of the CPU time, of the bytes, that stands for all


class Way(NamedTuple):
    """A change to try: the command as it is, the command changed, in words, and what it may gain at most."""

    base: Arm
    changed: Arm
    what: str
    predicted: float | None = None


def changes(arm: Arm, finding: Finding, facts: Facts, machine: Machine) -> tuple[list[Way], str]:
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
        what = f"with {_THREADS[0]}={len(facts.allowed)} and its like"
        return [Way(arm, replace(arm, name="fewer threads", variables=_threads(len(facts.allowed))), what)], ""
    if finding.cause == "throttled":
        group = cgroup_without_quota()
        if group is None:
            return [], "no cgroup without a quota may be entered from here"

        def leave() -> None:
            with open(f"{group}/cgroup.procs", "w") as file:
                file.write(str(os.getpid()))

        return [Way(arm, replace(arm, name="without quota", prepare=leave), "in a cgroup without a quota")], ""
    return [], "other work on the machine is not ours to stop"


def halved(arm: Arm, facts: Facts, machine: Machine) -> tuple[Arm, int]:
    """The command with half of its busy threads, on CPUs evenly out of those it used; and how many threads."""
    threads = len(busy(facts)) // 2
    used = {cpu for thread in busy(facts) for cpu in thread.cpus} or set(facts.allowed)
    order = [cpu for n in machine.initiators() for cpu in machine.cpus_of(n, smt=True) if cpu in used]
    count = max(1, min(threads, len(order) // 2))
    cpus = tuple(sorted(order[k * len(order) // count] for k in range(count)))
    return msgspec.structs.replace(arm, name="half of its threads", cpus=cpus, variables=_threads(threads)), threads


def _threads(count: int) -> dict[str, str]:
    return dict.fromkeys(_THREADS, str(count))


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
        ways.append(Way(base, other, what, at_most))  # there from its start on
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
