# SPDX-License-Identifier: Apache-2.0
"""Steps of one thread, pinned or left to the scheduler, beside others that compute: us a step, and moves."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import fmean, median, pstdev

from numabench import _core, kernels
from numabench.disturbance import moves
from numabench.jobs.base import SET_UP_BYTES_PER_S, WARM_LIMIT_NS, Bench, Job, Stamps, crew, one_buffer
from numabench.jobs.stream import RATE_BLOCK
from numabench.memory import Buffer
from numabench.series import Case, Options

__all__ = ["buffers", "moves", "prepare", "seconds"]

STEP_NS, TRIES = 1e6, 16
STEPS = {"quick": 500, "standard": 1000, "full": 2000}  # a 99th percentile needs 299 of them
BESIDE_BYTES, BESIDE_NS = 8192, 50e6
TAIL = 0.99

buffers = one_buffer


def prepare(bench: Bench, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, fixed: bool) -> Job:
    """A step: passes over the buffer for about a millisecond. ``roams``: not pinned.

    ``beside``: so many threads compute meanwhile, wherever the scheduler puts them.
    """
    region, kernel = buffers[0].region, kernels.kernel(case.kernel, case.tier)
    clock = bench.team(case.cpus[:1]).clock
    team, (tid,) = crew((_core.ANY_CPU if case.params["roams"] else case.cpus[0],), clock)
    stack.enter_context(team)

    def work(loops: int) -> list[_core.Work]:
        return [_core.Work(kernel, a=(region, 0), bytes=case.bytes, block=RATE_BLOCK, loops=loops, seed=seed)]

    most = max(team.run(work(0), window_ns=STEP_NS)[0].elements for _ in range(TRIES))
    step = work(max(round(most * kernel.element_bytes / case.bytes), 1))
    if case.params["beside"]:
        stack.enter_context(_computing(int(case.params["beside"]), clock))
    began = moves(tid)

    def us(stamps: Stamps) -> float:
        return (stamps[0].end_ns - stamps[0].start_ns) / 1e3

    def further(windows: list[Stamps]) -> dict[str, float]:
        each = sorted(map(us, windows))
        figures = {
            "p50_us": median(each),
            "p99_us": each[int(TAIL * len(each))],
            "spread": pstdev(each) / fmean(each),
        }
        ended = moves(tid)
        if began and ended:
            figures["moves_per_s"] = (ended[0] - began[0]) / max((ended[1] - began[1]) / 1e3, 1e-9)
        return figures

    # Who waits for whom, and where, is what is measured here.
    subject = frozenset({"unpinned", "contended", "not_steady", "freq_moved"})
    count = STEPS[bench.options.profile]
    return Job(step, us, fmean, count, 0.0, extras=further, team=team, subject=subject)


def seconds(group: Sequence[Case], options: Options) -> float:
    """Steps, each as much longer as others take the CPU."""
    steps = STEPS[options.profile] * STEP_NS + WARM_LIMIT_NS[options.profile] / 2
    crowd = sum(2 if case.params["beside"] else 1 for case in group)
    return max(case.bytes for case in group) / SET_UP_BYTES_PER_S + crowd * steps / 1e9


@contextmanager
def _computing(count: int, clock: _core.Clock) -> Iterator[None]:
    """Threads that read from their own L1 cache and may run anywhere, until the block ends."""
    stop = threading.Event()
    with ExitStack() as stack:
        team = stack.enter_context(_core.Team((_core.ANY_CPU,) * count, clock))
        regions = [stack.enter_context(_core.Region(BESIDE_BYTES, "base", "local")) for _ in range(count)]
        kernel = kernels.kernel("read", "scalar")
        works = [_core.Work(kernel, a=(region, 0), bytes=BESIDE_BYTES) for region in regions]

        def turn() -> None:
            while not stop.is_set():
                team.run(works, window_ns=BESIDE_NS)

        thread = threading.Thread(target=turn)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
