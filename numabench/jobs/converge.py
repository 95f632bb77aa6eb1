# SPDX-License-Identifier: Apache-2.0
"""Pages of another node are read until the system has moved them to the reader's by itself: seconds that it takes."""

from __future__ import annotations

from collections.abc import Sequence

from numabench import _core, kernels
from numabench.disturbance import Watch
from numabench.environment import Tree
from numabench.errors import NumabenchError
from numabench.evidence import evidence
from numabench.jobs.base import SET_UP_BYTES_PER_S, Bench
from numabench.jobs.stream import RATE_BLOCK
from numabench.memory import allocate
from numabench.series import Case, Evidence, Options, Sample

__all__ = ["samples", "seconds"]

SETTLED = 0.9  # share of the pages: some are touched by nobody at the right moment
# Two faults of a page from one node are wanted, in scans that are a second and more apart (kernel/sched/fair.c).
LIMIT_S, LOOK_NS = 30.0, 50e6


def samples(bench: Bench, group: Sequence[Case], number: int, position: int, seed: int) -> list[Sample]:
    """One buffer a case. Raises NumabenchError where the system moves nothing, or not in time."""
    if (Tree().text("proc/sys/kernel/numa_balancing") or "0") == "0":
        raise NumabenchError("the system moves no pages by itself: kernel.numa_balancing is 0")
    return [_sample(bench, case, number, position + i, seed) for i, case in enumerate(group)]


def _sample(bench: Bench, case: Case, number: int, position: int, seed: int) -> Sample:
    """From the first read on until nearly all pages are at ``case.initiator``. Touched, not bound, at the target."""
    kernel, team = kernels.kernel(case.kernel, case.tier), bench.team(case.cpus)
    touch = case.touch_cpus
    with allocate(case.bytes, None, pages=case.pages, machine=bench.machine, touch=touch, seed=seed) as buffer:
        before = after = buffer.proof()
        if before.how != "move_pages":
            raise NumabenchError("the system does not tell where pages are while they move (move_pages)")
        if set(before.seen) != {case.target}:
            raise NumabenchError(f"pages touched by CPUs of node {case.target} went to nodes {sorted(before.seen)}")
        work = _core.Work(kernel, a=(buffer.region, 0), bytes=buffer.bytes, block=RATE_BLOCK, seed=seed)
        watch, began, windows, came = Watch(case.cpus), team.clock.now_ns(), [], 0.0
        watch.start()
        while came < SETTLED:
            windows.append(team.run([work], window_ns=LOOK_NS))
            after = buffer.proof()
            came, took = after.seen.get(case.initiator or 0, 0) / after.pages, (team.clock.now_ns() - began) / 1e9
            if came < SETTLED and took > LIMIT_S:
                raise NumabenchError(f"{came:.0%} of the pages had come to their reader after {LIMIT_S:g} s")
        seen = Evidence(**evidence(case, [buffer], [before], [after], windows, watch.stop(), team.clock))  # type: ignore[arg-type]
    rates = [row[0].elements * kernel.bytes_read / (row[0].end_ns - row[0].start_ns) for row in windows]
    return Sample(
        number=number,
        position=position,
        value=took,
        windows=(took,),
        evidence=seen,
        extras={"first_gb_per_s": rates[0], "last_gb_per_s": rates[-1]},
    )


def seconds(group: Sequence[Case], options: Options) -> float:
    """Some seconds where it works at all."""
    del options
    return sum(case.bytes / SET_UP_BYTES_PER_S + 5.0 for case in group)
