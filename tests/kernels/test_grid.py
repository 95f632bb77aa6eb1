# SPDX-License-Identifier: Apache-2.0
"""How a multiplication is split over threads: nothing left out or done twice, nobody idle, nobody with much more."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest

from numabench import _core, kernels
from numabench.gemm import GemmPlan, bytes_needed, cached_blocks, grid

MR, NR = 14, 32
SHAPES = ((2048, 2048), (1000, 1000), (512, 4096), (2047, 2049), (384, 64), (37, 4000), (1, 4096), (4096, 1), (5, 3))


def tiles(length: int, unit: int) -> int:
    return -(-length // unit)


def shares(threads: int, m: int, n: int) -> list[int]:
    """Tiles of each thread."""
    return [tiles(r1 - r0, MR) * tiles(c1 - c0, NR) for (r0, r1), (c0, c1) in grid(threads, m, n, MR, NR)]


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 7, 12, 13, 31, 64])
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_every_element_once_in_whole_tiles(threads: int, m: int, n: int) -> None:
    done = np.zeros((m, n), "u1")
    blocks = grid(threads, m, n, MR, NR)
    for (r0, r1), (c0, c1) in blocks:
        assert r0 % MR == 0 or r0 == m
        assert c0 % NR == 0 or c0 == n
        done[r0:r1, c0:c1] += 1
    assert len(blocks) == threads
    assert (done == 1).all()


@pytest.mark.parametrize("threads", [*range(1, 14), 31, 48, 64])
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_no_thread_idles_where_a_side_has_tiles_for_all(threads: int, m: int, n: int) -> None:
    if max(tiles(m, MR), tiles(n, NR)) >= threads:
        assert min(shares(threads, m, n)) > 0


@pytest.mark.parametrize("threads", range(2, 8))
@pytest.mark.parametrize(("m", "n"), [(2048, 2048), (2047, 2049), (1000, 1000)])
def test_shares_are_even_on_large_shapes(threads: int, m: int, n: int) -> None:
    assert max(shares(threads, m, n)) * threads <= 1.025 * tiles(m, MR) * tiles(n, NR)


@pytest.mark.parametrize("threads", [*range(1, 14), 31, 48, 64])
@pytest.mark.parametrize(("m", "n"), [(1, 4096), (14, 1000), (4096, 1), (2000, 32)])
def test_a_strip_is_cut_to_within_one_tile(threads: int, m: int, n: int) -> None:
    assert max(shares(threads, m, n)) == -(-tiles(m, MR) * tiles(n, NR) // threads)


@pytest.mark.parametrize("threads", range(2, 8))
@pytest.mark.parametrize("name", ["gemm_f32", "gemm_s8"])
@pytest.mark.parametrize("layout", _core.LAYOUTS)
def test_a_team_multiplies_as_numpy(threads: int, name: str, layout: str) -> None:
    kernel, (m, n, k) = kernels.kernel(name), (211, 157, 65)
    cpus = tuple((_core.affinity() * threads)[:threads])
    case = SimpleNamespace(cpus=cpus, params={"m": m, "n": n, "k": k, "layout": layout})
    with ExitStack() as stack:
        region = stack.enter_context(_core.Region(bytes_needed(m, n, k, 4)))
        plan = GemmPlan(kernel, case, region)  # type: ignore[arg-type]
        dtypes = ("f4", "f4") if name == "gemm_f32" else ("i1", "i4")
        region.as_array("u1")[:] = 0xFF
        rng, views = np.random.default_rng(1), []
        for at, rows, columns, kind, how in (
            (plan.a, m, k, dtypes[0], layout[0]),
            (plan.b, k, n, dtypes[0], layout[1]),
            (plan.c, m, n, dtypes[1], "n"),
        ):
            flat = region.as_array("u1")[at : at + rows * columns * int(kind[1])].view(kind)
            views.append(flat.reshape(columns, rows).T if how == "t" else flat.reshape(rows, columns))
        views[0][:], views[1][:] = rng.integers(-5, 5, (m, k)), rng.integers(-5, 5, (k, n))
        scratch = [stack.enter_context(_core.Region(plan.scratch_bytes)) for _ in cpus]
        team = stack.enter_context(_core.Team(cpus))
        stamps = team.run(plan.works(scratch, 1))
        a, b, c = (np.array(view, "f8") for view in views)
        del views, flat
        assert np.array_equal(c, a @ b)
        assert sum(stamp.elements for stamp in stamps) == m * n * k


GEMM = [k for tier in kernels.tiers().values() for k in tier.kernels.values() if k.family == "gemm"]


def with_l2(size: int, *sharing: tuple[int, ...]) -> SimpleNamespace:
    """A machine with an L2 of that size for each group of CPUs, and caches that are no L2."""
    others = [SimpleNamespace(level=1, type="data", bytes=1 << 15, cpus=(0,))]
    return SimpleNamespace(
        caches=[*others, *(SimpleNamespace(level=2, type="unified", bytes=size, cpus=cpus) for cpus in sharing)]
    )


@pytest.mark.parametrize("kernel", GEMM, ids=lambda k: f"{k.tier}-{k.name}")
@pytest.mark.parametrize("l2", [1 << 17, 1 << 18, 1 << 19, 1 << 20, 5 << 18, 1 << 21])
def test_a_block_of_b_takes_half_of_l2(kernel: _core.Kernel, l2: int) -> None:
    mc, kc, nc = cached_blocks(kernel, with_l2(l2, (0,), (1,)), (0, 1))  # type: ignore[arg-type]
    nr = kernel.shape[1]
    column = kernel.depth_bytes
    assert (mc, kc) == kernel.blocks[:2]
    assert nc % nr == 0
    assert nc * column <= l2 // 2 < (nc + nr) * column


def test_blocks_of_shared_and_unknown_caches() -> None:
    kernel = kernels.kernel("gemm_f32")
    shared = with_l2(1 << 21, (0, 1), (2, 3))
    assert cached_blocks(kernel, shared, (0, 1)) == cached_blocks(kernel, with_l2(1 << 20, (0,), (1,)), (0, 1))  # type: ignore[arg-type]
    assert cached_blocks(kernel, shared, (0, 2)) == cached_blocks(kernel, with_l2(1 << 21, (0,)), (0,))  # type: ignore[arg-type]
    assert cached_blocks(kernel, with_l2(1 << 20, (7,)), (0,)) == (0, 0, 0)  # type: ignore[arg-type]
    assert cached_blocks(kernel, None, (0,)) == (0, 0, 0)


@pytest.mark.parametrize("kernel", GEMM, ids=lambda k: f"{k.tier}-{k.name}")
def test_blocks_of_1_mib_are_the_kernels_own(kernel: _core.Kernel) -> None:
    """What the x86 kernels fall back to was measured to be best with an L2 of 1 MiB."""
    if kernel.tier in ("avx2", "avx512"):
        assert cached_blocks(kernel, with_l2(1 << 20, (0,)), (0,)) == kernel.blocks  # type: ignore[arg-type]
