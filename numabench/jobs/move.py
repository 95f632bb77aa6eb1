# SPDX-License-Identifier: Apache-2.0
"""Pages are moved to another node and back by move_pages, from one pinned thread: ns per page of the system."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from numabench import _core
from numabench.jobs.base import SET_UP_BYTES_PER_S, Bench, Job, Stamps, one_buffer
from numabench.memory import Buffer
from numabench.series import Case, Options

__all__ = ["buffers", "prepare", "seconds"]

WINDOWS = 6  # there and back by turns; at the end everything is where it was, as the proof demands

buffers = one_buffer


def prepare(bench: Bench, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, fixed: bool) -> Job:
    """To ``case.params["to"]`` and back to the target; ``step`` bytes a page."""
    region, step = buffers[0].region, int(case.params["step"])
    kernel = _core.setup_kernel("move")
    turns = [
        [_core.Work(kernel, a=(region, 0), bytes=region.bytes, k=step, part=int(node), loops=1)]
        for node in (case.params["to"], case.target or 0)
    ]

    def ns_per_page(stamps: Stamps) -> float:
        return (stamps[0].end_ns - stamps[0].start_ns) / (region.bytes / step)

    return Job(turns[0], ns_per_page, lambda values: median(values[::2]), WINDOWS, 0.0, turns=turns)


def seconds(group: Sequence[Case], options: Options) -> float:
    """At some 2 GB/s there and back."""
    del options
    return sum(0.1 + case.bytes / SET_UP_BYTES_PER_S + 2 * WINDOWS * case.bytes / 2e9 for case in group)
