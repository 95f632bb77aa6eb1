# SPDX-License-Identifier: Apache-2.0
"""Points of a curve over working-set size: the chase or the read loop on the first bytes of one buffer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from numabench import _core, kernels
from numabench.jobs import chase, stream
from numabench.jobs.base import PROOF_BYTES_PER_S, SET_UP_BYTES_PER_S, Bench, Job, one_buffer
from numabench.memory import Buffer
from numabench.series import Case, Options

__all__ = ["buffers", "prepare", "seconds"]

# Many points, so short windows: medians of 8 windows of 2.5 ms, warmed up by windows of 1 ms.
WINDOWS, WINDOW_NS, WARM_NS = 8, 2.5e6, 1e6
# A ring that may fit is walked so often before it counts: in the first lap a cache fills, however steady that looks;
# caches that adapt how they replace need one more. Beyond so many times the caches most of each lap misses anyway.
LAPS, MAY_FIT = 2, 2

buffers = one_buffer


def prepare(bench: Bench, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, fixed: bool) -> Job:
    """As the kernel's own family, with the working set of the case."""
    if case.kernel == "chase":
        # Its twins are other points of the curve.
        job = chase.prepare(bench, stack, case, buffers, seed, fixed)._replace(twins=None)
        if case.bytes <= MAY_FIT * bench.machine.llc_bytes(case.cpus):
            work, chains = job.works[0], int(case.params.get("chains", 1))
            loops = LAPS * job.ring_nodes // chains
            bench.team(case.cpus).run([_core.Work(work.kernel, ring=work.ring, chains=chains, loops=loops)])
    else:
        kernel = kernels.kernel(case.kernel, case.tier)
        size = case.bytes // kernel.element_bytes * kernel.element_bytes
        work = _core.Work(kernel, a=(buffers[0].region, 0), bytes=size, block=stream.RATE_BLOCK, loops=int(fixed))
        job = Job([work], stream.rate_of(kernel), median, WINDOWS, WINDOW_NS)
    return job._replace(estimator=median, windows=WINDOWS, window_ns=WINDOW_NS, warm_ns=WARM_NS)


def seconds(group: Sequence[Case], options: Options) -> float:
    """Filled once; each point is linked, warmed up and timed."""
    del options
    size, linked = max(case.bytes for case in group), sum(c.bytes for c in group if c.kernel == "chase")
    each = (WINDOWS * WINDOW_NS + 25 * WARM_NS) / 1e9 + size / PROOF_BYTES_PER_S
    return (size + linked) / SET_UP_BYTES_PER_S + len(group) * each
