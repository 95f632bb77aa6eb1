# SPDX-License-Identifier: Apache-2.0
"""Kernels whose parts wait for each other: what they hand over, and that a run which could not end is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from numabench import _core, kernels

TIERS = [name for name, tier in kernels.tiers().items() if tier.usable]
PAIRS = ("pingpong_flag", "pingpong_cas", "pingpong_add", "queue")
LOOPS = 200
CPUS = _core.affinity()[:2]
needs_two = pytest.mark.skipif(len(CPUS) < 2, reason="two parts that spin need two CPUs")


class Pair:
    def __init__(self, team: _core.Team, region: _core.Region) -> None:
        self.team, self.region = team, region

    def works(self, tier: str, name: str, **changes: Any) -> list[_core.Work]:
        fields: dict[str, Any] = {"shared": (self.region, 0), "loops": LOOPS, "parts": len(self.team), "wait": "polite"}
        if name == "queue":
            fields |= {"a": (self.region, 4096), "bytes": 5 * 64}
        if name == "allreduce_f32":
            fields |= {"a": (self.region, 8192), "b": (self.region, 16384), "bytes": 4 * 333, "stride": 2048}
        fields |= changes
        return [_core.Work(kernels.kernel(name, tier), part=part, **fields) for part in range(fields["parts"])]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with _core.Team([CPUS[0], CPUS[-1]]) as team, _core.Region(1 << 20) as region:
        region.as_array("u8")[:] = 0x3FE0000000000001  # as fill leaves it: no zeros, any state of the lines will do
        yield Pair(team, region)


def test_every_tier_has_them() -> None:
    for tier in kernels.tiers().values():
        found = {(k.family, k.name) for k in tier.kernels.values() if k.collective}
        assert found == {*(("shared", name) for name in PAIRS), ("sync", "barrier"), ("sync", "allreduce_f32")}


@needs_two
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", PAIRS)
def test_everything_is_handed_over(name: str, tier: str, pair: Pair) -> None:
    ticks = [(pair.region, 32768 * (1 + part)) for part in range(2)]
    works = [
        _core.Work(
            kernels.kernel(name, tier), part=part, parts=2, shared=(pair.region, 512), loops=LOOPS, ticks=ticks[part],
            a=(pair.region, 4096), bytes=5 * 64 if name == "queue" else 0,
        )
        for part in range(2)
    ]  # fmt: skip
    for _ in range(3):  # the same works again: what the last run left is no answer
        first, second = pair.team.run(works)
        assert first.elements == second.elements == LOOPS
        whole = 7 * LOOPS * (LOOPS + 1) // 2  # seven words a message
        assert (first.sink, second.sink) == ((0, whole) if name == "queue" else (LOOPS, LOOPS))
        asked, answered = (pair.region.as_array("u8")[at // 8 :][:LOOPS] for _, at in ticks)
        assert (np.diff(asked.astype("i8")) >= 0).all()
        assert (np.diff(answered.astype("i8")) >= 0).all()
        if pair.team.clock.source == "counter" and name != "queue":
            assert (answered[1:] >= asked[:-1]).all()  # no answer before the question


@pytest.mark.parametrize("tier", TIERS)
def test_no_addition_to_a_contended_line_is_lost(tier: str, pair: Pair) -> None:
    line, kernel = pair.region.as_array("u8")[64:65], kernels.kernel("contend_add", tier)
    line[:] = 5
    works = [_core.Work(kernel, shared=(pair.region, 512), loops=LOOPS, block=7) for _ in range(2)]
    stamps = pair.team.run(works)
    assert [stamp.elements for stamp in stamps] == [LOOPS, LOOPS]
    assert line[0] == 5 + 2 * LOOPS
    with pytest.raises(ValueError, match="multiple"):
        _core.Work(kernel, shared=(pair.region, 8), loops=LOOPS)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("wait", ["futex", "polite"])
@pytest.mark.parametrize("elements", [1, 15, 16, 17, 33, 333, 512])
def test_allreduce_is_the_sum_everywhere(elements: int, wait: str, tier: str, pair: Pair) -> None:
    before = pair.region.as_array("f4")
    before[:] = np.random.default_rng(elements).random(len(before), "f4")
    want = before.copy()
    total = want[2048:][:elements] + want[2560:][:elements]
    want[4096:][:elements] = want[4608:][:elements] = total
    works = pair.works(tier, "allreduce_f32", bytes=4 * elements, wait=wait)
    want[:64] = before[:64]
    stamps = pair.team.run(works)
    assert np.array_equal(pair.region.as_array("f4")[64:], want[64:])
    assert [stamp.sink for stamp in stamps] == [LOOPS, LOOPS]


@pytest.mark.parametrize("wait", ["futex", "polite", *(["spin"] if len(CPUS) > 1 else [])])
def test_nobody_passes_a_barrier_alone(wait: str, pair: Pair) -> None:
    ticks = [(pair.region, 32768 * (1 + part)) for part in range(2)]
    kernel = kernels.kernel("barrier")
    works = [
        _core.Work(kernel, part=part, parts=2, shared=(pair.region, 0), loops=LOOPS, wait=wait, ticks=ticks[part])
        for part in range(2)
    ]
    pair.region.as_array("u8")[:64] = 7  # a run makes the barrier ready
    stamps = pair.team.run(works)
    assert [stamp.sink for stamp in stamps] == [LOOPS, LOOPS]
    one, two = (pair.region.as_array("u8")[at // 8 :][:LOOPS] for _, at in ticks)
    if pair.team.clock.source == "counter":
        assert (one[2:] >= two[:-2]).all()
        assert (two[2:] >= one[:-2]).all()


@pytest.mark.parametrize("tier", TIERS)
def test_parts_that_come_late_leave_after_the_last(tier: str, pair: Pair) -> None:
    """Arrivals are spread over the delay that was asked for, and nobody leaves before the last has come."""
    ticks = [(pair.region, 32768 * (1 + part)) for part in range(2)]
    late_ns = 20_000
    works = [
        _core.Work(
            kernels.kernel("barrier", tier), part=part, parts=2, shared=(pair.region, 0), loops=LOOPS, wait="polite",
            ticks=ticks[part], delay=pair.team.clock.additions(late_ns), seed=9,
        )
        for part in range(2)
    ]  # fmt: skip
    stamps = pair.team.run(works)
    assert [stamp.elements for stamp in stamps] == [LOOPS, LOOPS]
    seen = np.stack([pair.region.as_array("u8")[at // 8 :][: 2 * LOOPS].reshape(LOOPS, 2) for _, at in ticks])
    arrived, left = seen[:, :, 0].astype("i8"), seen[:, :, 1].astype("i8")
    if pair.team.clock.source == "counter":
        assert (left.min(axis=0) >= arrived.max(axis=0)).all()
    apart_ns = np.abs(arrived[0] - arrived[1]) / pair.team.clock.hz * 1e9
    assert 0.1 * late_ns < np.median(apart_ns) < 0.7 * late_ns  # two uniform numbers: 0.29 apart
    with pytest.raises(ValueError, match="needs ticks"):
        _core.Work(kernels.kernel("barrier", tier), parts=2, shared=(pair.region, 0), loops=LOOPS, delay=5)


def test_runs_that_could_not_end_are_refused(pair: Pair) -> None:
    both = pair.works("scalar", "barrier")
    other = pair.works("scalar", "barrier", loops=LOOPS + 1)
    for works in ([both[0], None], [both[0], both[0]], [both[0], other[1]]):
        with pytest.raises(ValueError, match="must run together"):
            pair.team.run(works)
    good = {"shared": (pair.region, 0), "loops": 1, "parts": 2, "part": 0}
    cas, queue, reduce = (kernels.kernel(name, "scalar") for name in ("pingpong_cas", "queue", "allreduce_f32"))
    changes: list[tuple[_core.Kernel, dict[str, Any]]] = [
        (cas, {"loops": 0}),
        (cas, {"part": 2}),
        (cas, {"parts": 3}),
        (cas, {"shared": None}),
        (cas, {"shared": (pair.region, 8)}),
        (cas, {"shared": (pair.region, pair.region.bytes - 128)}),
        (cas, {"wait": "sleep"}),
        (cas, {"ticks": (pair.region, pair.region.bytes - 4)}),
        (queue, {}),
        (queue, {"a": (pair.region, 4096), "bytes": 96}),
        (reduce, {"a": (pair.region, 0), "b": (pair.region, 4096), "bytes": 64, "stride": 32}),
        (reduce, {"a": (pair.region, pair.region.bytes - 64), "b": (pair.region, 4096), "bytes": 64, "stride": 64}),
    ]
    for kernel, change in changes:
        with pytest.raises(ValueError):  # noqa: PT011
            _core.Work(kernel, **{**good, **change})
