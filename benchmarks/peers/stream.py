# SPDX-License-Identifier: Apache-2.0
"""Streams over memory: likwid-bench."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial

from benchmarks.peers.duels import Duel, Figure, Missing, Ring, command

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
}


def _likwid(test: str, threads: int) -> float:
    # It pins by itself, one thread per core of the machine, and first-touches; it refuses a narrowed mask.
    work = f"N:{SET_BYTES // 1000}kB:{threads}"
    return command(["likwid-bench", "-t", test, "-w", work, "-s", "1"], r"MByte/s:\s+([\d.]+)") / 1000


def duels(ring: Ring) -> Iterator[Duel | Missing]:
    """Every kernel by one thread and by all."""
    if shutil.which("likwid-bench") is None:
        yield Missing("likwid-bench", "apt-get install likwid")
        return
    tests = subprocess.run(["likwid-bench", "-a"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"^(\w+) -", tests, re.M))
    every = ring.machine.one_cpu_per_core(ring.machine.allowed_cpus)
    for cpus in dict.fromkeys((every[:1], every)):
        for kernel, base in LIKWID.items():
            ours = {tier: ring.ours(ring.case(kernel, cpus, "base", tier, SET_BYTES)) for tier in ("avx2", "avx512")}
            rivals = [test for test in (f"{base}_avx", f"{base}_avx512") if test in known]
            theirs: dict[str, Figure] = {test: partial(_likwid, test, len(cpus)) for test in rivals}
            yield ring.duel(f"{kernel}, {len(cpus)} threads", "GB/s", ours, theirs, lower=False)
