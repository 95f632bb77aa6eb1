# SPDX-License-Identifier: Apache-2.0
"""What needs several nodes: faults planted across them, the ladder of placing and proving, cpusets."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from .machines import MACHINES
from .vm import PROJECT, boot

pytestmark = pytest.mark.lab

REFUSE = str(PROJECT / "tests/environment/refuse.py")


def _json(name: str, *argv: str) -> tuple[int, Any]:
    result = boot(MACHINES[name], [sys.executable, *argv], timeout=240)
    assert result.stdout, result
    return result.status, json.loads(result.stdout)


def test_faults_across_nodes_are_noticed() -> None:
    _, data = _json("TWO_NODES", "-m", "numabench", "selftest", "--json")
    state = {one["fault"]: one["state"] for one in data["outcomes"]}
    assert state["buffer on the wrong node"] == state["pages migrated meanwhile"] == "caught"
    assert data["missed"] == 0, data


def test_without_mbind_first_touch_reaches_both_nodes_and_no_further() -> None:
    status, found = _json("CPULESS", REFUSE, "mbind=EPERM", "--", "numabench", "doctor", "--json")
    rows = {row["name"]: row for row in found}
    assert status == 1
    for node in (0, 1):
        assert rows[f"place on node {node}"]["state"] == "warning"
        assert "first touch" in rows[f"place on node {node}"]["seen"]
    assert rows["place on node 2"]["state"] == "failure"
    assert "no CPU to touch from" in rows["place on node 2"]["seen"]


def test_a_cpuset_is_what_can_be_placed_on() -> None:
    _, found = _json("CPUSET", "-m", "numabench", "doctor", "--json")
    rows = {row["name"]: row for row in found}
    assert rows["place on node 1"]["state"] == "ok"
    assert "place on node 0" not in rows


def test_timing_finds_the_node_where_nothing_else_tells() -> None:
    refused = "move_pages=EPERM,get_mempolicy=EPERM,numa_maps=hidden"
    _, record = _json(
        "KNOWN_BANDWIDTH", REFUSE, refused, "--", "numabench", "run", "bandwidth", "--kernel", "read", "--size", "8MiB",
        "--pages", "base", "--passes", "1", "--profile", "quick", "--tier", "scalar", "--json",
    )  # fmt: skip
    measured = [one for one in record["series"] if not one["unavailable"]]
    assert measured
    for one in measured:
        assert one["evidence"]["proof"] == "none"
        assert one["evidence"]["placement_timed"] == one["case"]["target"]
        assert "unverified_placement" in one["flags"]


def test_memory_or_a_cpu_that_goes_in_the_midst_ends_its_cases_in_words() -> None:
    _, found = _json("TWO_NODES", "-m", "tests.lab.midrun")
    for what, told in (("memory", "24 MiB on node 1: only "), ("cpu", "CPU 3 went offline during the run")):
        for pair in ("0-1", "1-1"):
            assert found[what][pair]["n"] == 1, found
            assert "cut_short" in found[what][pair]["flags"]
            assert told in found[what][pair]["why"]
        for pair in ("0-0", "1-0"):
            assert found[what][pair]["n"] == 2, found
            assert not found[what][pair]["why"]
