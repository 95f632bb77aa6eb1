# SPDX-License-Identifier: Apache-2.0
"""A package without work may sleep: one core of the target is kept awake, and what sleep costs measured."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest

from numabench import _core
from numabench.backend import Hardware
from numabench.experiments.latency import Latency
from numabench.jobs import chase, curve
from numabench.machine import Machine
from numabench.memory import Buffer
from numabench.series import Case, Evidence, Options, Sample, Series
from tests.fakes import many, two_nodes

BYTES = 4 << 20
OPTIONS = Options(profile="quick")


def bare(virtual: bool = False) -> Machine:
    return msgspec.structs.replace(two_nodes(), virtual=virtual)


def case(initiator: int, target: int) -> Case:
    params: dict[str, int | float | str] = {"stride": 256, "window": 64 * 4096}
    return Case(
        experiment="latency", kernel="chase", unit="ns", better="low", initiator=initiator, target=target,
        cpus=(initiator,), touch_cpus=(initiator,), pages="base", bytes=BYTES, params=params,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("machine", "pair", "kept"),
    [
        (bare(), (0, 1), (1,)),
        (bare(), (1, 0), (0,)),
        (bare(), (0, 0), ()),  # the chase itself keeps it awake
        (bare(virtual=True), (0, 1), ()),
        (msgspec.structs.replace(many(nodes=2, bare=1), virtual=False), (0, 2), ()),  # it has no core
    ],
)
def test_one_core_of_another_node_is_kept_awake(machine: Machine, pair: tuple[int, int], kept: tuple[int, ...]) -> None:
    with Hardware(machine, OPTIONS) as bench:
        assert chase.keepers(bench, case(*pair)) == kept


@pytest.fixture
def sample() -> Iterator[Sample]:
    """A pass over memory that is said to be another node's."""
    if set(os.sched_getaffinity(0)) < {0, 1}:
        pytest.skip("needs CPUs 0 and 1")
    with Hardware(bare(), OPTIONS) as bench, _core.Region(BYTES, "base", "bind", [0]) as region:
        bench.team((0,)).run([_core.Work(_core.setup_kernel("fill_f64"), a=(region, 0), bytes=BYTES, loops=1)])
        yield bench._sample(case(0, 1), [Buffer(region, (0,), "bind")], 0, 0, 1)


def test_what_keeps_it_awake_is_no_part_of_the_sample(sample: Sample) -> None:
    assert sample.evidence.awake == (1,)
    assert sample.evidence.cpus_seen == (0,)
    assert "unpinned" not in sample.flags
    assert sample.evidence.twins["asleep"] > 0


def test_it_is_kept_awake_while_a_curve_is_taken() -> None:
    if set(os.sched_getaffinity(0)) < {0, 1}:
        pytest.skip("needs CPUs 0 and 1")
    point = msgspec.structs.replace(case(0, 1), bytes=1 << 16)
    with Hardware(bare(), OPTIONS) as bench, _core.Region(1 << 16, "base", "bind", [0]) as region, ExitStack() as stack:
        job = curve.prepare(bench, stack, point, [Buffer(region, (0,), "bind")], 1, False)
        assert (job.awake, job.twins) == ((1,), None)
        assert job.figure(bench.team((0, 1)).run(job.works, window_ns=1e6)) > 0


def test_it_is_kept_awake_while_a_stream_is_read_and_adds_nothing_to_its_rate() -> None:
    if set(os.sched_getaffinity(0)) < {0, 1}:
        pytest.skip("needs CPUs 0 and 1")
    far = msgspec.structs.replace(
        case(0, 1), experiment="bandwidth", kernel="read", unit="GB/s", better="high", params={}
    )
    with Hardware(bare(), OPTIONS) as bench, _core.Region(BYTES, "base", "bind", [0]) as region:
        bench.team((0,)).run([_core.Work(_core.setup_kernel("fill_f64"), a=(region, 0), bytes=BYTES, loops=1)])
        found = bench._sample(far, [Buffer(region, (0,), "bind")], 0, 0, 1)
        near = bench._sample(msgspec.structs.replace(far, target=0), [Buffer(region, (0,), "bind")], 0, 0, 1)
    assert (found.evidence.awake, found.evidence.cpus_seen) == ((1,), (0,))
    assert near.evidence.awake == ()
    # The loop in a first cache runs many times as fast as any memory: counted in, it would show.
    assert found.value < 3 * near.value
    assert "fairness" not in found.extras


def test_the_table_says_what_sleep_costs() -> None:
    def series(target: int, ratios: list[float]) -> Series:
        samples = tuple(
            Sample(number=i, position=i, value=100.0, windows=(100.0,), evidence=Evidence(twins={"asleep": ratio}))
            for i, ratio in enumerate(ratios)
        )
        return Series(case=case(0, target), samples=samples, estimate=100.0, ci=(99.0, 101.0), trust="proven")

    (table,) = Latency().summarise([series(0, []), series(1, [1.3, 1.31, 1.29, 1.3, 1.32, 1.3])], bare())
    said = "while all of node 1 sleep, a load from node 0 takes 1.30x [1.29, 1.32] of what it took."
    assert any(said in line for line in table.meaning), table.meaning
