# SPDX-License-Identifier: Apache-2.0
"""Lines read and written in turn, against numpy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from numabench import _core, kernels

MIX = [kernel for tier in kernels.tiers().values() for kernel in tier.kernels.values() if kernel.family == "mix"]
BYTES, LINE = 1 << 17, 64


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[_core.Team, _core.Region]]:
    with _core.Team(_core.affinity()[:1]) as team, _core.Region(BYTES) as region:
        yield team, region


def test_every_tier_mixes() -> None:
    assert {kernel.tier for kernel in MIX} == set(kernels.tiers())


@pytest.mark.parametrize("kernel", MIX, ids=lambda k: f"{k.tier}-{k.name}")
@pytest.mark.parametrize(("only", "writes"), [(1, 0), (0, 1), (1, 1), (2, 1), (5, 3), (99, 1)])
@pytest.mark.parametrize("shift", [0, 64, 192])
def test_what_is_read_and_written(
    kernel: _core.Kernel, only: int, writes: int, shift: int, place: tuple[_core.Team, _core.Region]
) -> None:
    if not kernels.tiers()[kernel.tier].usable:
        pytest.skip("this CPU does not run the tier")
    team, region = place
    unit, held = (only + writes) * LINE, region.as_array("f8")
    size = (BYTES - 256) // unit * unit
    held[:] = np.random.default_rng(only).integers(3, 1 << 40, len(held))
    before = held.copy()
    lines, was = (a[shift // 8 : (shift + size) // 8].reshape(-1, only + writes, 8) for a in (held, before))
    work = _core.Work(
        kernel, a=(region, shift), bytes=size, m=only, n=writes, scalar=-1.0, seed=3, block=2 * unit, loops=1
    )
    (stamp,) = team.run([work])
    assert stamp.elements == size / 8
    # A window's sink is the XOR of its calls; each call returns that of the lines it only read.
    assert np.array_equal(lines[:, :only], was[:, :only])
    if kernel.nt:
        assert ((lines[:, only:] >= 1) & (lines[:, only:] < 2)).all()
    else:
        assert np.array_equal(lines[:, only:], -was[:, only:])
    lines[:] = was
    assert np.array_equal(held, before)
    del held, lines


@pytest.mark.parametrize("kernel", MIX, ids=lambda k: f"{k.tier}-{k.name}")
def test_all_that_is_only_read_reaches_the_result(kernel: _core.Kernel, place: tuple[_core.Team, _core.Region]) -> None:
    if not kernels.tiers()[kernel.tier].usable:
        pytest.skip("this CPU does not run the tier")
    team, region = place
    held = region.as_array("u8")
    held[:] = np.random.default_rng(1).integers(0, 1 << 62, len(held), dtype="u8")
    size = 7 * 5 * LINE
    lines = held[: size // 8].reshape(-1, 5, 8)[:, :3]
    wanted = int(np.bitwise_xor.reduce(lines, axis=None))
    (stamp,) = team.run([_core.Work(kernel, a=(region, 0), bytes=size, m=3, n=2, scalar=1.0, loops=1)])
    assert stamp.sink == wanted
    del held, lines


def test_wrong_arguments(place: tuple[_core.Team, _core.Region]) -> None:
    _, region = place
    good = {"a": (region, 0), "bytes": 6 * LINE, "m": 2, "n": 1, "block": 3 * LINE, "loops": 1}
    _core.Work(MIX[0], **good)  # type: ignore[arg-type]
    wrong = ({"m": 0, "n": 0}, {"bytes": 5 * LINE}, {"block": LINE}, {"a": (region, 8)}, {"m": 1 << 33}, {"m": 1 << 63})
    for change in wrong:
        with pytest.raises(ValueError):  # noqa: PT011
            _core.Work(MIX[0], **{**good, **change})  # type: ignore[arg-type]
