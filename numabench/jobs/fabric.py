# SPDX-License-Identifier: Apache-2.0
"""Teams of several nodes in one common window: each thread streams from a buffer of its own on its own target."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from numabench import kernels
from numabench.jobs.base import Bench, Job, Stamps, rate_job, span_ns
from numabench.jobs.base import rate_seconds as seconds
from numabench.jobs.stream import rate_of, work_on
from numabench.memory import Buffer, allocate
from numabench.series import Case

__all__ = ["buffers", "prepare", "seconds"]


def buffers(bench: Bench, stack: ExitStack, group: Sequence[Case], seed: int) -> list[Buffer]:
    """One buffer per thread on ``case.targets`` of that thread, touched by the target's nearest CPUs."""
    first = group[0]
    size = max(case.bytes for case in group) // len(first.targets)
    return [
        stack.enter_context(allocate(size, target, pages=first.pages, machine=bench.machine, seed=seed + part))
        for part, target in enumerate(first.targets)
    ]


def prepare(bench: Bench, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, fixed: bool) -> Job:
    """The case's kernel everywhere; the rate of each node's team goes into the extras as ``node<i>``."""
    kernel = kernels.kernel(case.kernel, case.tier)
    works = [work_on(kernel, buffer.region, seed + part, loops=int(fixed)) for part, buffer in enumerate(buffers)]
    homes = [bench.machine.cpu(cpu).node for cpu in case.cpus]
    per_element = kernels.app_bytes(kernel)

    def by_node(windows: list[Stamps]) -> dict[str, float]:
        found = {}
        for node in dict.fromkeys(homes):
            mine = [i for i, home in enumerate(homes) if home == node]
            rates = [sum(row[i].elements for i in mine) * per_element / span_ns(row) for row in windows]
            found[f"node{node}"] = median(rates)
        return found

    return rate_job(works, rate_of(kernel), bench.options)._replace(extras=by_node)
