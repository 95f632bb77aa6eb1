# SPDX-License-Identifier: Apache-2.0
"""Who is visited how often: tight cases no more, wide ones on, unsound passes again, odd cells with controls."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Literal

import msgspec
import pytest

from numabench import measure
from numabench.series import Case, Options, Sample, Series
from tests.fakes import Fake


def case(kernel: str, initiator: int = 0, target: int = 0, better: Literal["low", "high"] = "low") -> Case:
    return Case(
        experiment="e",
        kernel=kernel,
        unit="",
        better=better,
        initiator=initiator,
        target=target,
        cpus=(0,),
    )


class Scripted(Fake):
    """Noise by kernel; what ``wrong`` names fails a fatal check in its first passes; each visit takes a moment."""

    def __init__(self, noise: dict[str, float], wrong: dict[str, int] | None = None, seconds: float = 0.0) -> None:
        super().__init__(0.0)
        self.by_kernel, self.wrong, self.seconds = noise, wrong or {}, seconds

    def measure(self, group: Sequence[Case], number: int, position: int, seed: int) -> list[Sample]:
        time.sleep(self.seconds)
        self.noise = self.by_kernel[group[0].kernel]
        bad = number < self.wrong.get(group[0].kernel, 0)
        self.flags = ("stolen",) if bad else ()
        return super().measure(group, number, position, seed)


def visits(fake: Fake) -> Counter[str]:
    return Counter(label.split("-")[0] for _, label in fake.calls)


def run(fake: Fake, options: Options, *kernels: str) -> dict[str, Series]:
    found = measure.measure([case(name) for name in kernels], fake, options)
    return {series.case.kernel: series for series in found}


def test_tight_cases_are_not_visited_again() -> None:
    fake = Scripted({"calm": 0.0002, "wild": 0.2})
    found = run(fake, Options(profile="standard"), "calm", "wild")
    assert visits(fake) == {"calm": 6, "wild": 10}
    assert "ci_wide" in found["wild"].flags
    assert "ci_wide" not in found["calm"].flags


def test_latency_asks_for_half_the_width_of_bandwidth() -> None:
    options = Options(profile="standard")
    assert (measure.tight(case("a"), options), measure.tight(case("a", better="high"), options)) == (0.01, 0.02)
    assert measure.tight(case("a"), Options(precision=0.003)) == 0.003


def test_a_precision_asked_for_may_take_thirty_passes() -> None:
    fake = Scripted({"wild": 0.2})
    run(fake, Options(profile="quick", precision=0.001), "wild")
    assert visits(fake) == {"wild": 30}


def test_exact_passes_are_exact() -> None:
    fake = Scripted({"calm": 0.0, "wild": 0.2})
    run(fake, Options(passes=7), "calm", "wild")
    assert visits(fake) == {"calm": 7, "wild": 7}


def test_unsound_passes_are_taken_again() -> None:
    fake = Scripted({"calm": 0.0002}, wrong={"calm": 2})
    found = run(fake, Options(profile="quick"), "calm")["calm"]
    assert visits(fake) == {"calm": 8}
    assert sum(not sample.flags for sample in found.samples) == 6
    assert found.trust == "proven"


def test_a_case_that_never_passes_its_checks_ends() -> None:
    fake = Scripted({"calm": 0.0}, wrong={"calm": 99})
    found = run(fake, Options(profile="quick"), "calm")["calm"]
    assert visits(fake) == {"calm": 9}
    assert found.trust == "untrusted"


def test_budget_goes_where_it_buys_most() -> None:
    fake = Scripted({"a": 0.0002, "b": 0.05, "c": 0.3}, seconds=0.01)
    run(fake, Options(profile="standard", budget_s=0.45), "a", "b", "c")
    seen = visits(fake)
    assert seen["a"] == 6
    assert seen["c"] >= seen["b"] >= 6
    assert sum(seen.values()) < 60


def test_a_budget_too_small_for_a_second_pass_leaves_whole_passes() -> None:
    fake = Scripted({"a": 0.0, "b": 0.0}, seconds=0.05)
    run(fake, Options(budget_s=0.12), "a", "b")
    assert set(visits(fake).values()) == {1}


def test_an_outlier_at_a_checkpoint_asks_for_more() -> None:
    calm = [100.0, 100.1, 99.9, 100.05, 99.95, 100.02]
    assert not measure.stands_out(calm)
    assert measure.stands_out([*calm[:5], 130.0])
    assert not measure.stands_out([*calm[:5], 101.0])  # far in deviations, near in per cent


def matrix(odd: tuple[int, int] | None) -> tuple[Fake, Counter[tuple[int | None, int | None]]]:
    """Four nodes; one remote pair may be 30 % slower than its class."""
    cases = [case("k", i, j) for i in range(4) for j in range(4)]

    def truth(one: Case) -> float:
        slow = 1.3 if (one.initiator, one.target) == odd else 1.0
        return (100.0 if one.initiator == one.target else 200.0) * slow

    fake = Fake(0.002, truth=truth)
    found = measure.measure(cases, fake, Options(profile="quick"))
    return fake, Counter({(s.case.initiator, s.case.target): len(s.samples) for s in found})


def test_a_cell_off_its_class_is_measured_again_with_controls() -> None:
    _, seen = matrix((1, 2))
    assert seen[1, 2] == 9
    assert sorted(seen.values()) == [6] * 13 + [9] * 3


def test_a_matrix_of_two_classes_has_no_odd_cell() -> None:
    _, seen = matrix(None)
    assert set(seen.values()) == {6}


def test_coverage_holds_when_each_case_stops_by_itself() -> None:
    """Simulated: stopping at checkpoints, per case, keeps 95 % intervals of the median honest (normal noise)."""
    rng, hits, total = random.Random(11), 0, 600
    for trial in range(total):
        fake = Fake(0.012, truth=lambda _: 100.0)
        fake.random = random.Random(rng.getrandbits(64))
        series = measure.measure([case("k")], fake, Options(profile="standard", seed=trial))[0]
        assert series.ci
        hits += series.ci[0] <= 100.0 <= series.ci[1]
    assert hits / total >= 0.94


def test_variance_components_are_told_apart() -> None:
    class Allocations(Fake):
        """Each pass has a level of its own; its windows hardly differ."""

        def measure(self, group: Sequence[Case], number: int, position: int, seed: int) -> list[Sample]:
            level = self.random.gauss(100.0, 8.0)
            windows = tuple(level + self.random.gauss(0, 0.1) for _ in range(8))
            made = super().measure(group, number, position, seed)
            return [msgspec.structs.replace(s, windows=windows, value=median(windows)) for s in made]

    series = measure.measure([case("k")], Allocations(), Options(profile="full"))[0]
    assert series.spread_between == pytest.approx(0.08, rel=0.6)
    assert series.spread_within < 0.003
    assert "allocation_dependent" in series.flags
