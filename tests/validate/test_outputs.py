# SPDX-License-Identifier: Apache-2.0
"""The outputs made from a result: parsed by others' parsers, whole, deterministic, and safe with hostile names."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from numabench import record as records
from numabench.analysis.verdict import WORST_FIRST
from numabench.errors import RecordError
from numabench.reports import validation as reports
from numabench.validation import outcome
from numabench.validation.outcome import Check, Result
from numabench.validation.validate import validate

from .test_causes import FAULTS, SPEC, made

HOSTILE = 'h"<&>|\n\x07::%]]>'


@pytest.fixture
def failed() -> Result:
    return validate(FAULTS["memory channel missing"], host="h1", spec=SPEC)


def with_all_verdicts(result: Result) -> Result:
    more = tuple(Check(layer="spec", name="bw.read.local", instance=v, verdict=v, text=HOSTILE) for v in WORST_FIRST)
    return msgspec.structs.replace(result, checks=(*result.checks, *more))


def test_a_result_is_read_back_and_the_same_every_time(failed: Result, tmp_path: Path) -> None:
    again = validate(FAULTS["memory channel missing"], host="h1", spec=SPEC)
    assert outcome.dumps(failed) == outcome.dumps(again)
    outcome.save(failed, tmp_path / "h1.json")
    assert outcome.load(tmp_path / "h1.json") == failed
    assert [path.name for path in tmp_path.iterdir()] == ["h1.json"]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"kind":"numabench-validation"}', b"\xff\xfe", b"[" * 100000])
def test_what_is_no_result_is_refused(text: bytes) -> None:
    with pytest.raises(RecordError, match="h1"):
        outcome.loads(text, "h1.json")


def test_a_truncated_result_is_refused(failed: Result) -> None:
    text = outcome.dumps(failed)
    for end in range(0, len(text) - 2, 997):
        with pytest.raises(RecordError):
            outcome.loads(text[:end], "h1.json")


def test_failing_checks_come_first(failed: Result) -> None:
    order = [WORST_FIRST.index(check.verdict) for check in failed.checks]
    assert order == sorted(order)
    assert failed.verdict == failed.checks[0].verdict == "FAIL"


def test_junit_counts_and_names(failed: Result) -> None:
    results = [msgspec.structs.replace(with_all_verdicts(failed), host=host) for host in ("h1", "h2", HOSTILE)]
    root = ElementTree.fromstring(reports.junit(results))
    names = [case.get("name") for case in root.iter("testcase")]
    assert len(names) == len(set(names)) == sum(len(result.checks) for result in results)
    for suite, result in zip(root.iter("testsuite"), results, strict=True):
        for kind, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(kind) or 0) == len(suite.findall(f"testcase/{tag}")) > 0
        assert int(suite.get("tests") or 0) == len(result.checks)
    case = next(case for case in root.iter("testcase") if case.get("name") == "spec.bw.read.local[node1] @h1")
    failure = case.find("failure")
    assert failure is not None
    assert failure.get("type") == "BELOW_SPEC"
    assert failure.get("message") == "bw.read.local[node1]: 70.00 GB/s (fail < 90.00, warn < 95.00)"
    known = {one.get("name"): one.get("value") for one in case.iter("property")}
    assert known["value"] == "70.00 GB/s"
    assert known["round 3"] == "70.0"


def test_a_verdict_without_a_check_is_in_junit() -> None:
    from .reference import judged, machines

    result = judged(machines()["xeon-unnamed-1n"])
    assert result is not None
    assert result.verdict == "INCONCLUSIVE"
    root = ElementTree.fromstring(reports.junit([result]))
    assert root.find("testsuite/testcase/error") is not None


def test_openmetrics_is_read_by_prometheus(failed: Result) -> None:
    hostile = msgspec.structs.replace(
        failed, checks=(*failed.checks, Check(layer="spec", name=HOSTILE, verdict="FAIL", value=1.0, margin=-0.5))
    )
    found = {family.name: family.samples for family in text_string_to_metric_families(reports.openmetrics(hostile))}
    status = {(s.labels["metric"], s.labels["layer"]): s.value for s in found["numabench_check_status"]}
    assert status["all", "all"] == 1
    assert status["bw.read.local", "spec"] == 1
    assert status["latency.local", "spec"] == 0
    assert status[HOSTILE, "spec"] == 1
    assert all(sample.timestamp is None for samples in found.values() for sample in samples)
    assert found["numabench_last_run_timestamp_seconds"][0].value == 1793534400
    assert len(reports.openmetrics(failed).splitlines()) < 60


def test_markdown_keeps_its_columns(failed: Result) -> None:
    rows = [line for line in reports.markdown(with_all_verdicts(failed)).splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {len(reports.COLUMNS) + 1}


def test_github_annotations_stay_on_their_lines(failed: Result) -> None:
    many = msgspec.structs.replace(failed, host=HOSTILE, checks=with_all_verdicts(failed).checks * 5)
    lines = reports.github(many)
    assert len(lines) == 11
    assert all(line.startswith("::error title=") and "\n" not in line for line in lines)


@pytest.mark.parametrize("host", ["h1", "h" * 200])
def test_one_line_is_short(failed: Result, host: str) -> None:
    line = reports.one_line(msgspec.structs.replace(failed, host=host))
    assert len(line) <= 80
    assert line.startswith("numabench FAILED h")


def test_textfiles_are_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "numabench.prom"
    records.write(target, b"old\n")
    records.write(target, reports.openmetrics(validate(made(), host="h", spec=SPEC)).encode())
    assert [path.name for path in tmp_path.iterdir()] == ["numabench.prom"]
    with pytest.raises(RecordError, match="cannot write"):
        records.write(tmp_path / "nowhere" / "x.prom", b"")
