# SPDX-License-Identifier: Apache-2.0
"""What the clock costs on each CPU, and how far the clocks of two CPUs are apart."""

from __future__ import annotations

import random
import time

import pytest

from numabench import _core, kernels, session, timing
from numabench.machine import Machine
from numabench.series import Options


@pytest.mark.parametrize("offset", [0.0, 3000.0, -1e6])
@pytest.mark.parametrize("stopped", [0.0, 1e5])
def test_rounds_bound_how_far_a_clock_is_ahead(offset: float, stopped: float) -> None:
    """Also where one of the threads was stopped now and then: the shortest rounds count."""
    rng = random.Random(1)

    def hop() -> float:
        return rng.uniform(50, 90) + stopped * (rng.random() < 0.05)

    now, mine, yours = 0.0, [], []
    for _ in range(200):
        now += hop()
        yours.append(now + offset + rng.uniform(0, 10))  # the clock is read a little after the answer
        now += hop()
        mine.append(now)
    low, high = timing.ahead(mine, yours)
    assert low <= offset <= high
    assert high - low < 4 * 90


def test_every_cpu_has_its_clock_measured() -> None:
    cpus, before = Machine.load().allowed_cpus, _core.affinity()
    found = timing.clocks(cpus, _core.Clock())
    assert set(found) == {str(cpu) for cpu in cpus}
    assert all(one["overhead_ns"] <= one["overhead_p99_ns"] for one in found.values())
    assert all(one["step_ns"] > 0 for one in found.values())
    assert {cpu for cpu, one in found.items() if "offset_bound_ns" not in one} == {str(min(cpus))}
    assert _core.affinity() == before  # the caller was not moved


@pytest.mark.skipif(len(_core.affinity()) < 2, reason="needs two CPUs")
def test_a_clock_that_is_ahead_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = timing._rounds

    def late(pair: _core.Team) -> tuple[list[float], list[float]]:
        mine, yours = honest(pair)
        return mine, [end + 1e9 for end in yours]

    monkeypatch.setattr(timing, "_rounds", late)
    cpus = _core.affinity()[:2]
    found = timing.clocks(cpus, _core.Clock())[str(cpus[1])]
    assert found["offset_ns"] - found["offset_bound_ns"] > 9e8


def test_the_record_tells_the_clocks_of_the_cpus_used() -> None:
    began = time.monotonic()
    record = session.run(["latency"], Options(profile="quick", passes=1, bytes=1 << 20, pages="base"))
    cpus = {str(cpu) for series in record.series for cpu in series.case.cpus}
    assert set(record.environment["clocks"]) == cpus
    assert record.duration_s <= time.monotonic() - began


@pytest.mark.parametrize("name", ["chase", "read", "triad", "update"])
def test_a_call_costs_less_than_a_block_of_memory(name: str) -> None:
    found = timing.call_ns(kernels.kernel(name), _core.affinity()[0], _core.Clock())
    assert found is not None
    assert 0 <= found < 2000


def test_what_cannot_stay_in_a_cache_has_no_twin_there() -> None:
    assert timing.call_ns(kernels.kernel("write_nt"), 0, _core.Clock()) is None
