# SPDX-License-Identifier: Apache-2.0
"""Who is visited how often: tight cases no more, wide ones on, unsound passes again, odd cells with controls."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Literal

import msgspec
import pytest

from numabench import measure
from numabench.analysis import screen
from numabench.series import Case, Odd, Options, Sample, Series
from tests.fakes import Fake, many


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
    """Noise by kernel; what ``wrong`` names fails a fatal check in its first passes; each visit takes its time."""

    def __init__(self, noise: dict[str, float], wrong: dict[str, int] | None = None, seconds: float = 0.0) -> None:
        super().__init__(0.0)
        self.by_kernel, self.wrong, self.seconds, self.now = noise, wrong or {}, seconds, 0.0

    def measure(self, group: Sequence[Case], number: int, position: int, seed: int) -> list[Sample]:
        self.now += self.seconds
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


def test_budget_goes_where_it_buys_most(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Scripted({"a": 0.0002, "b": 0.05, "c": 0.3}, seconds=0.01)
    monkeypatch.setattr("time.monotonic", lambda: fake.now)
    run(fake, Options(profile="standard", budget_s=0.45), "a", "b", "c")
    seen = visits(fake)
    assert seen["a"] == 6
    assert seen["c"] >= seen["b"] >= 6
    assert sum(seen.values()) < 60


def test_a_budget_too_small_for_a_second_pass_leaves_whole_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Scripted({"a": 0.0, "b": 0.0}, seconds=0.05)
    monkeypatch.setattr("time.monotonic", lambda: fake.now)
    run(fake, Options(budget_s=0.12), "a", "b")
    assert set(visits(fake).values()) == {1}


def test_an_outlier_at_a_checkpoint_asks_for_more() -> None:
    calm = [100.0, 100.1, 99.9, 100.05, 99.95, 100.02]
    assert not measure.stands_out(calm)
    assert measure.stands_out([*calm[:5], 130.0])
    assert not measure.stands_out([*calm[:5], 101.0])  # far in deviations, near in per cent


FOUR = many(4, packages=2)


def matrix(slow: dict[tuple[int, int], float], **more: float) -> list[Series]:
    """Latency and bandwidth of four nodes; some pairs slower than their class."""
    cases = [case("k", i, j) for i in range(4) for j in range(4)]
    cases += [case("r", i, j, better="high") for i in range(4) for j in range(4)] if more.get("both") else []

    def truth(one: Case) -> float:
        assert one.initiator is not None
        assert one.target is not None
        level = {"local": 100.0, "same package": 120.0, "remote": 200.0}[FOUR.relation(one.initiator, one.target)]
        level *= slow.get((one.initiator, one.target), 1.0)
        return level if one.better == "low" else 4000 / level

    fake = Fake(0.002, truth=truth)
    return screen.judged(measure.measure(cases, fake, Options(profile="quick"), machine=FOUR), FOUR)


def verdicts(series: Sequence[Series]) -> dict[tuple[int | None, int | None], str]:
    return {(s.case.initiator, s.case.target): s.odd.verdict for s in series if s.odd}


def test_a_cell_off_its_class_is_measured_again_with_controls() -> None:
    found = matrix({(1, 2): 1.3})
    again = {(s.case.initiator, s.case.target): sum(p.again for p in s.samples) for s in found if len(s.samples) > 6}
    assert again == {(1, 2): 3, (0, 2): 3, (0, 3): 3}  # and two of its class that are as they should be
    assert verdicts(found) == {(1, 2): "persistent_unexplained"}
    (odd,) = [s for s in found if s.odd]
    assert "odd_cell" in odd.flags
    assert odd.odd == Odd(
        verdict="persistent_unexplained",
        deviation=pytest.approx(0.3, abs=0.02),  # type: ignore[arg-type]
        reference=pytest.approx(200, abs=2),  # type: ignore[arg-type]
        alike=8,
        confidence=pytest.approx(0.999, abs=0.01),  # type: ignore[arg-type]
        what="link 1->2",
    )


def test_what_cells_have_in_common_is_their_verdict() -> None:
    assert verdicts(matrix({(1, 2): 1.3}, both=1)) == {(1, 2): "link_direction"}
    assert verdicts(matrix({(i, 2): 1.2 for i in range(4)})) == {(i, 2): "node" for i in range(4)}
    # The same place of both packages: the mode's, not a part's.
    assert set(verdicts(matrix({(0, 1): 1.2, (2, 3): 1.2})).values()) == {"mode_asymmetry"}


def test_what_was_noise_at_first_is_said_to_be_noise() -> None:
    class Passing(Fake):
        """One cell is slow in the passes of its turn, not in those after them."""

        def measure(self, group: Sequence[Case], number: int, position: int, seed: int) -> list[Sample]:
            slow = number < 6 and (group[0].initiator, group[0].target) == (3, 0)
            self.truth = lambda one: (100.0 if one.initiator == one.target else 200.0) * (1.2 if slow else 1.0)
            return super().measure(group, number, position, seed)

    cases = [case("k", i, j) for i in range(4) for j in range(4)]
    found = screen.judged(measure.measure(cases, Passing(0.002), Options(profile="quick"), machine=FOUR), FOUR)
    assert verdicts(found) == {(3, 0): "noise"}
    assert not any("odd_cell" in s.flags for s in found)


def test_a_cell_whose_passes_disagree_depends_on_its_allocation() -> None:
    class Lucky(Fake):
        """Two of three allocations of one cell are slow, each alike in all its windows."""

        def measure(self, group: Sequence[Case], number: int, position: int, seed: int) -> list[Sample]:
            slow = number % 3 and (group[0].initiator, group[0].target) == (3, 0)
            self.truth = lambda one: (100.0 if one.initiator == one.target else 200.0) * (1.2 if slow else 1.0)
            made = super().measure(group, number, position, seed)
            return [msgspec.structs.replace(s, windows=(s.value,) * 8) for s in made]

    cases = [case("k", i, j) for i in range(4) for j in range(4)]
    found = screen.judged(measure.measure(cases, Lucky(0.002), Options(profile="quick"), machine=FOUR), FOUR)
    assert verdicts(found)[3, 0] == "allocation_dependent"


def test_a_sound_matrix_has_no_odd_cell() -> None:
    found = matrix({})
    assert not verdicts(found)
    assert {len(s.samples) for s in found} == {6}


@pytest.mark.parametrize("noise", [0.005, 0.05])
def test_of_sound_matrices_few_have_an_odd_cell(noise: float) -> None:
    """Simulated: whatever the noise, at most one run in twenty accuses any of its 64 cells."""
    machine, wrong, runs = many(8, packages=2), 0, 60
    cases = [case("k", i, j) for i in range(8) for j in range(8)]
    for trial in range(runs):
        fake = Fake(noise, truth=lambda one: 100.0 if one.initiator == one.target else 200.0)
        fake.random = random.Random(trial)
        series = measure.measure(cases, fake, Options(profile="quick", seed=trial), machine=machine)
        found = screen.judged(series, machine)
        wrong += bool(set(verdicts(found).values()) - {"noise"})
    assert wrong <= 0.05 * runs


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
