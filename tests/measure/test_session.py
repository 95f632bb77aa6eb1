# SPDX-License-Identifier: Apache-2.0
"""From names to a record, on a fake machine whose true matrix is known."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from numabench import experiments, measure, session
from numabench.errors import Unsupported, UsageError
from numabench.record import Journal, dumps, loads
from numabench.series import Case, Options, Sample
from tests.fakes import Fake, two_nodes


def test_matrix_and_penalty_come_out() -> None:
    record = session.run(["latency"], Options(profile="quick", pages="thp"), machine=two_nodes(), backend=Fake())
    table = session.tables(record)[0]
    assert [name for name, _ in table.rows] == ["CPUs of 0", "CPUs of 1"]
    for i, (_, row) in enumerate(table.rows):
        local, remote = row[i], row[1 - i]
        assert local.ratio is None
        assert remote.ratio is not None
        assert remote.ratio_ci is not None
        assert remote.ratio_ci[0] < 1.9 < remote.ratio_ci[1]
    assert "1.9" in table.meaning[0]


def test_passes_interleave_and_differ_in_order() -> None:
    fake = Fake()
    session.run(["latency", "bandwidth"], Options(profile="quick"), machine=two_nodes(), backend=fake)
    numbers = [number for number, _ in fake.calls]
    assert numbers == sorted(numbers)
    orders = {tuple(label for n, label in fake.calls if n == number) for number in set(numbers)}
    assert len(set(numbers)) == 6
    assert len(orders) > 1
    assert len({frozenset(order) for order in orders}) == 1


def test_same_seed_same_order() -> None:
    first, second, other = Fake(), Fake(), Fake()
    for fake, seed in ((first, 5), (second, 5), (other, 6)):
        session.run(["latency"], Options(profile="quick", seed=seed), machine=two_nodes(), backend=fake)
    assert first.calls == second.calls
    assert first.calls != other.calls


def test_failing_case_says_why_and_the_rest_goes_on() -> None:
    record = session.run(["bandwidth"], Options(profile="quick"), machine=two_nodes(), backend=Fake(broken="triad"))
    failed = [s for s in record.series if s.estimate is None]
    assert failed
    assert all("broken on purpose" in s.unavailable for s in failed)
    assert any(s.estimate for s in record.series)


def test_fatal_flag_makes_a_series_untrusted_and_bars_ratios() -> None:
    record = session.run(["latency"], Options(profile="quick"), machine=two_nodes(), backend=Fake(flags=("misplaced",)))
    assert {series.trust for series in record.series} == {"untrusted"}
    assert all(cell.ratio is None for _, row in session.tables(record)[0].rows for cell in row)


def test_standard_profile_stops_when_tight_and_goes_on_when_not() -> None:
    def passes(noise: float) -> int:
        options = Options(profile="standard", pages="thp")
        record = session.run(["latency"], options, machine=two_nodes(), backend=Fake(noise))
        return max(len(series.samples) for series in record.series)

    assert passes(0.0005) == 6
    assert passes(0.2) == 10


@pytest.mark.parametrize(
    ("names", "options", "word"),
    [
        (["latncy"], Options(), "latency"),
        (["latency"], Options(tier="avx3"), "avx"),
        (["bandwidth"], Options(kernels=("tirad",)), "triad"),
        (["latency"], Options(kernels=("triad",)), "chase"),
        (["latency"], Options(nodes=(7,)), "nodes here: 0, 1"),
        (["scaling"], Options(threads=(99,)), "99"),
    ],
)
def test_usage_errors_name_what_is_allowed(names: list[str], options: Options, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        session.plan(names, options, two_nodes())


def test_nothing_can_run() -> None:
    machine = two_nodes()
    with pytest.raises(Unsupported, match="CPUs asked for"):
        session.run(["latency"], Options(cpus=(0,), nodes=(1,)), machine=machine, backend=Fake())


def test_plan_of_one_node_has_no_remote_case() -> None:
    cases = session.plan(["latency"], Options(nodes=(0,)), two_nodes())
    assert {(case.initiator, case.target) for case in cases} == {(0, 0)}


def test_resumed_run_does_not_repeat_samples(tmp_path: Path) -> None:
    journal, options = tmp_path / "run.journal", Options(profile="quick")

    class Killed(Fake):
        def measure(self, group, number, position, seed):  # type: ignore[no-untyped-def]
            if len(self.calls) > 7:
                raise KeyboardInterrupt
            return super().measure(group, number, position, seed)

    with pytest.raises(KeyboardInterrupt):
        session.run(["latency"], options, machine=two_nodes(), backend=Killed(), journal=journal)
    made, earlier = Journal.read(journal)
    kept = sum(map(len, earlier.values()))
    assert made["names"] == ["latency"]
    assert kept >= 7
    fake = Fake()
    record = session.run(["latency"], options, machine=two_nodes(), backend=fake, earlier=earlier)
    assert len(fake.calls) + kept == sum(len(series.samples) for series in record.series)
    assert {len(series.samples) for series in record.series} == {6}


def test_record_survives_its_file() -> None:
    record = session.run(["latency", "scaling"], Options(profile="quick"), machine=two_nodes(), backend=Fake())
    assert loads(dumps(record), "it") == record


def test_groups_share_only_within_an_experiment() -> None:
    def case(experiment: str, kernel: str) -> Case:
        return Case(experiment=experiment, kernel=kernel, unit="", better="low", share="x")

    found = measure.groups([case("a", "k"), case("b", "k"), case("a", "l")])
    assert [len(group) for group in found] == [2, 1]


def test_minority_of_fatal_samples_does_not_count() -> None:
    fake, case = Fake(0.0), session.plan(["latency"], Options(pages="thp"), two_nodes())[0]
    samples = [fake.measure([case], n, n, 0)[0] for n in range(7)]
    odd = fake.measure([case], 7, 7, 0)[0]
    bad = Sample(number=7, position=7, value=9e9, windows=(9e9,), evidence=odd.evidence, flags=("stolen",))
    series = measure.summary(case, [*samples, bad], "", Options(profile="quick"))
    assert series.estimate == pytest.approx(100.0)
    assert len(series.samples) == 8
    assert series.trust == "proven"


@pytest.mark.parametrize(
    ("flags", "trust"), [((), "proven"), (("not_steady",), "inferred"), (("unpinned",), "untrusted")]
)
def test_only_a_case_without_warnings_is_proven(flags: tuple[str, ...], trust: str) -> None:
    fake = Fake(0.0, flags=flags)
    record = session.run(["latency"], Options(profile="quick"), machine=two_nodes(), backend=fake)
    assert {series.trust for series in record.series} == {trust}


def test_knee_pairs_figures_of_the_same_pass() -> None:
    case = next(c for c in session.plan(["scaling"], Options(kernels=("read",)), two_nodes()) if c.target == 0)
    twice = msgspec.structs.replace(case, cpus=(0, 0))
    fake = Fake(0.0)
    one = [fake.measure([case], n, n, 0)[0] for n in range(8)]
    two = [fake.measure([twice], n, n, 0)[0] for n in range(1, 9)]  # the first pass is missing
    options = Options(profile="quick")
    series = [measure.summary(c, s, "", options) for c, s in ((case, one), (twice, two))]
    assert "reached with 2" in experiments.find("scaling").summarise(series, two_nodes())[0].meaning[0]
    only = [measure.summary(case, one[:1], "", options), measure.summary(twice, two[:1], "", options)]
    assert not experiments.find("scaling").summarise(only, two_nodes())[0].meaning


@pytest.mark.parametrize("size", [1 << 20, 4 << 20, 64 << 20])
def test_size_is_kept_by_every_standard_experiment(size: int) -> None:
    cases = session.plan([], Options(profile="quick", bytes=size), two_nodes())
    assert {"latency", "bandwidth", "gemm", "scaling"} <= {case.experiment for case in cases}
    assert all(0.7 * size <= case.bytes <= size for case in cases)
