# SPDX-License-Identifier: Apache-2.0
"""How a multiplication is laid out in a buffer and split over a team."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from numabench import _core
from numabench.errors import NumabenchError
from numabench.machine import Machine
from numabench.memory import Buffer
from numabench.series import Case

ALIGN = 4096
TYPES = {"f32": ("f4", "f4", "f4"), "f64": ("f8", "f8", "f8"), "bf16": ("u2", "u2", "f4"), "s8": ("i1", "i1", "i4")}
"""numpy's types of A, B and C; bf16 is the upper half of an f32, and A is f32 beside few rows of it."""
Block = tuple[tuple[int, int], tuple[int, int]]
"""Rows and columns, each from and up to."""
PACK = 30  # multiply-adds (f32) in the time of packing an element: 2048 rows by 32 to 128 columns against 2048, Zen 5
CHECKED = 2048  # columns at most whose results are compared
UNIT = 16  # columns that threads with all rows share out
GUARD = 64  # bytes between matrices, so that equal columns do not share cache sets


def bytes_needed(m: int, n: int, k: int, element: int | tuple[int, int, int]) -> int:
    """Bytes of A, B and C with their padding; ``element`` bytes each, or of each."""
    sizes = (element,) * 3 if isinstance(element, int) else element
    return sum(
        -(-count * size // ALIGN) * ALIGN + ALIGN for count, size in zip((m * k, k * n, m * n), sizes, strict=True)
    )


def side(size: int, element: int) -> int:
    """Rows of the largest square A, B and C that fit in so many bytes, a multiple of 16 and at least that."""
    return max(math.isqrt(max(size - 6 * ALIGN, 0) // (3 * element)) // 16 * 16, 16)


def grid(threads: int, m: int, n: int, mr: int = 1, nr: int = 1) -> list[Block]:
    """One block of C per thread, whole tiles of mr x nr but at the ends, some empty where there are fewer tiles.

    Of bands of rows (or of columns), each as high as its share of the threads and cut evenly among them: those whose
    largest block takes least, its packing included; among equals those with the fewest empty blocks, then those that
    pack least. Bands may differ by one thread, so that a prime number of threads needs no long strips.
    """
    counts = range(1, threads + 1)
    plans = [_bands(threads, bands, m, n, mr, nr) for bands in counts]
    plans += [[(rows, columns) for columns, rows in _bands(threads, bands, n, m, nr, mr)] for bands in counts]

    def cost(blocks: list[Block]) -> tuple[int, int, int]:
        sides = [(-(-(r1 - r0) // mr) * mr, -(-(c1 - c0) // nr) * nr) for (r0, r1), (c0, c1) in blocks]
        busy = [(h, w) for h, w in sides if h and w]
        largest = max((h * w + PACK * (h + w) for h, w in busy), default=0)
        return largest, threads - len(busy), sum(h + w for h, w in busy)

    return min(plans, key=cost)


def cached_blocks(kernel: _core.Kernel, machine: Machine | None, cpus: Sequence[int]) -> tuple[int, int, int]:
    """mc, kc and nc for threads on these CPUs; zeros (the kernel's own) where the machine tells no L2.

    A packed block of B, kc x nc, takes half of a thread's part of L2, so that neither it nor the strip of C that passes
    by has to go (Goto and van de Geijn, ACM TOMS 34(3), 2008). The kernel's kc is as deep as one line of vectors of B
    allows; mc only bounds how much of A is packed at a time, far beyond L2. Threads that share an L2 share it equally.
    """
    caches = [c for c in machine.caches if c.level == 2 and c.type != "instruction"] if machine else []
    parts = [c.bytes // len(mine) for c in caches if (mine := set(c.cpus) & set(cpus))]
    if not parts or not kernel.depth_bytes:
        return 0, 0, 0
    mc, kc, _ = kernel.blocks
    nr = kernel.shape[1]
    return mc, kc, max(min(parts) // 2 // kernel.depth_bytes // nr * nr, nr)


class GemmPlan:
    """C = A B for one case: offsets of A, B and C in the region, one sub-block of C per thread.

    The case's ``layout``, nn where it has none, says how A and B lie (_core.LAYOUTS). ``whole`` rows: every thread has
    all rows of A and columns of its own, as weights are shared out; few rows (gemv) always are, and their B is n x k.
    """

    def __init__(self, kernel: _core.Kernel, case: Case, region: _core.Region, machine: Machine | None = None) -> None:
        self.kernel, self.region, self.threads = kernel, region, len(case.cpus)
        self.m, self.n, self.k = (int(case.params[name]) for name in "mnk")
        self.few = kernel.family == "gemv"
        self.layout = "nt" if self.few else str(case.params.get("layout", "nn"))
        self.types = TYPES[kernel.name.partition("_")[2]]
        if self.few and kernel.sizes[0] == 4:
            self.types = ("f4", *self.types[1:])
        self.a = 0
        self.b = -(-self.m * self.k * kernel.sizes[0] // ALIGN) * ALIGN + GUARD * 3
        self.c = -(-(self.b + self.k * self.n * kernel.sizes[1]) // ALIGN) * ALIGN + GUARD * 7
        self.cached = (0, 0, 0) if self.few else cached_blocks(kernel, machine, case.cpus)
        if self.few or case.params.get("whole"):
            self.blocks = [((0, self.m), part) for part in _cuts(self.n, [1] * self.threads, UNIT)]
        else:
            self.blocks = grid(self.threads, self.m, self.n, *kernel.shape)

    @property
    def scratch_bytes(self) -> int:
        """Packing buffer of the thread with the largest block."""
        rooms = [self.kernel.gemm_scratch(r1 - r0, c1 - c0, self.k, self.cached) for (r0, r1), (c0, c1) in self.blocks]
        return max(ALIGN, *rooms)

    def works(self, scratch: list[_core.Region], loops: int = 0) -> list[_core.Work]:
        """Multiplications of a block of C per thread: so many, or (0) until the window ends."""
        lda, row = (self.m, 1) if self.layout[0] == "t" else (self.k, self.k)
        ldb, column = (self.k, self.k) if self.layout[1] == "t" else (self.n, 1)
        return [
            _core.Work(
                self.kernel,
                a=(self.region, self.a + r0 * row * self.kernel.sizes[0]),
                b=(self.region, self.b + c0 * column * self.kernel.sizes[1]),
                c=(self.region, self.c + (r0 * self.n + c0) * self.kernel.sizes[2]),
                scratch=(place, 0),
                m=r1 - r0,
                n=c1 - c0,
                k=self.k,
                lda=lda,
                ldb=ldb,
                ldc=self.n,
                layout="nn" if self.few else self.layout,
                blocks=self.cached,
                block=1,
                loops=loops,
            )
            for ((r0, r1), (c0, c1)), place in zip(self.blocks, scratch, strict=True)
        ]

    def check(self, team: _core.Team, works: list[_core.Work]) -> None:
        """Do the works and compare some elements with numpy in double precision. Raises NumabenchError."""
        import numpy as np

        team.run(works)
        source, weights, result = self.types
        view = self.region.as_array("u1")
        try:
            a = self._matrix(view, self.a, self.m, self.k, source, self.layout[0])
            b = self._matrix(view, self.b, self.k, self.n, weights, self.layout[1])
            c = self._matrix(view, self.c, self.m, self.n, result)
            rows, columns = (
                np.unique(np.linspace(0, n - 1, most).astype(int)) for n, most in ((self.m, 3), (self.n, CHECKED))
            )
            truth = _worth(a[rows]) @ _worth(b[:, columns])
            error = float(np.max(np.abs(c[np.ix_(rows, columns)] - truth) / np.maximum(np.abs(truth), 1e-30)))
        finally:
            a = b = c = view = truth = None
        if error > {"f4": 1e-4, "f8": 1e-12, "i4": 0}[result]:
            raise NumabenchError(f"{self.kernel.name}: the result is off by {error:.1e}")

    def fill(self, team: _core.Team, seed: int) -> None:
        """Values as a model's weights have them, where those that the buffer was filled with mean nothing."""
        rows = _core.setup_kernel("fill_rows")
        shapes = ((self.a, self.m, self.k, self.kernel.sizes[0]), (self.b, self.k, self.n, self.kernel.sizes[1]))
        if any(size < 4 for *_, size in shapes):
            for at, m, n, size in shapes:
                place = (self.region, at)
                team.run([_core.Work(rows, a=place, chains=size, m=m, n=n, lda=n, scalar=1.0, seed=seed, loops=1)])

    def checksum(self, buffer: Buffer) -> str:
        """Digest of C."""
        with memoryview(buffer.region) as whole:
            end = self.c + self.m * self.n * self.kernel.sizes[2]
            with whole[self.c : end] as part:
                return hashlib.blake2b(part, digest_size=8).hexdigest()

    @staticmethod
    def _matrix(view, offset: int, rows: int, columns: int, dtype: str, how: str = "n"):  # type: ignore[no-untyped-def]
        found = view[offset : offset + rows * columns * int(dtype[1])].view(dtype)
        return found.reshape(columns, rows).T if how == "t" else found.reshape(rows, columns)


def _worth(values: Any) -> Any:
    """As float64; u2 is bf16."""
    return ((values.astype("u4") << 16).view("f4") if values.dtype == "u2" else values).astype("f8")


def _bands(threads: int, bands: int, m: int, n: int, mr: int, nr: int) -> list[Block]:
    """Bands of rows with as many threads each, but for one, and within each as many blocks side by side."""
    many = [threads * (i + 1) // bands - threads * i // bands for i in range(bands)]
    return [
        (rows, columns)
        for rows, each in zip(_cuts(m, many, mr), many, strict=True)
        for columns in _cuts(n, [1] * each, nr)
    ]


def _cuts(total: int, shares: list[int], unit: int) -> list[tuple[int, int]]:
    """Split a length by shares into whole multiples of a unit, as even as that allows."""
    units, whole = -(-total // unit), sum(shares)
    bounds = [min(units * part // whole * unit, total) for part in accumulate(shares, initial=0)]
    return list(pairwise(bounds))
