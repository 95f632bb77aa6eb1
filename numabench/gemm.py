# SPDX-License-Identifier: Apache-2.0
"""How a multiplication is laid out in a buffer and split over a team."""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise
from typing import Any

from numabench import _core
from numabench.errors import NumabenchError
from numabench.memory import Buffer
from numabench.series import Case

ALIGN = 4096
TYPES = {"f32": ("f4", "f4"), "f64": ("f8", "f8"), "bf16": ("u2", "f4"), "s8": ("i1", "i4")}
"""numpy's types of A and B, and of C; bf16 is the upper half of an f32."""
GUARD = 64  # bytes between matrices, so that equal columns do not share cache sets


def bytes_needed(m: int, n: int, k: int, element: int) -> int:
    """Bytes of A, B and C with their padding."""
    return sum(-(-size * element // ALIGN) * ALIGN + ALIGN for size in (m * k, k * n, m * n))


def side(size: int, element: int) -> int:
    """Rows of the largest square A, B and C that fit in so many bytes, a multiple of 16 and at least that."""
    return max(math.isqrt(max(size - 6 * ALIGN, 0) // (3 * element)) // 16 * 16, 16)


def grid(threads: int, m: int, n: int) -> tuple[int, int]:
    """Rows x columns of the split of C: the one whose tiles are nearest to square, all threads used."""
    pairs = [(r, threads // r) for r in range(1, threads + 1) if threads % r == 0]
    return min(pairs, key=lambda rc: abs(math.log((m / rc[0]) / (n / rc[1]))))


class GemmPlan:
    """C = A B for one case: offsets of A, B and C in the region, one sub-block of C per thread."""

    def __init__(self, kernel: _core.Kernel, case: Case, region: _core.Region) -> None:
        self.kernel, self.region, self.threads = kernel, region, len(case.cpus)
        self.m, self.n, self.k = (int(case.params[name]) for name in "mnk")
        size = kernel.element_bytes
        self.types = TYPES[kernel.name.removeprefix("gemm_")]
        self.a = 0
        self.b = -(-self.m * self.k * size // ALIGN) * ALIGN + GUARD * 3
        self.c = -(-(self.b + self.k * self.n * size) // ALIGN) * ALIGN + GUARD * 7
        rows, columns = grid(self.threads, self.m, self.n)
        mr, nr = kernel.shape
        self.rows, self.columns = _cuts(self.m, rows, mr), _cuts(self.n, columns, nr)

    @property
    def scratch_bytes(self) -> int:
        """Packing buffer of the thread with the largest block."""
        blocks = [self.kernel.gemm_scratch(r1 - r0, c1 - c0, self.k) for r0, r1 in self.rows for c0, c1 in self.columns]
        return max(*blocks, ALIGN) if len(blocks) > 1 else max(blocks[0], ALIGN)

    def works(self, scratch: list[_core.Region], loops: int = 0) -> list[_core.Work]:
        """Multiplications of a block of C per thread: so many, or (0) until the window ends."""
        size = self.kernel.element_bytes
        blocks = [(rows, columns) for rows in self.rows for columns in self.columns]
        return [
            _core.Work(
                self.kernel,
                a=(self.region, self.a + r0 * self.k * size),
                b=(self.region, self.b + c0 * size),
                c=(self.region, self.c + (r0 * self.n + c0) * self.kernel.sizes[2]),
                scratch=(place, 0),
                m=r1 - r0,
                n=c1 - c0,
                k=self.k,
                lda=self.k,
                ldb=self.n,
                ldc=self.n,
                block=1,
                loops=loops,
            )
            for ((r0, r1), (c0, c1)), place in zip(blocks, scratch, strict=True)
        ]

    def check(self, team: _core.Team, works: list[_core.Work]) -> None:
        """Do the works and compare some elements with numpy in double precision. Raises NumabenchError."""
        import numpy as np

        team.run(works)
        source, result = self.types
        view = self.region.as_array("u1")
        try:
            a = self._matrix(view, self.a, self.m, self.k, source)
            b = self._matrix(view, self.b, self.k, self.n, source)
            c = self._matrix(view, self.c, self.m, self.n, result)
            rows = np.unique(np.linspace(0, self.m - 1, 3).astype(int))
            truth = _worth(a[rows]) @ _worth(b)
            error = float(np.max(np.abs(c[rows] - truth) / np.maximum(np.abs(truth), 1e-30)))
        finally:
            a = b = c = view = truth = None
        if error > {"f4": 1e-4, "f8": 1e-12, "i4": 0}[result]:
            raise NumabenchError(f"{self.kernel.name}: the result is off by {error:.1e}")

    def fill(self, team: _core.Team, seed: int) -> None:
        """Values as a model's weights have them, where those that the buffer was filled with mean nothing."""
        rows, size = _core.setup_kernel("fill_rows"), self.kernel.element_bytes
        if size < 4:
            shapes = ((self.a, self.m, self.k), (self.b, self.k, self.n))
            for at, m, n in shapes:
                place = (self.region, at)
                team.run([_core.Work(rows, a=place, chains=size, m=m, n=n, lda=n, scalar=1.0, seed=seed, loops=1)])

    def checksum(self, buffer: Buffer) -> str:
        """Digest of C."""
        with memoryview(buffer.region) as whole:
            end = self.c + self.m * self.n * self.kernel.sizes[2]
            with whole[self.c : end] as part:
                return hashlib.blake2b(part, digest_size=8).hexdigest()

    @staticmethod
    def _matrix(view, offset: int, rows: int, columns: int, dtype: str):  # type: ignore[no-untyped-def]
        size = int(dtype[1])
        return view[offset : offset + rows * columns * size].view(dtype).reshape(rows, columns)


def _worth(values: Any) -> Any:
    """As float64; u2 is bf16."""
    return ((values.astype("u4") << 16).view("f4") if values.dtype == "u2" else values).astype("f8")


def _cuts(total: int, parts: int, unit: int) -> list[tuple[int, int]]:
    """Split a length into parts that are whole multiples of the micro-kernel, as even as that allows."""
    units = -(-total // unit)
    bounds = [min(units * i // parts * unit, total) for i in range(parts + 1)]
    return list(pairwise(bounds))
