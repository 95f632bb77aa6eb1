# SPDX-License-Identifier: Apache-2.0
"""Memory stays flat: each call of the core many times over, and ten thousand rounds of allocating and freeing."""

from __future__ import annotations

import gc
import inspect
import mmap
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from numabench import _core, kernels
from numabench.errors import NumabenchError

ROUNDS, ALLOWED = 400, 512 << 10  # per call; a leak of one page, or of 2 KiB, a round would show
MANY = 10_000


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _region() -> None:
    _core.Region(1 << 16, "base", "bind", [0]).close()


def _refused_region() -> None:
    with suppress(NumabenchError):
        _core.Region(1 << 16, "base", "bind", [1023]).close()


def _queries() -> None:
    with _core.Region(1 << 16, "base", "bind", [0]) as region:
        memoryview(region)[0:1] = b"x"
        region.placement().moved_since(region.placement())
        _core.ask_policy(region)
        region.smaps()
        with suppress(NumabenchError):
            region.numa_maps()
        with suppress(NumabenchError):
            region.collapse()


def _ring() -> None:
    with _core.Region(1 << 16, "base", "local") as region:
        ring = _core.Ring(region, 0, region.bytes, 256, 4096, 2, 1)
        ring.start(0)
        with suppress(ValueError):
            _core.Work(kernels.kernel("chase", "best"), ring=None, chains=1)
        with suppress(NumabenchError):
            _core.Work(kernels.kernel("chase", "best"), ring=ring, chains=1)


def _work() -> None:
    with _core.Region(1 << 16, "base", "local") as region:
        _core.Work(kernels.kernel("read", "best"), a=(region, 0), bytes=4096)
        with suppress(ValueError):
            _core.Work(kernels.kernel("read", "best"), a=(region, 0), bytes=1 << 30)


def _affinity() -> None:
    _core.set_affinity(_core.affinity())
    with suppress(NumabenchError):
        _core.set_affinity([60000])


def _probes() -> None:
    for name in _core.CALLS:
        if name != "madvise_collapse":  # half a megabyte touched each time: slow, and covered by a few rounds below
            _core.try_call(name)


def _process() -> None:
    with suppress(NumabenchError):
        _core.move_process(os.getpid(), 0, 0)
    with suppress(NumabenchError):
        os.close(_core.open_counter(os.getpid(), 1, 0))


def _catalogue() -> None:
    _core.tiers()
    _core.setup_kernel("fill_f64")
    _core.Clock("monotonic_raw")
    _core.monotonic_ns()
    _core.where()


def _instance() -> None:
    with mmap.mmap(-1, _core.Board.bytes(8)) as memory, _core.Board(memory, clear=8) as board:
        with _core.Region(1 << 16, "base", "local") as region:
            work = _core.Work(kernels.kernel("read", "best"), a=(region, 0), bytes=4096, loops=1)
            _core.Instance([[work, None]], "spin", board)
        with suppress(ValueError):
            _core.Instance([[None]], "sleep", board)


def _failed_team() -> None:
    with suppress(NumabenchError):
        _core.Team([60000])


CALLS: tuple[Callable[[], None], ...] = (
    _region,
    _refused_region,
    _queries,
    _ring,
    _work,
    _affinity,
    _probes,
    _process,
    _catalogue,
    _instance,
    _failed_team,
)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__.strip("_"))
def test_a_call_leaks_nothing(call: Callable[[], None]) -> None:
    for _ in range(50):
        call()
    before, maps, files = resident(), mappings(), descriptors()
    for _ in range(ROUNDS):
        call()
    assert resident() - before < ALLOWED
    assert mappings() - maps <= 2
    assert descriptors() == files


def test_every_callable_is_called_here() -> None:
    public = {name for name in vars(_core) if not name.startswith("_")}
    ours = {name for name in public if getattr(getattr(_core, name), "__module__", "") == "numabench._core"}
    returned = {"Kernel", "Placement", "Smaps", "Stamp"}  # made by others of them only
    text = inspect.getsource(sys.modules[__name__])
    assert sorted(name for name in ours - returned if f"_core.{name}(" not in text) == []


def test_teams_leak_nothing() -> None:
    clock, cpus = _core.Clock(), _core.affinity()[:1]

    def call() -> None:
        with _core.Team(cpus, clock) as team, _core.Region(1 << 16, "base", "local") as region:
            team.run([_core.Work(kernels.kernel("read", "best"), a=(region, 0), bytes=4096, loops=1)])
        _core.try_call("madvise_collapse")

    for _ in range(20):
        call()
    before, maps, threads = resident(), mappings(), len(os.listdir("/proc/self/task"))
    for _ in range(100):
        call()
    assert resident() - before < ALLOWED
    assert mappings() - maps <= 4
    assert len(os.listdir("/proc/self/task")) <= threads


def test_ten_thousand_rounds_stay_flat() -> None:
    def turn() -> None:
        with _core.Region(1 << 14, "base", "bind", [0]) as region:
            memoryview(region)[:1] = b"x"

    for _ in range(500):
        turn()
    before, maps = resident(), mappings()
    for _ in range(MANY):
        turn()
    assert resident() - before < ALLOWED
    assert mappings() - maps <= 2
