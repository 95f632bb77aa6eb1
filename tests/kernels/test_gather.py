# SPDX-License-Identifier: Apache-2.0
"""Rows of a table against numpy's indexing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from numabench import _core, kernels

GATHER = [kernel for tier in kernels.tiers().values() for kernel in tier.kernels.values() if kernel.family == "gather"]
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


def test_wrong_arguments(places: tuple[_core.Team, _core.Region, _core.Region]) -> None:
    _, table, index = places
    index.as_array("u4")[:] = TABLE // 64 - 1
    good = {"a": (table, 0), "b": (index, 0), "bytes": TABLE, "stride": 64, "k": INDICES, "loops": 1}
    _core.Work(GATHER[0], **good)  # type: ignore[arg-type]
    for change in ({"stride": 0}, {"stride": 72}, {"bytes": 32}, {"k": 0}, {"k": 1 << 20}, {"bytes": TABLE - 64}):
        with pytest.raises(ValueError):  # noqa: PT011
            _core.Work(GATHER[0], **{**good, **change})  # type: ignore[arg-type]
