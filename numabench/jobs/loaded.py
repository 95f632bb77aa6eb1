# SPDX-License-Identifier: Apache-2.0
"""One thread chases while the others stream at a set share of their full rate, all in one window."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from math import inf
from statistics import fmean, median

from numabench import _core, kernels
from numabench.errors import NumabenchError
from numabench.jobs import chase, stream
from numabench.jobs.base import (
    CHASE_WINDOW_NS,
    CHASE_WINDOWS,
    PROOF_BYTES_PER_S,
    SET_UP_BYTES_PER_S,
    WARM_LIMIT_NS,
    Bench,
    Job,
    Stamps,
    span_ns,
)
from numabench.memory import Buffer, allocate
from numabench.series import Case, Options

__all__ = ["FULL", "buffers", "delay", "prepare", "seconds"]

THREAD_BYTES = 100 << 20
# Small blocks, so that even a slow thread ends with the window; pieces of four lines as the kernels delay them.
BLOCK, PIECE_ELEMENTS = 64 << 10, 32
CALIBRATE_NS, CALIBRATIONS = 20e6, 5
LEAST_LOADS = 2995  # ten times what p99 needs: loads that queue are not independent
NO_RING_BYTES = 4096
TAIL_WINDOWS = 8  # in which each load of the probe is timed by itself
FULL = 1.0  # the load without any delay; others may be offered more, and reach less
DRIFT = 0.1  # of the load's rate within a pass: more is no steady load


def delay(load: float) -> float:
    """From one piece to the next, in times of a piece at full rate, where ``load`` is offered."""
    return inf if not load else 0.0 if load == FULL else 1 / load


class Loaded(list[Buffer]):
    """The probe's buffer and one per load thread; the ring, and the time of a piece of the load at full rate."""

    ring: _core.Ring
    piece_ns: float


def buffers(bench: Bench, stack: ExitStack, group: Sequence[Case], seed: int) -> Loaded:
    """Allocate for the largest team, link the ring once, and see how fast the load runs undelayed.

    A load without a probe may come alone; it has no ring.
    """
    probing = [case for case in group if case.params.get("probe", 1)]
    case = max(probing or group, key=lambda c: len(c.cpus))
    loads = max((c.cpus[1:] if c in probing else c.cpus for c in group), key=len)
    reach = bench.machine.llc_bytes((*case.cpus, *bench.machine.nearest_cpus(case.targets[0])))
    each = min(max(THREAD_BYTES, 4 * reach // max(len(loads), 1)), case.bytes)
    sizes = [case.bytes if probing else NO_RING_BYTES, *[each] * len(loads)]
    found = Loaded(
        stack.enter_context(allocate(size, case.targets[0], pages=case.pages, machine=bench.machine, seed=seed + part))
        for part, size in enumerate(sizes)
    )
    if not probing:
        return found
    found.ring = chase.ring_of(bench, case, found[0].region, case.bytes, seed)
    if len(case.cpus) > 1:
        team, works = bench.team(loads), _streams(case, found, 0, seed)
        team.run(works, window_ns=CALIBRATE_NS)
        windows = [team.run(works, window_ns=CALIBRATE_NS) for _ in range(CALIBRATIONS)]
        whole = [row for row in windows if all(stamp.elements for stamp in row)]
        if not whole:
            raise NumabenchError(
                "the loading threads did not get their turn in time: stop what else runs on their CPUs"
            )
        # The fastest: whatever else runs there only slows the load, and all delays would be too long.
        found.piece_ns = min(fmean(PIECE_ELEMENTS * (s.end_ns - s.start_ns) / s.elements for s in row) for row in whole)
    return found


def _streams(case: Case, buffers: Loaded, delay: int, seed: int, loops: int = 0) -> list[_core.Work]:
    kernel = kernels.kernel(case.kernel, case.tier)
    return [
        stream.work_on(kernel, buffer.region, seed + part, block=BLOCK, delay=delay, loops=loops)
        for part, buffer in enumerate(buffers[1:])
    ]


def prepare(bench: Bench, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, fixed: bool) -> Job:
    """The chase, with a delay that lets through ``case.params["load"]`` of the full rate; or the load without a probe.

    A piece waits for its turn while memory works on it, so the delay is the time that a piece may take in all. Alone
    the figure is the least window, as that of latency is: what disturbs an idle memory only adds.
    """
    if not isinstance(buffers, Loaded):
        raise TypeError("loaded works on the buffers that it made")
    if not case.params.get("probe", 1):
        return stream.prepare(bench, stack, case, buffers[1:], seed, fixed)
    loops = chase.FIXED_LOADS if fixed else 0
    chaser = kernels.kernel("chase", case.tier)
    works = [_core.Work(chaser, ring=buffers.ring, chains=1, block=chase.CHASE_BLOCK, loops=loops)]
    load = float(case.params["load"])
    if len(case.cpus) > 1:
        clock = bench.team(case.cpus).clock
        works += _streams(case, buffers, clock.additions(buffers.piece_ns * delay(load)), seed, int(fixed))
    awake = () if fixed or len(case.cpus) > 1 else chase.keepers(bench, case, case.targets[0])
    works += [chase.spin(stack) for _ in awake]
    per_element = kernels.app_bytes(kernels.kernel(case.kernel, case.tier))

    def further(windows: list[Stamps]) -> dict[str, float]:
        rates = [sum(s.elements for s in row[1:]) * per_element / span_ns(row) for row in windows if row[1:]]
        third = max(len(rates) // 3, 1)
        first, last = (fmean(part) for part in (rates[:third], rates[-third:])) if rates else (1.0, 1.0)
        return {
            "gb_per_s": fmean(rates) if rates else 0.0,
            "load_drift": last / first - 1 if first else 1.0,
        }

    def checks(windows: list[Stamps]) -> tuple[str, ...]:
        return ("not_steady",) if abs(further(windows)["load_drift"]) > DRIFT else ()

    length = CHASE_WINDOW_NS[bench.options.profile]
    bins = stack.enter_context(_core.Region(8 * _core.BINS, "base", "local"))

    def tail() -> dict[str, float]:
        team = bench.team((*case.cpus, *awake))
        counts = bins.as_array("u8")
        try:
            counts[:] = 0
            timed = _core.Work(chaser, ring=buffers.ring, chains=1, block=chase.CHASE_BLOCK, ticks=(bins, 0))
            for _ in range(TAIL_WINDOWS):
                team.run([timed, *works[1:]], window_ns=length)
            return single_loads(counts.tolist(), team.clock)
        finally:
            del counts

    estimator = median if len(case.cpus) > 1 else min
    return Job(
        works,
        chase.ns_per_load,
        estimator,
        CHASE_WINDOWS,
        length,
        ring_nodes=buffers.ring.nodes,
        extras=lambda windows: further(windows) | ({} if fixed else tail()),
        checks=checks,
        awake=awake,
    )


def single_loads(counts: Sequence[int], clock: _core.Clock) -> dict[str, float]:
    """p50 and p99 of loads timed one by one, without what reading the clock takes; nothing where there are too few.

    Loads beyond the last bin have no figure: a percentile among them is left out.
    """
    found: dict[str, float] = {}
    for name, share in (("p50_ns", 0.5), ("p99_ns", 0.99)):
        done, wanted = 0, share * sum(counts)
        for at, count in enumerate(counts[:-1]):
            if count and done + count >= wanted:
                ticks = (at + (wanted - done) / count) * _core.TICKS_A_BIN
                found[name] = max(ticks * 1e9 / clock.hz - clock.overhead_ns, 0.0)
                break
            done += count
    return found if sum(counts) >= LEAST_LOADS else {}


def seconds(group: Sequence[Case], options: Options) -> float:
    """Filled and linked once for a curve."""
    windows = (CHASE_WINDOWS + TAIL_WINDOWS) * CHASE_WINDOW_NS[options.profile] + WARM_LIMIT_NS[options.profile] / 2
    size = max(case.bytes + THREAD_BYTES * len(case.cpus) for case in group)
    return 2 * size / SET_UP_BYTES_PER_S + len(group) * (windows / 1e9 + size / PROOF_BYTES_PER_S)
