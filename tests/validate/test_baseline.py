# SPDX-License-Identifier: Apache-2.0
"""Baselines of good machines: robust, without order, refusing other classes and failed machines."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from numabench.errors import UsageError
from numabench.validation.baseline import build
from numabench.validation.outcome import Result, dumps
from numabench.validation.validate import validate

from .test_causes import FAULTS, SPEC, bandwidth, dimms, made

SEEN = ((1.0, "0x2a"), (1.001, "0x2b"))  # bandwidth, microcode


def good(n: int, sd: float = 0.007, seed: int = 1, bad: int = 0) -> list[Result]:
    rng = random.Random(seed)
    found = []
    for at in range(n):
        factor = (0.7 if at < bad else 1.0) * (1 + rng.gauss(0, sd))
        record = made(bandwidth(factor, lambda i, j: True))
        record = msgspec.structs.replace(record, created=f"2026-11-01T12:{at:02}:00+00:00")
        found.append(validate(record, host=f"h{at}"))
    return found


@pytest.mark.parametrize("n", [1, 2, 7, 8, 31, 32])
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "PASS"), (0.93, "WARN"), (0.85, "FAIL"), (1.2, "PASS")])
def test_limits(n: int, factor: float, verdict: str) -> None:
    baseline = build(good(n, sd=0.002))
    assert baseline.n == n
    sigma = baseline.cells["bw.read.local"]["node0"].sigma
    assert (sigma is None) == (n < 8)
    record = made(bandwidth(factor, lambda i, j: True))
    assert validate(record, baseline=baseline).verdict == verdict


@pytest.mark.parametrize(("created", "verdict"), [("2027-10-31", "PASS"), ("2027-11-02", "WARN")])
def test_an_old_baseline_is_told(created: str, verdict: str) -> None:
    baseline = build(good(1, sd=0.0))
    assert baseline.expires.startswith("2027-11-01")
    later = msgspec.structs.replace(made(), created=f"{created}T12:00:00+00:00")
    result = validate(later, baseline=baseline)
    assert result.verdict == verdict
    assert [check.reason for check in result.checks if check.verdict == "WARN"] == ["EXPIRED"] * (verdict == "WARN")


def test_a_wide_class_widens_its_limits() -> None:
    baseline = build(good(32, sd=0.06))
    assert validate(made(bandwidth(0.88, lambda i, j: True)), baseline=baseline).verdict == "PASS"


def test_order_does_not_matter() -> None:
    found = good(12)
    assert dumps(build(found)) == dumps(build(found[::-1]))


def test_equal_machines_have_a_spread_all_the_same() -> None:
    baseline = build(good(10, sd=0.0))
    assert baseline.cells["bw.read.local"]["node0"].sigma == 0.005


def test_outliers_are_left_out_and_named() -> None:
    baseline = build(good(20, bad=3))
    assert baseline.dropped == ["h0", "h1", "h2"]
    assert baseline.n == 17
    with pytest.raises(UsageError, match="not machines of one class"):
        build(good(20, bad=5))


def test_another_class_is_refused_by_name() -> None:
    other = validate(made(nodes=8), host="other")
    with pytest.raises(UsageError, match="numa_nodes"):
        build([*good(2), other])
    held = validate(made(nodes=8), baseline=build(good(2)))
    assert held.verdict == "INCONCLUSIVE"
    assert held.checks[0].reason == "WRONG_SPEC"


@pytest.mark.parametrize(("option", "value", "name"), [("bytes", 1 << 21, "size"), ("pages", "base", "pages")])
def test_other_settings_are_another_class(option: str, value: object, name: str) -> None:
    other = msgspec.structs.replace(made(), plan={"options": {option: value}})
    held = validate(other, baseline=build(good(2)))
    assert (held.verdict, held.checks[0].reason) == ("INCONCLUSIVE", "WRONG_SPEC")
    assert held.checks[0].text == f"{name} {str(value)!r}, baseline 'own choice'"


def test_another_stepping_is_another_class_also_to_a_baseline_that_has_none() -> None:
    baseline = build([validate(made(firmware=dimms() | {"stepping": "1"}), host="h0")])
    held = validate(made(firmware=dimms() | {"stepping": "2"}), baseline=baseline)
    assert held.checks[0].text == "cpu_stepping '2', baseline '1'"
    of = {name: value for name, value in baseline.cohort_of.items() if name != "cpu_stepping"}
    held = validate(made(firmware=dimms() | {"stepping": "2"}), baseline=build(good(1)))
    assert held.verdict == "INCONCLUSIVE"
    old = msgspec.structs.replace(baseline, cohort="old", cohort_of=of)
    held = validate(made(firmware=dimms() | {"stepping": "2"}), baseline=old)
    assert held.checks[0].text == "cpu_stepping '2', baseline 'not told'"


@pytest.mark.parametrize(
    ("now", "verdict", "said"),
    [
        (dimms() | {"microcode": "0x2b"}, "PASS", set()),
        (dimms(), "PASS", set()),
        (dimms() | {"microcode": "0x2c"}, "WARN", {("microcode", "0x2c", "0x2a or 0x2b")}),
        (dimms(15), "WARN", {("dimm_layout", "15 x 16 GiB 4800 MT/s", "16 x 16 GiB 4800 MT/s")}),
    ],
)
def test_microcode_and_modules_make_no_class_and_are_told(
    now: dict[str, Any], verdict: str, said: set[tuple[str, str, str]]
) -> None:
    records = [made(bandwidth(f, lambda i, j: True), firmware=dimms() | {"microcode": m}) for f, m in SEEN]
    baseline = build([validate(one, host=f"h{at}") for at, one in enumerate(records)])
    held = validate(made(firmware=now), baseline=baseline)
    assert held.verdict == verdict
    assert {(c.name, c.value, c.limit) for c in held.checks if c.verdict == "WARN"} == said


def test_a_failed_machine_is_no_good_machine() -> None:
    bad = validate(FAULTS["memory channel missing"], host="bad", spec=SPEC)
    with pytest.raises(UsageError, match="bad failed"):
        build([*good(2), msgspec.structs.replace(bad, cohort=good(1)[0].cohort)])


@pytest.mark.parametrize("host", ["h0", "another name"])
def test_one_visit_given_twice_is_refused(host: str) -> None:
    first, other = good(2)
    again = msgspec.structs.replace(first, host=host)
    with pytest.raises(UsageError, match=r"a\.json and c\.json hold the same measurement .*give it once"):
        build([first, other, again], ["a.json", "b.json", "c.json"])


def test_a_metric_that_one_version_does_not_know_makes_no_other_visit() -> None:
    (first,) = good(1)
    older = msgspec.structs.replace(first, values={"latency.local": first.values["latency.local"]})
    with pytest.raises(UsageError, match="h0 and h0 hold the same measurement"):
        build([older, first])


def test_equal_figures_of_another_time_are_another_visit() -> None:
    assert build(good(2, sd=0.0)).n == 2


def test_visits_of_one_host_are_one_machine() -> None:
    visits = [msgspec.structs.replace(one, host="h0") for one in good(9)]
    cell = build(visits).cells["bw.read.local"]["node0"]
    assert (build(visits).n, cell.n, cell.sigma) == (1, 1, None)


def test_no_machine_is_no_baseline() -> None:
    with pytest.raises(UsageError, match="at least one"):
        build([])
