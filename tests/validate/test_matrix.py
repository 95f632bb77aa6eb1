# SPDX-License-Identifier: Apache-2.0
"""Planted faults in matrices of several shapes are named; what the mode explains and what was noise is not accused."""

from __future__ import annotations

import random

import pytest

from numabench.analysis.matrix import Cell, Pair, _scatter, faults, oddities
from numabench.validation.layers import symmetry

from .reference import topology

LOCAL, NEAR, FAR = 100.0, 130.0, 200.0


def cells(
    sockets: int,
    nodes: int,
    slow: dict[Pair, float] | None = None,
    noise: float = 0.005,
    mesh: bool = False,
    seed: int = 1,
) -> dict[Pair, Cell]:
    """Latency cells of six passes; ``slow`` multiplies a cell, ``mesh`` makes pairs differ alike in every package."""
    rng, machine, per = random.Random(seed), topology(sockets, nodes), nodes // sockets
    found = {}
    for i in range(nodes):
        for j in range(nodes):
            truth = LOCAL if i == j else NEAR if i // per == j // per else FAR
            if mesh and i != j and i // per == j // per:
                truth *= 1 + 0.1 * ((i % per + 2 * (j % per)) % 3)
            truth *= (slow or {}).get((i, j), 1.0)
            values = [truth * (1 + rng.gauss(0, noise)) for _ in range(6)]
            found[i, j] = Cell(values, machine.relation(i, j), (i % per, j % per), (i // per, j // per))
    return found


SHAPES = [(1, 2), (2, 2), (2, 4), (1, 4), (4, 4), (2, 8)]


# Of a package alone only the two directions of a pair can be compared, and this mesh makes them differ.
@pytest.mark.parametrize(("shape", "mesh"), [(s, m) for s in SHAPES for m in (False, True) if not m or s[0] > 1])
def test_sound_machines_have_no_fault(shape: tuple[int, int], mesh: bool) -> None:
    for seed in range(20):
        found = oddities(cells(*shape, mesh=mesh, seed=seed), "low")
        assert not [one for one in found if one.kind != "mode asymmetry"], found


def test_the_mesh_of_a_mode_is_named_as_such() -> None:
    found = oddities(cells(2, 8, mesh=True), "low")
    assert {one.kind for one in found} == {"mode asymmetry"}


@pytest.mark.parametrize(
    ("shape", "slow", "name"),
    [
        ((2, 2), {(0, 1): 1.2}, "link 0->1"),
        ((2, 4), {(1, 3): 1.12}, "link 1->3"),
        ((2, 4), {(1, 3): 1.3, (3, 1): 1.3}, "link 1<->3"),
        ((2, 2), {(0, 0): 1.2}, "node 0"),
        ((2, 2), {(0, 0): 1.2, (1, 0): 1.2}, "memory of node 0"),
        ((4, 4), {(i, 2): 1.15 for i in range(4)}, "memory of node 2"),
        ((4, 4), {(1, j): 1.15 for j in range(4)}, "CPUs of node 1"),
        ((4, 4), {(i, j): 1.2 for i in range(4) for j in range(4) if 3 in (i, j)}, "node 3"),
        ((2, 8), {(2, 3): 1.2}, "link 2->3"),
        ((2, 8), {(5, 5): 1.1}, "node 5"),
    ],
)
def test_a_planted_fault_is_named(shape: tuple[int, int], slow: dict[Pair, float], name: str) -> None:
    for seed in range(10):
        made = cells(*shape, slow, mesh=shape == (2, 8), seed=seed)
        first = faults(oddities(made, "low"), list(made))
        assert [fault.name for fault in first] == [name]
        assert first[0].worst.kind == "unconfirmed"
        repeat = {
            pair: cell.values for pair, cell in cells(*shape, slow, seed=seed + 100, mesh=shape == (2, 8)).items()
        }
        sure = faults(oddities(made, "low", repeat), list(made))
        assert [fault.name for fault in sure] == [name]
        assert sure[0].worst.kind == "persistent"
        assert sure[0].worst.confidence > 0.9
        assert sure[0].worst.deviation == pytest.approx(max(slow.values()) - 1, abs=0.02 if len(slow) != 2 else 0.07)


def test_what_does_not_come_back_is_noise() -> None:
    made = cells(2, 2, {(0, 1): 1.2})
    repeat = {pair: cell.values for pair, cell in cells(2, 2, seed=9).items()}
    found = oddities(made, "low", repeat)
    assert [one.kind for one in found] == ["noise"]
    assert not faults(found, list(made))


def test_scatter_of_the_passes_widens_the_limit() -> None:
    quiet, loud = cells(2, 2, {(0, 1): 1.07}), cells(2, 2, {(0, 1): 1.07}, noise=0.08)
    assert oddities(quiet, "low")
    assert not oddities(loud, "low")


def test_bandwidth_is_worse_when_lower() -> None:
    made = {
        pair: cell._replace(values=[1e4 / v for v in cell.values]) for pair, cell in cells(2, 2, {(1, 0): 1.25}).items()
    }
    (fault,) = faults(oddities(made, "high"), list(made))
    assert fault.name == "link 1->0"
    assert fault.worst.deviation == pytest.approx(1 - 1 / 1.25, abs=0.02)


def test_a_pair_alone_in_a_package_of_several_nodes_tells_nothing() -> None:
    made = {pair: cell for pair, cell in cells(2, 8, {(3, 0): 1.4}).items() if pair[1] == 0}
    assert not oddities(made, "low")


@pytest.mark.parametrize(
    ("passes", "verdict"),
    [((0.012, 0.010, 0.020), "WARN"), ((0.012, 0.010, 0.013), "FAIL"), ((0.020, 0.0195, 0.020), "PASS")],
)
def test_a_link_that_reaches_its_like_in_its_best_round_does_not_fail(passes: tuple[float, ...], verdict: str) -> None:
    made = {
        (i, j): Cell(
            (0.050, 0.049, 0.050) if i == j else (0.0198, 0.0197, 0.0199), "own" if i == j else "other", (0, 0), (i, j)
        )
        for i in range(3)
        for j in range(3)
    }
    made[2, 1] = made[2, 1]._replace(values=passes)
    again = {pair: cell.values for pair, cell in made.items()}
    found, _ = symmetry("bw.read", made, again)
    (check,) = found
    assert (check.verdict, check.instance) == (verdict, "" if verdict == "PASS" else "node2->node1")
    assert ("in its best round" in check.text) == (verdict == "WARN")


def test_few_passes_tell_their_scatter() -> None:
    for n in (3, 4, 5, 6, 9):
        rng = random.Random(4)
        made = {(0, j): Cell([100 * rng.lognormvariate(0, 0.1) for _ in range(n)], "own") for j in range(400)}
        assert _scatter(made, "own") == pytest.approx(0.1, rel=0.2)
