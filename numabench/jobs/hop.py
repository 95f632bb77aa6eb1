# SPDX-License-Identifier: Apache-2.0
"""A working set is updated on one CPU, then read on another: us that the first pass there takes more than the next one.

That is what a thread pays in memory when the scheduler moves it; the move itself costs a few microseconds beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from numabench import _core, kernels
from numabench.jobs.base import SET_UP_BYTES_PER_S, Bench, Job, Stamps, one_buffer
from numabench.jobs.stream import RATE_BLOCK
from numabench.memory import Buffer
from numabench.series import Case, Options

__all__ = ["buffers", "prepare", "seconds"]

HOPS, WARM_PASSES = 15, 3
IDLE_BYTES = 64  # what the CPU that has its turn later reads meanwhile

buffers = one_buffer


def prepare(bench: Bench, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, fixed: bool) -> Job:
    """Written on the first CPU; hop: a pass on the second, and one more there. The figure is the first of the two."""
    kernel, region = kernels.kernel(case.kernel, case.tier), buffers[0].region
    whole = [_core.Work(kernel, a=(region, 0), bytes=case.bytes, block=RATE_BLOCK, loops=1) for _ in (0, 1)]
    # Written, or copies that the second CPU kept from the hop before would still be good.
    warm = _core.Work(
        kernels.kernel("update", case.tier),
        scalar=-1.0,
        a=(region, 0),
        bytes=case.bytes,
        block=RATE_BLOCK,
        loops=WARM_PASSES,
    )
    rest = _core.Work(kernel, a=(region, 0), bytes=IDLE_BYTES, loops=1)
    turns = [[warm, rest], [rest, whole[0]], [rest, whole[1]]]

    def us(stamps: Stamps) -> float:
        busy = max(stamps, key=lambda stamp: stamp.elements)
        return (busy.end_ns - busy.start_ns) / 1e3

    def further(windows: list[Stamps]) -> dict[str, float]:
        passes = [us(window) for window in windows]
        first, again = passes[1::3], passes[2::3]
        return {"again_us": median(again), "hop_us": median(a - b for a, b in zip(first, again, strict=True))}

    return Job(turns[0], us, lambda values: median(values[1::3]), 3 * HOPS, 0.0, extras=further, turns=turns)


def seconds(group: Sequence[Case], options: Options) -> float:
    """Five passes a hop, at memory's speed for one thread, and the same again to warm up."""
    del options
    return sum(0.1 + case.bytes / SET_UP_BYTES_PER_S + 8 * HOPS * case.bytes / 10e9 for case in group)
