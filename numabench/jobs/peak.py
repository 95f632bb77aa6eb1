# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds in registers by a team: what its cores compute when they wait for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from numabench import _core, kernels
from numabench.jobs.base import Bench, Job, Stamps, one_buffer, rate_job, span_ns
from numabench.jobs.base import rate_seconds as seconds
from numabench.memory import Buffer
from numabench.series import Case

__all__ = ["buffers", "prepare", "seconds"]

STEPS, ROUNDS = 1000, 64  # some 50 us between two looks at the clock

buffers = one_buffer


def prepare(bench: Bench, stack: ExitStack, case: Case, buffers: Sequence[Buffer], seed: int, fixed: bool) -> Job:
    """The case's kernel on every thread; no memory is touched."""
    kernel = kernels.kernel(case.kernel, case.tier)
    works = [_core.Work(kernel, k=STEPS, block=ROUNDS, loops=ROUNDS if fixed else 0) for _ in case.cpus]

    def gflop_per_s(stamps: Stamps) -> float:
        return sum(stamp.elements for stamp in stamps) * kernel.flops / span_ns(stamps)

    return rate_job(works, gflop_per_s, bench.options)
