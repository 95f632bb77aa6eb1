# SPDX-License-Identifier: Apache-2.0
"""What failed stays failed until it has passed twice in a row, whoever says so: its specification or its class."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from numabench.analysis.verdict import Verdict
from numabench.fleet import actions, causes, judge, store
from numabench.fleet.judge import Host, Report
from numabench.fleet.states import Seen, changes
from numabench.validation import outcome
from numabench.validation.outcome import Check

from .simulate import Fleet

WORDS: dict[str, Seen] = {word[0]: word for word in get_args(Seen)}


@pytest.mark.parametrize(
    ("seen", "states"),
    [
        ("p", "PASS"),
        ("n", ""),
        ("s p", "SUSPECT PASS"),
        ("s s f", "SUSPECT FAIL"),
        ("f n n", "FAIL"),
        ("p f p", "PASS FAIL REPAIRED"),
        ("p f p n p", "PASS FAIL REPAIRED PASS"),
        ("f p s p p", "FAIL REPAIRED FAIL REPAIRED PASS"),
        ("f s", "FAIL"),
    ],
)
def test_states(seen: str, states: str) -> None:
    visits = [(f"t{at}", WORDS[letter]) for at, letter in enumerate(seen.split())]
    found = changes(visits)
    assert " ".join(change.state for change in found) == states
    assert [change.at for change in found] == sorted({change.at for change in found})


def judged(folder: Path, verdicts: list[Verdict], factors: list[float], n: int = 4) -> Report:
    """The first machine's own verdict and local bandwidth, visit by visit; four machines make no outliers."""
    fleet = Fleet(n, share=0)
    for number, (verdict, factor) in enumerate(zip(verdicts, factors, strict=True), start=1):
        fleet.visit(folder, number)
        for path in (folder / f"visit{number}").glob("*.json"):
            result = outcome.load(path)
            first = result.host == "h00000"
            values = result.values | {"bw.read.local": {"node0": (180.0 * (factor if first else 1),) * 3}}
            if first:
                check = Check(layer="spec", name="bw.read.local", verdict=verdict)
                result = msgspec.structs.replace(result, verdict=verdict, reason="as made up", checks=(check,))
            outcome.save(msgspec.structs.replace(result, values=values), path)
    with store.connect() as con:
        return causes.with_causes(judge.judge(con, fleet.hosts, {}, store.fill(con, store.files([folder]))))


def first(report: Report) -> Host:
    return report.hosts[0]


def test_a_failure_of_its_own_is_not_forgotten_by_one_pass(tmp_path: Path) -> None:
    report = judged(tmp_path, ["FAIL", "PASS"], [1, 1])
    assert (first(report).verdict, "one more pass" in first(report).reason) == ("WARN", True)
    assert [change.state for change in first(report).history] == ["FAIL", "REPAIRED"]
    assert report.retest == ("h00000",)
    assert not report.quarantine
    assert not report.cleared


def test_two_passes_clear_it_and_it_may_be_resumed(tmp_path: Path) -> None:
    report = judged(tmp_path, ["FAIL", "PASS", "WARN"], [1, 1, 1])
    assert first(report).verdict == "WARN"
    assert first(report).reason == "as made up"
    assert report.cleared == ("h00000",)
    assert not report.retest
    assert actions.resumes(report) == [("h00000", ["scontrol", "update", "NodeName=h00000", "State=RESUME"])]
    assert not actions.drains(report)


def test_a_visit_without_a_verdict_does_not_clear_it(tmp_path: Path) -> None:
    report = judged(tmp_path, ["FAIL", "INCONCLUSIVE"], [1, 1])
    assert report.quarantine == ("h00000",)
    assert "has not passed since" in first(report).reason


def test_three_flagged_visits_fail_it_and_the_next_good_one_is_a_repair(tmp_path: Path) -> None:
    report = judged(tmp_path, ["PASS"] * 4, [0.8, 0.8, 0.8, 1], n=40)
    assert [change.state for change in first(report).history] == ["SUSPECT", "FAIL", "REPAIRED"]
    assert first(report).verdict == "WARN"
    assert "h00000" in report.retest
