# SPDX-License-Identifier: Apache-2.0
"""Migration: hops and moves that are planned, and their costs in words; moving pages for real."""

from __future__ import annotations

import pytest

from numabench import _core, session
from numabench.errors import PlacementError
from numabench.memory import allocate
from numabench.series import Case, Options
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


def test_costs_in_words() -> None:
    machine = many(nodes=2, cores=2, packages=2)
    extra = {"same L3": 0.0, "other node, distance 32": 80.0}

    def further(case: Case) -> dict[str, float]:
        return {"hop_us": extra.get(str(case.params.get("hop")), 0.0)}

    backend = Fake(0.001, truth=lambda case: 1000.0, extras=further)
    record = session.run(["migration"], Options(profile="quick"), machine=machine, backend=backend)
    hops, moves = session.tables(record)
    assert any("(same L3)" in line and "nothing measurable" in line for line in hops.meaning)
    assert any("distance 32" in line and "costs 80" in line for line in hops.meaning)
    assert any("base pages from node 0 to 1 runs at 4.09" in line for line in moves.meaning)


def test_one_node_hops_only() -> None:
    cases = session.plan(["migration"], Options(), many(nodes=1, packages=1))
    assert {c.job for c in cases if not c.unavailable} == {"hop"}
    assert [c.unavailable for c in cases if c.job == "move"] == ["one node"]


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
