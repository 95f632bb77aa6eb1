# SPDX-License-Identifier: Apache-2.0
"""A hypervisor that moves CPUs among its cores: the hand-over between them shows it, and the interval allows for it."""

from __future__ import annotations

import os

import pytest

from numabench import _core, changes, measure, session, timing
from numabench.analysis import clusters, stats
from numabench.record import Record
from numabench.reports import words
from numabench.series import Case, Evidence, Options, Sample, Series
from tests.fakes import two_nodes

NEAR, FAR = (40.0, 43.0), (185.0, 180.0)


def sample(number: int, value: float, apart: tuple[float, float] | None) -> Sample:
    seen = Evidence(proof="move_pages", page_kind_share=1.0, hand_over_ns=apart)
    return Sample(number=number, position=number, value=value, windows=(value,), evidence=seen)


def case(kernel: str = "read") -> Case:
    return Case(experiment="bandwidth", kernel=kernel, unit="GB/s", better="high", cpus=(0, 1), initiator=0, target=0)


def samples(*states: tuple[float, float] | None) -> list[Sample]:
    return [sample(i, (77.0 if at == FAR else 43.0) + 0.1 * i, at) for i, at in enumerate(states)]


def record_of(series: Series, created: str = "2026-01-01T00:00:00Z") -> Record:
    return session.build(two_nodes(), {"numa_balancing": "0"}, {}, [series], created, 1.0)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ((), None),
        ((40.0,), None),
        ((40.0, 60.0, 79.0), None),
        ((40.0, 185.0, 42.0, 181.0), (41.0, 183.0)),
        ((40.0, 60.0, 130.0, 300.0), (60.0, 300.0)),  # the widest gap, not the first
    ],
)
def test_split(values: tuple[float, ...], found: tuple[float, float] | None) -> None:
    assert clusters.split(values, 2.0) == found


def test_figures_of_both_places_are_told_and_the_interval_holds_all() -> None:
    taken = samples(*[NEAR] * 4, FAR, *[NEAR] * 5)
    assert stats.median_interval([s.value for s in taken]) == (43.1, 43.9)
    series = measure.summary(case(), taken, "", Options())
    assert "cpus_moved" in series.flags
    assert series.trust == "inferred"
    assert series.ci == (43.0, 77.4)
    said = words.watch(record_of(series))[-1]
    assert "CPUs 0 and 1" in said
    assert "42 ns (read 43.5 GB/s) or 182 ns (read 77.4 GB/s)" in said


def test_a_move_between_two_windows_is_seen_too() -> None:
    assert measure.moved(samples(NEAR, NEAR, (41.0, 190.0)))


@pytest.mark.parametrize("apart", [NEAR, FAR, None])
def test_cpus_that_stay_are_not_flagged(apart: tuple[float, float] | None) -> None:
    series = measure.summary(case(), samples(*[apart] * 10), "", Options())
    assert "cpus_moved" not in series.flags
    assert series.ci != (min(s.value for s in series.samples), max(s.value for s in series.samples))


def test_records_taken_at_other_places_are_not_compared() -> None:
    near, far, near_again = (
        record_of(measure.summary(case(), samples(*[at] * 10), "", Options()), created)
        for at, created in ((NEAR, "1"), (FAR, "2"), (NEAR, "3"))
    )
    (cell,) = changes.compare_records([near], [far]).cells
    assert cell.change.verdict == "not comparable"
    assert cell.change.reasons == ("the hypervisor had moved the CPUs: a hand-over took 42 or 182 ns",)
    (cell,) = changes.compare_records([near], [near_again]).cells
    assert cell.change.verdict != "not comparable"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_a_hand_over_takes_longer_than_a_cached_load() -> None:
    with _core.Team(sorted(os.sched_getaffinity(0))[:2]) as team:
        assert 2 < timing.hand_over(team) < 1e5
