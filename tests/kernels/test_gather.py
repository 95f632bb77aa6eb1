# SPDX-License-Identifier: Apache-2.0
"""Rows of a table, read and written, against numpy's indexing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from numabench import _core, kernels

FAMILY = [kernel for tier in kernels.tiers().values() for kernel in tier.kernels.values() if kernel.family == "gather"]
GATHER = [kernel for kernel in FAMILY if not kernel.bytes_written]
SCATTER = [kernel for kernel in FAMILY if kernel.bytes_written]
TABLE, INDICES = 1 << 18, 1000


@pytest.fixture(scope="module")
def places() -> Iterator[tuple[_core.Team, _core.Region, _core.Region]]:
    with _core.Team(_core.affinity()[:1]) as team, _core.Region(TABLE) as table, _core.Region(4 * INDICES) as index:
        table.as_array("u8")[:] = np.random.default_rng(1).integers(0, 2**64, TABLE // 8, dtype="u8")
        yield team, table, index


def test_every_tier_gathers() -> None:
    assert {kernel.tier for kernel in GATHER} == set(kernels.tiers())


@pytest.mark.parametrize("kernel", GATHER, ids=lambda k: k.tier)
@pytest.mark.parametrize("row", [64, 128, 192, 320, 512])
def test_sum_of_rows(kernel: _core.Kernel, row: int, places: tuple[_core.Team, _core.Region, _core.Region]) -> None:
    if not kernels.tiers()[kernel.tier].usable:
        pytest.skip("this CPU does not run the tier")
    team, table, index = places
    for shift in (0, 8, 40):  # a table need not begin with a line
        size = TABLE - 64
        rows = table.as_array("u8")[shift // 8 :][: size // 8 // (row // 8) * (row // 8)].reshape(-1, row // 8)
        wanted = np.random.default_rng(row).integers(0, len(rows), INDICES, dtype="u4")
        wanted[:2] = 0, len(rows) - 1
        index.as_array("u4")[:INDICES] = wanted
        work = _core.Work(
            kernel, a=(table, shift), b=(index, 0), bytes=size, stride=row, k=INDICES, loops=2222, block=7
        )
        for start in (0, 222):  # the second run goes on where the first one stopped
            visited = np.resize(np.roll(wanted, -start), 2222)
            stamp = team.run([work])[0]
            assert stamp.sink == int(rows[visited].sum(dtype="u8"))
            assert stamp.elements * kernel.bytes_read == 2222 * row


@pytest.mark.parametrize("kernel", SCATTER, ids=lambda k: f"{k.tier}-{k.name}")
@pytest.mark.parametrize("row", [64, 128, 320])
def test_rows_written(kernel: _core.Kernel, row: int, places: tuple[_core.Team, _core.Region, _core.Region]) -> None:
    if not kernels.tiers()[kernel.tier].usable:
        pytest.skip("this CPU does not run the tier")
    team, table, index = places
    for shift in (64,) if kernel.nt else (8, 64, 104):
        size = TABLE - 128
        held = table.as_array("f8")
        held[:] = np.random.default_rng(row).integers(3, 1 << 40, len(held))
        before = held.copy()
        rows, was = (memory[shift // 8 :][: size // row * row // 8].reshape(-1, row // 8) for memory in (held, before))
        wanted = np.random.default_rng(row).permutation(len(rows))[: min(INDICES, len(rows))].astype("u4")
        index.as_array("u4")[: len(wanted)] = wanted
        loops = len(wanted) - 3
        arrays = {"a": (table, shift), "b": (index, 0), "bytes": size, "stride": row, "k": len(wanted)}
        (stamp,) = team.run([_core.Work(kernel, loops=loops, block=7, scalar=-1.0, seed=5, **arrays)])  # type: ignore[arg-type]
        assert stamp.elements * (kernel.bytes_read + kernel.bytes_written) == loops * row * (
            1 + bool(kernel.bytes_read)
        )
        visited = wanted[:loops]
        if kernel.bytes_read:
            assert np.array_equal(rows[visited], -was[visited])
        else:
            values = rows[visited, 0]
            assert ((values >= 1) & (values < 2)).all()
            assert (rows[visited] == values[:, None]).all()
            assert len(set(values)) == loops  # another one for each: hardware may drop what changes nothing
        rows[visited] = was[visited]
        assert np.array_equal(held, before)
        del held, rows


def test_lines_written_past_the_caches_start_where_lines_do(
    places: tuple[_core.Team, _core.Region, _core.Region],
) -> None:
    _, table, index = places
    index.as_array("u4")[:] = 0
    for kernel in (kernel for kernel in SCATTER if kernel.nt):
        with pytest.raises(ValueError, match="whole lines"):
            _core.Work(kernel, a=(table, 8), b=(index, 0), bytes=4096, stride=64, k=1)


def test_wrong_arguments(places: tuple[_core.Team, _core.Region, _core.Region]) -> None:
    _, table, index = places
    index.as_array("u4")[:] = TABLE // 64 - 1
    good = {"a": (table, 0), "b": (index, 0), "bytes": TABLE, "stride": 64, "k": INDICES, "loops": 1}
    _core.Work(GATHER[0], **good)  # type: ignore[arg-type]
    for change in ({"stride": 0}, {"stride": 72}, {"bytes": 32}, {"k": 0}, {"k": 1 << 20}, {"bytes": TABLE - 64}):
        with pytest.raises(ValueError):  # noqa: PT011
            _core.Work(GATHER[0], **{**good, **change})  # type: ignore[arg-type]
