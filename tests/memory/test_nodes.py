# SPDX-License-Identifier: Apache-2.0
"""Several nodes for real, and the same statements on stand-ins, which run on any machine.

The first half is skipped on a machine of one node; the lab runs it in machines with many (docs/lab.md).
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

from numabench import session
from numabench._core import Team, Work, setup_kernel
from numabench.disturbance import Disturbance
from numabench.errors import PlacementError
from numabench.evidence import evidence, flags
from numabench.machine import Machine
from numabench.memory import Buffer, allocate
from numabench.record import Record
from numabench.series import Case, Evidence, Options
from tests.fakes import Fake, many, two_nodes

PAGE = 4096
PAGES = 256
MPOL_MF_MOVE = 2


def move(buffer: Buffer, pages: int, node: int) -> None:
    """Move the buffer's first pages to a node behind its back (move_pages(2))."""
    array = buffer.as_array("u1")
    addresses = (ctypes.c_void_p * pages)(*(array.ctypes.data + PAGE * i for i in range(pages)))
    nodes, status = (ctypes.c_int * pages)(*[node] * pages), (ctypes.c_int * pages)()
    assert ctypes.CDLL("libnuma.so.1").numa_move_pages(0, pages, addresses, nodes, status, MPOL_MF_MOVE) == 0
    assert set(status) == {node}


@pytest.mark.needs_nodes(2)
def test_two_interfaces_agree_that_each_buffer_is_on_its_node(numa_machine: Machine) -> None:
    for node in numa_machine.targets():
        with allocate(PAGES * PAGE, node, machine=numa_machine) as buffer:
            proof = buffer.proof()
            assert (proof.how, proof.seen, proof.absent) == ("move_pages", {node: PAGES}, 0)
            assert buffer.region.numa_maps()[0] == {node: PAGES * PAGE}


@pytest.mark.needs_nodes(2)
def test_touching_from_afar_does_not_take_pages_off_their_node(numa_machine: Machine) -> None:
    near, far = numa_machine.initiators()[0], numa_machine.targets()[-1]
    with allocate(PAGES * PAGE, far, touch=numa_machine.cpus_of(near), machine=numa_machine) as buffer:
        assert buffer.proof().seen == {far: PAGES}


@pytest.mark.needs_nodes(2)
def test_without_a_node_pages_are_where_they_are_touched(numa_machine: Machine) -> None:
    for node in set(numa_machine.initiators()) & set(numa_machine.targets()):
        with allocate(PAGES * PAGE, None, touch=numa_machine.cpus_of(node)[:1], machine=numa_machine) as buffer:
            # Which of them does not show where nodes share their CPUs.
            same = [n.id for n in numa_machine.nodes if set(n.cpus) & set(numa_machine.node(node).cpus)]
            assert buffer.proof().misplaced(same) == 0


@pytest.mark.needs_nodes(2)
def test_interleaved_pages_are_spread_evenly(numa_machine: Machine) -> None:
    nodes = numa_machine.targets()
    pages = len(nodes) * 64
    with allocate(pages * PAGE, nodes, policy="interleave", machine=numa_machine) as buffer:
        assert buffer.proof().seen == dict.fromkeys(nodes, 64)


@pytest.mark.needs_nodes(2)
def test_pages_moved_behind_its_back_are_found(numa_machine: Machine) -> None:
    home, away = numa_machine.targets()[:2]
    with allocate(PAGES * PAGE, home, machine=numa_machine) as buffer:
        before = buffer.proof()
        move(buffer, 5, away)
        after = buffer.proof()
        assert after.seen == {home: PAGES - 5, away: 5}
        assert after.misplaced(buffer.nodes) == 5
        assert before.placement is not None
        assert after.placement is not None
        assert after.placement.moved_since(before.placement) == 5


@pytest.mark.needs_nodes(2)
def test_more_than_a_node_has_free_is_refused_by_name(numa_machine: Machine) -> None:
    for node in numa_machine.targets():
        size = numa_machine.node(node).memory_bytes
        with pytest.raises(PlacementError, match=f"on node {node}: only .* are free"):
            allocate(size, node, machine=numa_machine)


@pytest.mark.needs_nodes(2)
def test_threads_run_on_the_cpus_of_every_node(numa_machine: Machine) -> None:
    for node in numa_machine.initiators():
        cpus = numa_machine.cpus_of(node)
        with allocate(PAGES * PAGE * len(cpus), numa_machine.targets()[0], machine=numa_machine) as buffer:
            work = Work(setup_kernel("fill_f64"), a=(buffer.region, 0), bytes=PAGE, loops=1)
            with Team(cpus) as team:
                stamps = team.run([work] * len(cpus))
        assert [(stamp.cpu_start, stamp.cpu_end) for stamp in stamps] == [(cpu, cpu) for cpu in cpus]


def cells(record: Record) -> dict[tuple[int | None, int | None], str]:
    return {(s.case.initiator, s.case.target): s.trust for s in record.series}


@pytest.mark.needs_nodes(2)
def test_every_pair_is_measured_where_it_says(numa_machine: Machine) -> None:
    options = Options(profile="quick", bytes=1 << 20, passes=1, pages="base", nodes=numa_machine.targets()[:3])
    record = session.run(["latency"], options, machine=numa_machine)
    have = set(numa_machine.initiators())
    assert set(cells(record)) == {(i, j) for i in options.nodes if i in have for j in options.nodes}
    for series in record.series:
        (sample,) = series.samples
        assert sample.evidence.proof == "move_pages"
        assert sample.evidence.placement_seen == {series.case.target: PAGES}
        assert sample.evidence.cpus_seen == series.case.cpus
        assert set(series.case.cpus) <= set(numa_machine.node(series.case.initiator or 0).cpus)


def test_twin_every_pair_of_two_nodes_is_measured() -> None:
    record = session.run(["latency"], Options(profile="quick", pages="base"), machine=two_nodes(), backend=Fake(0.001))
    assert set(cells(record)) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    for series in record.series:
        assert {sample.evidence.cpus_seen for sample in series.samples} == {(series.case.initiator,)}
        assert set(series.samples[0].evidence.placement_seen) == {series.case.target}


def test_twin_a_node_without_cpus_is_a_target_only() -> None:
    machine = many(nodes=2, packages=2, bare=1)
    record = session.run(["latency"], Options(profile="quick", pages="base"), machine=machine, backend=Fake())
    assert set(cells(record)) == {(i, j) for i in (0, 1) for j in (0, 1, 2)}


def _proof(at: dict[int, int], moved: int = 0) -> Any:
    return SimpleNamespace(
        how="move_pages",
        pages=sum(at.values()),
        seen=at,
        absent=0,
        step_bytes=PAGE,
        kind_share=1.0,
        kind_seen="base",
        placement=SimpleNamespace(moved_since=lambda _: moved),
        misplaced=lambda nodes: sum(count for node, count in at.items() if node not in nodes),
    )


@pytest.mark.parametrize(
    ("before", "after", "moved", "raised"),
    [
        ({1: PAGES}, {1: PAGES}, 0, set()),
        ({1: PAGES}, {1: PAGES - 5, 0: 5}, 5, {"misplaced", "migrated"}),
        ({1: PAGES - 1, 0: 1}, {1: PAGES - 1, 0: 1}, 0, {"misplaced"}),
        ({1: PAGES}, {1: PAGES}, 2, {"migrated"}),
    ],
)
def test_twin_moved_and_misplaced_pages_raise_flags(
    before: dict[int, int], after: dict[int, int], moved: int, raised: set[str]
) -> None:
    case = Case(experiment="latency", kernel="chase", unit="ns", better="low", cpus=(0,), target=1, pages="base")
    buffer: Any = SimpleNamespace(nodes=(1,), bytes=PAGES * PAGE, how="bind")
    stamp: Any = SimpleNamespace(
        start_ns=0.0,
        end_ns=1e6,
        core_hz_before=0.0,
        core_hz_after=0.0,
        width_before=0.0,
        width_after=0.0,
        cpu=0,
        cpu_start=0,
        cpu_end=0,
        voluntary_switches=0,
        involuntary_switches=0,
        minor_faults=0,
        calls=10,
        tier="avx2",
    )
    changes = Disturbance(seconds=1.0, steal_share=0.0, throttled_us=0)
    clock: Any = SimpleNamespace(source="counter", overhead_ns=20.0, step_ns=10.0)
    found = evidence(case, [buffer], [_proof(before)], [_proof(after, moved)], [[stamp]], changes, clock)
    assert found["placement_seen"] == after
    assert found["migrated"] == moved
    seen = Evidence(**found)  # type: ignore[arg-type]
    assert set(flags(case, seen, changes, [[stamp]], True, two_nodes(), clock)) == raised
