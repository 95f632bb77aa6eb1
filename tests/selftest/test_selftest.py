# SPDX-License-Identifier: Apache-2.0
"""The self-test itself: faults that guards notice, guards that were taken out, and what cannot be planted."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest

from numabench import evidence, faults, kernels, selftest
from numabench.errors import NumabenchError
from numabench.faults import FAULTS, Bench, Fault
from numabench.machine import Machine
from numabench.series import HINDERED

BY_NAME = {fault.name: fault for fault in FAULTS}
# Those that need neither a second node nor a control group nor the scheduler's help.
ALWAYS = (
    "untouched buffer",
    "short cycle",
    "buffer that fits in a cache",
    "pages dropped meanwhile",
    "ring that is learned",
    "clock too coarse",
    "loop optimised away",
    "clock that jumps",
    "function of another tier",
)


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine.load()


@pytest.mark.parametrize("name", ALWAYS)
def test_planted_fault_is_noticed(name: str, machine: Machine) -> None:
    outcome = selftest._try(BY_NAME[name], machine, frozenset())
    assert outcome.state == "caught", outcome


@pytest.mark.parametrize(
    "name",
    [
        "buffer at the edge of a cache",
        "huge pages made half-way",
        "thread not where pinned",
        "CPU quota",
        "noisy neighbour",
    ],
)
def test_fault_that_needs_the_system_is_noticed_or_cannot_be_planted(name: str, machine: Machine) -> None:
    outcome = selftest._try(BY_NAME[name], machine, frozenset())
    assert outcome.state in ("caught", "unavailable"), outcome
    assert outcome.seen


def test_a_guard_taken_out_is_a_miss(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the self-test could not fail."""
    monkeypatch.setattr(evidence, "impossible", lambda kernel, stamp: False)
    monkeypatch.setattr(evidence, "CLOCK_OFF", 1e9)
    monkeypatch.setattr(kernels, "wrong_tier", lambda asked, seen: False)
    for name in ("loop optimised away", "clock that jumps", "function of another tier"):
        assert selftest._try(BY_NAME[name], machine, frozenset()).state == "missed"


def test_an_edge_that_is_not_seen_is_a_miss_unless_others_use_the_cache(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not any(cache.level == 2 for cache in machine.caches):
        pytest.skip("the system does not tell the size of the second cache")
    with Bench(machine) as bench:
        sample = bench.ordinary(bench.case())
    for flags, state in (((), "missed"), (("contended",), "unavailable"), (("contended", "not_plateau"), "caught")):
        seen = msgspec.structs.replace(sample, flags=flags)
        monkeypatch.setattr(Bench, "ordinary", lambda self, case, number=0, seen=seen: seen)
        assert selftest._try(BY_NAME["buffer at the edge of a cache"], machine, frozenset()).state == state


def test_a_fault_that_is_there_anyway_is_not_counted(machine: Machine) -> None:
    outcome = selftest._try(BY_NAME["untouched buffer"], machine, frozenset({"not_resident"}))
    assert outcome.state == "unavailable"


def test_an_error_while_planting_is_not_a_catch(machine: Machine) -> None:
    def broken(bench: Bench) -> object:
        raise NumabenchError("no memory")

    fault = Fault("x", "y", "", broken)  # type: ignore[arg-type]
    assert selftest._try(fault, machine, frozenset()).state == "unavailable"


def test_a_neighbour_that_did_not_run_is_none(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a catch nor a miss: where the scheduler gave it nothing, nothing was planted."""
    monkeypatch.setattr(faults, "_ran_s", lambda pid: 0.0)
    outcome = selftest._try(BY_NAME["noisy neighbour"], machine, frozenset())
    assert outcome.state == "caught" or "too little to be one" in outcome.seen


def test_a_neighbour_in_the_first_round_is_no_learning(machine: Machine) -> None:
    """Another ring's first round is as fast as its second: it was no foresight."""
    with Bench(machine) as bench:
        sample = faults.paced(bench, lambda _, rounds: 1.1 if rounds >= 1 else 1.0)
    assert "chain_learned" not in sample.flags
    assert sample.evidence.twins["laps"] == pytest.approx(1.0, abs=0.01)


def test_nothing_planted_is_clean(machine: Machine) -> None:
    for kernel in ("read", "chase"):
        outcome, _ = selftest._clean(machine, kernel)
        hindered = HINDERED & set(outcome.seen.split(", "))
        assert outcome.state == ("unavailable" if hindered and outcome.state != "clean" else "clean"), outcome


@pytest.mark.parametrize(
    ("flags", "state"),
    [
        (((), ("not_plateau",), ("not_plateau",)), "false alarm"),
        ((("contended", "not_plateau"), ("contended", "not_plateau"), ()), "clean"),
        ((("contended", "not_plateau"), ("not_plateau",), ("not_plateau",)), "false alarm"),
        ((("contended",),) * 3, "unavailable"),
    ],
)
def test_an_alarm_is_of_passes_that_nobody_hindered(
    flags: tuple[tuple[str, ...], ...], state: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bench(machine) as bench:
        large = msgspec.structs.replace(bench.case(), cache_suspect=False)
        sample = bench.ordinary(large)
    passes = [msgspec.structs.replace(sample, flags=found) for found in flags]
    monkeypatch.setattr(Bench, "ordinary", lambda self, case, number=0: passes[number])
    monkeypatch.setattr(Bench, "clean", lambda self, kernel: large)
    outcome, _ = selftest._clean(machine, "read")
    assert outcome.state == state, outcome


def test_the_command_agrees_with_its_exit_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "numabench", "selftest", "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    data = json.loads(done.stdout)
    assert {one["fault"] for one in data["outcomes"]} >= set(BY_NAME) | {"closed loop over a stall", "best of 20"}
    assert data["caught"] >= len(ALWAYS)
    assert done.returncode == (1 if data["missed"] or data["false_alarms"] else 0)
    assert "Traceback" not in done.stderr


def test_a_thread_that_is_moved_leaves_a_count() -> None:
    with faults.Bench(Machine.load()) as bench:
        assert bench.ordinary(bench.case()).evidence.cpu_moves in (0, None)
        try:
            moved = faults._strayed(bench).evidence.cpu_moves
        except NumabenchError as why:
            pytest.skip(str(why))
        assert moved is None or moved > 0
