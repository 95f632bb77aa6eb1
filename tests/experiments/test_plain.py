# SPDX-License-Identifier: Apache-2.0
"""Mixes, pages and SMT: what is planned, and what is concluded when the true figures are known."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import msgspec
import numpy as np
import pytest

from numabench import session
from numabench.backend import Hardware
from numabench.jobs import gather
from numabench.machine import Machine
from numabench.record import Record
from numabench.series import Case, Options, Table
from tests.fakes import Fake, many, two_nodes

QUICK = Options(profile="quick")


def ran(name: str, truth: Callable[[Case], float], machine=None, extras=None) -> tuple[Record, list[Table]]:  # type: ignore[no-untyped-def]
    backend = Fake(0.001, truth=truth, extras=extras)
    record = session.run([name], QUICK, machine=machine or two_nodes(), backend=backend)
    return record, session.tables(record)


def test_mixes_name_the_best_and_whether_stores_past_the_caches_pay() -> None:
    rates = {"read": 100.0, "update": 150.0, "write": 60.0, "copy_nt": 120.0, "write_nt": 90.0}
    record, (table,) = ran("mixes", lambda case: rates.get(case.kernel, 110.0) / (1 if case.target == 0 else 2))
    assert {(s.case.initiator, s.case.target) for s in record.series} == {(0, 0), (0, 1)}
    local = [line for line in table.meaning if "node 0:" in line]
    assert any("1R:1W gives the most, 1.50x" in line for line in local)
    assert any("1W gives the least, 0.6" in line for line in local)
    assert any("0.8" in line and "(1R:1W)" in line for line in local)
    bus = {name: row[-1].text for name, row in table.rows}
    assert " to " in bus["1W"]  # a write-allocate may double it
    assert " to " not in bus["1R"]


def test_mixes_visit_one_target_of_each_class_and_nodes_without_cpus() -> None:
    cases = session.plan(["mixes"], QUICK, many(nodes=4, packages=2, bare=1))
    assert [*dict.fromkeys(case.target for case in cases)] == [0, 1, 4, 2]


def test_pages_say_what_is_missing_and_how_to_get_it() -> None:
    machine = two_nodes()
    nodes = (msgspec.structs.replace(machine.nodes[0], huge_pages={2 << 20: 512, 1 << 30: 0}), machine.nodes[1])
    machine = msgspec.structs.replace(machine, nodes=nodes)
    truth = {"base": 150.0, "thp": 100.0, "2M": 99.0}
    record, tables = ran(
        "pages",
        lambda case: truth[case.pages],
        machine,
        extras=lambda case: {"fill_gb_per_s": 2.0 + (case.pages != "base")},
    )
    away = {(s.case.target, s.case.pages): s.unavailable for s in record.series if s.unavailable}
    assert (0, "2M") not in away
    assert "node0/hugepages/hugepages-1048576kB/nr_hugepages" in away[0, "1G"]
    assert "node1/hugepages/hugepages-2048kB/nr_hugepages" in away[1, "2M"]
    chase = next(t for t in tables if "Dependent" in t.title)
    assert any("thp is 0.6" in line for line in chase.meaning)
    assert {name: row[-1].value for name, row in chase.rows}["thp"] == 3.0


def test_chase_of_pages_is_in_random_order_over_everything() -> None:
    for case in session.plan(["pages"], QUICK, two_nodes()):
        if case.kernel == "chase" and not case.unavailable:
            assert case.params["window"] == case.bytes
            assert len(case.cpus) == 1


def test_smt_compares_the_same_cores() -> None:
    record, (table,) = ran("smt", lambda case: 10.0 * (1.3 if len(case.cpus) > 2 else 1.0), many(smt=2))
    assert {s.case.cpus for s in record.series} == {(0, 1), (0, 8, 1, 9)}
    assert any("1.3" in line and "decode" in line for line in table.meaning)


def test_smt_of_instances_that_share_the_cores() -> None:
    """A decoder on one thread per core and on all, and two that have one thread of each core."""
    steps = {"one": 10.0, "all": 11.0, "siblings": 13.0}

    def truth(case: Case) -> float:
        return steps[str(case.params["threads_are"])] if case.job == "instance" else 10.0

    backend = Fake(0.001, truth=truth)
    record = session.run(["smt"], Options(passes=6), machine=many(smt=2), backend=backend)
    found = [s.case for s in record.series if s.case.job == "instance"]
    assert [(c.cpus, c.params["instances"], c.params["threads"]) for c in found] == [
        ((0, 1), 1, 2),
        ((0, 8, 1, 9), 1, 4),
        ((0, 1, 8, 9), 2, 2),
    ]
    words = " ".join(session.tables(record)[-1].meaning)
    assert "two instances, each with a thread of every core: 1.3" in words
    assert "one instance on all threads: 1.1" in words


def test_pages_look_up_lines_and_rows() -> None:
    cases = [c for c in session.plan(["pages"], QUICK, two_nodes()) if c.kernel == "gather"]
    assert {c.params["row"] for c in cases} == {64, 512}
    assert len({c.label for c in cases}) == len(cases)


def test_smt_without_second_threads() -> None:
    (case,) = session.plan(["smt"], QUICK, many(smt=1))
    assert case.unavailable == "one thread per core"


def test_how_many_loads_are_on_the_way_is_told_for_near_and_far() -> None:
    """A load takes 100 ns, and a core keeps ten on the way: the knee is the first count beyond 9.5."""

    def truth(case: Case) -> float:
        alone = 100.0 if case.target == 0 else 200.0
        return alone / min(int(case.params["chains"]), 10)

    backend = Fake(0.0001, truth=truth)
    record = session.run(["mlp"], Options(profile="standard"), machine=two_nodes(), backend=backend)
    rates, times = session.tables(record)
    assert [name for name, _ in rates.rows] == [name for name, _ in times.rows]
    near, far = rates.meaning
    assert "node 0: 95 % of the most is reached with 10 [" in near
    assert "a core keeps 10.0" in near.replace("keeps 10 ", "keeps 10.0 ")
    assert "node 1: 95 % of the most is reached with 10 [" in far
    cells = dict(rates.rows)
    assert cells["1"][0].value == pytest.approx(0.64, rel=0.01)
    assert cells["32"][1].value == pytest.approx(3.2, rel=0.01)


def test_popular_rows_come_again_and_cover_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks are log-uniform: the first decade of a million rows has a sixth of the draws, a row of its own each."""
    machine, rows = Machine.load(), 1_000_000
    monkeypatch.setattr(gather, "NUMBERS", 200_000)
    with ExitStack() as stack:
        cpu = machine.allowed_cpus[0]
        plain, count = gather.row_numbers(stack, machine, cpu, rows, 512, 1)
        popular, drawn = gather.row_numbers(stack, machine, cpu, rows, 512, 1, zipf=True)
        once = np.array(plain.as_array("u4")[:count])
        seen = np.array(popular.as_array("u4")[:drawn])
    assert len(np.unique(once)) == count
    assert seen.max() < rows
    often = np.sort(np.unique(seen, return_counts=True)[1])[::-1]
    assert often[:9].sum() / drawn == pytest.approx(np.log(10) / np.log(rows + 1), rel=0.02)
    assert often[0] / drawn == pytest.approx(np.log(2) / np.log(rows + 1), rel=0.05)


def test_barriers_of_late_parts_have_a_table_of_their_own() -> None:
    record, tables = ran("sync", lambda case: 2.0 if case.params.get("spread") else 1.0)
    titles = [table.title for table in tables]
    assert [t for t in titles if t.startswith("Barrier")] == [
        "Barrier, us",
        "Barrier of parts that come late by chance, us from the last arrival to the last exit",
    ]
    together, late = tables[0], tables[1]
    assert {row[0].value for _, row in together.rows} != {row[0].value for _, row in late.rows}
    assert all("up to 10" in name and "us late" in name for name, _ in late.rows)
    assert any(s.case.params.get("spread") for s in record.series)


@pytest.mark.skipif(len(Machine.load().allowed_cpus) < 2, reason="two parts that spin need two CPUs")
@pytest.mark.parametrize("wait", ["spin", "futex"])
def test_a_barrier_of_late_parts_takes_no_part_of_the_lateness(wait: str) -> None:
    """Two parts that are up to 100 us late come 33 us apart; of that nothing is in a barrier that spins."""
    machine, options = Machine.load(), Options(profile="standard")
    cases = session.plan(["sync"], options, machine)
    case = next(c for c in cases if c.params.get("spread") == 100_000 and c.params["wait"] == wait)
    with Hardware(machine, options) as backend:
        (sample,) = backend.measure([case], 0, 0, 1)
    assert len(sample.windows) == 7
    assert len(set(sample.windows)) > 1  # each window has a figure of its own
    assert sample.value > 0
    assert wait != "spin" or sample.value < 10
    assert sample.value <= sample.extras["p99_us"]
    known = sample.extras["clocks_known_us"] <= 0.1 * sample.value
    assert known or "timer_coarse" in sample.flags


def test_thirty_two_chains_of_one_thread_take_less_than_one() -> None:
    """Rings of 1 MiB, in whatever cache: side by side a load takes at most half as long."""
    machine, options = Machine.load(), Options(profile="quick", bytes=1 << 20)
    cases = {int(c.params["chains"]): c for c in session.plan(["mlp"], options, machine) if not c.unavailable}
    with Hardware(machine, options) as backend:
        one, many_ = (backend.measure([cases[n]], 0, 0, 1)[0] for n in (1, 32))
    assert many_.value < one.value / 2
    assert many_.evidence.ring_nodes == one.evidence.ring_nodes


def roof(case: Case) -> float:
    """40 GB/s near, 20 far, 1000 GFLOP/s: weights of 4 bytes meet the peak at 50 rows near, at 100 far."""
    rate = 40.0 if case.target == case.initiator else 20.0
    if case.kernel == "read":
        return rate
    if case.kernel.startswith("peak"):
        return 1000.0
    return 0.9 * min(1000.0, rate * 2 * int(case.params["m"]) / 4)


def test_roofline_tells_where_memory_ends_and_up_to_which_rows_distance_costs() -> None:
    backend = Fake(0.0, truth=roof)
    record = session.run(["roofline"], Options(profile="standard"), machine=two_nodes(), backend=backend)
    (table,) = session.tables(record)
    cells = dict(table.rows)
    assert [row[1].text for row in cells.values()] == ["90%"] * len(cells)
    assert cells["1"][2].ratio == pytest.approx(0.5, rel=0.01)
    assert cells["512"][2].ratio == pytest.approx(1.0, rel=0.01)
    near, far, cost, free = table.meaning
    assert "meet at 50.0" in near
    assert "meet at 100.0" in far
    assert "at 1 row 0.50" in cost
    assert "from 128 rows on" in free  # at 64 rows far weights give 640 of 1000


@pytest.mark.parametrize("kernel", ["gemv_f32", "gemv_f64", "gemv_bf16", "gemv_s8"])
def test_few_and_many_rows_are_right_and_leave_no_thread_idle(kernel: str) -> None:
    machine, options = Machine.load(), Options(profile="quick", bytes=16 << 20, kernels=(kernel,), pages="base")
    cases = [c for c in session.plan(["roofline"], options, machine) if not c.unavailable and c.target == c.initiator]
    with Hardware(machine, options) as backend:
        for case in cases:
            if case.params.get("m") in (None, 1, 16, 64):
                (sample,) = backend.measure([case], 0, 0, 1)
                assert sample.value > 0, case.label
                assert sample.evidence.cpus_seen == case.cpus
                assert not {"bad_result", "wrong_tier", "misplaced"} & set(sample.flags)
