# SPDX-License-Identifier: Apache-2.0
"""Pointer chases: one thread walks a ring, ns per dependent load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import inf
from statistics import median

from numabench import _core, kernels
from numabench.errors import NumabenchError
from numabench.evidence import TWINS
from numabench.jobs.base import (
    CHASE_WINDOW_NS,
    CHASE_WINDOWS,
    PROOF_BYTES_PER_S,
    SET_UP_BYTES_PER_S,
    WARM_NS,
    Bench,
    Job,
    Stamps,
    one_buffer,
)
from numabench.memory import Buffer
from numabench.series import Case, Options

CHASE_BLOCK, FIXED_LOADS = 1024, 1 << 19
# In a cache a load takes 1 to 15 ns and 1024 of them little: a call costs 30 ns besides, by its twin.
SMALL_BYTES, SMALL_BLOCK = 1 << 20, 8192
TWIN_WINDOWS = 8  # as many as they are compared with: a minimum depends on how many
TWIN_ATTEMPTS = 4  # a ratio that does not come back was a neighbour's
SPIN_BYTES, SPIN_BLOCK = 4096, 1 << 20
LEAST_WINDOWS = 3  # of a lap, for its median to say something

buffers = one_buffer


def ring_of(
    bench: Bench, case: Case, region: _core.Region, size: int, seed: int, stride: int | None = None, start: int = 0
) -> _core.Ring:
    """A proven ring over ``size`` bytes from ``start`` on, built by the CPUs that touched them.

    The case gives ``window``, ``chains`` and, if not given, ``stride``. Raises NumabenchError when it is not one cycle.
    """
    builders = bench.team(case.touch_cpus or case.cpus)
    chains, window = (int(case.params.get(name, 1)) for name in ("chains", "window"))
    stride = stride or int(case.params.get("stride", 1))
    ring = _core.Ring(region, start, min(size, region.bytes - start), stride, window, chains, seed)
    for name in _core.RING_JOBS:
        kernel, parts = _core.setup_kernel(name), len(builders)
        builders.run([_core.Work(kernel, ring=ring, part=i, parts=parts, loops=1) for i in range(parts)])
    if not ring.proven:
        raise NumabenchError("the pointer ring is not one cycle: the buffer was written to, or memory is faulty")
    return ring


def prepare(bench: Bench, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, fixed: bool) -> Job:
    """A ring and its walk, while a core of another node that holds it is kept awake."""
    region, length = buffers[0].region, CHASE_WINDOW_NS[bench.options.profile]
    ring = ring_of(bench, case, region, case.bytes, seed)
    chains = int(case.params.get("chains", 1))
    kernel = kernels.kernel(case.kernel, case.tier)
    awake = () if fixed else keepers(bench, case)
    spins = [spin(stack) for _ in awake]

    def works(ring: _core.Ring) -> list[_core.Work]:
        loops = FIXED_LOADS if fixed else 0
        block = SMALL_BLOCK if case.bytes <= SMALL_BYTES else CHASE_BLOCK
        return [_core.Work(kernel, ring=ring, chains=chains, block=block, loops=loops), *spins]

    def window(ring: _core.Ring) -> Stamps:
        return bench.team((*case.cpus, *awake)).run(works(ring), window_ns=length)

    def window_asleep(ring: _core.Ring) -> Stamps:
        return bench.team(case.cpus).run(works(ring)[:1], window_ns=length)

    def twins(warm: list[Stamps], windows: list[Stamps]) -> dict[str, float]:
        half, stride = region.bytes // 2, int(case.params["stride"])

        def floor(size: int, stride: int, start: int = 0) -> float:
            return _floor(window, ring_of(bench, case, region, size, seed, stride, start))

        figure = min(map(ns_per_load, windows[:TWIN_WINDOWS]))
        asleep = {"asleep": _floor(window_asleep, ring) / figure} if awake else {}
        found: dict[str, float] = {}
        for _ in range(TWIN_ATTEMPTS):
            # On base pages, fewer loads a page are more page walks a load.
            wide = None if case.pages == "base" else floor(2 * half, 2 * stride)
            now = against_halves(figure, wide, lambda start: floor(half, stride, start * half))
            found = {name: min(ratio, found.get(name, ratio)) for name, ratio in now.items()}
            if all(ratio <= TWINS[name][1] for name, ratio in found.items()):
                break
            figure = floor(2 * half, stride)
        laps = None if case.cache_suspect else first_lap([*warm, *windows], ring.nodes)
        for other in range(1, TWIN_ATTEMPTS):
            if laps is None or laps <= TWINS["laps"][1]:
                break
            again = ring_of(bench, case, region, case.bytes, seed + other)
            laps = min(laps, first_lap(_rounds(window, again), ring.nodes) or laps)
        return found | asleep | ({"laps": laps} if laps else {})

    comparable = chains == 1 and not fixed and case.params.get("stride", 0)
    return Job(
        works(ring),
        ns_per_load,
        min,
        CHASE_WINDOWS,
        length,
        ring_nodes=ring.nodes,
        twins=twins if comparable else None,
        awake=awake,
    )


def against_halves(figure: float, wide: float | None, half: Callable[[int], float]) -> dict[str, float]:
    """The whole, and the whole at twice the stride, over the first half (0); where that is beyond what may be, over the
    slower half. A cache that holds a half makes both fast; memory of two kinds, as a hypervisor may give, only one.
    """

    def over(shorter: float) -> dict[str, float]:
        return {"half": figure / shorter} | ({"apart": wide / shorter} if wide else {})

    first = half(0)
    found = over(first)
    if any(ratio > TWINS[name][1] for name, ratio in found.items()):
        found = over(max(first, half(1)))
    return found


def ns_per_load(stamps: Stamps) -> float:
    """Of the thread that chases, the first; infinite where its turn did not come before the window's end."""
    took, loads = stamps[0].end_ns - stamps[0].start_ns, stamps[0].elements
    return took / loads if loads else inf


def keepers(bench: Bench, case: Case, target: int | None = None) -> tuple[int, ...]:
    """A core of the target's node, where that is another than the initiator's: an idle package may answer later.

    None in a virtual machine: what sleeps there is the hypervisor's choice.
    """
    machine, node = bench.machine, case.target if target is None else target
    if machine.virtual or node is None or case.initiator is None:
        return ()
    near = {cpu for used in (*case.cpus, *machine.cpus_of(case.initiator)) for cpu in (used, *machine.siblings(used))}
    cores = machine.cpus_of(node)
    return () if near & set(cores) else cores[:1]


def spin(stack: ExitStack) -> _core.Work:
    """What keeps a core awake and never leaves its first cache."""
    region = stack.enter_context(_core.Region(SPIN_BYTES))
    return _core.Work(kernels.kernel("read", "scalar"), a=(region, 0), bytes=SPIN_BYTES, block=SPIN_BLOCK)


def _floor(window: Callable[[_core.Ring], Stamps], ring: _core.Ring) -> float:
    """ns per load over a ring: the least of a few windows after one to warm up. NumabenchError if none had its turn."""
    for _ in range(TWIN_ATTEMPTS):
        least = min([ns_per_load(window(ring)) for _ in range(1 + TWIN_WINDOWS)][1:])
        if least < inf:
            return least
    raise NumabenchError("the chasing thread did not get its turn in time: stop what else runs on its CPU")


def _rounds(window: Callable[[_core.Ring], Stamps], ring: _core.Ring) -> list[Stamps]:
    """Windows of a walk that goes on for a third of the way when it has come round."""
    taken: list[Stamps] = []
    while sum(stamps[0].elements for stamps in taken) < ring.nodes * 4 / 3:
        taken.append(window(ring))
    return taken


def first_lap(windows: list[Stamps], nodes: int) -> float | None:
    """ns per load in the first round of the ring over that in later ones; None when it went round once at most.

    Medians; the first third of the first round is warm-up.
    """
    first, later, done = [], [], 0.0
    for stamps in (taken for taken in windows if taken[0].elements):
        begin, done = done, done + stamps[0].elements
        if begin >= nodes:
            later.append(ns_per_load(stamps))
        elif begin >= nodes / 3 and done <= nodes:
            first.append(ns_per_load(stamps))
    return median(first) / median(later) if min(len(first), len(later)) >= LEAST_WINDOWS else None


def seconds(group: Sequence[Case], options: Options) -> float:
    """A ring is filled and linked, and its twins are linked and walked."""
    windows = (CHASE_WINDOWS + 2 * (1 + TWIN_WINDOWS)) * CHASE_WINDOW_NS[options.profile] + WARM_NS
    size = max(case.bytes for case in group)
    touched = size * (3 if group[0].pages == "base" else 1.3)
    return touched / SET_UP_BYTES_PER_S + len(group) * (windows / 1e9 + size / PROOF_BYTES_PER_S)
