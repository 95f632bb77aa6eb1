# SPDX-License-Identifier: Apache-2.0
"""Every gemv kernel, in every variant that this CPU runs, against numpy: exact, as operands are small whole numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle, pairwise, product
from typing import Any

import numpy as np
import pytest

from numabench import _core, kernels

GEMV = [k for name, _, usable, found in _core.tiers() for k in found if usable and k.family == "gemv"]
NAMES = {"gemv_f32", "gemv_f64", "gemv_bf16", "gemv_s8"}
TYPES = {"f32": ("f4", "f4", "f4"), "f64": ("f8", "f8", "f8"), "bf16": ("f4", "u2", "f4"), "s8": ("i1", "i1", "i4")}
ROWS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65)
COLUMNS = (0, 1, 2, 7, 8, 9, 17)
DEPTHS = (0, 1, 3, 7, 8, 15, 16, 17, 31, 63, 64, 65, 130, 700)
SCALARS = ((1.0, 0.0), (1.0, 1.0), (-2.0, 3.0), (0.0, 1.0))  # alpha, beta
LARGE = (67, 20, 5000)  # deeper than one block of A


def named(kernel: _core.Kernel) -> str:
    return "-".join(filter(None, (kernel.tier, kernel.name, kernel.variant)))


def bf16(values: Any) -> Any:
    """The upper halves of f32 values that have nothing in the lower ones."""
    return (values.astype("f4").view("u4") >> 16).astype("u2")


class Bench:
    """One pinned thread, and a region between guard pages for each of A, B, C and the scratch."""

    def __init__(self, team: _core.Team, regions: list[_core.Region]) -> None:
        self.team, self.regions = team, regions
        self.rng = np.random.default_rng(1)

    def matrix(self, i: int, rows: int, columns: int, leading: int, dtype: str, at_end: bool) -> tuple[int, Any, Any]:
        """Byte offset, view, and the values (whole numbers) put there."""
        everything = self.regions[i].as_array("u1")
        step = np.dtype(dtype).itemsize
        count = ((rows - 1) * leading + columns) * step if rows and columns else 0
        first = len(everything) - count if at_end else step
        view = np.lib.stride_tricks.as_strided(
            everything[first : first + count].view(dtype), (rows, columns), (leading * step, step)
        )
        values = self.rng.integers(-128 if dtype == "i1" else -4, 128 if dtype == "i1" else 5, view.shape)
        view[:] = bf16(values) if dtype == "u2" else values
        return first, view, values

    def check(
        self,
        kernel: _core.Kernel,
        shape: tuple[int, int, int],
        scalars: tuple[float, float],
        pad: int,
        at_end: bool,
    ) -> None:
        (m, n, k), (alpha, beta) = shape, scalars
        kind = kernel.name.split("_")[1]
        for region in self.regions:  # not a number, or -1, wherever no operand is
            region.as_array("u1")[:] = 0xFF
        lda, ldb, ldc = k + pad, k + 2 * pad, n + pad
        ta, tb, tc = TYPES[kind]
        at_a, _, a = self.matrix(0, m, k, lda, ta, at_end)
        at_b, _, b = self.matrix(1, n, k, ldb, tb, at_end)
        at_c, c, before = self.matrix(2, m, n, ldc, tc, at_end)
        if beta == 0 and kind != "s8":
            c[:] = np.nan
        held = self.regions[2].as_array("u1").copy()
        size = np.dtype(tc).itemsize
        want = np.lib.stride_tricks.as_strided(held[at_c:].view(tc) if m and n else c, (m, n), (ldc * size, size))
        want[:] = int(alpha) * (a @ b.T) + (int(beta) * before if beta else 0)
        inputs = [self.regions[i].as_array("u1").copy() for i in (0, 1)]
        room = kernel.gemm_scratch(m, n, k)
        work = _core.Work(
            kernel, a=(self.regions[0], at_a), b=(self.regions[1], at_b), c=(self.regions[2], at_c),
            scratch=(self.regions[3], 0), m=m, n=n, k=k, lda=lda, ldb=ldb, ldc=ldc, alpha=alpha, beta=beta, loops=1,
        )  # fmt: skip
        stamp = self.team.run([work])[0]
        where = f"{shape}, {scalars}, {pad} between rows, {'end' if at_end else 'begin'}"
        assert np.array_equal(c, want), where
        c[:] = want = c.copy()  # -0 is 0
        np.lib.stride_tricks.as_strided(held[at_c:].view(tc) if m and n else c, (m, n), (ldc * size, size))[:] = want
        assert np.array_equal(self.regions[2].as_array("u1"), held), where
        assert all(np.array_equal(self.regions[i].as_array("u1"), inputs[i]) for i in (0, 1)), where
        assert (self.regions[3].as_array("u1")[room:] == 0xFF).all(), where
        assert stamp.elements == m * n * k, where


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        team = stack.enter_context(_core.Team(_core.affinity()[:1]))
        sizes = (70 * 5100 * 8, 30 * 5100 * 8, 70 * 40 * 8, max(k.gemm_scratch(1, 1, 1) for k in GEMV) + 4096)
        yield Bench(team, [stack.enter_context(_core.Region(size)) for size in sizes])


def test_every_tier_has_every_type() -> None:
    for tier in kernels.tiers().values():
        assert {k.name for k in tier.kernels.values() if k.family == "gemv"} == NAMES


def test_the_last_of_several_variants_is_the_one_that_runs() -> None:
    for name, _, _, found in _core.tiers():
        for kernel in found:
            last = [k.variant for k in found if k.name == kernel.name][-1]
            assert kernels.tiers()[name].kernels[kernel.name].variant == last


@pytest.mark.parametrize("kernel", GEMV, ids=named)
def test_shapes(kernel: _core.Kernel, bench: Bench) -> None:
    depths, scalars, ends = cycle(DEPTHS), cycle(SCALARS), cycle((True, False, True))
    for (m, n), pad in product(product(ROWS, COLUMNS), (0, 3)):
        bench.check(kernel, (m, n, next(depths)), next(scalars), pad, next(ends))


@pytest.mark.parametrize("kernel", GEMV, ids=named)
def test_more_than_one_block(kernel: _core.Kernel, bench: Bench) -> None:
    for scalars in SCALARS:
        bench.check(kernel, LARGE, scalars, 1, True)


@pytest.mark.parametrize("kernel", GEMV, ids=named)
@pytest.mark.parametrize("m", [1, 5, 33])
def test_a_column_is_the_same_to_the_bit_wherever_the_split_is(kernel: _core.Kernel, m: int, bench: Bench) -> None:
    n, k = 29, 517
    ra, rb, rc, scratch = bench.regions
    ta, tb, tc = TYPES[kernel.name.split("_")[1]]
    a, b, c = (r.as_array(t) for r, t in zip((ra, rb, rc), (ta, tb, tc), strict=True))
    a[: m * k] = bench.rng.integers(-100, 100, m * k) if ta == "i1" else bench.rng.uniform(-1, 1, m * k)
    weights = bench.rng.uniform(-1, 1, n * k).astype("f4")
    b[: n * k] = weights.view("u4") >> 16 if tb == "u2" else weights * 100 if tb == "i1" else weights
    seen = []
    for cuts in ((0, n), (0, 1, n), (0, 9, 16, n), (0, 8, 13, 28, n)):
        c[: m * n] = 0
        for first, last in pairwise(cuts):
            work = _core.Work(
                kernel, a=(ra, 0), b=(rb, first * k * b.itemsize), c=(rc, first * c.itemsize), scratch=(scratch, 0),
                m=m, n=last - first, k=k, lda=k, ldb=k, ldc=n, loops=1,
            )  # fmt: skip
            bench.team.run([work])
        seen.append(c[: m * n].copy().view("u1"))
    assert all(np.array_equal(seen[0], other) for other in seen)
