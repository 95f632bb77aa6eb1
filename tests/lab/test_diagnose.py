# SPDX-License-Identifier: Apache-2.0
"""Programs with one thing wrong on a machine of two nodes, and what diagnose says of them."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from . import MACHINES, boot

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    result = boot(MACHINES["TWO_NODES"], [sys.executable, "-m", "tests.lab.planted"], timeout=300)
    assert result.status == 0, result
    return json.loads(result.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("planted", "cause"),
    [
        ("wrong node", "misplaced"),
        ("bouncing", "bouncing"),
        ("crowd", "oversubscribed"),
        ("residue", "page cache residue"),
        ("throttled", "throttled"),
    ],
)
def test_what_was_planted_on_two_nodes_is_found(told: dict[str, Any], planted: str, cause: str) -> None:
    assert told[planted]["code"] == 1, told[planted]
    assert told[planted]["causes"][0] == cause, told[planted]


def test_a_healthy_program_on_two_nodes_is_healthy(told: dict[str, Any]) -> None:
    assert (told["healthy"]["code"], told["healthy"]["causes"]) == (0, []), told["healthy"]


def test_pages_are_moved_and_the_gain_is_no_more_than_predicted() -> None:
    machine = MACHINES["TWO_NODES"].penalised(((3000, 12000), (12000, 3000)))
    result = boot(machine, [sys.executable, "-m", "tests.lab.planted", "moved"], timeout=900)
    assert result.status == 0, result
    found = json.loads(result.stdout)["wrong node"]
    finding, tried = found["findings"][0], found["tried"][0]
    print(f"predicted {finding['gain']:.2f}x, measured {1 / tried['ratio']:.2f}x, {tried}")
    assert (finding["cause"], tried["outcome"]) == ("misplaced", "proven"), found
    assert "moved to node 0" in tried["what"], found
    # The interpreter's start, and the memory's first touch before it can be moved, gain nothing.
    assert 1.2 < 1 / tried["ratio"] < 1.1 * finding["gain"], found
