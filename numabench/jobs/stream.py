# SPDX-License-Identifier: Apache-2.0
"""Kernels over arrays: bandwidth of all threads in the common window, or ns per access with a stride."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from numabench import _core, kernels
from numabench.jobs import chase
from numabench.jobs.base import Bench, Figure, Job, Stamps, buffers_of, family_of, one_buffer, rate_job, span_ns
from numabench.jobs.base import rate_seconds as seconds
from numabench.memory import Buffer
from numabench.series import Case

__all__ = ["buffers", "prepare", "seconds"]

RATE_BLOCK = 1 << 20
# Arrays of one thread start at odd distances, so that they do not share their offset within a page.
STAGGER = 17 * 64


def buffers(bench: Bench, stack: ExitStack, group: Sequence[Case], seed: int) -> list[Buffer]:
    """One buffer per thread of the largest team; a strided case has one."""
    return (
        one_buffer(bench, stack, group, seed)
        if family_of(group[0]) == "stride"
        else per_thread(bench, stack, group, seed)
    )


def per_thread(bench: Bench, stack: ExitStack, group: Sequence[Case], seed: int) -> list[Buffer]:
    """Equal buffers, one per thread of the largest team, together as large as the largest case."""
    parts = max(len(case.cpus) for case in group)
    size = max(max(case.bytes for case in group) // parts, 1)
    return buffers_of(bench, stack, group[0], [size] * parts, seed)


def work_on(
    kernel: _core.Kernel,
    region: _core.Region,
    seed: int,
    stride: int = 0,
    loops: int = 0,
    block: int = RATE_BLOCK,
    delay: int = 0,
) -> _core.Work:
    """A thread's share: the kernel's arrays side by side in its region."""
    each = (region.bytes - STAGGER * kernel.arrays) // kernel.arrays // 4096 * 4096
    a, b, c, d = ((region, i * (each + STAGGER)) for i in range(4))
    return _core.Work(
        kernel,
        a=a,
        b=b,
        c=c,
        d=d,
        bytes=each,
        stride=stride,
        scalar=-1.0 if kernel.name == "update" else 0.5,
        seed=seed,
        block=max(block // stride * stride, stride) if stride else block,
        loops=loops,
        delay=delay,
    )


def rate_of(kernel: _core.Kernel) -> Figure:
    """GB/s of all threads together, as STREAM counts."""
    per_element = kernels.app_bytes(kernel)

    def gb_per_s(stamps: Stamps) -> float:
        return sum(stamp.elements for stamp in stamps) * per_element / span_ns(stamps)

    return gb_per_s


def ns_per_access(stamps: Stamps) -> float:
    """Of one thread, on average over all."""
    return span_ns(stamps) * len(stamps) / sum(stamp.elements for stamp in stamps)


def fairness(windows: Sequence[Stamps]) -> dict[str, float]:
    """The least share of a thread over the greatest, all windows together; nothing of one thread."""
    shares = [sum(stamp.elements for stamp in mine) for mine in zip(*windows, strict=True)]
    return {"fairness": min(shares) / max(shares)} if len(shares) > 1 else {}


def _fill_elements(bench: Bench, kernel: _core.Kernel, regions: list[tuple[int, _core.Region]], seed: int) -> None:
    """Numbers of the kernel's own size: parts of an f64 may be denormal, which some cores take long over."""
    size, rows = kernel.element_bytes, _core.setup_kernel("fill_rows")
    works = [
        _core.Work(
            rows,
            a=(region, 0),
            chains=size,
            m=1,
            n=region.bytes // size,
            lda=region.bytes // size,
            scalar=1.0,
            seed=seed + part,
            loops=1,
        )
        for part, (_, region) in enumerate(regions)
    ]
    bench.team(tuple(cpu for cpu, _ in regions)).run(works)


def prepare(bench: Bench, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, fixed: bool) -> Job:
    """The case's kernel on every thread, while a core of another node that holds the arrays is kept awake."""
    kernel = kernels.kernel(case.kernel, case.tier)
    stride = int(case.params.get("stride", 0))
    if kernel.element_bytes < 8:
        _fill_elements(
            bench, kernel, [(cpu, buffers[i % len(buffers)].region) for i, cpu in enumerate(case.cpus)], seed
        )
    works = [
        work_on(kernel, buffers[part % len(buffers)].region, seed + part, stride, int(fixed))
        for part in range(len(case.cpus))
    ]
    if stride:
        return rate_job(works, ns_per_access, bench.options)._replace(extras=fairness)
    figure, most = rate_of(kernel), kernels.bus_most(kernel)

    def further(windows: list[Stamps]) -> dict[str, float]:
        """How fair it was, and GB/s on the bus if every line that is written was read first: at most so many."""
        return fairness(windows) | {"bus_gb_per_s_most": median(map(figure, windows)) * most}

    awake = () if fixed else chase.keepers(bench, case)
    works += [chase.spin(stack) for _ in awake]
    return rate_job(works, figure, bench.options)._replace(extras=further, awake=awake)
