# SPDX-License-Identifier: Apache-2.0
"""Instances for real: the same outputs however they are cut and placed, and latencies that hide nothing."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from numabench import _core, presets
from numabench.analysis import tails
from numabench.errors import NumabenchError, UsageError
from numabench.instance.build import Built
from numabench.instance.drive import Fleet, Place, Run
from numabench.instance.exchange import exchange_bytes
from numabench.instance.spec import Spec
from numabench.machine import Machine

HERE = Machine.load()
CPUS = HERE.one_cpu_per_core(HERE.allowed_cpus)
NODE = (HERE.cpu(CPUS[0]).node or 0,)
SMALL = {
    "encoder": presets.make("encoder", layers=2, shard=8),
    "llm-prefill": presets.make("llm-prefill", layers=1, shard=32, batch=64),
    "recsys": presets.make("recsys", batch=64),
    "cached": presets.make("cached", l2_bytes=1 << 17),
}


@pytest.fixture(autouse=True)
def small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Megabytes instead of a gigabyte."""
    monkeypatch.setattr(presets, "ROWS", 1 << 10)


@contextmanager
def a_board(capacity: int = 1000) -> Iterator[_core.Board]:
    with mmap.mmap(-1, _core.Board.bytes(capacity)) as memory, _core.Board(memory, clear=capacity) as board:
        yield board


def checksum(spec: Spec) -> tuple[str, str]:
    """Of the first step, and of the outputs some steps later."""
    clock = _core.Clock()
    with a_board() as board, Built(spec, HERE, clock, board) as built:
        assert built.instance is not None
        far = _core.monotonic_ns() + 10**12
        built.instance.serve(built.team, _core.monotonic_ns(), until=far, most=1)
        first = built.checksum()
        built.instance.serve(built.team, _core.monotonic_ns(), until=far, most=2)
        assert board.claimed >= 3
        return first, built.outputs()


@pytest.mark.parametrize("preset", ["encoder", "llm-prefill", "cached"])
def test_the_checksum_depends_on_the_model_alone(preset: str) -> None:
    model = SMALL[preset]
    one = checksum(Spec(model=model, cpus=CPUS[:1], nodes=NODE))
    arms = [
        Spec(model=model, cpus=(CPUS[0], CPUS[-1]), nodes=NODE),
        Spec(model=model, cpus=(CPUS[0], CPUS[-1], CPUS[0]), nodes=NODE, wait="futex"),
        Spec(model=model, cpus=(_core.ANY_CPU,) * 2, nodes=NODE, weights="first-touch", loader="main", wait="polite"),
        Spec(model=model, cpus=(CPUS[0], CPUS[-1]), nodes=NODE, weights="interleave", pages="base", wait="polite"),
        Spec(model=model, cpus=(CPUS[0], CPUS[-1]), nodes=NODE, weights="replicate", wait="polite"),
    ]
    assert {checksum(spec) for spec in arms} == {one}


def test_rows_gathered_are_the_same_for_any_team() -> None:
    one = checksum(Spec(model=SMALL["recsys"], cpus=CPUS[:1], nodes=NODE))
    two = checksum(Spec(model=SMALL["recsys"], cpus=(CPUS[0], CPUS[-1]), nodes=NODE, wait="futex"))
    assert one == two


def test_another_model_has_another_checksum() -> None:
    found = {checksum(Spec(model=model, cpus=CPUS[:1], nodes=NODE))[0] for model in SMALL.values()}
    assert len(found) == len(SMALL)


def test_placement_is_proven() -> None:
    with (
        a_board() as board,
        Built(Spec(model=SMALL["encoder"], cpus=CPUS[:1], nodes=NODE), HERE, _core.Clock(), board) as b,
    ):
        for buffer in b.buffers():
            proof = buffer.proof()
            assert proof.misplaced(NODE) == 0
            assert proof.absent == 0


def test_what_makes_no_program_is_refused() -> None:
    with a_board() as board:
        odd: list[list[list[_core.Work | None]]] = [[], [[]], [[None], [None, None]], [[_core.Work(None)], [None]]]
        for programs in odd:
            with pytest.raises(ValueError, match="meet"):
                _core.Instance(programs, "spin", board)
        with pytest.raises(ValueError, match="wait"):
            _core.Instance([[None]], "sleep", board)
        with pytest.raises(ValueError, match="kernels"):
            _core.Instance([[_core.Work(None), None]], "spin", board)
    with pytest.raises(ValueError, match="closed"):
        board.requests()
    with pytest.raises(ValueError, match="fit"), mmap.mmap(-1, 4096) as memory:
        _core.Board(memory, clear=1000)
    with pytest.raises(UsageError, match="weights"), a_board() as board:
        Built(Spec(model=SMALL["cached"], cpus=CPUS[:1], nodes=NODE, weights="lost"), HERE, _core.Clock(), board)


def fleet(model: presets.Model, count: int = 1, **fields: object) -> Fleet:
    spec = Spec(model=model, cpus=CPUS[:1], nodes=NODE, **fields)  # type: ignore[arg-type]
    return Fleet([Place(spec, CPUS[:1])] * count)


def test_processes_serve_side_by_side() -> None:
    with fleet(SMALL["cached"], 2, wait="futex") as found:
        assert len({answer["checksum"] for answer in found.answers}) == 1
        run = found.closed(0.3)
        assert {r.server for r in run.requests} == {0, 1}
        assert run.steps == sum(1 for r in run.requests if r.done)
        opened = found.opened(tails.arrivals(200.0, 60, seed=2), None)
        assert len(opened.latencies) == 60
        assert all(r.start >= r.sent >= r.scheduled for r in opened.requests)
        assert sum(proof["pages_absent"] + proof["pages_misplaced"] for proof in found.prove()) == 0
        assert len({proof["outputs"] for proof in found.prove()}) == 1


def test_shared_weights_are_one_copy() -> None:
    model = SMALL["encoder"]
    fd = os.memfd_create("test")
    try:
        os.ftruncate(fd, model.weight_bytes + (16 << 20))
        spec = Spec(model=model, cpus=CPUS[:1], nodes=NODE, weights="shared", wait="futex", fd=fd)
        import msgspec

        reader = msgspec.structs.replace(spec, writes=False)
        with Fleet([Place(spec, CPUS[:1]), Place(reader, CPUS[:1])]) as found:
            own = checksum(Spec(model=model, cpus=CPUS[:1], nodes=NODE))[0]
            assert [answer["checksum"] for answer in found.answers] == [own, own]
            assert all(proof["pages_absent"] == 0 for proof in found.prove())
    finally:
        os.close(fd)


def test_a_stall_shows_in_the_open_loop_and_hides_in_the_closed_one() -> None:
    """200 requests a second; one is held up for half a second while a hundred more arrive."""
    stall = 0.5
    with fleet(SMALL["cached"], wait="futex") as found:
        closed = found.closed(1.5, stall=(30, stall))
        opened = found.opened(tails.arrivals(200.0, 400, seed=1), None, stall=(100, stall))
    assert max(closed.services) >= stall * 1e9
    assert sum(x > stall / 2 * 1e9 for x in closed.services) <= 3
    assert sum(x > stall / 2 * 1e9 for x in opened.latencies) >= 30
    p99 = tails.quantile(opened.latencies, 0.99)
    assert p99.value is not None
    assert p99.value >= 0.8 * stall * 1e9


def test_an_instance_that_cannot_start_says_why() -> None:
    with pytest.raises(NumabenchError, match="instance 0"):
        Fleet([Place(Spec(model=SMALL["cached"], cpus=(60000,), nodes=NODE), ())])


def test_an_instance_that_dies_is_noticed() -> None:
    with fleet(SMALL["cached"]) as found:
        found.children[0].kill()
        with pytest.raises(NumabenchError, match="ended"):
            found.closed(0.1)


def test_ceilings_bound_what_was_measured() -> None:
    model = SMALL["encoder"]
    with fleet(model) as found:
        ceilings = found.ceilings()
        assert set(ceilings.gflop_per_s) == {op.name for op in model.ops}
        assert all(value > 0 for value in ceilings.gflop_per_s.values())
        assert ceilings.barrier_ns == 0.0
        assert presets.predict(model, ceilings, 1, 1.0).predicted_ns > 0


def sums(built: Built) -> list[np.ndarray]:
    """Outputs of the operations that ranks add up."""
    found = []
    for op in built.spec.model.summed:
        region, at = built.sums.get(op, built.place[op, "out"])
        with memoryview(region) as view:
            found.append(np.frombuffer(bytes(view[at : at + op.m * op.n * 4]), dtype="f4"))
    return found


def step(built: Built) -> list[np.ndarray]:
    assert built.instance is not None
    now = _core.monotonic_ns()
    built.instance.serve(built.team, now, until=now + 10**12, most=1, opening=built.openings, ranks=built.ranks)
    return sums(built)


@pytest.mark.parametrize("threads", [1, 3])
def test_ranks_add_up_to_what_the_whole_model_computes(threads: int) -> None:
    def decode(shard: int) -> presets.Model:
        return presets.make("llm-decode", batch=2, layers=2, shard=shard, ctx=64, dtype="f32")

    with a_board() as board, Built(Spec(model=decode(16), cpus=CPUS[:1], nodes=NODE), HERE, _core.Clock(), board) as b:
        whole = step(b)
    ranks, part = 4, decode(64)
    fd = os.memfd_create("test")
    try:
        os.ftruncate(fd, exchange_bytes(part, ranks, threads))
        with ExitStack() as stack, ThreadPoolExecutor(ranks) as pool:
            board = stack.enter_context(a_board())
            made = []
            for rank in range(ranks):
                cpus = (CPUS[rank % len(CPUS)],) * threads
                spec = Spec(
                    model=part, cpus=cpus, nodes=NODE, wait="polite", rank=rank, ranks=ranks, exchange=fd
                )  # fmt: skip
                made.append(stack.enter_context(Built(spec, HERE, _core.Clock(), board)))
            first, second = (list(pool.map(step, made)) for _ in range(2))
            assert len({built.outputs() for built in made}) == 1
            assert board.claimed == 2
    finally:
        os.close(fd)
    for found in first + second:
        for mine, true in zip(found, whole, strict=True):
            np.testing.assert_allclose(mine, true, rtol=1e-5)


def test_ranks_serve_one_request_together() -> None:
    part = presets.make("llm-decode", layers=1, shard=32, ctx=64)
    fd = os.memfd_create("test")
    try:
        os.ftruncate(fd, exchange_bytes(part, 2, 1))
        places = [
            Place(
                Spec(model=part, cpus=(cpu,), nodes=NODE, wait="polite", rank=rank, ranks=2, exchange=fd), (cpu,)
            )
            for rank, cpu in enumerate((CPUS[0], CPUS[-1]))
        ]  # fmt: skip
        with Fleet(places) as found:
            assert len({answer["checksum"] for answer in found.answers}) == 1
            closed = found.closed(0.2)
            assert {r.server for r in closed.requests} == {0}
            assert closed.steps == sum(1 for r in closed.requests if r.done) > 0
            assert len(found.opened(tails.arrivals(200.0, 40, seed=2), None).latencies) == 40
            assert found.ceilings().allreduce_ns > 0
            assert len({proof["outputs"] for proof in found.prove()}) == 1
    finally:
        os.close(fd)


@pytest.mark.parametrize(("preset", "dtype"), [("cached", "f32"), ("recsys", "f32"), ("llm-decode", "int8")])
def test_what_has_no_ranks_is_refused(preset: str, dtype: str) -> None:
    model = presets.make(preset, layers=1, dtype=dtype)
    with a_board() as board, pytest.raises(UsageError, match="not cut into ranks"):
        Built(Spec(model=model, cpus=CPUS[:1], nodes=NODE, ranks=2), HERE, _core.Clock(), board)


def request(start: int, done: int, scheduled: int | None = None) -> _core.Request:
    return _core.Request(start if scheduled is None else scheduled, start, start, done, 0)


def test_requests_cut_by_the_window_count_in_proportion() -> None:
    run = Run([request(0, 400), request(400, 800), request(800, 1200)], 1000.0, 3, [], [])
    assert run.per_second == pytest.approx(2.5 / 1000 * 1e9)
    assert run.rates(2) == pytest.approx([1.25 / 500 * 1e9, 1.25 / 500 * 1e9])
    assert sum(run.rates(4)) / 4 == pytest.approx(run.per_second)
    late = Run([request(100, 400, scheduled=0)], 1000.0, 1, [], [])
    assert late.latencies == [400.0]
    assert late.services == [300.0]
    assert Run([], 1000.0, 0, [], []).per_second == 0.0


def test_a_prompt_is_run_once_a_request_and_its_outputs_depend_on_the_model_alone() -> None:
    decode = presets.make("llm-decode", layers=2, shard=32, ctx=64)
    model = presets.with_prefill(decode, 16)
    assert model.flops_per_step == decode.flops_per_step
    assert model.bytes_per_step == decode.bytes_per_step
    assert model.weight_bytes == 3 * decode.weight_bytes  # f32 beside bf16
    one = checksum(Spec(model=model, cpus=CPUS[:1], nodes=NODE))
    assert one[0] != checksum(Spec(model=decode, cpus=CPUS[:1], nodes=NODE))[0]
    assert one == checksum(Spec(model=model, cpus=(CPUS[0],) * 3, nodes=NODE, wait="futex"))
    with a_board() as board, Built(Spec(model=model, cpus=CPUS[:1], nodes=NODE), HERE, _core.Clock(), board) as built:
        assert built.instance is not None
        spent = []
        for steps in (1, 3):
            now = _core.monotonic_ns()
            built.instance.serve(built.team, now, until=now + 10**12, most=1, steps=steps, opening=built.openings)
            spent.append(built.instance.op_ns(built.clock))
            assert built.instance.steps == steps
        assert len(spent[0]) == 20
        assert all(ns > 0 for found in spent for ns in found)
