# SPDX-License-Identifier: Apache-2.0
"""The hardware backend where machines are odd: windows that a busy one lets pass, CPUs of a node without memory."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from numabench import _core, session
from numabench.backend import RETAKES, Hardware
from numabench.errors import NumabenchError
from numabench.experiments.hierarchy import Hierarchy
from numabench.experiments.latency import Latency
from numabench.jobs import curve
from numabench.jobs.base import Stamps
from numabench.machine import Machine
from numabench.series import Options


class Idle:
    """A team whose first windows pass without work."""

    def __init__(self, team: Any, empty: int) -> None:
        self.team, self.empty, self.cpus = team, empty, team.cpus

    def run(self, works: object, window_ns: float = 0.0, core_hz: bool = False) -> Any:
        stamps = self.team.run(works, window_ns=window_ns, core_hz=core_hz)
        if window_ns and self.empty:
            self.empty -= 1
            return [SimpleNamespace(elements=0.0) for _ in stamps]
        return stamps

    def __len__(self) -> int:
        return len(self.team)

    def close(self) -> None:
        self.team.close()


@pytest.fixture
def hardware() -> Iterator[Hardware]:
    with Hardware(Machine.load(), Options(profile="quick", bytes=1 << 20, pages="base")) as found:
        yield found


def measured(hardware: Hardware, empty: int) -> float:
    case = next(iter(Latency().plan(hardware.machine, hardware.options)))
    hardware.teams[case.cpus] = Idle(hardware.team(case.cpus), empty)  # type: ignore[assignment]
    return hardware.measure([case], 0, 0, 1)[0].value


def test_an_empty_window_is_taken_again(hardware: Hardware) -> None:
    assert measured(hardware, RETAKES - 1) > 0


def test_only_empty_windows_are_a_reason_and_no_figure(hardware: Hardware) -> None:
    with pytest.raises(NumabenchError, match=r"windows of .* ms ended before CPU .* --cpus"):
        measured(hardware, RETAKES)


def test_cpus_of_a_node_without_memory_multiply() -> None:
    here = Machine.load()
    away = tuple(msgspec.structs.replace(cpu, node=99) for cpu in here.cpus)
    options = Options(profile="quick", bytes=1 << 18, passes=1, nodes=here.initiators()[:1])
    record = session.run(["gemm"], options, machine=msgspec.structs.replace(here, cpus=away))
    assert [series.unavailable for series in record.series] == [""] * 2
    assert all(series.estimate for series in record.series)


def test_windows_take_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """With turns each window runs the next works, so that a line or a buffer is not always the same one."""
    machine = Machine.load()
    if len(machine.allowed_cpus) < 2:
        pytest.skip("two parts that spin need two CPUs")
    case = next(c for c in session.plan(["c2c"], Options(profile="quick"), machine) if not c.unavailable)
    ran: list[int] = []
    plain = Hardware._window

    def seen(
        self: Hardware, team: _core.Team, works: list[_core.Work], window_ns: float, core_hz: bool = False
    ) -> Stamps:
        if core_hz:
            ran.append(id(works))
        return plain(self, team, works, window_ns, core_hz)

    monkeypatch.setattr(Hardware, "_window", seen)
    with Hardware(machine, Options(profile="quick")) as hardware:
        (sample,) = hardware.measure([case], 0, 0, 1)
    assert len(set(ran)) == len(ran) == len(sample.windows) == 32


@pytest.mark.skipif(len(Machine.load().allowed_cpus) < 2, reason="needs two CPUs")
def test_a_family_that_measures_in_processes_of_its_own_can_be_timed_from_outside() -> None:
    machine, options = Machine.load(), Options(profile="quick")
    case = next(c for c in session.plan(["sync"], options, machine) if c.job == "pipes")
    with Hardware(machine, options) as backend, backend.fixed_work(case, 1) as call:
        found = call()
    assert isinstance(found, list)
    assert [sample.value > 0 for sample in found] == [True]


@pytest.mark.parametrize("chains", [1, 4])
def test_a_ring_that_may_fit_goes_round_before_it_counts(chains: int, hardware: Hardware) -> None:
    """In its first lap a cache is filled: as steady as any other, and as slow as memory."""
    case = next(c for c in Hierarchy().plan(hardware.machine, hardware.options) if c.kernel == "chase")
    case = msgspec.structs.replace(case, params=case.params | {"chains": chains}, cache_suspect=False)
    team, ran = hardware.team(case.cpus), []

    class Told(Idle):
        def run(self, works: object, window_ns: float = 0.0, core_hz: bool = False) -> Any:
            stamps = super().run(works, window_ns, core_hz)
            ran.append((window_ns, stamps[0].elements))
            return stamps

    hardware.teams[case.cpus] = Told(team, 0)  # type: ignore[assignment]
    (sample,) = hardware.measure([case], 0, 0, 1)
    first = next(at for at, (window, _) in enumerate(ran) if window)
    assert ran[first - 1] == (0.0, curve.LAPS * sample.evidence.ring_nodes // chains * chains)
    assert not sample.evidence.twins


@pytest.mark.parametrize("interrupted", range(4))
def test_two_clocks_are_read_at_the_same_moment(interrupted: int) -> None:
    """Whoever takes the CPU between the two readings makes no clock jump."""
    now, steps = 0.0, iter([5.0 if i == interrupted else 1e-6 for i in range(20)])

    def tick() -> float:
        nonlocal now
        now += next(steps)
        return now

    bench: Any = SimpleNamespace(reference_s=tick, clock=SimpleNamespace(now_ns=lambda: tick() * 1e9))
    now_ns, now_s = Hardware._clocks(bench)
    assert now_ns / 1e9 == pytest.approx(now_s, abs=1e-5)
