# SPDX-License-Identifier: Apache-2.0
"""The decision tree on facts that are known."""

from __future__ import annotations

import msgspec
import pytest

from numabench.analysis.diagnosis import (
    Counter,
    Facts,
    Gain,
    Thread,
    elsewhere,
    findings,
    penalty,
    remote_share,
)

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
    assert causes(threads=(thread(1.0, 8.0),) * 12) == ["oversubscribed"], "with other work on the machine too"
    assert causes(threads=(thread(migrations=500),)) == ["bouncing"]
    assert causes(threads=(thread(6.0, 3.0, migrations=900),)) == ["bouncing"], "it waits because it changes CPU"
    assert causes(anonymous={1: 500 * MIB}) == ["misplaced"]
    assert causes(anonymous={0: 200 * MIB, 1: 300 * MIB}) == ["misplaced"]
    assert causes(files={"/model": {1: 64 * MIB}}) == ["page cache residue"]
    (finding,) = findings(replace(HEALTHY, files={f"/a model/{i}": {1: (9 + i) * MIB} for i in range(3)}))
    assert finding.files == ("/a model/2", "/a model/1", "/a model/0"), "shards of one model are one finding"
    assert finding.bytes == 30 * MIB
    assert "numactl --cpunodebind=0 cat '/a model/2'" in finding.change


def test_threads_over_both_nodes_with_pages_over_both_are_no_mistake() -> None:
    both = {0: 5.0, 1: 5.0}
    assert causes(run_by_node=both, anonymous={0: 250 * MIB, 1: 250 * MIB}) == []
    assert causes(run_by_node=both, anonymous={0: 500 * MIB}) == ["misplaced"], "all on the node of the first touch"


def test_what_is_seen_under_contention_is_not_trusted() -> None:
    found = findings(replace(HEALTHY, throttled_share=0.5, anonymous={1: 500 * MIB}))
    assert [(f.cause, f.trusted) for f in found] == [("throttled", True), ("misplaced", False)]


def test_the_penalty_is_that_of_the_matrix() -> None:
    slower = {(0, 0): 1.0, (0, 1): 2.0, (1, 1): 1.0, (1, 0): 1.8}
    assert penalty({0: 1.0}, {1: 1}, slower) == pytest.approx(2.0)
    assert penalty({0: 1.0}, {0: 1, 1: 1}, slower) == pytest.approx(1.5)
    assert penalty({0: 1.0, 1: 1.0}, {0: 1}, slower) == pytest.approx(1.4)
    assert penalty({0: 1.0}, {2: 1}, slower) is None
    assert penalty({}, {}, slower) is None


def test_only_the_time_that_may_wait_for_memory_is_expected_to_shrink() -> None:
    slower = {(0, 0): 1.0, (0, 1): 4.0}
    wrong = replace(HEALTHY, anonymous={1: 500 * MIB}, user_s=8.0, since_s={"": 5.0}, files={})
    gain = findings(wrong, slower)[0].gain
    assert gain is not None
    assert (gain.penalty, gain.share, gain.share_after) == (4.0, 0.8, 0.5)
    assert gain.at_most == pytest.approx(1 / (0.2 + 0.8 / 4))
    assert gain.at_most_after == pytest.approx(1 / (0.5 + 0.5 / 4))
    assert gain.waited(1 / gain.at_most_after) == pytest.approx(0.5), "it waited all the time that it may have"
    assert findings(wrong)[0].gain is None
    assert Gain.of(4.0, 1.0, 0.0).at_most == pytest.approx(4.0)
    assert Gain.of(4.0, 1.0, 0.0).at_most_after == pytest.approx(1.0)


def test_remote_loads_as_counted() -> None:
    def counted(**seen: float) -> list[Counter]:
        return [Counter(name=name.replace("_", " "), value=value, counted=1.0) for name, value in seen.items()]

    assert remote_share(counted(loads_from_own_node=1.0, loads_from_another_node=3.0)) == pytest.approx(0.75)
    generic = [Counter(name="node-loads", value=4.0), Counter(name="node-load-misses", value=1.0)]
    assert remote_share(generic) == pytest.approx(0.25), "the generic event counts all such loads"
    assert remote_share(counted(loads_from_own_node=0.0, loads_from_another_node=0.0)) is None
    assert remote_share([Counter(name="node-loads", reason="EACCES")]) is None


def test_share_that_leaves_its_node() -> None:
    assert elsewhere({0: 1.0}, {0: 1, 1: 3}) == pytest.approx(0.75)
    assert elsewhere({0: 1.0, 1: 3.0}, {1: 1}) == pytest.approx(0.25)
    assert elsewhere({}, {1: 1}) == 0
