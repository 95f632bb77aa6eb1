# SPDX-License-Identifier: Apache-2.0
"""Measuring a machine whose true figures are known: odd cells are measured again at once, and called what they are."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from numabench.series import Case, Options, Sample
from numabench.validation.validate import EXPERIMENTS, validate
from numabench.validation.visit import visit
from tests.fakes import Fake, two_nodes


class Faulty(Fake):
    """A fake whose load from node 0 to node 1 is slower: always, or in the first measurement only."""

    def __init__(self, factor: float, until: int = 10**9) -> None:
        super().__init__(noise=0.004)
        self.factor, self.until = factor, until

    def measure(self, group: Sequence[Case], number: int, position: int, seed: int) -> list[Sample]:
        found = super().measure(group, number, position, seed)
        return [
            msgspec.structs.replace(sample, value=sample.value * self.factor, windows=(sample.value * self.factor,))
            if (case.experiment, case.initiator, case.target) == ("latency", 0, 1) and len(self.calls) < self.until
            else sample
            for case, sample in zip(group, found, strict=True)
        ]


OPTIONS = Options(profile="quick", passes=6)


def test_a_sound_machine_is_not_measured_again() -> None:
    fake = Fake(noise=0.004)
    record, again = visit(OPTIONS, machine=two_nodes(), backend=fake)
    assert not again
    result = validate(record, again=again)
    assert result.verdict in ("PASS", "WARN"), result.reason
    assert not [check for check in result.checks if check.reason in ("ASYMMETRIC", "NOISE", "UNCONFIRMED")]


def test_a_slow_link_is_measured_again_and_persistent() -> None:
    fake = Faulty(1.25)
    notes: list[str] = []
    record, again = visit(OPTIONS, machine=two_nodes(), backend=fake, note=notes.append)
    assert set(again["latency"]) == {(0, 1), (1, 0)}
    assert len(notes) == 1
    result = validate(record, again=again)
    assert result.verdict == "FAIL"
    assert "link 0->1" in result.reason
    assert "persistent" in result.reason
    assert "socket link narrow or down" in [cause.name for cause in result.causes]


def test_what_the_second_measurement_does_not_show_is_noise() -> None:
    planned = len(visit(OPTIONS, machine=two_nodes(), backend=(first := Fake(noise=0.004)))[0].series)
    assert planned
    record, again = visit(OPTIONS, machine=two_nodes(), backend=Faulty(1.25, until=len(first.calls)))
    result = validate(record, again=again)
    assert "NOISE" in [check.reason for check in result.checks]
    assert result.verdict == "WARN", result.reason


def test_what_a_specification_asks_for_is_measured() -> None:
    always = {one.case.experiment for one in visit(OPTIONS, machine=two_nodes(), backend=Fake(noise=0.004))[0].series}
    assert always == set(EXPERIMENTS)
    record, _ = visit(OPTIONS, machine=two_nodes(), backend=Fake(noise=0.004), wanted=["c2c.remote", "latency.local"])
    assert {one.case.experiment for one in record.series} == {*EXPERIMENTS, "c2c"}
    values = validate(record).values
    assert set(values["c2c.remote"]) == {"node0->node1"}
    assert set(values["latency.sequential_over_random"]) == {"node0", "node1"}
