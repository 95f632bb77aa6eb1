# SPDX-License-Identifier: Apache-2.0
"""The decision tree on facts that are known."""

from __future__ import annotations

import msgspec
import pytest

from numabench.analysis.diagnosis import Facts, Thread, elsewhere, expected_gain, findings

replace = msgspec.structs.replace
MIB = 1 << 20


def thread(run_s: float = 9.9, wait_s: float | None = 0.05, migrations: int = 3) -> Thread:
    return Thread(tid=1, name="t", run_s=run_s, wait_s=wait_s, cpus={0: 100}, migrations=migrations)


HEALTHY = Facts(
    seconds=10.0,
    threads=(thread(), thread(run_s=0.01, wait_s=9.0 * 0, migrations=999)),
    allowed=(0, 1, 2, 3),
    run_by_node={0: 9.9},
    anonymous={0: 500 * MIB, 1: 5 * MIB},
    files={"/lib/libc.so": {1: 2 * MIB}},
    throttled_share=0.0,
    steal_share=0.0,
)


def causes(**changed: object) -> list[str]:
    return [f.cause for f in findings(replace(HEALTHY, **changed))]


def test_a_healthy_program_is_healthy() -> None:
    assert findings(HEALTHY) == []
    assert causes(throttled_share=None, steal_share=None, anonymous={}, files={}) == []


def test_each_cause_is_named() -> None:
    assert causes(throttled_share=0.3) == ["throttled"]
    assert causes(steal_share=0.05) == ["stolen"]
    assert causes(threads=(thread(2.0, 6.0),)) == ["contended"]
    assert causes(threads=(thread(3.3, 6.0),) * 12) == ["oversubscribed"]
    assert causes(threads=(thread(migrations=500),)) == ["bouncing"]
    assert causes(threads=(thread(6.0, 3.0, migrations=900),)) == ["bouncing"], "it waits because it changes CPU"
    assert causes(anonymous={1: 500 * MIB}) == ["misplaced"]
    assert causes(anonymous={0: 200 * MIB, 1: 300 * MIB}) == ["misplaced"]
    assert causes(files={"/model": {1: 64 * MIB}}) == ["page cache residue"]


def test_threads_over_both_nodes_with_pages_over_both_are_no_mistake() -> None:
    both = {0: 5.0, 1: 5.0}
    assert causes(run_by_node=both, anonymous={0: 250 * MIB, 1: 250 * MIB}) == []
    assert causes(run_by_node=both, anonymous={0: 500 * MIB}) == ["misplaced"], "all on the node of the first touch"


def test_what_is_seen_under_contention_is_not_trusted() -> None:
    found = findings(replace(HEALTHY, throttled_share=0.5, anonymous={1: 500 * MIB}))
    assert [(f.cause, f.trusted) for f in found] == [("throttled", True), ("misplaced", False)]


def test_the_gain_expected_is_that_of_the_matrix() -> None:
    matrix = {(0, 0): 100.0, (0, 1): 200.0, (1, 1): 100.0, (1, 0): 180.0}
    assert expected_gain({0: 1.0}, {1: 1}, matrix) == pytest.approx(2.0)
    assert expected_gain({0: 1.0}, {0: 1, 1: 1}, matrix) == pytest.approx(1.5)
    assert expected_gain({0: 1.0, 1: 1.0}, {0: 1}, matrix) == pytest.approx(1.4)
    assert expected_gain({0: 1.0}, {2: 1}, matrix) is None
    assert expected_gain({}, {}, matrix) is None
    assert findings(replace(HEALTHY, anonymous={1: 500 * MIB}), matrix)[0].gain == pytest.approx(2.0)


def test_share_that_leaves_its_node() -> None:
    assert elsewhere({0: 1.0}, {0: 1, 1: 3}) == pytest.approx(0.75)
    assert elsewhere({0: 1.0, 1: 3.0}, {1: 1}) == pytest.approx(0.25)
    assert elsewhere({}, {1: 1}) == 0
