# SPDX-License-Identifier: Apache-2.0
"""Pointer chases: one thread walks a ring, ns per dependent load."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from numabench import _core, kernels
from numabench.errors import NumabenchError
from numabench.jobs.base import (
    CHASE_WINDOW_NS,
    CHASE_WINDOWS,
    PROOF_BYTES_PER_S,
    SET_UP_BYTES_PER_S,
    WARM_LIMIT_NS,
    Bench,
    Job,
    Stamps,
    one_buffer,
)
from numabench.memory import Buffer
from numabench.series import Case, Options

CHASE_BLOCK, FIXED_LOADS = 1024, 1 << 19

buffers = one_buffer


def ring_of(bench: Bench, case: Case, region: _core.Region, size: int, seed: int) -> _core.Ring:
    """A proven ring over the first ``size`` bytes, built by the CPUs that touched them.

    The case gives ``stride``, ``window`` and ``chains``. Raises NumabenchError when it is not one cycle.
    """
    builders = bench.team(case.touch_cpus or case.cpus)
    chains, stride, window = (int(case.params.get(name, 1)) for name in ("chains", "stride", "window"))
    ring = _core.Ring(region, 0, min(size, region.bytes), stride, window, chains, seed)
    for name in _core.RING_JOBS:
        kernel, parts = _core.setup_kernel(name), len(builders)
        builders.run([_core.Work(kernel, ring=ring, part=i, parts=parts, loops=1) for i in range(parts)])
    if not ring.proven:
        raise NumabenchError("the pointer ring is not one cycle: the buffer was written to, or memory is faulty")
    return ring


def prepare(bench: Bench, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, fixed: bool) -> Job:
    """A ring and its walk."""
    ring = ring_of(bench, case, buffers[0].region, case.bytes, seed)
    chains = int(case.params.get("chains", 1))
    kernel = kernels.kernel(case.kernel, case.tier)
    work = _core.Work(kernel, ring=ring, chains=chains, block=CHASE_BLOCK, loops=FIXED_LOADS if fixed else 0)

    def ns_per_load(stamps: Stamps) -> float:
        return (stamps[0].end_ns - stamps[0].start_ns) / stamps[0].elements

    return Job([work], ns_per_load, min, CHASE_WINDOWS, CHASE_WINDOW_NS[bench.options.profile], ring_nodes=ring.nodes)


def seconds(group: Sequence[Case], options: Options) -> float:
    """A ring is written twice: filled and linked."""
    windows = CHASE_WINDOWS * CHASE_WINDOW_NS[options.profile] + WARM_LIMIT_NS[options.profile] / 2
    size = max(case.bytes for case in group)
    return 2 * size / SET_UP_BYTES_PER_S + len(group) * (windows / 1e9 + size / PROOF_BYTES_PER_S)
