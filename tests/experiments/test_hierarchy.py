# SPDX-License-Identifier: Apache-2.0
"""Hierarchy on a machine whose caches are known, and on one that claims more than it has."""

from __future__ import annotations

import msgspec
import pytest

from numabench import session
from numabench.machine import Cache, Machine
from numabench.series import Case, Options, Sample, Table
from tests.fakes import Fake, two_nodes

KIB, MIB = 1 << 10, 1 << 20


def machine(l2: int = MIB) -> Machine:
    caches = tuple(
        Cache(level, "unified" if level > 1 else "data", size, 64, (cpu,))
        for cpu in (0, 1)
        for level, size in ((1, 32 * KIB), (2, l2), (3, 16 * MIB))
    )
    return msgspec.structs.replace(two_nodes(), caches=caches)


def truth(case: Case) -> float:
    if case.kernel != "chase":
        return 10.0
    memory = (200.0 if case.target != case.initiator else 100.0) * (1.3 if case.pages == "base" else 1.0)
    return next((v for end, v in ((32 * KIB, 1.0), (MIB, 4.0), (16 * MIB, 20.0)) if case.bytes <= end), memory)


def tables(where: Machine, profile: str = "standard") -> list[Table]:
    options = Options(profile=profile, passes=6)  # type: ignore[arg-type]
    return session.tables(session.run(["hierarchy"], options, machine=where, backend=Fake(0.01, truth=truth)))


def test_levels_and_their_ends_agree_with_what_the_system_says() -> None:
    found = tables(machine())[0]
    assert [name for name, _ in found.rows] == ["L1", "L2", "L3", "memory"]
    assert sum("agrees" in line for line in found.meaning) == 3
    assert [row[0].value for _, row in found.rows] == pytest.approx([1, 4, 20, 100], rel=0.03)


def test_invented_cache_is_a_disagreement() -> None:
    found, curve, *_ = tables(machine(l2=8 * MIB))
    assert any("L2 ends at 1" in line and "not at the 8 MiB" in line for line in found.meaning)
    # Nobody named this end, so points around it were added.
    assert curve.axis is not None
    near = [size for size in curve.axis.values if MIB / 2 < size < 2 * MIB]
    assert len(near) >= 7
    assert list(curve.axis.values) == sorted(curve.axis.values)


@pytest.mark.parametrize(("lost", "told"), [({52 * KIB}, True), ({44 * KIB, 52 * KIB}, False)])
def test_levels_are_told_without_a_few_points_and_never_vanish_silently(lost: set[int], told: bool) -> None:
    def flags(case: Case) -> tuple[str, ...]:
        return ("stolen",) if case.bytes // 4096 * 4096 in lost else ()

    backend = Fake(0.01, truth=truth)
    measure = backend.measure

    def stolen(group: list[Case], number: int, position: int, seed: int) -> list[Sample]:
        made = measure(group, number, position, seed)
        return [msgspec.structs.replace(s, flags=flags(case)) for case, s in zip(group, made, strict=True)]

    backend.measure = stolen  # type: ignore[assignment, method-assign]
    options = Options(profile="standard", passes=6)
    found = session.tables(session.run(["hierarchy"], options, machine=machine(), backend=backend))
    assert found[0].title.startswith("Levels found") == told
    silent = [line for table in found for line in table.meaning if "no ends of caches are told, as 2 of" in line]
    assert bool(silent) == (not told)


def test_huge_pages_against_base_pages_and_remote_only_beyond_caches() -> None:
    curve = tables(machine(), "quick")[1]
    (line,) = curve.meaning
    assert "TLB" in line
    assert float(line.split(" takes ")[1].split("x")[0]) == pytest.approx(1.3, abs=0.02)
    assert len(curve.columns) == 3
    assert any("node 1" in column for column in curve.columns)
    assert curve.axis is not None
    remote = next(at for at, column in enumerate(curve.columns) if "node 1" in column)
    measured = [size for size, (_, row) in zip(curve.axis.values, curve.rows, strict=True) if row[remote].value]
    assert min(measured) >= 32 * MIB
    assert len(measured) > 3


def test_one_curve_shares_one_allocation() -> None:
    cases = session.plan(["hierarchy"], Options(), machine())
    assert all(case.share and case.job == "curve" for case in cases)
    assert len({case.share for case in cases}) == 3


def test_a_cache_that_others_use_ends_where_loads_side_by_side_still_hit() -> None:
    """One load after the other is too seldom to keep a ring in a cache that others fill."""

    def shared(case: Case) -> float:
        dense = "chains" in case.params
        end = 16 * MIB if dense else 4 * MIB
        return (100.0 if case.bytes > end else truth(case)) / (12 if dense else 1)

    options = Options(passes=6)
    backend = Fake(0.01, truth=shared)
    found = session.tables(session.run(["hierarchy"], options, machine=machine(), backend=backend))[0]
    assert sum("agrees" in line for line in found.meaning) == 3
    assert [row[0].value for _, row in found.rows] == pytest.approx([1, 4, 20, 100], rel=0.03)
