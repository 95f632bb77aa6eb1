# SPDX-License-Identifier: Apache-2.0
"""Faults planted on purpose, each of which has fooled a benchmark: does this suite notice them on this machine?

Beside them wrong methods, on a simulated server: what they would have said, and the right figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import msgspec

from numabench.analysis import methods
from numabench.errors import NumabenchError
from numabench.faults import FAULTS, Bench, Fault, Refused
from numabench.machine import Machine
from numabench.measure import usual
from numabench.series import HINDERED

State = Literal["caught", "missed", "unavailable", "clean", "false alarm"]
# What a machine with other work on it may raise without a fault of ours; never a false alarm.
OTHERS = HINDERED | {"freq_moved", "not_steady", "skewed", "sibling_busy", "migration_suspected"}
EXPECTED = frozenset({"topology_unproven", "cache_suspect", "page_kind_mixed", "unverified_placement"})
CLEAN_PASSES = 3


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one fault. ``seen`` is the flag or the message that noticed it, or why it could not be planted."""

    fault: str
    fools: str  # what it would do to figures
    state: State
    seen: str
    seconds: float


def run(machine: Machine, told: Callable[[Outcome], None] | None = None) -> list[Outcome]:
    """Clean passes, then every fault. A fault whose flag the clean passes raise too is not counted as noticed."""
    found, usual = [], frozenset[str]()
    for kernel in ("read", "chase"):
        outcome, flags = _clean(machine, kernel)
        usual |= flags
        found.append(outcome)
        if told:
            told(outcome)
    for fault in FAULTS:
        found.append(_try(fault, machine, usual))
        if told:
            told(found[-1])
    for method in methods.METHODS:
        found.append(_method(method()))
        if told:
            told(found[-1])
    return found


def _method(shown: methods.Wrong) -> Outcome:
    seen = f"says {shown.wrong:.4g} {shown.unit}, right is {shown.right:.4g}"
    state: State = "caught" if shown.noticed else "missed"
    return Outcome(fault=shown.name, fools=shown.fools, state=state, seen=seen, seconds=0.0)


def _clean(machine: Machine, kernel: str) -> tuple[Outcome, frozenset[str]]:
    """Passes without a fault: what most raise by themselves is a false alarm, unless others on the machine caused it.

    As in a run, a flag of a single pass is noise of that pass; a pass that others took part in tells nothing of ours.
    """
    began = time.monotonic()
    try:
        with Bench(machine) as bench:
            case = bench.clean(kernel)
            passes = [bench.ordinary(case, number).flags for number in range(CLEAN_PASSES)]
    except NumabenchError as error:
        state, seen, flags = "unavailable", str(error), frozenset[str]()
    else:
        flags = frozenset(usual(passes))
        alone = [found for found in passes if not HINDERED & set(found)]
        alarms = frozenset(usual(alone)) - OTHERS - EXPECTED - ({"not_plateau"} if case.cache_suspect else set())
        state = "false alarm" if alarms else "clean" if alone else "unavailable"
        seen = ", ".join(sorted(alarms or flags)) or "no flag"
    took = time.monotonic() - began
    fools = "nothing: there is none"
    outcome = Outcome(fault=f"no fault ({kernel})", fools=fools, state=state, seen=seen, seconds=took)  # type: ignore[arg-type]
    return outcome, flags


def _try(fault: Fault, machine: Machine, usual: frozenset[str]) -> Outcome:
    began = time.monotonic()
    state: State = "missed"
    seen = ""
    for _ in range(fault.attempts):
        state, seen = _plant(fault, machine)
        if state == "caught":
            break
    if state == "caught" and fault.flag in usual:
        state, seen = "unavailable", f"{fault.flag} is raised without the fault too: the machine is busy"
    return Outcome(fault=fault.name, fools=fault.fools, state=state, seen=seen, seconds=time.monotonic() - began)


def _plant(fault: Fault, machine: Machine) -> tuple[State, str]:
    try:
        with Bench(machine) as bench:
            sample = fault.plant(bench)
    except Refused as error:
        return ("missed" if fault.flag else "caught"), f"refused: {error}"
    except NumabenchError as error:
        return "unavailable", str(error)
    if fault.flag and fault.flag in sample.flags:
        return "caught", fault.flag
    return "missed", f"expected {fault.flag or 'a refusal'}, got {', '.join(sample.flags) or 'no flag'}"
