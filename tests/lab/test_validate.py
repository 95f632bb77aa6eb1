# SPDX-License-Identifier: Apache-2.0
"""`numabench validate` on machines whose faults are known: a slow link and a slow node are named, a sound one passes.

The whole command runs in the guest, with its second measurement of what does not fit. Each node has one CPU, so that
the two CPUs of a small host are enough for it. A link's rate follows from its delay, as an emulated access is a wait.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from numabench.validation import outcome

from .machines import Machine, Node
from .steps import run_steps

pytestmark = pytest.mark.lab

NODES = range(3)
NEAR, FAR, SLOWER = 3000, 8000, 2
ALIKE = Machine("ALIKE", (Node(1),) * len(NODES), packages=len(NODES))
RUNS, BOOTS = 20, 4  # sound ones, shared by so many boots


def plant(name: str, slow: set[tuple[int, int]]) -> Machine:
    """Nodes that are all alike, but for the pairs that take twice as long."""
    cycles = tuple(tuple((NEAR if i == j else FAR) * (SLOWER if (i, j) in slow else 1) for j in NODES) for i in NODES)
    return dataclasses.replace(ALIKE.penalised(cycles), name=name)


def validated(machine: Machine, seeds: range, scratch: Path) -> list[tuple[int, outcome.Result]]:
    """Exit status and result of one run a seed, all in one boot."""
    words = ["numabench", "validate", "--size", "2MiB", "--pages", "thp", "--passes", "3", "--out", str(scratch)]
    steps = {
        f"v{n}": [*words, "--node-name", f"v{n}", "--seed", str(n), "--record", str(scratch / f"v{n}.record")]
        for n in seeds
    }
    done = run_steps(machine, steps, scratch, timeout=120 + 180 * len(seeds))
    for name, step in done.items():
        assert "Traceback" not in step.err, step
        assert (scratch / f"{name}.json").exists(), step
    return [(step.status, outcome.load(scratch / f"{name}.json")) for name, step in done.items()]


@pytest.mark.parametrize(
    ("slow", "fault", "cause"),
    [
        ({(0, 2)}, "link 0->2 ", "socket link narrow or down"),
        ({(i, 1) for i in NODES}, "memory of node 1 ", "memory of one node slow"),
    ],
    ids=["link", "node"],
)
def test_what_is_planted_is_named(slow: set[tuple[int, int]], fault: str, cause: str, tmp_path: Path) -> None:
    ((status, result),) = validated(plant("PLANTED", slow), range(1), tmp_path)
    accused = [check for check in result.checks if check.reason in ("ASYMMETRIC", "UNCONFIRMED")]
    print([(check.verdict, check.text) for check in accused], [(c.name, c.score) for c in result.causes])
    assert (status, result.verdict) == (1, "FAIL"), result.reason
    assert {check.name for check in accused} == {"latency", "bw.read"}
    assert all(check.text.startswith(fault) and "persistent" in check.text for check in accused)
    assert result.causes[0].name == cause


@pytest.mark.parametrize("boot", range(BOOTS))
def test_a_sound_machine_passes_twenty_times_of_twenty(boot: int, tmp_path: Path) -> None:
    found = validated(plant("SOUND", set()), range(boot, RUNS, BOOTS), tmp_path)
    print(Counter(result.verdict for _, result in found))
    print(Counter(f"{c.layer} {c.verdict} {c.reason}" for _, r in found for c in r.checks if c.verdict != "PASS"))
    assert [(status, result.reason) for status, result in found if status] == []
    assert len(found) == RUNS // BOOTS
