# SPDX-License-Identifier: Apache-2.0
"""Streams over memory and caches: likwid-bench, STREAM, sysbench, mbw."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import partial
from statistics import median

from benchmarks.peers.duels import Duel, Figure, Missing, Ring, command
from numabench import _core, kernels
from numabench.memory import allocate

SET_BYTES = 10**9  # of all arrays together
# Our kernel and likwid's of the same traffic; likwid's own `triad` has four arrays, `stream` is STREAM's.
LIKWID = {
    "read": "load",
    "write": "store",
    "write_nt": "store_mem",
    "copy": "copy",
    "copy_nt": "copy_mem",
    "triad": "stream",
    "triad_nt": "stream_mem",
    "update": "update",
}
ISA = ("sse", "avx", "avx512", "avx_fma", "avx512_fma")
CACHED = ("read", "copy", "triad")
LIKWID_BYTES, WINDOW_NS, LINES = 15e9, 100e6, 64 * 24  # a likwid run in caches, a window of ours, whole lines of all
STREAM_TESTS = {"copy": "Copy", "scale": "Scale", "add": "Add", "triad": "Triad"}


def _likwid(test: str, size: int, threads: int) -> float:
    # It pins by itself, one thread per core of the machine, and first-touches; it refuses a narrowed mask.
    loops = max(round(LIKWID_BYTES / size), 10)
    words = ["likwid-bench", "-t", test, "-w", f"N:{size // 1000}kB:{threads}", "-i", str(loops)]
    return command(words, r"MByte/s:\s+([\d.]+)") / 1000


def _cached(ring: Ring, name: str, tier: str, cpus: tuple[int, ...], size: int) -> Figure:
    """Ours in a working set of ``size`` bytes for all threads: arrays next to each other, one fresh buffer a thread."""
    kernel = kernels.kernel(name, tier)
    each = size // len(cpus) // kernel.arrays // LINES * LINES

    def take() -> float:
        team, node = ring.hardware.team(cpus), ring.machine.cpu(cpus[0]).node
        works, buffers = [], []
        for seed, cpu in enumerate(cpus):
            buffer = allocate(size, node, pages="thp", machine=ring.machine, touch=(cpu,), seed=seed)
            buffers.append(buffer)
            places = {array: (buffer.region, i * each) for i, array in enumerate("abcd"[: kernel.arrays])}
            block = each * max(round(1e6 / each), 1)  # a look at the clock every few microseconds
            works.append(_core.Work(kernel, bytes=each, scalar=0.5, block=block, **places))  # type: ignore[arg-type]
        rates = []
        for _ in range(6):
            stamps = team.run(works, window_ns=WINDOW_NS)
            span = max(stamp.end_ns for stamp in stamps) - min(stamp.start_ns for stamp in stamps)
            rates.append(sum(stamp.elements for stamp in stamps) * kernels.app_bytes(kernel) / span)
        for buffer in buffers:
            buffer.close()
        return median(rates[1:])

    return take


def _tiers() -> list[str]:
    return [name for name, tier in kernels.tiers().items() if tier.usable and name != "scalar"]


def _levels(ring: Ring, cpus: tuple[int, ...]) -> dict[str, int]:
    """Half of each cache of one thread, all threads together; shared ones are divided."""
    caches = {
        cache.level: cache for cache in ring.machine.caches if cpus[0] in cache.cpus and cache.type != "instruction"
    }
    return {
        f"L{level}": cache.bytes // 2 * len(cpus) // len(set(cpus) & set(cache.cpus))
        for level, cache in sorted(caches.items())
    }


def duels(ring: Ring) -> Iterator[Duel | Missing]:
    """Every kernel by one thread and by all in memory, some of them in each cache."""
    every = ring.machine.one_cpu_per_core(ring.machine.allowed_cpus)
    if isinstance(missing := ring.program("likwid-bench", "apt-get install likwid"), Missing):
        yield missing
    else:
        tests = subprocess.run(["likwid-bench", "-a"], capture_output=True, text=True, check=True).stdout
        known = set(re.findall(r"^(\w+) -", tests, re.M))
        for cpus in dict.fromkeys((every[:1], every)):
            for level, size in {**_levels(ring, cpus), "memory": SET_BYTES}.items():
                for kernel in LIKWID if level == "memory" else CACHED:
                    name = f"{kernel}, {level}, {len(cpus)} threads"
                    if not ring.wants(name):
                        continue
                    # It lists what it was built with, and dies of what this CPU lacks.
                    usable = [isa for isa in ISA if "avx512" in _tiers() or not isa.startswith("avx512")]
                    rivals = [test for isa in usable if (test := f"{LIKWID[kernel]}_{isa}") in known]
                    theirs: dict[str, Figure] = {test: partial(_likwid, test, size, len(cpus)) for test in rivals}
                    ours = {
                        tier: ring.ours(ring.case(kernel, cpus, "base", tier, size))
                        if level == "memory"
                        else _cached(ring, kernel, tier, cpus, size)
                        for tier in _tiers()
                    }
                    yield ring.duel(name, "GB/s", ours, theirs, lower=False)
    for cpus in dict.fromkeys((every[:1], every)):
        yield from _others(ring, cpus)


def _others(ring: Ring, cpus: tuple[int, ...]) -> Iterator[Duel | Missing]:
    pinned = ["taskset", "-c", ",".join(map(str, cpus))]

    def against(kernel: str, rival: str, take: Figure) -> Iterator[Duel | Missing]:
        name = f"{kernel}, {rival}, {len(cpus)} threads"
        if ring.wants(name):
            ours = {tier: ring.ours(ring.case(kernel, cpus, "base", tier, SET_BYTES)) for tier in _tiers()}
            yield ring.duel(name, "GB/s", ours, {rival: take}, lower=False)

    build = "gcc -O3 -march=native -fopenmp -DSTREAM_ARRAY_SIZE=40000000 stream.c, --program stream=PATH"
    stream = ring.program("stream", f"STREAM: build it by {build}")
    if isinstance(stream, Missing):
        yield stream
    else:
        env = {"OMP_NUM_THREADS": str(len(cpus)), "OMP_PROC_BIND": "true"}
        for kernel, test in STREAM_TESTS.items():
            take = partial(command, [*pinned, stream], rf"{test}:\s+([\d.]+)", env)
            yield from against(kernel, "stream", lambda take=take: take() / 1000)  # type: ignore[misc]
    sysbench = ring.program("sysbench", "apt-get install sysbench")
    if isinstance(sysbench, Missing):
        yield sysbench
    else:
        fixed = [sysbench, "memory", "--memory-block-size=512M", "--memory-scope=local", "--time=2", "run"]
        for kernel, way in (("read", "read"), ("write", "write")):
            words = [*pinned, *fixed, f"--memory-oper={way}", f"--threads={len(cpus)}", "--memory-total-size=1000G"]
            mib = partial(command, words, r"\(([\d.]+) MiB/sec\)")
            yield from against(kernel, "sysbench", lambda mib=mib: mib() * 2**20 / 1e9)  # type: ignore[misc]
    mbw = ring.program("mbw", "apt-get install mbw")
    if isinstance(mbw, Missing):
        yield mbw
    elif len(cpus) == 1:  # one thread only; it counts a copied byte once
        mb = partial(command, [*pinned, mbw, "-q", "-n", "5", "-t0", "477"], r"AVG.*Copy: ([\d.]+) MiB/s")
        yield from against("copy_nt", "mbw", lambda: mb() * 2 * 2**20 / 1e9)
