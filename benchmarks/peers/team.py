# SPDX-License-Identifier: Apache-2.0
"""Threads that meet: fork and join of nothing against libgomp, hand-over against multichase's pingpong."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.peers.duels import Duel, Figure, Missing, Ring, command
from numabench import _core, kernels
from numabench.memory import allocate

RUNS, LINES, ROUNDS = 2000, 32, 1000
LIBGOMP = f"""
#include <stdio.h>
#include <stdlib.h>
#include <omp.h>
static int by_time(const void *a, const void *b) {{ double d = *(double *)a - *(double *)b; return (d > 0) - (d < 0); }}
int main(void)
{{
    static double took[{RUNS}];
    for (int i = 0; i < {RUNS}; i++) {{
        double start = omp_get_wtime();
#pragma omp parallel
        __asm__ volatile("");
        took[i] = omp_get_wtime() - start;
    }}
    qsort(took, {RUNS}, sizeof *took, by_time);
    printf("%f\\n", took[{RUNS} / 2] * 1e6);
    return 0;
}}
"""


def _fork_join(ring: Ring, cpus: tuple[int, ...]) -> float:
    """Median us of a run of no work: the caller, on the first CPU, and one thread on each other one."""
    allowed = _core.affinity()
    with _core.Team(cpus[1:]) as team:
        _core.set_affinity(cpus[:1])
        try:
            return median(team.fork_join(RUNS)) / 1e3
        finally:
            _core.set_affinity(allowed)


def _pingpong(ring: Ring, cpus: tuple[int, ...]) -> float:
    """Median ns of one hand-over by compare and swap, over fresh lines."""
    node = ring.machine.cpu(cpus[0]).node
    with allocate(1 << 20, node, pages="base", machine=ring.machine, touch=cpus[:1]) as buffer:
        took = []
        for line in range(0, LINES * 256, 256):
            works = [
                _core.Work(
                    kernels.kernel("pingpong_cas"), part=part, parts=2, shared=(buffer.region, line), loops=ROUNDS
                )
                for part in range(2)
            ]
            stamps = ring.hardware.team(cpus).run(works)
            took.append((stamps[0].end_ns - stamps[0].start_ns) / ROUNDS / 2)
    return median(took)


def duels(ring: Ring) -> Iterator[Duel | Missing]:
    """All cores; pairs of the first two."""
    cpus = ring.machine.one_cpu_per_core(ring.machine.allowed_cpus)
    if len(cpus) < 2:
        return
    if shutil.which("cc") is None:
        yield Missing("libgomp", "install a C compiler")
    elif ring.wants("fork and join"):
        with TemporaryDirectory() as folder:
            binary = str(Path(folder, "fork_join"))
            subprocess.run(
                ["cc", "-O2", "-fopenmp", "-x", "c", "-", "-o", binary], input=LIBGOMP, text=True, check=True
            )
            env = {"OMP_NUM_THREADS": str(len(cpus)), "OMP_PLACES": ",".join(f"{{{cpu}}}" for cpu in cpus)}
            theirs: dict[str, Figure] = {"libgomp": partial(command, [binary], r"([\d.]+)", env)}
            yield ring.duel("fork and join", "us", {"team": partial(_fork_join, ring, cpus)}, theirs, lower=True)
    program = ring.program("pingpong", "it comes with multichase; give --program pingpong=PATH")
    if isinstance(program, Missing):
        yield program
    elif ring.wants("hand-over"):
        # Unlocked, by cmpxchg, by xadd; without relax instructions, which would be part of the hand-over.
        ways = {way: [program, way, "-r", "0", "-c", "2"] for way in ("-u", "-l", "-x")}
        hands: dict[str, Figure] = {
            f"pingpong {way}": partial(command, words, r"([\d.]+)") for way, words in ways.items()
        }
        yield ring.duel(
            "hand-over, 2 threads",
            "ns",
            {"pingpong_cas": partial(_pingpong, ring, cpus[:2])},
            hands,
            lower=True,
        )
