# SPDX-License-Identifier: Apache-2.0
"""What only timing tells: the node that reads pages fastest, how far apart cores are, what a loop costs by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from numabench import _core, kernels
from numabench.errors import PlacementError
from numabench.machine import Machine
from numabench.memory import Buffer

WINDOWS, WINDOW_NS, BLOCK = 3, 5e6, 1 << 20
TWIN_BYTES, TWIN_WINDOWS, TWIN_NS = 2048, 5, 5e5  # of an array: four of them stay in any first cache
TWIN_ROUNDS, TWIN_LOADS = 16, 64  # a call; and twice as many
CLEAR = 1.05  # the fastest must beat the next by so much
PROBES, PROBE_EVERY_S = 200, 2e-4
LINES, LINE, ROUNDS = 5, 128, 200  # of a hand-over: the least of a few lines, some 0.1 ms each


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


def call_ns(kernel: _core.Kernel, cpu: int, clock: _core.Clock) -> float | None:
    """What a call of a kernel costs besides its elements, ns: dispatch, setting up the loop, reading the clock.

    Of a twin whose data stay in the first cache, calls of some rounds against calls of twice as many, whose difference
    is the rounds; the least of a few windows each. None where data cannot stay there.
    """
    if kernel.nt or kernel.family not in ("stream", "blas1", "chase"):
        return None
    with _core.Region(4 * TWIN_BYTES) as region, _core.Team((cpu,), clock) as team:
        region.as_array()[:] = 1.0

        def per_call(times: int) -> float:
            work = _twin(kernel, region, team, times)
            taken = [team.run([work], window_ns=TWIN_NS)[0] for _ in range(TWIN_WINDOWS)]
            return min((one.end_ns - one.start_ns) / max(one.calls, 1) for one in taken)

        return max(2 * per_call(1) - per_call(2), 0.0)


def _twin(kernel: _core.Kernel, region: _core.Region, team: _core.Team, times: int) -> _core.Work:
    """The kernel on data of the first cache, ``times`` its usual rounds a call."""
    if kernel.family == "chase":
        ring = _core.Ring(region, 0, 2 * TWIN_BYTES, 64, 2 * TWIN_BYTES, 1, 1)
        for name in _core.RING_JOBS:
            team.run([_core.Work(_core.setup_kernel(name), ring=ring, part=0, parts=1, loops=1)])
        return _core.Work(kernel, ring=ring, chains=1, block=TWIN_LOADS * times)
    a, b, c, d = ((region, at * TWIN_BYTES) for at in range(4))
    block = TWIN_ROUNDS * TWIN_BYTES * times
    return _core.Work(kernel, a=a, b=b, c=c, d=d, bytes=TWIN_BYTES, scalar=-1.0, block=block)


def widths(cpus: Iterable[int], clock: _core.Clock) -> dict[int, list[float]]:
    """By CPU: how many instructions a cycle its core gave, time and again for some 50 ms.

    Nothing where that is untold or threads cannot be pinned.
    """

    def probes(cpu: int) -> list[float]:
        _core.set_affinity([cpu])
        found = []
        for _ in range(PROBES):
            found.append(clock.core_width())
            time.sleep(PROBE_EVERY_S)
        return found

    with ThreadPoolExecutor(1) as other:  # one after another: they may share a core themselves
        try:
            taken = {cpu: other.submit(probes, cpu).result() for cpu in cpus}
        except PlacementError:
            return {}
    return {cpu: found for cpu, found in taken.items() if all(found)}


def clocks(cpus: Collection[int], clock: _core.Clock) -> dict[str, dict[str, float]]:
    """By CPU: ns that a reading of the clock costs, its smallest step, and by how much it is ahead of the first CPU's.

    ``offset_ns`` is right within ``offset_bound_ns``.
    """

    def reading(cpu: int) -> dict[str, float]:
        _core.set_affinity([cpu])
        return dict(zip(("overhead_ns", "overhead_p99_ns", "step_ns"), clock.reading(), strict=True))

    with ThreadPoolExecutor(1) as other:  # a thread of its own to move about
        found = {str(cpu): other.submit(reading, cpu).result() for cpu in sorted(cpus)}
    for cpu in sorted(cpus)[1:]:
        with _core.Team((min(cpus), cpu), clock) as pair:
            low, high = ahead(*_rounds(pair))
        found[str(cpu)] |= {"offset_ns": (low + high) / 2, "offset_bound_ns": abs(high - low) / 2}
    return found


def ahead(mine: Sequence[float], yours: Sequence[float]) -> tuple[float, float]:
    """Least and most that the clock of the second thread is ahead of the first's, by the ends of rounds of a ping-pong.

    The second thread ends a round after the first has begun it, which is when it ended the one before, and before the
    first ends the next.
    """
    low = max(b - later for b, later in zip(yours, mine[1:], strict=False))
    high = min(b - earlier for b, earlier in zip(yours[1:], mine, strict=False))
    return low, high


def _rounds(pair: _core.Team) -> tuple[list[float], list[float]]:
    """When the two threads ended each round of a hand-over and back, ns."""
    kernel = kernels.kernel("pingpong_flag", "best")
    with _core.Region(2 * LINE) as shared, _core.Region(2 * 8 * ROUNDS) as book:
        works = [
            _core.Work(kernel, part=i, parts=2, shared=(shared, 0), loops=ROUNDS, ticks=(book, i * 8 * ROUNDS))
            for i in (0, 1)
        ]
        pair.run(works)
        ticks = book.as_array("u8")[: 2 * ROUNDS].tolist()
    ends = [(tick - ticks[0]) * 1e9 / pair.clock.hz for tick in ticks]
    return ends[:ROUNDS], ends[ROUNDS:]


def hand_over(team: _core.Team) -> float:
    """Least ns, one way, in which two threads hand each other a cache line.

    Some 20 to 60 ns where they share a last-level cache, 100 and more where they do not. A hypervisor that moves the
    CPUs of a virtual machine among its cores changes that, and with it what they draw from memory together.
    """
    kernel, least = kernels.kernel("pingpong_flag", "best"), float("inf")
    with _core.Region(LINES * LINE) as region:
        for at in range(LINES):
            shared = (region, at * LINE)
            works = [_core.Work(kernel, part=i, parts=2, shared=shared, loops=ROUNDS, seed=at + 1) for i in (0, 1)]
            stamps = team.run(works)
            took = max(stamp.end_ns for stamp in stamps) - min(stamp.start_ns for stamp in stamps)
            least = min(least, took / (2 * ROUNDS))
    return least
