# SPDX-License-Identifier: Apache-2.0
"""Any ratio of reads to writes: each thread passes over an array of its own, so many lines read, so many written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from numabench import _core, kernels
from numabench.errors import NumabenchError
from numabench.jobs.base import Bench, Job, Stamps, rate_job, span_ns
from numabench.jobs.base import rate_seconds as seconds
from numabench.jobs.stream import RATE_BLOCK, per_thread
from numabench.memory import Buffer
from numabench.series import Case

__all__ = ["buffers", "prepare", "seconds"]

LINE = 64


def buffers(bench: Bench, stack: ExitStack, group: Sequence[Case], seed: int) -> list[Buffer]:
    """An array per thread of the largest team."""
    return per_thread(bench, stack, group, seed)


def prepare(bench: Bench, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, fixed: bool) -> Job:
    """``reads`` : ``writes`` on the bus. A plain store reads its line first, a store past the caches does not."""
    kernel = kernels.kernel(case.kernel, case.tier)
    reads, writes = int(case.params["reads"]), int(case.params["writes"])
    only, turn = (reads, reads + writes) if kernel.nt else (reads - writes, reads)
    unit = LINE * turn
    if buffers[0].bytes < unit:
        raise NumabenchError(f"{buffers[0].bytes} bytes a thread hold no turn of {reads} reads and {writes} writes")
    works = [
        _core.Work(
            kernel,
            a=(buffers[part].region, 0),
            bytes=buffers[part].bytes // unit * unit,
            m=only,
            n=writes,
            scalar=-1.0,
            seed=seed + part,
            block=max(RATE_BLOCK // unit, 1) * unit,
            loops=int(fixed),
        )
        for part in range(len(case.cpus))
    ]
    per_byte = (reads + writes) / turn

    def gb_per_s(stamps: Stamps) -> float:
        return sum(stamp.elements for stamp in stamps) * kernel.element_bytes * per_byte / span_ns(stamps)

    return rate_job(works, gb_per_s, bench.options)
