# SPDX-License-Identifier: Apache-2.0
"""How a multiplication is laid out in a buffer and split over a team."""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise

from numabench import _core
from numabench.errors import NumabenchError
from numabench.memory import Buffer
from numabench.series import Case

ALIGN = 4096
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
                c=(self.region, self.c + (r0 * self.n + c0) * size),
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
        dtype = "f4" if self.kernel.element_bytes == 4 else "f8"
        view = self.region.as_array("u1")
        try:
            a = self._matrix(view, self.a, self.m, self.k, dtype)
            b = self._matrix(view, self.b, self.k, self.n, dtype)
            c = self._matrix(view, self.c, self.m, self.n, dtype)
            rows = np.unique(np.linspace(0, self.m - 1, 3).astype(int))
            truth = a[rows].astype("f8") @ b.astype("f8")
            error = float(np.max(np.abs(c[rows] - truth) / np.abs(truth)))
        finally:
            a = b = c = view = truth = None
        if error > (1e-4 if dtype == "f4" else 1e-12):
            raise NumabenchError(f"{self.kernel.name}: the result is off by {error:.1e}")

    def checksum(self, buffer: Buffer) -> str:
        """Digest of C."""
        with memoryview(buffer.region) as whole:
            end = self.c + self.m * self.n * self.kernel.element_bytes
            with whole[self.c : end] as part:
                return hashlib.blake2b(part, digest_size=8).hexdigest()

    @staticmethod
    def _matrix(view, offset: int, rows: int, columns: int, dtype: str):  # type: ignore[no-untyped-def]
        size = int(dtype[1])
        return view[offset : offset + rows * columns * size].view(dtype).reshape(rows, columns)


def _cuts(total: int, parts: int, unit: int) -> list[tuple[int, int]]:
    """Split a length into parts that are whole multiples of the micro-kernel, as even as that allows."""
    units = -(-total // unit)
    bounds = [min(units * i // parts * unit, total) for i in range(parts + 1)]
    return list(pairwise(bounds))
