# SPDX-License-Identifier: Apache-2.0
"""Multiplications by a team, the result checked before and after."""

from __future__ import annotations

from contextlib import ExitStack

from numabench import _core, kernels
from numabench.gemm import GemmPlan
from numabench.jobs.base import Bench, Job, Stamps, one_buffer, rate_job, span_ns
from numabench.jobs.base import rate_seconds as seconds
from numabench.memory import Buffer, touch_region
from numabench.series import Case

__all__ = ["buffers", "prepare", "seconds"]

buffers = one_buffer


def prepare(bench: Bench, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, fixed: bool) -> Job:
    """A block of C per thread; packing buffers lie on the thread's own node, or where it touches them if that has no
    memory for this process.
    """
    kernel = kernels.kernel(case.kernel, case.tier)
    plan = GemmPlan(kernel, case, buffers[0].region, bench.machine)
    plan.fill(bench.team(case.cpus[:1]), seed)
    scratch = []
    for cpu in case.cpus:
        node = bench.machine.cpu(cpu).node
        bound = node is not None and bench.machine.unavailable_reason(node) is None
        region = stack.enter_context(
            _core.Region(plan.scratch_bytes, "thp", *(("bind", [node]) if bound else ("local",)))
        )
        touch_region(region, bench.team((cpu,)), "fill_f64", seed)
        scratch.append(region)
    plan.check(bench.team(case.cpus), plan.works(scratch, 1))

    def gflop_per_s(stamps: Stamps) -> float:
        return sum(stamp.elements for stamp in stamps) * kernel.flops / span_ns(stamps)

    job = rate_job(plan.works(scratch, int(fixed)), gflop_per_s, bench.options)
    return job._replace(checksum=lambda: plan.checksum(buffers[0]))
