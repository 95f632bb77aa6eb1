# SPDX-License-Identifier: Apache-2.0
"""Nonsense at the edge to C: it must be refused by an exception or be harmless, never end the process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from numabench import _core, kernels
from numabench.errors import NumabenchError

REFUSED = (NumabenchError, ValueError, TypeError, OverflowError, MemoryError, KeyError, BufferError)
SIZE = 1 << 16
EDGES = (-1, 0, 1, 7, 8, 63, 64, 4095, 4096, SIZE - 8, SIZE, SIZE + 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64)
numbers = st.sampled_from(EDGES) | st.integers(-(2**70), 2**70) | st.integers(0, 2 * SIZE)
few = st.sampled_from((-1, 0, 1, 2, 3, 64, 65, 2**31, 2**64))
QUIET = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = sorted(kernels.tier("best").kernels) + [
    f"setup {n}" for n in ("fill_f64", "fill_f32", "ring_order", "ring_link")
]


@pytest.fixture(scope="module")
def region() -> Any:
    with _core.Region(SIZE, "base", "local") as found:
        yield found


@pytest.fixture(scope="module")
def team() -> Any:
    with _core.Team((min(os.sched_getaffinity(0)),)) as found:
        yield found


def kernel(name: str) -> _core.Kernel:
    return _core.setup_kernel(name.removeprefix("setup ")) if name.startswith("setup ") else kernels.kernel(name)


places = st.none() | numbers


@QUIET
@given(
    name=st.sampled_from(NAMES),
    at=st.tuples(places, places, places),
    extent=st.fixed_dictionaries(
        {},
        optional={
            "bytes": numbers, "block": numbers, "stride": numbers, "count": numbers, "m": few, "n": few, "k": few,
            "lda": numbers, "ldb": numbers, "ldc": numbers, "part": few, "parts": few, "chains": few,
            "seed": numbers, "delay": st.sampled_from((0, 1, 2**64)),
        },
    ),
    ringed=st.booleans(),
)  # fmt: skip
@example(name="setup ring_order", at=(0, 0, 0), extent={}, ringed=False)
@example(name="read", at=(None, None, None), extent={"bytes": 64}, ringed=True)
@example(name="gemm_f32", at=(0, 0, 0), extent={"m": 3, "n": 1, "k": 1, "lda": 2**61, "ldb": 1, "ldc": 1}, ringed=False)
@example(name="gemm_f32", at=(0, 0, 0), extent={"m": 2**63, "n": 0, "k": 0}, ringed=False)
def test_any_work_is_refused_or_runs_within_its_region(
    region: Any, team: Any, name: str, at: tuple[int | None, ...], extent: dict[str, Any], ringed: bool
) -> None:
    """What Work accepts is run: under the address checker a step outside of the region would end this process."""
    arrays: dict[str, Any] = {word: (region, where) for word, where in zip("abc", at, strict=True) if where is not None}
    if ringed:
        arrays["ring"] = _core.Ring(region, 0, SIZE, 256, 4096, 1, 1)
    with suppress(*REFUSED):
        work = _core.Work(kernel(name), **arrays, **extent, loops=1)
        team.run([work])


@QUIET
@given(numbers, numbers, numbers, numbers, few, numbers)
def test_any_ring_is_refused_or_fits(
    region: Any, offset: int, size: int, stride: int, window: int, chains: int, seed: int
) -> None:
    with suppress(*REFUSED):
        ring = _core.Ring(region, offset, size, stride, window, chains, seed)
        assert 0 < ring.nodes <= SIZE // 8
        assert not ring.proven  # nobody has linked it


@QUIET
@given(
    st.one_of(numbers.filter(lambda n: n > 2**40 or n < 2**24), st.text(max_size=3)),
    st.sampled_from(("base", "thp", "2M", "1G", "any", "x", "")),
    st.sampled_from(("bind", "local", "interleave", "preferred", "x", "")),
    st.lists(st.integers(-(2**70), 2**70) | st.integers(0, 1100), max_size=4),
)
def test_any_region_is_refused_or_given_back(size: object, pages: str, policy: str, nodes: list[int]) -> None:
    with suppress(*REFUSED), _core.Region(size, pages, policy, nodes) as found:  # type: ignore[arg-type]
        assert found.bytes >= int(size)  # type: ignore[call-overload]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(2**70), 2**70) | st.integers(0, 5000), max_size=6))
def test_any_team_is_refused_or_pinned(cpus: list[int]) -> None:
    with suppress(*REFUSED), _core.Team(cpus) as found:
        assert len(found) == len(cpus)


@pytest.mark.parametrize(
    "call",
    [
        lambda region: region.as_array("f8"),
        lambda region: region.placement(),
        lambda region: region.smaps(),
        lambda region: region.numa_maps(),
        lambda region: region.collapse(),
        memoryview,
        _core.ask_policy,
        lambda region: _core.Ring(region, 0, SIZE, 256, 4096, 1, 1),
        lambda region: _core.Work(kernels.kernel("read"), a=(region, 0), bytes=SIZE, loops=1),
    ],
)  # fmt: skip
def test_a_closed_region_is_refused_everywhere(call: Callable[[Any], object]) -> None:
    region = _core.Region(SIZE, "base", "local")
    region.close()
    with pytest.raises((*REFUSED, AttributeError)):
        call(region)


@pytest.mark.parametrize("kind", ["Region", "Team", "Ring", "Work", "Kernel"])
def test_an_object_without_its_constructor_is_refused(kind: str) -> None:
    """``__new__`` alone leaves an empty object behind: using it must not follow a null pointer."""
    program = (
        f"from numabench import _core\nkind = _core.{kind}\ntry:\n    it = kind.__new__(kind)\n"
        "except TypeError:\n    raise SystemExit(0)\n"
        "for name in dir(it):\n"
        "    if name.startswith('__') and name not in ('__len__', '__exit__', '__repr__'): continue\n"
        "    try:\n        found = getattr(it, name)\n        callable(found) and found()\n"
        "    except Exception: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
