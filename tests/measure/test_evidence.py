# SPDX-License-Identifier: Apache-2.0
"""Facts of a pass and the flags that follow from them: each is planted alone, and nothing else is raised."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from numabench.disturbance import Disturbance
from numabench.errors import NumabenchError
from numabench.evidence import flags, prefetch, shared
from numabench.jobs.chase import _floor, against_halves, first_lap
from numabench.series import FLAGS, Case, Evidence
from tests.fakes import two_nodes
from tests.machine import facts

CASE = Case(experiment="latency", kernel="chase", unit="ns", better="low", cpus=(0,), target=0, pages="thp")
CALM: dict[str, Any] = {"placement_how": "bind", "proof": "move_pages", "page_kind_share": 1.0}
QUIET = Disturbance(seconds=1.0, steal_share=0.0)


def stamp(ms: float = 2.0, **more: Any) -> Any:
    given = {"start_ns": 0.0, "end_ns": ms * 1e6, "core_hz_before": 0.0, "core_hz_after": 0.0, "elements": 1e4}
    given |= {"width_before": 0.0, "width_after": 0.0, "cpu": 0, "cpu_start": 0, "cpu_end": 0}
    return SimpleNamespace(**given | more)


def raised(
    seen: dict[str, Any] | None = None,
    case: Case = CASE,
    changes: Disturbance = QUIET,
    window_ms: float = 2.0,
    settled: bool = True,
    overhead_ns: float = 20.0,
    balancing: bool = False,
) -> set[str]:
    clock: Any = SimpleNamespace(overhead_ns=overhead_ns, step_ns=10.0)
    windows = [[stamp(window_ms)]]
    evidence = Evidence(**CALM | (seen or {}))
    return set(flags(case, evidence, changes, windows, settled, two_nodes(), clock, balancing))


def test_a_pass_as_it_should_be_raises_nothing() -> None:
    assert raised() == set()
    assert raised({"twins": {"half": 1.02, "apart": 0.97, "laps": 1.01}, "clock_share": 0.01}) == set()


@pytest.mark.parametrize(
    ("planted", "flag"),
    [
        ({"seen": {"pages_misplaced": 1}}, "misplaced"),
        ({"seen": {"placement_timed": 1, "placement_requested": {0: 1.0}}}, "misplaced"),
        ({"seen": {"pages_absent": 1}}, "not_resident"),
        ({"seen": {"migrated": 1}}, "migrated"),
        ({"seen": {"clock_off": -0.02}}, "clock_jumped"),
        ({"seen": {"proof": "none"}}, "unverified_placement"),
        ({"seen": {"page_kind_share": 0.98}}, "page_kind_mixed"),
        ({"seen": {"tier": "none of them"}}, "wrong_tier"),
        ({"seen": {"switches": 50}}, "contended"),
        ({"seen": {"skew_ns": 1e5}}, "skewed"),
        ({"seen": {"twins": {"half": 1.06}}}, "not_plateau"),
        ({"seen": {"twins": {"apart": 1.2}}}, "prefetch_suspect"),
        ({"seen": {"twins": {"laps": 1.04}}}, "chain_learned"),
        ({"seen": {"clock_share": 0.06}}, "timer_coarse"),
        ({"seen": {"call_share": 0.06}}, "timer_coarse"),
        ({"window_ms": 0.02}, "timer_coarse"),
        ({"overhead_ns": 3000.0}, "timer_coarse"),
        ({"settled": False}, "not_steady"),
        ({"changes": Disturbance(seconds=1.0, throttled_count=1)}, "throttled"),
        ({"changes": Disturbance(seconds=1.0, steal_share=0.02)}, "stolen"),
        ({"changes": Disturbance(seconds=1.0, memory_pressure_us=20_000)}, "contended"),
        ({"changes": Disturbance(seconds=1.0, sibling_share=0.06)}, "sibling_busy"),
        ({"seen": {"shared_share": 0.2}}, "sibling_busy"),
    ],
)
def test_a_planted_fact_raises_its_flag_and_no_other(planted: dict[str, Any], flag: str) -> None:
    assert raised(**planted) == {flag}
    assert flag in FLAGS


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ([0.0, 0.0], None),
        ([6.0, 5.9, 5.8, 5.0], 0.0),
        ([6.0, 3.1, 6.0, 6.0], 0.0),  # an interrupt
        ([6.0, 3.1, 3.2, 6.0], 0.5),
    ],
)
def test_a_core_that_gives_half_of_its_width_is_shared(widths: list[float], expected: float | None) -> None:
    windows = [[stamp(width_before=b, width_after=a)] for b, a in zip(widths[::2], widths[1::2], strict=True)]
    assert shared(windows, two_nodes(), {}) == expected


def test_a_core_is_held_against_the_most_of_its_kind_so_far() -> None:
    machine, widest = two_nodes(), dict[int, float]()
    assert shared([[stamp(width_before=6.0, width_after=6.0)]], machine, widest) == 0.0
    assert shared([[stamp(cpu=1, width_before=3.0, width_after=3.1)]], machine, widest) == 1.0


def test_two_threads_of_the_run_on_a_core_are_no_others() -> None:
    machine = facts.machine("32intel64-2p8co2t+8ve")
    core = next(core for core in machine.cores if len(core) == 2)
    both = [stamp(cpu=cpu, width_before=3.0, width_after=3.0) for cpu in core]
    widest = {machine.cpu(core[0]).kind: 6.0}
    assert shared([both], machine, widest) is None
    assert shared([both[:1]], machine, widest) == 1.0


@pytest.mark.parametrize(
    ("how", "pages", "on", "expected"),
    [
        ("first_touch", "thp", True, {"balancing_on"}),
        ("first_touch", "thp", False, set()),
        ("bind", "thp", True, set()),
        ("first_touch", "2M", True, set()),
    ],
)
def test_balancing_matters_to_buffers_that_nobody_bound(how: str, pages: str, on: bool, expected: set[str]) -> None:
    case = Case(experiment="e", kernel="chase", unit="ns", better="low", cpus=(0,), pages=pages)
    assert raised({"placement_how": how}, case, balancing=on) == expected


@pytest.mark.parametrize("changed", [{"moved": {"pgmigrate_success": 1}}, {"nodes_allowed": ("0-1", "0")}])
def test_suspicions_of_moved_pages_end_where_every_page_is_proven(changed: dict[str, Any]) -> None:
    changes = Disturbance(seconds=1.0, **changed)
    assert raised({"proof": "numa_maps"}, changes=changes) == {"migration_suspected"}
    assert raised({"proof": "move_pages"}, changes=changes) == set()


def test_prefetching_is_told_by_the_kind_of_access_or_the_twin() -> None:
    stream = Case(experiment="e", kernel="read", unit="GB/s", better="high")
    assert prefetch(stream, {}) == "sequential"
    assert [prefetch(CASE, twins) for twins in ({}, {"apart": 1.0}, {"apart": 1.3})] == ["", "insensitive", "sensitive"]


def test_a_window_in_which_the_turn_never_came_is_no_floor() -> None:
    """It may be as short as nothing, which is no time for a load."""
    loads = iter([100.0] * 5 + [0.0] + [100.0] * 3)
    ring: Any = None
    assert _floor(lambda _: [stamp(0.01 if (n := next(loads)) else 0.0, elements=n)], ring) == pytest.approx(100.0)
    with pytest.raises(NumabenchError, match="turn"):
        _floor(lambda _: [stamp(0.0, elements=0.0)], ring)


def laps(ns: list[float], loads: float = 100.0) -> list[list[Any]]:
    return [[stamp(each * loads / 1e6, elements=loads)] for each in ns]


def test_rounds_of_a_ring_are_told_apart() -> None:
    assert first_lap(laps([100.0] * 20), nodes=1000) == pytest.approx(1.0)
    assert first_lap(laps([300.0] * 3 + [100.0] * 7 + [90.0] * 8), nodes=1000) == pytest.approx(100 / 90)
    assert first_lap(laps([100.0] * 10), nodes=1000) is None  # once round is no repetition
    assert first_lap(laps([100.0] * 20, loads=2000), nodes=1000) is None  # a window holds more than a round


@pytest.mark.parametrize(
    ("whole", "wide", "halves", "found"),
    [
        (100.0, 101.0, (99.0, 500.0), {"half": 100 / 99, "apart": 101 / 99}),  # nothing stands out: one half will do
        (110.0, 111.0, (100.0, 121.0), {"half": 110 / 121, "apart": 111 / 121}),  # memory of two kinds
        (100.0, 140.0, (20.0, 21.0), {"half": 100 / 21, "apart": 140 / 21}),  # a cache holds either half
        (100.0, 140.0, (100.0, 101.0), {"half": 100 / 101, "apart": 140 / 101}),  # a neighbour is fetched too
        (110.0, None, (100.0, 100.0), {"half": 1.1}),
    ],
)
def test_either_half_must_be_faster_than_the_whole_for_it_to_be_no_plateau(
    whole: float, wide: float | None, halves: tuple[float, float], found: dict[str, float]
) -> None:
    assert against_halves(whole, wide, lambda start: halves[start]) == pytest.approx(found)
