# SPDX-License-Identifier: Apache-2.0
"""Pointer chases of one chain, whole programs on the same page kind and size: multichase, lmbench's lat_mem_rd."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count

from benchmarks.peers.duels import Duel, Figure, Missing, Ring, command
from numabench import _core, kernels
from numabench.memory import allocate

BYTES, STRIDE, WINDOW = 256 << 20, 256, 256 << 10  # multichase's own defaults
SAMPLES, SAMPLE_NS = 3, 0.5e9  # multichase's samples, of which it prints the best


def _ours(ring: Ring, cpu: tuple[int, ...], pages: str) -> Figure:
    """A fresh buffer and ring at each call, and multichase's estimator: another one would be a difference by itself."""
    seeds = count(1)

    def take() -> float:
        team, seed = ring.hardware.team(cpu), next(seeds)
        node = ring.machine.cpu(cpu[0]).node
        with allocate(BYTES, node, pages=pages, machine=ring.machine, touch=cpu, seed=seed) as buffer:
            made = _core.Ring(buffer.region, 0, BYTES, STRIDE, WINDOW, 1, seed)
            for job in _core.RING_JOBS:
                team.run([_core.Work(_core.setup_kernel(job), ring=made, loops=1)])
            work = _core.Work(kernels.kernel("chase"), ring=made, chains=1, block=1 << 16)
            team.run([work], window_ns=SAMPLE_NS / 5)
            stamps = [team.run([work], window_ns=SAMPLE_NS)[0] for _ in range(SAMPLES)]
        return min((stamp.end_ns - stamp.start_ns) / stamp.elements for stamp in stamps)

    return take


def duels(ring: Ring) -> Iterator[Duel | Missing]:
    """Base pages and thp against multichase; a fixed stride, which prefetchers follow, against lat_mem_rd."""
    cpu = ring.machine.allowed_cpus[:1]
    pinned = ["taskset", "-c", str(cpu[0])]
    program = ring.program("multichase", "build github.com/google/multichase and give --program multichase=PATH")
    if isinstance(program, Missing):
        yield program
    else:
        fixed = ["-s", str(STRIDE), "-m", str(BYTES), "-T", str(WINDOW), "-n", str(SAMPLES)]
        for pages, flag in (("base", []), ("thp", ["-H"])):
            name = f"chase, {pages}"
            if ring.wants(name):
                theirs: dict[str, Figure] = {
                    "multichase": partial(command, [*pinned, program, *fixed, *flag], r"([\d.]+)")
                }
                yield ring.duel(name, "ns", {"best": _ours(ring, cpu, pages)}, theirs, lower=True)
    program = ring.program("lat_mem_rd", "build lmbench and give --program lat_mem_rd=PATH")
    if isinstance(program, Missing):
        yield program
    elif ring.wants("chase, lat_mem_rd"):
        words = [*pinned, program, "-t", "-P", "1", str(BYTES >> 20), str(STRIDE)]  # -t: random order
        yield ring.duel(
            "chase, lat_mem_rd",
            "ns",
            {"best": _ours(ring, cpu, "base")},
            {"lat_mem_rd": partial(command, words, r"[\d.]+ ([\d.]+)")},
            lower=True,
        )
