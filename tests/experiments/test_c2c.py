# SPDX-License-Identifier: Apache-2.0
"""Core to core: pairs that are planned, groups against claims, the effect of the line's home; barriers by span."""

from __future__ import annotations

import msgspec
import pytest

from numabench import session
from numabench.experiments.c2c import kind
from numabench.machine import Machine
from numabench.series import Case, Options, Table
from tests.fakes import Fake, many

ONE_WAY = {"SMT siblings": 10.0, "same L3": 25.0, "same node": 60.0, "same package": 90.0}


def tables(machine: Machine, true: Machine | None = None, name: str = "c2c") -> list[Table]:
    """What is said of a machine when the hand-overs are those of another one."""

    def truth(case: Case) -> float:
        if case.experiment == "sync":
            waits = 3.0 if case.params["wait"] == "futex" else 1.0
            return waits * len(case.cpus) * (1 + int(case.params.get("size", 0)) / 8192)
        if case.kernel == "contend_add":
            return 20.0 * len(case.cpus)
        cost = ONE_WAY.get(kind(true or machine, *case.cpus), 200.0)
        return cost * (1.5 if case.target not in {machine.cpu(c).node for c in case.cpus} else 1.0)

    record = session.run([name], Options(profile="standard"), machine=machine, backend=Fake(0.002, truth=truth))
    return session.tables(record)


def test_groups_are_those_that_the_system_says() -> None:
    matrix, _, _ = tables(many(nodes=2, cores=4, smt=2, packages=2, l3=2))
    words = " ".join(matrix.meaning)
    assert "Timing shows the cores as groups" in words
    assert "Timing shows the L3 caches as groups" in words
    assert "Timing shows the nodes and packages as groups" in words
    assert "hidden" not in words
    assert "no border" not in words
    assert len(matrix.rows) == 16


def flat() -> Machine:
    """A virtual machine that shows one node without shared caches."""
    machine = many(nodes=1, cores=8, packages=1)
    cpus = tuple(msgspec.structs.replace(cpu, l3=None) for cpu in machine.cpus)
    return msgspec.structs.replace(machine, caches=(), cpus=cpus)


def test_hidden_topology_is_told() -> None:
    words = tables(flat(), many(nodes=2, cores=4, packages=2))[0].meaning
    assert any("CPUs 0-3; 4-7" in line and "hidden" in line for line in words)


def test_claimed_border_without_a_cost_is_told() -> None:
    words = tables(many(nodes=2, cores=4, packages=2), flat())[0].meaning
    assert any("into nodes; timing shows no border" in line for line in words)


def test_third_home_costs_what_it_costs() -> None:
    machine = many(nodes=2, cores=2, packages=2, bare=1)
    _, classes, line = tables(machine)
    assert any("at a third node (2): 1.5" in line for line in classes.meaning)
    assert not any("reader" in line for line in classes.meaning)  # no difference, nothing to say
    assert [name for name, _ in line.rows] == ["0", "0-1", "0-3"]
    assert any("4 CPUs that add to one line take turns at" in text for text in line.meaning)
    assert line.rows[2][1][0].ratio == pytest.approx(4, rel=0.05)


def test_plan_of_a_large_machine_is_bounded_and_has_every_class() -> None:
    machine = many(nodes=8, cores=8, smt=2, packages=2)
    cases = session.plan(["c2c"], Options(), machine)
    quick = session.plan(["c2c"], Options(profile="quick"), machine)
    for planned, most in ((cases, 150), (quick, 70)):
        pairs = [case for case in planned if case.kernel != "contend_add"]
        assert len(pairs) < most
        kinds = {kind(machine, *case.cpus) for case in pairs}
        assert kinds == {"SMT siblings", "same L3", "same package", "distance 32"}
    assert {case.kernel for case in quick} == {"pingpong_flag", "pingpong_cas", "pingpong_add", "contend_add"}
    teams = [len(case.cpus) for case in quick if case.kernel == "contend_add"]
    assert teams == [1, 2, 4, 8, 16, 32, 64, 128]


def test_one_cpu_has_nobody_to_hand_to() -> None:
    (case,) = session.plan(["c2c"], Options(), many(nodes=1, cores=1, packages=1))
    assert case.unavailable == "needs two CPUs"


def test_sync_spans_tails_and_the_share_of_a_step() -> None:
    machine = many(nodes=2, cores=4, packages=2, l3=2)
    barrier, late, reduce = tables(machine, name="sync")
    assert "late" in late.title
    names = [name for name, _ in barrier.rows]
    assert names[:2] == ["one L3, 2 threads, spin", "one L3, 2 threads, futex"]
    assert "nodes 0 and 1, 8 threads, spin" in names
    assert any("crowded" in name for name in names)
    assert any("one node: sleeping in the barrier takes 3.0" in line for line in barrier.meaning)
    # 32 layers of 5 barriers of 8 threads and 2 all-reduces of 2 ranks
    assert any("spends 1536" in line or "spends 153" in line for line in barrier.meaning)
    ranks = ("2 ranks on a node", "2 ranks, nodes 0 and 1")
    assert [name for name, _ in reduce.rows] == [
        name for rank in ranks for name in (rank, f"{rank}, processes with pipes")
    ]


def test_sync_needs_somebody_to_wait_for() -> None:
    (case,) = session.plan(["sync"], Options(), many(nodes=1, cores=1, packages=1))
    assert case.unavailable == "needs two cores"
