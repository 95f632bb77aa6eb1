# SPDX-License-Identifier: Apache-2.0
"""Loaded: who probes and who loads, and idle, knee and saturation of a queue whose formula is known."""

from __future__ import annotations

import msgspec
import pytest

from numabench import _core, session
from numabench.backend import Hardware
from numabench.experiments.loaded import LOADS, between, knee
from numabench.jobs.loaded import delay, single_loads
from numabench.machine import Cache, Machine
from numabench.series import Case, Options
from tests.fakes import Fake, many

IDLE, PEAK, ALONE = 100.0, 40.0, 41.0


def latency(case: Case) -> float:
    """A single server: twice the idle latency at half of the peak, which nobody reaches beside a probe."""
    if case.unit == "GB/s":
        return ALONE
    return IDLE / (1 - min(float(case.params["load"]), 0.95))


def reached(case: Case) -> dict[str, float]:
    return {"gb_per_s": PEAK * float(case.params["load"])}


def test_idle_knee_and_saturation_come_out() -> None:
    machine = many(nodes=2, packages=2)
    backend = Fake(0.0, truth=latency, extras=reached)
    record = session.run(["loaded"], Options(profile="quick"), machine=machine, backend=backend)
    local, far = session.tables(record)
    assert "idle 100" in local.meaning[0]
    assert "20" in local.meaning[0]  # times idle at full load
    assert "at most 40.00 GB/s [40.00, 40.00] besides the probe, 41.00 [41.00, 41.00] without it" in local.meaning[0]
    assert "doubled at 20.0" in local.meaning[1]
    assert "50%" in local.meaning[1]
    assert "node 1" in far.title
    assert local.axis is not None
    assert [round(x) for x in local.axis.values] == [round(PEAK * load) for load in LOADS]


def test_memory_that_cannot_be_filled_has_no_knee() -> None:
    backend = Fake(0.002, truth=lambda case: IDLE, extras=reached)
    record = session.run(["loaded"], Options(profile="quick"), machine=many(nodes=1, packages=1), backend=backend)
    assert "did not double" in session.tables(record)[0].meaning[1]


def roles(machine: Machine, options: Options) -> dict[tuple[int | None, int | None], set[tuple[int, ...]]]:
    found: dict[tuple[int | None, int | None], set[tuple[int, ...]]] = {}
    for case in session.plan(["loaded"], options, machine):
        if case.params["load"] and "probe" not in case.params:
            assert not case.unavailable
            found.setdefault((case.initiator, case.target), set()).add(case.cpus)
    return found


def test_probe_shares_no_l2_with_the_load() -> None:
    machine = many(nodes=1, packages=1, cores=4)
    l2 = tuple(Cache(2, "unified", 1 << 20, 64, pair) for pair in ((0, 1), (2, 3)))
    machine = msgspec.structs.replace(machine, caches=(*machine.caches, *l2))
    assert roles(machine, Options(profile="quick")) == {(0, 0): {(0, 2, 3)}}


def test_siblings_of_the_probe_stay_idle() -> None:
    assert roles(many(nodes=1, packages=1, cores=2, smt=2), Options(profile="quick")) == {(0, 0): {(0, 1)}}


def test_crossed_curves_load_from_the_target() -> None:
    found = roles(many(nodes=2, packages=2), Options())
    assert found[0, 1] == {(0, 1), (0, 2, 3)}
    assert found[1, 1] == {(2, 3)}


@pytest.mark.parametrize(("profile", "initiators"), [("quick", {1}), ("standard", {0, 1}), ("full", {0, 1, 2})])
def test_memory_without_cpus_is_a_target_of_the_node_nearest_to_it(profile: str, initiators: set[int]) -> None:
    machine = many(nodes=3, packages=3, bare=1)
    nodes = tuple(msgspec.structs.replace(n, local_cpus=machine.cpus_of(1)) if not n.cpus else n for n in machine.nodes)
    machine = msgspec.structs.replace(machine, nodes=nodes)
    found = roles(machine, Options(profile=profile))  # type: ignore[arg-type]
    assert {i for i, j in found if j == 3} == initiators
    assert found[1, 3] == {(2, 3)}


def test_one_core_cannot_probe_and_load() -> None:
    (case,) = session.plan(["loaded"], Options(), many(nodes=1, packages=1, cores=1))
    assert "needs two cores" in case.unavailable


@pytest.mark.parametrize("profile", ["quick", "standard", "full"])
def test_idle_case_is_that_of_latency(profile: str) -> None:
    """The probe alone: same CPU, ring, place and pages, so that it says what latency says."""
    machine, options = many(nodes=2, packages=2), Options(profile=profile)  # type: ignore[arg-type]

    def of(case: Case) -> tuple[object, ...]:
        same = {name: case.params[name] for name in ("stride", "window")}
        return case.cpus, case.initiator, case.target, case.bytes, case.pages, case.cache_suspect, same, case.touch_cpus

    idle = [case for case in session.plan(["loaded"], options, machine) if not case.params["load"]]
    assert idle
    latency = [of(case) for case in session.plan(["latency"], options, machine)]
    assert all(of(case) in latency for case in idle)


@pytest.mark.parametrize("kernel", ["read", "mix_2_1"])
def test_the_load_without_a_probe_is_bandwidth_of_the_same_cpus(kernel: str) -> None:
    machine, options = many(nodes=2, packages=2), Options(kernels=(kernel,))

    def of(case: Case) -> tuple[object, ...]:
        return case.kernel, case.tier, case.cpus, case.target, case.pages, case.unit, case.better

    alone = [case for case in session.plan(["loaded"], options, machine) if case.unit == "GB/s"]
    assert {(case.cpus, case.target) for case in alone} >= {((1,), 0), ((1,), 1), ((2, 3), 1)}
    for case in alone:
        same = session.plan(["bandwidth"], msgspec.structs.replace(options, cpus=case.cpus), machine)
        assert of(case) in [of(c) for c in same]


def test_the_load_runs_with_and_without_a_probe() -> None:
    machine = Machine.load()
    if len(machine.one_cpu_per_core(machine.allowed_cpus)) < 2:
        pytest.skip("one core cannot probe and load")
    record = session.run(["loaded"], Options(profile="quick", bytes=4 << 20, pages="base", passes=1), machine=machine)
    (alone,) = (series for series in record.series if "probe" in series.case.params)
    curve = [series for series in record.series if series is not alone]
    assert (alone.case.unit, alone.case.cpus) == ("GB/s", curve[-1].case.cpus[1:])
    assert all(series.estimate for series in record.series)
    for series in curve:
        assert series.samples[0].extras["p99_ns"] >= series.samples[0].extras["p50_ns"]
    assert alone.samples[0].evidence.cpus_seen == alone.case.cpus


def test_percentiles_of_single_loads() -> None:
    clock, counts = _core.Clock(), [0] * _core.BINS
    bin_ns = _core.TICKS_A_BIN * 1e9 / clock.hz
    counts[100], counts[400] = 9800, 200
    found = single_loads(counts, clock)
    assert found["p50_ns"] == pytest.approx(100 * bin_ns - clock.overhead_ns, abs=bin_ns)
    assert found["p99_ns"] == pytest.approx(400 * bin_ns - clock.overhead_ns, abs=bin_ns)
    counts[400], counts[-1] = 0, 200
    assert single_loads(counts, clock).keys() == {"p50_ns"}  # the slowest took longer than there are bins
    assert not single_loads([1] * 1000 + [0] * (_core.BINS - 1000), clock)  # too few


@pytest.mark.parametrize(
    ("points", "found"),
    [
        ([(0, 100), (10, 150), (20, 250)], 15.0),
        ([(0, 100), (20, 200), (10, 110)], 20.0),
        ([(0, 100), (10, 199)], None),
    ],
)
def test_knee(points: list[tuple[float, float]], found: float | None) -> None:
    assert knee(points) == found


def test_points_are_added_where_a_load_that_is_offered_is_not_reached() -> None:
    """Nine tenths offered reach two thirds: the rest of the bend is filled by shorter delays, evenly."""
    points = [(load, PEAK * (load * 2 / 3 if load < 1 else 1)) for load in LOADS if load]
    more = between(points)
    assert more == sorted(more)
    steps = [1 / 0.9 * k / (len(more) + 1) for k in range(len(more), 0, -1)]
    assert [delay(load) for load in more] == pytest.approx(steps, rel=0.01)
    assert 1.0 not in more
    assert between([(load, PEAK * load) for load in LOADS if load]) == []  # enough are there
    assert between([]) == between([(0.5, 10.0)]) == []


def test_a_curve_that_jumps_over_its_bend_is_measured_again_there() -> None:
    def reached(case: Case) -> dict[str, float]:
        return {"gb_per_s": PEAK / (1 + 0.7 * delay(float(case.params["load"])))}

    backend = Fake(0.001, truth=latency, extras=reached)
    record = session.run(["loaded"], Options(profile="quick"), machine=many(nodes=1, packages=1), backend=backend)
    tables = session.tables(record)
    for table in tables:
        assert table.axis is not None
        assert list(table.axis.values) == sorted(table.axis.values)
        assert sum(0.6 <= value / PEAK <= 0.95 for value in table.axis.values) >= 4
        assert len(table.rows) > len(LOADS)


def test_the_load_without_a_probe_can_be_measured_alone() -> None:
    """As it is when another point of its curve could not be measured and each is taken by itself."""
    machine, options = Machine.load(), Options(profile="quick", bytes=4 << 20, pages="base")
    if len(machine.one_cpu_per_core(machine.allowed_cpus)) < 2:
        pytest.skip("one core cannot probe and load")
    cases = [c for c in session.plan(["loaded"], options, machine) if not c.unavailable]
    alone = next(c for c in cases if "probe" in c.params)
    idle = next(c for c in cases if not c.params["load"])
    with Hardware(machine, options) as backend:
        for case in (alone, idle):
            (sample,) = backend.measure([case], 0, 0, 1)
            assert sample.value > 0
            assert sample.evidence.cpus_seen == case.cpus
