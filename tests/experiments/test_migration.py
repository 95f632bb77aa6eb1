# SPDX-License-Identifier: Apache-2.0
"""Migration: hops and moves that are planned, and their costs in words; moving pages for real."""

from __future__ import annotations

import os
import threading

import pytest
from msgspec.structs import replace

from numabench import _core, session
from numabench.backend import Hardware
from numabench.disturbance import moves
from numabench.environment import Tree
from numabench.errors import NumabenchError, PlacementError
from numabench.machine import Machine
from numabench.memory import allocate
from numabench.series import FATAL, Case, Options
from tests.fakes import Fake, many


def test_hops_by_kind_and_pages_by_class() -> None:
    machine = many(nodes=4, cores=4, packages=2, l3=2)
    cases = session.plan(["migration"], Options(profile="quick"), machine)
    hops = {str(c.params["hop"]): c.cpus for c in cases if c.job == "hop"}
    assert hops == {
        "same L3": (0, 1),
        "other L3": (0, 2),
        "other node, distance 12": (0, 4),
        "other node, distance 32": (0, 8),
    }
    assert {(c.params["to"], c.pages) for c in cases if c.job == "move"} == {
        (j, kind) for j in (1, 2) for kind in ("base", "thp")
    }


def test_pages_of_memory_without_cpus_go_both_ways() -> None:
    machine = many(nodes=2, cores=2, packages=2, bare=1)
    cases = [c for c in session.plan(["migration"], Options(profile="quick"), machine) if c.job == "move"]
    assert {(c.target, c.params["to"]) for c in cases} == {(0, 1), (0, 2), (2, 0)}
    assert {c.cpus for c in cases} == {(0,)}


def test_costs_in_words() -> None:
    machine = many(nodes=2, cores=2, packages=2)
    extra = {"same L3": 0.0, "other node, distance 32": 80.0}

    def further(case: Case) -> dict[str, float]:
        return {"hop_us": extra.get(str(case.params.get("hop")), 0.0)}

    backend = Fake(0.001, truth=lambda case: 1000.0, extras=further)
    record = session.run(["migration"], Options(profile="quick"), machine=machine, backend=backend)
    hops, moves, _ = session.tables(record)
    assert any("(same L3)" in line and "nothing measurable" in line for line in hops.meaning)
    assert any("distance 32" in line and "costs 80" in line for line in hops.meaning)
    assert any("base pages from node 0 to 1 runs at 4.09" in line for line in moves.meaning)


def test_one_node_hops_only() -> None:
    cases = session.plan(["migration"], Options(), many(nodes=1, packages=1))
    assert {c.job for c in cases if not c.unavailable} == {"hop", "wander"}
    assert [c.unavailable for c in cases if c.job == "move"] == ["one node"]


def test_who_is_left_to_the_scheduler() -> None:
    machine = many(nodes=2, cores=2, packages=2)
    cases = [c for c in session.plan(["migration"], Options(), machine) if c.job == "wander"]
    assert [(c.params["beside"], c.params["roams"]) for c in cases] == [(n, r) for n in (0, 4, 8) for r in (0, 1)]
    assert {c.cpus for c in cases} == {(0,), machine.allowed_cpus}
    for options in (Options(cpus=(0, 1)), Options(nodes=(0,))):
        cut = [c for c in session.plan(["migration"], options, machine) if c.job == "wander"]
        assert all("go wherever they may" in c.unavailable for c in cut)


def test_roaming_in_words() -> None:
    def truth(case: Case) -> float:
        return 1500.0 if case.params.get("roams") and case.params["beside"] else 1000.0

    def further(case: Case) -> dict[str, float]:
        often = {"moves_per_s": 20.0} if case.job == "wander" else {}
        return {"hop_us": 50.0, "p99_us": 2000.0} | often

    backend = Fake(0.001, truth=truth, extras=further)
    record = session.run(["migration"], Options(profile="quick"), machine=many(nodes=1, packages=1), backend=backend)
    (table,) = [t for t in session.tables(record) if "Pinned or not" in t.title]
    alone, busy = table.meaning
    assert "0 threads beside" in alone
    assert "no detectable difference" in alone
    assert "1.50x" in busy
    assert "moved 20" in busy
    assert "costs 0.1 % of its time at most" in busy  # 20 moves of 50 us in a second


def test_a_roaming_thread_is_counted_and_not_faulted() -> None:
    """For real: others beside it, its steps timed, the samples trusted although it was not pinned."""
    machine = Machine.load()
    options = Options(profile="quick", passes=1, pages="base")
    case = next(
        replace(c, bytes=256 << 10)
        for c in session.plan(["migration"], options, machine)
        if c.job == "wander" and c.params["roams"] and c.params["beside"]
    )
    with Hardware(machine, options) as backend:
        (sample,) = backend.measure([case], 0, 0, 1)
    assert not FATAL.keys() & set(sample.flags) - {"stolen", "throttled", "clock_jumped"}
    assert 0 < sample.extras["p50_us"] <= sample.extras["p99_us"]
    assert set(sample.evidence.cpus_seen) <= set(machine.allowed_cpus)
    if moves(os.getpid()):
        assert sample.extras["moves_per_s"] >= 0
    assert not [t for t in threading.enumerate() if t is not threading.main_thread()]


def test_pages_that_the_system_moves_are_watched_or_the_reason_is_told() -> None:
    machine = many(nodes=2, packages=2)
    (case,) = [c for c in session.plan(["migration"], Options(), machine) if c.job == "converge"]
    assert (case.initiator, case.target, case.cpus) == (0, 1, (0,))
    assert set(case.touch_cpus) == {2, 3}
    if (Tree().text("proc/sys/kernel/numa_balancing") or "0") == "0":
        here = Machine.load()
        with Hardware(here, Options()) as backend, pytest.raises(NumabenchError, match="numa_balancing is 0"):
            backend.measure([replace(case, touch_cpus=(), cpus=here.allowed_cpus[:1])], 0, 0, 1)


def test_moving_pages_to_their_own_node_and_to_none() -> None:
    cpu = _core.affinity()[0]
    kernel = _core.setup_kernel("move")
    with allocate(4 << 20, 0, pages="base") as buffer, _core.Team((cpu,)) as team:

        def work(node: int) -> list[_core.Work]:
            return [_core.Work(kernel, a=(buffer.region, 0), bytes=buffer.bytes, k=4096, part=node, loops=1)]

        team.run(work(0))
        assert buffer.proof().seen == {0: 1024}
        with pytest.raises(PlacementError):
            team.run(work(900))
