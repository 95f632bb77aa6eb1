# SPDX-License-Identifier: Apache-2.0
"""Every GEMM kernel against numpy. Operands are small whole numbers, so that results are exact in any order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle, product
from typing import Any

import numpy as np
import pytest

from numabench import _core, kernels

Shape = tuple[int, int, int]
Pair = tuple[float, float]

TIERS = _core.tiers()
GEMM = [kernel for _, _, _, found in TIERS for kernel in found if kernel.family == "gemm"]
USABLE = [kernel for _, _, usable, found in TIERS for kernel in found if usable and kernel.family == "gemm"]
TYPES = {"f32": ("f4", "f4"), "f64": ("f8", "f8"), "bf16": ("u2", "f4"), "s8": ("i1", "i4")}  # of A and B, of C
DEPTHS = (0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 70)
SCALARS: tuple[Pair, ...] = ((1.0, 0.0), (1.0, 1.0), (-0.5, 2.0), (2.0, 0.5), (0.0, 1.0), (0.0, 0.0))  # alpha, beta
PADDING = (0, 1, 5)  # elements between rows
# Beyond one block in every tier: of columns and depth, and of rows.
LARGE: tuple[Shape, ...] = ((37, 1061, 531), (3601, 5, 19), (1, 700, 900), (130, 1, 401))


def named(kernel: _core.Kernel) -> str:
    return "-".join(filter(None, (kernel.tier, kernel.name, kernel.variant)))


def whole(dtype: str, values: Any) -> Any:
    """Whole numbers in a type; u2 stands for bf16, the upper half of an f32."""
    return (values.astype("f4").view("u4") >> 16).astype("u2") if dtype == "u2" else values.astype(dtype)


def plain(values: Any) -> Any:
    """What they are worth, exactly."""
    if values.dtype == "u2":
        values = (values.astype("u4") << 16).view("f4")
    return values.astype("i8" if values.dtype.kind == "i" else "f8")


class Bench:
    """One pinned thread, and a region between guard pages for each of A, B, C and the scratch."""

    def __init__(self, team: _core.Team, regions: list[_core.Region], types: tuple[str, str]) -> None:
        self.team, self.regions, self.types = team, regions, types
        self.rng = np.random.default_rng(1)

    def matrix(self, i: int, rows: int, columns: int, leading: int, at_end: bool) -> tuple[int, Any]:
        """Byte offset and view of a matrix that ends with region ``i`` or begins one element behind its start."""
        dtype = self.types[i == 2]
        everything = self.regions[i].as_array(dtype)
        count = (rows - 1) * leading + columns if rows and columns else 0
        first = len(everything) - count if at_end else 1
        step = everything.itemsize
        view = np.lib.stride_tricks.as_strided(everything[first:], (rows, columns), (leading * step, step))
        span = 128 if dtype == "i1" else 5
        view[:] = whole(dtype, self.rng.integers(-span + (span < 9), span, view.shape))
        return first * step, view

    def check(
        self,
        kernel: _core.Kernel,
        shape: Shape,
        scalars: Pair,
        pads: Shape,
        at_end: bool = True,
        loops: int = 1,
        infinite: bool = False,
        layout: str = "nn",
        blocks: Shape = (0, 0, 0),
    ) -> None:
        (m, n, k), (alpha, beta) = shape, scalars
        for region in self.regions:  # not a number wherever no operand is
            region.as_array("u1")[:] = 0xFF
        (rows_a, across_a), (rows_b, across_b) = (
            shape[::-1] if how == "t" else shape for shape, how in zip(((m, k), (k, n)), layout, strict=True)
        )
        lda, ldb, ldc = across_a + pads[0], across_b + pads[1], n + pads[2]
        at_a, a = self.matrix(0, rows_a, across_a, lda, at_end)
        at_b, b = self.matrix(1, rows_b, across_b, ldb, at_end)
        at_c, c = self.matrix(2, m, n, ldc, at_end)
        if infinite:
            a[0, 0] = b[0, 0] = 0x7F80 if self.types[0] == "u2" else np.inf
        want = self.regions[2].as_array(self.types[1]).copy()
        exact = self.types[1] == "i4"
        if beta == 0:
            c[:] = 77 if exact else np.nan
        first = at_c // want.itemsize
        result = np.lib.stride_tricks.as_strided(want[first:], (m, n), (ldc * want.itemsize, want.itemsize))
        with np.errstate(invalid="ignore"):
            left, right = (plain(x).T if how == "t" else plain(x) for x, how in zip((a, b), layout, strict=True))
            once = (int(alpha) if exact else alpha) * (left @ right)
        for _ in range(loops):
            result[:] = once + ((int(beta) if exact else beta) * plain(result) if beta else 0)
        inputs = [self.regions[i].as_array("u1").copy() for i in (0, 1)]
        room = kernel.gemm_scratch(m, n, k, blocks)
        ra, rb, rc, scratch = self.regions
        work = _core.Work(
            kernel, a=(ra, at_a), b=(rb, at_b), c=(rc, at_c), scratch=(scratch, 0),
            m=m, n=n, k=k, lda=lda, ldb=ldb, ldc=ldc, alpha=alpha, beta=beta, layout=layout, blocks=blocks, loops=loops,
        )  # fmt: skip
        stamp = self.team.run([work])[0]
        where = f"{shape} {layout}, alpha {alpha}, beta {beta}, {pads} between rows, {'end' if at_end else 'begin'}"
        # Equal in value (-0 is 0), and not a number exactly where nothing was to be written.
        assert np.array_equal(self.regions[2].as_array(self.types[1]), want, equal_nan=not exact), where
        assert all(np.array_equal(self.regions[i].as_array("u1"), inputs[i]) for i in (0, 1)), where
        assert (self.regions[3].as_array("u1")[room:] == 0xFF).all(), where
        assert stamp.elements == loops * m * n * k, where


@contextmanager
def bench_for(kernel: _core.Kernel, shape: Shape) -> Iterator[Bench]:
    if kernel not in USABLE:
        pytest.skip("this CPU does not run it")
    m, n, k = (count + max(PADDING) for count in shape)
    with ExitStack() as stack:
        team = stack.enter_context(_core.Team(_core.affinity()[:1]))
        sizes = [count * each for count, each in zip((m * k, k * n, m * n), kernel.sizes, strict=True)]
        sizes.append(kernel.gemm_scratch(m, n, k) * 2 + 4096)
        yield Bench(team, [stack.enter_context(_core.Region(size)) for size in sizes], TYPES[kernel.name[5:]])


@pytest.fixture(scope="module", params=GEMM, ids=named)
def small(request: pytest.FixtureRequest) -> Iterator[tuple[_core.Kernel, Bench]]:
    with bench_for(request.param, (64, 140, 80)) as bench:
        yield request.param, bench


def test_every_tier_has_all_types() -> None:
    assert {(k.tier, k.name[5:]) for k in GEMM} == set(product(kernels.tiers(), TYPES))
    assert all(k.sizes[0] == k.sizes[1] == k.element_bytes and k.flops == 2 for k in GEMM)
    assert all(k.sizes[::2] == tuple(np.dtype(t).itemsize for t in TYPES[k.name[5:]]) for k in GEMM)


def test_the_variants_of_the_instructions_for_it() -> None:
    found = {(k.name, k.variant) for k in GEMM if k.tier == "avx512"}
    if "avx512" in kernels.tiers():
        assert found >= {("gemm_bf16", "widened"), ("gemm_s8", "widened")}


def test_int8_wraps_around_where_it_must(small: tuple[_core.Kernel, Bench]) -> None:
    kernel, bench = small
    if bench.types[1] != "i4":
        pytest.skip("int8 only")
    for extreme_a, extreme_b in product((-128, 127), repeat=2):
        regions = bench.regions
        regions[0].as_array("i1")[: 15 * 75], regions[1].as_array("i1")[: 75 * 35] = extreme_a, extreme_b
        work = _core.Work(
            kernel, a=(regions[0], 0), b=(regions[1], 0), c=(regions[2], 0), scratch=(regions[3], 0),
            m=15, n=35, k=75, lda=75, ldb=35, ldc=35, alpha=1 << 20, loops=1,
        )  # fmt: skip
        bench.team.run([work])
        wanted = np.array([extreme_a * extreme_b * 75 << 20]).astype("i4")[0]
        assert (regions[2].as_array("i4")[: 15 * 35] == wanted).all()


def test_sizes_around_the_micro_kernel(small: tuple[_core.Kernel, Bench]) -> None:
    kernel, bench = small
    mr, nr = kernel.shape
    widths = sorted({0, 1, 2, 3, nr // 2, nr - 1, nr, nr + 1, 2 * nr - 1, 2 * nr, 2 * nr + 3})
    depths, scalars, layouts = cycle(DEPTHS), cycle(SCALARS), cycle(("nn", "nt", "tn", "nn", "tt"))
    for m, n, at_end in product(range(2 * mr + 3), widths, (False, True)):
        bench.check(
            kernel, (m, n, next(depths)), next(scalars), (m % 2, n % 3, (m + n) % 3), at_end, layout=next(layouts)
        )


def test_every_depth_with_all_scalars(small: tuple[_core.Kernel, Bench]) -> None:
    kernel, bench = small
    mr, nr = kernel.shape
    for k, scalars, pads in product(range(35), SCALARS, ((0, 0, 0), (5, 1, 5))):
        bench.check(kernel, (mr + 1, nr + 1, k), scalars, pads)
    for k, layout in product(range(35), _core.LAYOUTS):
        bench.check(kernel, (mr + 1, nr + 1, k), SCALARS[k % len(SCALARS)], (5, 1, 5), layout=layout)


def test_loops_are_whole_multiplications(small: tuple[_core.Kernel, Bench]) -> None:
    kernel, bench = small
    for scalars in SCALARS:
        bench.check(kernel, (17, 33, 20), scalars, (1, 1, 1), loops=3)


def test_infinity_stays_in_its_row_and_column(small: tuple[_core.Kernel, Bench]) -> None:
    kernel, bench = small
    if bench.types[1] == "i4":
        pytest.skip("whole numbers have no infinity")
    mr, nr = kernel.shape
    for m, n, k, layout in product((1, mr, mr + 1), (1, nr, nr + 1), (1, 5, 16, 17), _core.LAYOUTS):
        bench.check(kernel, (m, n, k), (1.0, 0.0), (1, 1, 1), infinite=True, layout=layout)


@pytest.mark.parametrize("kernel", GEMM, ids=named)
def test_more_than_one_block(kernel: _core.Kernel) -> None:
    for shape, scalars, layout in zip(LARGE, SCALARS, _core.LAYOUTS, strict=False):
        with bench_for(kernel, shape) as bench:
            bench.check(kernel, shape, scalars, (1, 5, 1))
            bench.check(kernel, shape, scalars, (1, 5, 1), layout=layout)


def test_blocks_of_any_size(small: tuple[_core.Kernel, Bench]) -> None:
    kernel, bench = small
    for blocks, layout in product(((1, 1, 1), (17, 40, 50), (40, 3, 1), (1, 80, 0), (0, 20, 1000)), _core.LAYOUTS):
        bench.check(kernel, (64, 140, 80), (1.0, 2.0), (1, 5, 1), layout=layout, blocks=blocks)
