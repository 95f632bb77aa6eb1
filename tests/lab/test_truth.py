# SPDX-License-Identifier: Apache-2.0
"""The plugin's ground truth comes out of `numabench run`: latencies pair by pair, links' rates, the planted slow link.

As in test_penalties, a disagreement is measured again with another seed, and all samples of all boots then count: for a
latency their median, for a rate the best of them, since a busy host takes from a rate and adds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations
from pathlib import Path
from statistics import median

import pytest

from numabench import record as records
from numabench import session
from numabench.record import Record

from . import image
from .machines import MACHINES, Machine
from .steps import run_steps

pytestmark = pytest.mark.lab

TOLERANCE = 0.15
ATTEMPTS = 3
Cells = dict[tuple[int, int], float]


def measured(machine: Machine, scratch: Path, seed: int, *words: str) -> Record:
    """One boot, one run."""
    target = scratch / f"{seed}.json"
    command = ["numabench", "run", *words, "--profile", "quick", "--size", "4MiB", "--pages", "thp"]
    step = run_steps(machine, {"run": [*command, "--seed", str(seed), "-o", str(target)]}, scratch, timeout=600)["run"]
    assert (step.status, "Traceback" in step.err) == (0, False), step
    return records.load(target)


def cells(found: list[Record], estimate: Callable[[Iterable[float]], float] = median) -> Cells:
    """One figure for each pair from the samples of all records."""
    return {
        (s.case.initiator or 0, s.case.target or 0): estimate(
            sample.value
            for record in found
            for other in record.series
            if other.case.label == s.case.label
            for sample in other.samples
        )
        for s in found[0].series
    }


def beyond_local_ns(machine: Machine, seen: Cells) -> dict[tuple[int, int], tuple[float, float]]:
    """(measured, applied) remote minus local, each initiator against its own node."""
    assert machine.penalties is not None
    cycles, ns = machine.penalties.cycles, 1e9 / image.tsc_hz()
    return {
        (i, j): (value - seen[i, i], (cycles[i][j] - cycles[i][i]) * ns) for (i, j), value in seen.items() if i != j
    }


def disorder(machine: Machine, seen: Cells) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Pairs of cells that are ranked otherwise than the delays applied."""
    assert machine.penalties is not None
    cycles = machine.penalties.cycles
    return [
        (a, b) for a, b in combinations(seen, 2) if (cycles[a[0]][a[1]] - cycles[b[0]][b[1]]) * (seen[a] - seen[b]) < 0
    ]


@pytest.mark.parametrize("name", ["SYMMETRIC", "KNOWN_LATENCY", "SLOW_LINK"])
def test_latencies_are_those_applied(name: str, tmp_path: Path) -> None:
    machine = MACHINES[name]
    initiators = [i for i, node in enumerate(machine.nodes) if node.cpus]
    found: list[Record] = []
    for seed in range(1, ATTEMPTS + 1):
        found.append(measured(machine, tmp_path, seed, "latency", "--passes", "3"))
        seen = cells(found)
        assert set(seen) == {(i, j) for i in initiators for j in range(len(machine.nodes))}
        differences = beyond_local_ns(machine, seen)
        wrong = {key: pair for key, pair in differences.items() if abs(pair[0] / pair[1] - 1) > TOLERANCE}
        if not wrong and not disorder(machine, seen):
            break
    for (i, j), (got, applied) in differences.items():
        print(f"{name} {i}->{j}: {got:.0f} ns beyond local, applied {applied:.0f}, {got / applied - 1:+.1%}")
    assert not wrong
    assert not disorder(machine, seen)
    if name == "SLOW_LINK":
        meaning = " ".join(line for table in session.tables(found[-1]) for line in table.meaning)
        assert "from node 1 to node 3" in meaning  # named in words


def test_rates_are_the_caps(tmp_path: Path) -> None:
    machine = MACHINES["KNOWN_BANDWIDTH"]
    assert machine.penalties is not None
    caps = machine.penalties.bytes_per_s
    assert caps is not None
    found: list[Record] = []
    for seed in range(1, ATTEMPTS + 1):
        found.append(
            measured(machine, tmp_path, seed, "bandwidth", "--kernel", "read", "--cpus", "0,2", "--passes", "3")
        )
        seen = {key: value * 1e9 / caps[key[0]][key[1]] for key, value in cells(found, max).items()}
        assert set(seen) == {(i, j) for i in (0, 1) for j in (0, 1)}
        wrong = {key: ratio for key, ratio in seen.items() if abs(ratio - 1) > TOLERANCE}
        if not wrong:
            break
    for (i, j), ratio in seen.items():
        print(f"bandwidth {i}->{j}: cap {caps[i][j] / 1e6:.0f} MB/s, measured {ratio - 1:+.1%} beyond")
    assert not wrong
