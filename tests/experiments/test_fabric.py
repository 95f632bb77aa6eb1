# SPDX-License-Identifier: Apache-2.0
"""Fabric: patterns cover every link, losses against the pairs alone come out, and a planted slow link is named."""

from __future__ import annotations

from numabench import session
from numabench.machine import Machine
from numabench.series import Case, Options, Table
from tests.fakes import Fake, many

QUICK = Options(profile="quick")
RATE = {10: 40.0, 12: 30.0, 32: 20.0}  # GB/s of a link by its distance
SLOW = (1, 3)


def link(machine: Machine, i: int, j: int, busy: bool) -> float:
    rate = RATE[machine.distance(i, j) or 0]
    return rate * (0.4 if (i, j) == SLOW and busy else 0.9 if busy else 1.0)


def teams(machine: Machine, case: Case) -> dict[str, float]:
    """Each node's team gets the mean of its links."""
    goals: dict[int | None, list[int]] = {}
    for cpu, target in zip(case.cpus, case.targets, strict=False):
        goals.setdefault(machine.cpu(cpu).node, []).append(target)
    return {f"node{i}": sum(link(machine, i or 0, j, True) for j in js) / len(js) for i, js in goals.items()}


def ran(machine: Machine) -> list[Table]:
    def truth(case: Case) -> float:
        if not case.targets:
            return link(machine, case.initiator or 0, case.target or 0, False)
        return sum(teams(machine, case).values())

    backend = Fake(0.003, truth=truth, extras=lambda case: teams(machine, case))
    return session.tables(session.run(["fabric"], QUICK, machine=machine, backend=backend))


def test_every_link_is_busy_in_some_pattern() -> None:
    machine = many(nodes=4, packages=2, bare=1)
    cases = session.plan(["fabric"], QUICK, machine)
    links = {(machine.cpu(cpu).node, target) for c in cases for cpu, target in zip(c.cpus, c.targets, strict=False)}
    assert links == {(i, j) for i in range(4) for j in range(5)}
    patterns = {str(case.params["pattern"]) for case in cases}
    assert {"all at home", "shift 3", "packages exchange", "all to 4", "0 to all"} <= patterns
    for case in cases:
        if case.params["pattern"] == "all to 4":
            assert set(case.targets) == {4}
            assert len(case.cpus) == 8


def test_loss_against_the_pairs_alone() -> None:
    whole, _ = ran(many(nodes=4, packages=2))
    rows = dict(whole.rows)
    kept = rows["shift 1"][3].value
    assert kept is not None
    assert abs(kept - 0.9) < 0.02
    assert any("all at home: 0.9" in line for line in whole.meaning)
    fair = rows["shift 2"][2].value
    assert fair is not None
    assert fair < 0.5  # one team of the slow link against three good ones


def test_slow_link_is_named_and_only_that() -> None:
    _, links = ran(many(nodes=4, packages=2))
    assert len(links.meaning) == 1
    assert "from node 1 to node 3" in links.meaning[0]
    assert [len(row) for _, row in links.rows] == [4] * 4
    assert all(cell.value for _, row in links.rows for cell in row)


def test_one_node_has_no_links() -> None:
    machine = many(nodes=1, packages=1)
    cases = session.plan(["fabric"], QUICK, machine)
    assert [case.unavailable for case in cases] == ["one node", ""]
    assert [case.params.get("pattern") for case in cases] == [None, "all at home"]
    assert "One node" in ran(machine)[0].meaning[0]


def test_plan_grows_with_nodes_not_with_pairs() -> None:
    cases = session.plan(["fabric"], QUICK, many(nodes=16, cores=1, packages=2))
    assert len(cases) <= 16 + 4 * 8 + 2
