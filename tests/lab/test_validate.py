# SPDX-License-Identifier: Apache-2.0
"""Planted faults are named by `numabench validate`, link and node; a sound machine is not accused.

Latency alone, as emulated memory has no bandwidth of its own, and judged outside from the record.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from numabench import record as records
from numabench.validation.outcome import Result
from numabench.validation.validate import second, validate

from .machines import MACHINES, Machine
from .steps import run_steps

pytestmark = pytest.mark.lab

NEAR, PAIR, FAR = 3000, 6000, 12000
SOUND_CYCLES = tuple(tuple(NEAR if i == j else PAIR if i // 2 == j // 2 else FAR for j in range(4)) for i in range(4))
SLOW_CYCLES = tuple(tuple(2 * cycles if j == 2 else cycles for j, cycles in enumerate(row)) for row in SOUND_CYCLES)
SOUND = dataclasses.replace(MACHINES["FOUR_NODES"].penalised(SOUND_CYCLES), name="SOUND")
SLOW_NODE = dataclasses.replace(MACHINES["FOUR_NODES"].penalised(SLOW_CYCLES), name="SLOW_NODE")


def judged(machine: Machine, scratch: Path) -> tuple[Result, list[str]]:
    """The verdict of two measurements, as odd cells are measured again, and what the latencies say against the machine.

    A busy host slows single cells of an emulated machine: what is not there twice is noise.
    """
    words = ["numabench", "run", "latency", "--profile", "quick", "--size", "2MiB", "--pages", "thp", "--passes", "3"]
    steps = {f"r{seed}": [*words, "--seed", str(seed), "-o", str(scratch / f"r{seed}.json")] for seed in (1, 2)}
    for step in run_steps(machine, steps, scratch, timeout=900).values():
        assert step.status == 0, step
    first, again = (records.load(scratch / f"{name}.json") for name in steps)
    result = validate(first, again=second(again.series))
    return result, [c.text for c in result.checks if c.name == "latency" and c.reason == "ASYMMETRIC"]


@pytest.mark.parametrize(
    ("machine", "name", "cause"),
    [
        (MACHINES["SLOW_LINK"], "link 1->3 ", "socket link narrow or down"),
        (SLOW_NODE, "memory of node 2 ", "memory of one node slow"),
    ],
    ids=["link", "node"],
)
def test_what_is_planted_is_named(machine: Machine, name: str, cause: str, tmp_path: Path) -> None:
    result, said = judged(machine, tmp_path)
    assert [text for text in said if text.startswith(name)] == said[:1] != [], said
    assert result.verdict == "FAIL", result.reason
    assert cause in [found.name for found in result.causes]


def test_a_sound_machine_is_not_accused(tmp_path: Path) -> None:
    assert judged(SOUND, tmp_path)[1] == []
