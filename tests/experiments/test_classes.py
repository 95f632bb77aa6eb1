# SPDX-License-Identifier: Apache-2.0
"""Plans of large machines are bounded by classes of alike pairs, and members that differ are told."""

from __future__ import annotations

import pytest

from numabench import session
from numabench.experiments import base
from numabench.series import Case, Options
from tests.fakes import Fake, many

LARGE = many(nodes=16, cores=2, packages=2, bare=2)


@pytest.mark.parametrize(("profile", "most"), [("quick", 16), ("standard", 64)])
@pytest.mark.parametrize("name", ["latency", "bandwidth"])
def test_large_machine_has_every_class_and_few_cases(name: str, profile: str, most: int) -> None:
    options = Options(profile=profile)  # type: ignore[arg-type]
    measured = {(c.initiator, c.target) for c in session.plan([name], options, LARGE)}
    assert len(measured) <= most
    for members in LARGE.pair_classes().values():
        assert measured & set(members)
    for i, j in measured:
        assert (i, i) in measured, (i, j)


def test_full_takes_all_and_the_seed_draws() -> None:
    everything = base.chosen(LARGE, Options(profile="full"))
    assert len(everything) == 16 * 18
    drawn = {tuple(base.chosen(LARGE, Options(seed=seed))) for seed in range(4)}
    assert len(drawn) == 4
    assert base.chosen(LARGE, Options(seed=1)) == base.chosen(LARGE, Options(seed=1))


def meaning(odd: tuple[int, int], cost: float) -> str:
    machine = many(nodes=4, packages=2)

    def truth(case: Case) -> float:
        if (case.initiator, case.target) == odd:
            return cost
        return 50.0 + 5.0 * (machine.distance(case.initiator or 0, case.target or 0) or 0)

    options = Options(profile="quick", pages="thp")
    record = session.run(["latency"], options, machine=machine, backend=Fake(0.002, truth=truth))
    return " ".join(session.tables(record)[0].meaning)


def test_pair_that_differs_from_its_class_is_told() -> None:
    assert "Odd: CPUs of 1 to node 3: 29" in meaning((1, 3), 299.0)
    assert "Odd" not in meaning((1, 3), 211.0)


def test_distances_in_the_wrong_order_are_told() -> None:
    assert "From node 0 the firmware puts node 1 nearer than node 2" in meaning((0, 1), 400.0)
    assert "firmware" not in meaning((0, 1), 110.0)


@pytest.mark.parametrize("name", ["latency", "bandwidth"])
def test_class_with_a_surprise_is_measured_whole(name: str) -> None:
    """A pair unlike its class opens it; other classes stay bounded, and who stands for whom is in the record."""
    options = Options()
    drawn = {(i, j) for i, j, _ in base.chosen(LARGE, options)}
    members = next(m for key, m in LARGE.pair_classes().items() if key.relation == "same package")
    odd = next(pair for pair in members if pair in drawn)
    assert not set(members) <= drawn

    def truth(case: Case) -> float:
        return 200.0 if (case.initiator, case.target) == odd else 100.0

    record = session.run([name], options, machine=LARGE, backend=Fake(0.002, truth=truth))
    measured = {(s.case.initiator, s.case.target) for s in record.series}
    assert measured == drawn | set(members)
    kernels = {s.case.kernel for s in record.series if (s.case.initiator, s.case.target) in set(members) - drawn}
    assert len(kernels) == 1
    stands = record.plan["represented"][name]
    everything = {pair for pairs in LARGE.pair_classes().values() for pair in pairs}
    assert set(stands) == {f"{i}-{j}" for i, j in everything - measured}
    assert set(stands.values()) <= {f"{i}-{j}" for i, j in drawn}
    cells = {
        (row, column): cell
        for table in session.tables(record)[:1]
        for row, cells in table.rows
        for column, cell in zip(table.columns, cells, strict=True)
    }
    i, j = next(iter(stands)).split("-")
    assert "the system calls it like" in cells[f"CPUs of {i}", f"node {j}"].unavailable


def test_class_without_a_surprise_stays_bounded() -> None:
    options = Options()
    record = session.run(["latency"], options, machine=LARGE, backend=Fake(0.002, truth=lambda case: 100.0))
    measured = {(s.case.initiator, s.case.target) for s in record.series}
    assert measured == {(i, j) for i, j, _ in base.chosen(LARGE, options)}
