# SPDX-License-Identifier: Apache-2.0
"""Regions, teams, rings and runs on the real machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest

from numabench import _core
from numabench.errors import HugePagesUnavailable, NumabenchError, PlacementError
from numabench.machine import Machine

FILL = _core.setup_kernel("fill_f64")
KERNELS = {(tier, k.name): k for tier, _, usable, found in _core.tiers() if usable for k in found}
CPU = _core.affinity()[0]


def filled(size: int = 1 << 16) -> _core.Region:
    region = _core.Region(size)
    with _core.Team([CPU]) as team:
        team.run([_core.Work(FILL, a=(region, 0), bytes=size, loops=1)])
    return region


def test_region_is_untouched_then_resident() -> None:
    with _core.Region(1 << 16) as region:
        assert region.placement().not_resident == 16
        region.as_array()[:] = 1.0
        assert region.placement().not_resident == 0
        assert sum(region.placement().nodes.values()) == 16
        assert region.smaps().rss == 1 << 16
        assert sum(region.numa_maps()[0].values()) == 1 << 16


def test_close_under_a_view_is_refused() -> None:
    region = _core.Region(4096)
    view = memoryview(region)
    with pytest.raises(BufferError):
        region.close()
    view.release()
    region.close()
    region.close()
    with pytest.raises(ValueError, match="closed"):
        _ = region.bytes


def test_unclosed_owner_warns() -> None:
    with pytest.warns(ResourceWarning, match="unclosed"):
        _core.Region(4096)


@pytest.mark.parametrize(
    ("make", "error", "word"),
    [
        (lambda: _core.Region(0), PlacementError, "spec"),
        (lambda: _core.Region(4096, "base", "bind", [999]), PlacementError, "mbind"),
        (lambda: _core.Region(1 << 50, "base"), PlacementError, "mmap"),
        (lambda: _core.Region(4096, "huge"), ValueError, "page kind"),
        (lambda: _core.Team([60000]), PlacementError, "pin"),
        (lambda: _core.Team([]), ValueError, "at least one"),
        (lambda: _core.setup_kernel("none"), ValueError, "none"),
        (lambda: _core.Clock("sun"), ValueError, "source"),
    ],
)
def test_errors_name_the_call(make: Callable[[], object], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        make()


def test_dry_pool_is_named() -> None:
    if os.path.exists("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"):
        with open("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", encoding="ascii") as file:
            free = int(file.read())
        with pytest.raises(HugePagesUnavailable):
            _core.Region((free + 1) << 21, "2M")


def test_work_outside_its_region_is_refused() -> None:
    read = KERNELS["scalar", "read"]
    with _core.Region(4096) as region:
        for place, size in (((region, 0), 4104), ((region, 8), 4096), ((region, 5000), 8)):
            with pytest.raises(ValueError, match="outside"):
                _core.Work(read, a=place, bytes=size)
        with pytest.raises(ValueError, match="missing"):
            _core.Work(KERNELS["scalar", "copy"], a=(region, 0), bytes=64)
        with pytest.raises(ValueError, match="whole elements"):
            _core.Work(read, a=(region, 0), bytes=63)


def ring_over(region: _core.Region, size: int, chains: int = 1) -> _core.Ring:
    ring = _core.Ring(region, 0, size, 64, 4096, chains, 7)
    with _core.Team([CPU]) as team:
        for job in _core.RING_JOBS:
            team.run([_core.Work(_core.setup_kernel(job), ring=ring, loops=1)])
    return ring


@pytest.mark.parametrize("chains", [1, 3, 8, 16])
def test_ring_visits_every_line_once(chains: int) -> None:
    with filled(1 << 16) as region:
        ring = ring_over(region, 1 << 16, chains)
        assert ring.proven
        lengths = [ring.walk(1 << 20, chain) for chain in range(chains)]
        assert sum(lengths) == ring.nodes == 1024


def test_unproven_ring_is_not_measured() -> None:
    with filled() as region:
        ring = _core.Ring(region, 0, 4096, 64, 4096, 1, 1)
        with pytest.raises(NumabenchError, match="proven"):
            _core.Work(KERNELS["scalar", "chase"], ring=ring, chains=1)


@pytest.mark.parametrize("chains", [1, 2, 5, 16])
@pytest.mark.parametrize("tier", sorted({tier for tier, _ in KERNELS}))
def test_chase_moves_exactly_so_many_nodes(tier: str, chains: int) -> None:
    with filled(1 << 16) as region:
        ring = ring_over(region, 1 << 16, chains)
        with _core.Team([CPU]) as team:
            work = _core.Work(KERNELS[tier, "chase"], ring=ring, chains=chains, loops=1024 // chains * 3 + 5, block=333)
            stamp = team.run([work])[0]
        assert stamp.elements == (1024 // chains * 3 + 5) * chains


def test_window_counts_elements_in_proportion() -> None:
    read = KERNELS["scalar", "read"]
    with filled(1 << 20) as region, _core.Team([CPU]) as team:
        short = team.run([_core.Work(read, a=(region, 0), bytes=1 << 20, block=1 << 14)], window_ns=5e6)[0]
        assert short.end_ns - short.start_ns == pytest.approx(5e6, rel=0.01)
        assert short.elements > 0
        assert (short.cpu_start, short.cpu_end) == (CPU, CPU)


def test_interrupt_ends_a_long_run_within_a_second() -> None:
    program = f"""
from numabench import _core
region = _core.Region(1 << 20)
region.as_array()[:] = 1.0
kernel = _core.tiers()[0][3][0]
read = next(k for k in _core.tiers()[0][3] if k.name == "read")
with _core.Team([{CPU}]) as team:
    work = _core.Work(read, a=(region, 0), bytes=1 << 20)
    print("go", flush=True)
    try:
        team.run([work], window_ns=600e9)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
region.close()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "go\n"
        time.sleep(0.3)
        before = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "interrupted\n"
        assert time.monotonic() - before < 1.0
        assert child.wait(5) == 0


def test_clocks_agree() -> None:
    counter, raw = _core.Clock(), _core.Clock("monotonic_raw")
    assert raw.source == "monotonic_raw"
    a, b = counter.now_ns(), raw.now_ns()
    time.sleep(0.05)
    assert counter.now_ns() - a == pytest.approx(raw.now_ns() - b, rel=0.02)


def test_this_machine_is_pinned_where_asked() -> None:
    for cpu in Machine.load().allowed_cpus:
        with _core.Team([cpu]) as team, filled() as region:
            stamp = team.run([_core.Work(FILL, a=(region, 0), bytes=64, loops=1)])[0]
            assert (stamp.cpu, stamp.cpu_start, stamp.cpu_end) == (cpu, cpu, cpu)


def test_as_array_sees_the_fill() -> None:
    with filled() as region:
        values = np.array(region.as_array())
        assert values.min() >= 0.5
        assert values.max() < 1.0
        assert len(np.unique(values)) == len(values)


def test_a_window_goes_on_where_the_one_before_it_ended() -> None:
    """Else short windows would meet in the caches what they read last time."""
    block, size = 1 << 16, 64 << 20
    with _core.Team(_core.affinity()[:1]) as team, _core.Region(size) as region:
        work = _core.Work(KERNELS["scalar", "write"], a=(region, 0), bytes=size, block=block)
        calls = sum(team.run([work], window_ns=2e5)[0].calls for _ in range(5))
        written = region.as_array("f8").reshape(-1, block // 8)[:, 0].nonzero()[0]
        assert len(written) == min(calls, size // block)
        assert written[-1] == len(written) - 1
        fixed = _core.Work(KERNELS["scalar", "write"], a=(region, 0), bytes=block, block=block // 4, loops=1)
        assert [team.run([fixed])[0].calls for _ in range(2)] == [4, 4]
