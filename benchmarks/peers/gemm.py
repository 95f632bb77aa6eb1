# SPDX-License-Identifier: Apache-2.0
"""Matrix multiplication: numpy's OpenBLAS."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.peers.duels import Duel, Figure, Missing, Ring
from numabench import gemm

NUMPY = """
import sys, time, numpy as np
dtype, n = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(1)
a, b, c = (rng.uniform(0.5, 1, (n, n)).astype(dtype) for _ in range(3))
np.matmul(a, b, out=c)
for _ in sys.stdin:
    rates = []
    while len(rates) < 5:
        loops, started = 0, time.perf_counter()
        while time.perf_counter() - started < 0.05:
            np.matmul(a, b, out=c)
            loops += 1
        rates.append(2 * n**3 * loops / (time.perf_counter() - started) / 1e9)
    print(sorted(rates)[2], flush=True)
"""


@contextmanager
def _numpy(dtype: str, n: int, cpus: tuple[int, ...]) -> Iterator[Figure]:
    unset = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # would slow a current OpenBLAS down
    env = {name: value for name, value in os.environ.items() if name not in unset}
    env["OPENBLAS_NUM_THREADS"] = str(len(cpus))
    words = ["taskset", "-c", ",".join(map(str, cpus)), sys.executable, "-c", NUMPY, dtype, str(n)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as child:

        def take() -> float:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write("\n")
            child.stdin.flush()
            return float(child.stdout.readline())

        yield take
        assert child.stdin is not None
        child.stdin.close()


def duels(ring: Ring) -> Iterator[Duel | Missing]:
    """Square matrices in one thread."""
    cpu = ring.machine.allowed_cpus[:1]
    for kernel, dtype, size in (("gemm_f32", "f4", 4), ("gemm_f64", "f8", 8)):
        for n in (1024, 2048):
            shape = {"m": n, "n": n, "k": n}
            case = ring.case(kernel, cpu, "thp", "best", gemm.bytes_needed(n, n, n, size), params=shape)
            with _numpy(dtype, n, cpu) as theirs:
                ours = {"best": ring.ours(case)}
                yield ring.duel(f"{kernel} n={n}, 1 thread", "GFLOP/s", ours, {"numpy": theirs}, lower=False)
