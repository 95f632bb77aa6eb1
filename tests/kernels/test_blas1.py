# SPDX-License-Identifier: Apache-2.0
"""dot and axpy in every tier and variant against numpy: exact, as operands are small whole numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from numabench import _core, kernels

BLAS1 = [k for name, _, usable, found in _core.tiers() for k in found if usable and k.family == "blas1"]
NAMES = {"dot_f32", "dot_f64", "dot_bf16", "dot_s8", "axpy_f32", "axpy_f64"}
TYPES = {"f32": ("f4", "u4"), "f64": ("f8", "u8"), "bf16": ("u2", "u4"), "s8": ("i1", "u4")}  # elements, bits of a sum
ROOM = 1 << 14
LENGTHS = (0, 1, 2, 3, 7, 8, 9, 31, 63, 64, 65, 127, 128, 129, 511, 1000)


def named(kernel: _core.Kernel) -> str:
    return "-".join(filter(None, (kernel.tier, kernel.name, kernel.variant)))


@pytest.fixture(scope="module")
def bench() -> Iterator[tuple[_core.Team, list[_core.Region]]]:
    with _core.Team(_core.affinity()[:1]) as team:
        regions = [_core.Region(ROOM) for _ in range(2)]
        yield team, regions
        for region in regions:
            region.close()


def worth(values: Any) -> Any:
    return (values.astype("u4") << 16).view("f4").astype("f8") if values.dtype == "u2" else values.astype("f8")


def sum_bits(kind: str, a: Any, b: Any) -> int:
    """What one round of dot returns: the bits of the sum in the type that it is taken in."""
    total = float(worth(a) @ worth(b))
    if kind == "s8":
        return int(total) % 2**32
    return int(np.array([total], "f8" if kind == "f64" else "f4").view(TYPES[kind][1])[0])


def test_every_tier_has_them() -> None:
    for tier in kernels.tiers().values():
        assert {name for name, kernel in tier.kernels.items() if kernel.family == "blas1"} == NAMES


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("kernel", BLAS1, ids=named)
def test_values_and_surroundings(
    kernel: _core.Kernel, at_end: bool, bench: tuple[_core.Team, list[_core.Region]]
) -> None:
    team, regions = bench
    kind, size = kernel.name.split("_")[1], kernel.element_bytes
    rng = np.random.default_rng(size)
    for count in LENGTHS:
        for shift in range(0, 64, max(size, 7 // size * size)):  # every alignment that matters, elements kept whole
            starts = [ROOM - count * size - gap if at_end else gap for gap in (shift, (5 * shift + size) % 64)]
            held = []
            for region, start in zip(regions, starts, strict=True):
                memory = region.as_array("u1")
                memory[:] = 0xFF
                numbers = rng.integers(-100, 100, count) if kind == "s8" else rng.integers(-4, 5, count)
                view = memory[start : start + count * size].view(TYPES[kind][0])
                view[:] = numbers.astype("f4").view("u4") >> 16 if kind == "bf16" else numbers
                held.append(memory.copy())
            a, b = (
                want[start : start + count * size].view(TYPES[kind][0])
                for want, start in zip(held, starts, strict=True)
            )
            digest = 0 if kernel.bytes_written else sum_bits(kind, a, b)
            if kernel.bytes_written:
                a[:] = a - 3 * b
            places = {name: (region, start) for name, region, start in zip("ab", regions, starts, strict=True)}
            stamp = team.run([_core.Work(kernel, bytes=count * size, scalar=-3.0, loops=1, **places)])[0]  # type: ignore[arg-type]
            assert stamp.sink == digest, f"{count} elements at {starts}"
            assert stamp.elements == count
            for region, want in zip(regions, held, strict=True):
                assert np.array_equal(region.as_array("u1"), want), f"{count} elements at {starts}"


@pytest.mark.parametrize("kernel", [k for k in BLAS1 if not k.bytes_written], ids=named)
def test_every_round_reads_again(kernel: _core.Kernel, bench: tuple[_core.Team, list[_core.Region]]) -> None:
    """Each round doubles what was there and adds its own sum; slices add up to their own sums."""
    team, regions = bench
    kind, size, count = kernel.name.split("_")[1], kernel.element_bytes, 777
    views = [region.as_array("u1")[: count * size].view(TYPES[kind][0]) for region in regions]
    for i, view in enumerate(views):
        numbers = np.arange(count) % (5 + i) + 1
        view[:] = numbers.astype("f4").view("u4") >> 16 if kind == "bf16" else numbers
    once = sum_bits(kind, *views)
    places = {name: (region, 0) for name, region in zip("ab", regions, strict=True)}
    for rounds in (1, 2, 3, 64):
        work = _core.Work(kernel, bytes=count * size, loops=rounds, block=count * size * rounds, **places)  # type: ignore[arg-type]
        assert team.run([work])[0].sink == once * (2**rounds - 1) % 2**64
    cut = 500
    work = _core.Work(kernel, bytes=count * size, loops=1, block=cut * size, **places)  # type: ignore[arg-type]
    parts = [sum_bits(kind, *(view[part] for view in views)) for part in (slice(cut), slice(cut, None))]
    assert team.run([work])[0].sink == sum(parts)


def test_accounting() -> None:
    for kernel in BLAS1:
        written = kernel.element_bytes * kernel.name.startswith("axpy")
        assert (kernel.bytes_read, kernel.bytes_written, kernel.flops) == (2 * kernel.element_bytes, written, 2)
