# SPDX-License-Identifier: Apache-2.0
"""Matrix multiplication: OpenBLAS as numpy has it, BLIS, MKL and oneDNN, each in a process of its own."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import click

from benchmarks.peers.blas import WINDOW_S, windows
from benchmarks.peers.duels import Duel, Figure, Missing, Ring
from numabench import gemm, kernels
from numabench.jobs import gemm as job_of

SQUARE = (256, 512, 1024, 2048, 4096)
# m, n, k of the inference presets: prefill of Llama-3.1-8B (512 rows), BERT-large (384), DLRM (2048).
MODELS = {
    "prefill qkv": (512, 6144, 4096),
    "prefill o": (512, 4096, 4096),
    "prefill gate+up": (512, 28672, 4096),
    "prefill down": (512, 4096, 14336),
    "encoder": (384, 1024, 1024),
    "encoder up": (384, 4096, 1024),
    "encoder down": (384, 1024, 4096),
    "encoder scores": (384, 384, 64),
    "encoder values": (384, 64, 384),
    "recsys bottom": (2048, 256, 512),
    "recsys top": (2048, 1024, 1024),
}
TYPES = ("f32", "f64", "bf16", "s8")
SATURATES = "saturates"  # the rival is wrong for large bytes


class Library(NamedTuple):
    """A rival: which of its calls, under what names it is found, for which types, how to get it."""

    calls: str
    names: tuple[str, ...]
    types: tuple[str, ...]
    remedy: str


LIBRARIES = {
    "openblas": Library("numpy", (), ("f32", "f64"), "comes with numpy"),
    "blis": Library("cblas", ("libblis.so.4",), ("f32", "f64"), "apt-get install libblis4-openmp"),
    "mkl": Library("mkl", ("libmkl_rt.so.3", "libmkl_rt.so.2"), TYPES, "pip install mkl"),
    "onednn": Library("onednn", ("libdnnl.so.3",), ("f32", "bf16", "s8"), "pip install onednn-cpu-gomp"),
}


def _find(library: Library, given: str | None) -> str | None:
    """Path of the shared object: as given, in the environment's own lib (where wheels put it), or the system's."""
    for name in (given,) if given else library.names:
        for path in (Path(sys.prefix, "lib", name), Path(name)):
            try:
                ctypes.CDLL(str(path))
            except OSError:
                continue
            return str(path)
    return None


@contextmanager
def _rival(
    library: Library, path: str, kind: str, shape: tuple[int, int, int], cpus: tuple[int, ...]
) -> Iterator[tuple[str, Figure]]:
    """What it says of its result, and its figure."""
    unset = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # would slow a current OpenBLAS down
    env = {name: value for name, value in os.environ.items() if name not in unset}
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"):
        env[name] = str(len(cpus))
    # Debian's BLIS runs generic code on CPUs newer than itself; number 0 is its AVX-512 configuration.
    if kernels.tier().name == "avx512":
        env.setdefault("BLIS_ARCH_TYPE", "0")
    env["MKL_DYNAMIC"] = "FALSE"  # else it takes fewer threads than asked for where it guesses that cores are shared
    env["OMP_PLACES"] = ",".join(f"{{{cpu}}}" for cpu in cpus)
    words = ["taskset", "-c", ",".join(map(str, cpus)), sys.executable, "-m", "benchmarks.peers.blas"]
    words += [library.calls, path, kind, *map(str, shape)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        into, out = child.stdin, child.stdout
        if (said := out.readline().strip()) == "unimplemented":
            raise NotImplementedError
        if said not in ("right", SATURATES):
            raise click.ClickException(f"{' '.join(words)}: {said or f'exit {child.wait()}'}")

        def take() -> float:
            into.write("\n")
            into.flush()
            return float(out.readline())

        yield said, take
        into.close()


def duels(ring: Ring) -> Iterator[Duel | Missing]:
    """Square matrices and the shapes of the presets, each type in one thread and in all, every rival by itself."""
    found = {}
    for rival, library in LIBRARIES.items():
        path = _find(library, ring.programs.get(rival)) if library.names else "-"
        if path is None:
            yield Missing(rival, f"{library.remedy}, or give --program {rival}=PATH of its shared object")
        else:
            found[rival] = path
    every = ring.machine.one_cpu_per_core(ring.machine.allowed_cpus)
    shapes = {f"n={n}": (n, n, n) for n in SQUARE} | MODELS
    for kind in TYPES:
        kernel = kernels.tier().kernels.get(f"gemm_{kind}")
        rivals = [rival for rival in found if kind in LIBRARIES[rival].types]
        if kernel is None or not rivals:
            continue
        for cpus in dict.fromkeys((every[:1], every)):
            for title, shape in shapes.items():
                name = f"{kernel.name} {title}, {len(cpus)} thread{'s' * (len(cpus) > 1)}"
                if ring.wants(name):
                    yield from _against(ring, kernel.name, name, kind, shape, cpus, {r: found[r] for r in rivals})


def _against(
    ring: Ring,
    kernel: str,
    name: str,
    kind: str,
    shape: tuple[int, int, int],
    cpus: tuple[int, ...],
    rivals: dict[str, str],
) -> Iterator[Duel | Missing]:
    m, n, k = shape
    size = max(kernels.kernel(kernel).sizes)
    case = ring.case(kernel, cpus, "thp", "best", gemm.bytes_needed(m, n, k, size), params={"m": m, "n": n, "k": k})
    with ExitStack() as stack:
        buffers = job_of.buffers(ring.hardware, stack, [case], 1)
        job = job_of.prepare(ring.hardware, stack, case, buffers, 1, False)

        def ours() -> float:
            team = ring.hardware.team(cpus)
            return windows(lambda: job.figure(team.run(job.works, window_ns=WINDOW_S * 1e9)))

        theirs: dict[str, Figure] = {}
        for rival, path in rivals.items():
            try:
                said, figure = stack.enter_context(_rival(LIBRARIES[rival], path, kind, shape, cpus))
                theirs[f"{rival}, {said}" if said == SATURATES else rival] = figure
            except NotImplementedError:
                yield Missing(f"{kind} of {rival}", "it has none for this CPU")
        yield from ring.each(name, "GFLOP/s", {"numabench": ours}, theirs, lower=False)
