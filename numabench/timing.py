# SPDX-License-Identifier: Apache-2.0
"""The last resort where no system call tells where pages are: the node whose CPUs read them fastest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from numabench import _core, kernels
from numabench.machine import Machine
from numabench.memory import Buffer

WINDOWS, WINDOW_NS, BLOCK = 3, 5e6, 1 << 20
CLEAR = 1.05  # the fastest must beat the next by so much


def nearest(buffers: Sequence[Buffer], machine: Machine, team: Callable[[tuple[int, ...]], _core.Team]) -> int | None:
    """The node from which one thread reads the first buffer fastest; None when none stands out.

    An inference, never a proof: the comparison is its own calibration, since every node reads the same pages. Nodes
    without CPUs cannot be found. Buffers of a few MiB may sit in caches and then tell nothing.
    """
    kernel, region = kernels.kernel("read", "best"), buffers[0].region
    size = region.bytes // 4096 * 4096
    rates: dict[int, float] = {}
    for node in machine.initiators():
        work = _core.Work(kernel, a=(region, 0), bytes=size, block=BLOCK)
        crew = team(machine.cpus_of(node)[:1])
        for _ in range(WINDOWS):
            stamp = crew.run([work], window_ns=WINDOW_NS)[0]
            rates[node] = max(rates.get(node, 0.0), stamp.elements / (stamp.end_ns - stamp.start_ns))
    best = sorted(rates, key=rates.__getitem__, reverse=True)
    return best[0] if len(best) > 1 and rates[best[0]] > CLEAR * rates[best[1]] else None
