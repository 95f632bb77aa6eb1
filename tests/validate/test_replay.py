# SPDX-License-Identifier: Apache-2.0
"""Published machines: what their sources could not explain is flagged, what is explained or sound passes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from numabench import session
from numabench.analysis import screen
from numabench.validation import layers, metrics
from numabench.validation.baseline import build
from numabench.validation.outcome import Result
from numabench.validation.validate import validate

from . import docs
from .reference import core_to_core_before, earlier, judged, machines, published, together

ALL = machines()
# What is in no matrix of nodes, by field of the source; c2c, caches and CPUs at once have own tests below.
NO_MATRIX = {"c2c_ns", "cache_gb_per_s", "latency_sweep", "loaded", "peak_gb_per_s"}
MATRIX = [name for name, one in ALL.items() if published(one) is not None]


def anomalies(name: str, kind: str = "unexplained") -> list[dict[str, Any]]:
    return [a for a in ALL[name]["known_anomalies"] if a["verdict"].startswith(kind) and a["field"] not in NO_MATRIX]


def against_the_run_before(name: str) -> Result | None:
    before = earlier(ALL[name], ALL)
    first = published(before) if before else None
    now = published(ALL[name])
    return validate(now, host=name, baseline=build([validate(first, host="before")])) if first and now else None


@pytest.mark.parametrize("name", MATRIX)
def test_what_is_sound_or_explained_is_not_accused(name: str) -> None:
    result = judged(ALL[name])
    assert result is not None
    accused = [check for check in result.checks if check.verdict in ("FAIL", "SUSPECT")]
    if not anomalies(name):
        assert not accused
    else:  # nothing but the cells named by the source
        cells = {(i, j) for anomaly in anomalies(name) for i, j in anomaly["cells"]}
        names = {f"node{i}" if i == j else f"node{i}->node{j}" for i, j in cells}
        assert {check.instance for check in accused} <= names


def test_what_is_unexplained_is_flagged() -> None:
    seen = 0
    for name in MATRIX:
        for anomaly in anomalies(name):
            seen += 1
            result = judged(ALL[name])
            assert result is not None
            held = against_the_run_before(name)
            drift = [c for c in held.checks if c.layer == "baseline" and c.verdict != "PASS"] if held else []
            flagged = [c for c in result.checks if c.layer == "symmetry" and c.verdict in ("SUSPECT", "WARN", "FAIL")]
            assert flagged or (anomaly["kind"] == "run_to_run_shift" and drift), (name, anomaly["kind"])
    assert seen == 5


@pytest.mark.parametrize("name", MATRIX)
def test_the_summary_of_a_run_names_exactly_the_odd_cells(name: str) -> None:
    """As `numabench run` would have printed these matrices: the cells their sources could not explain, no others."""
    record = published(ALL[name])
    assert record is not None
    mine = [one for one in record.series if one.case.experiment in ("latency", "bandwidth")]
    series = tuple(screen.judged(mine, record.machine))
    flagged = {(s.case.initiator, s.case.target) for s in series if "odd_cell" in s.flags}
    within = [a for a in anomalies(name) if a["kind"] != "run_to_run_shift"]
    assert bool(flagged) == bool(within)
    assert flagged <= {(i, j) for anomaly in within for i, j in anomaly["cells"]}
    tables = session.tables(msgspec.structs.replace(record, series=series))
    said = " ".join(line for table in tables for line in table.meaning if line.startswith("Odd: "))
    assert bool(said) == bool(flagged)
    assert all(f"CPUs of {i} to node {j}" in said or "cells), most" in said for i, j in flagged)


def test_invalid_measurements_are_told() -> None:
    names = [n for n in MATRIX if any(a["verdict"].startswith("invalid") for a in ALL[n]["known_anomalies"])]
    assert names == ["clx-8269cy-2s-lmbench", "epyc-7532-1s-a", "epyc-7532-1s-b"]
    for name in MATRIX:
        result = judged(ALL[name])
        assert result is not None
        assert any(check.reason == "INVALID" for check in result.checks) == (name in names)


def test_cpus_that_hurt_each_other_unlike_are_told() -> None:
    one = ALL["epyc-7a53-1s-nps4"]
    (anomaly,) = (a for a in one["known_anomalies"] if a["verdict"] == "unexplained")
    assert anomaly["kind"] == "interference_bimodal"
    result = judged(one)
    assert result is not None
    told = {check.instance: check.value for check in result.checks if check.reason == "UNEVEN"}
    assert told.keys() == {"node0", "node1", "node2", "node3"}
    assert told["node0"] == pytest.approx(112.31 / 178.93)
    assert not layers.together(metrics.shares(together(one, "one_at_a_time")))
    others = [judged(ALL[name]) for name in MATRIX if name != one["name"]]
    assert not [check for other in others if other for check in other.checks if check.reason == "UNEVEN"]


def test_a_change_of_core_to_core_figures_is_told() -> None:
    held = core_to_core_before(ALL["skx-gold6140-2s-2023"], ALL)
    assert held is not None
    bad = {check.label: (check.verdict, check.reason) for check in held.checks if check.layer == "baseline"}
    assert bad["c2c.remote_other_home[node0->node1]"] == ("WARN", "BETTER_THAN_BASELINE")
    assert bad["c2c.remote_other_home[node1->node0]"] == ("WARN", "BETTER_THAN_BASELINE")
    assert bad["c2c.remote[node0->node1]"] == ("PASS", "")


@pytest.mark.parametrize("name", [n for n in MATRIX if earlier(ALL[n], ALL) is not None])
def test_a_second_run_of_a_sound_machine_passes_its_baseline(name: str) -> None:
    held = against_the_run_before(name)
    assert held is not None
    bad = [check for check in held.checks if check.layer == "baseline" and check.verdict != "PASS"]
    assert bool(bad) == bool(anomalies(name))


def test_the_document_is_up_to_date() -> None:
    text = docs.FILE.read_text()
    assert docs.updated(text) == text, "python -m tests.validate.docs"
