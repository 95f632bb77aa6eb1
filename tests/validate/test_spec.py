# SPDX-License-Identifier: Apache-2.0
"""Specifications: what is read, what is refused with line and key, and that a written one is read and passed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numabench.errors import UsageError
from numabench.machine import MemoryAttribute
from numabench.record import Record
from numabench.validation import metrics
from numabench.validation import spec as specs
from numabench.validation.validate import validate
from numabench.validation.write_spec import write_spec

from .reference import record, series, topology

GOOD = """\
schema = 1
name = "two nodes"
[match]
cpu_model = "a *"
[facts]
sockets = 2
mem_total_gib_per_node = { ref = 64, tol = 0.03 }
[environment]
governor = { any_of = ["performance", "schedutil"], severity = "fail" }
[[check]]
metric = "bw.read.local"
fail = 90.0
warn = 95.0
unit = "GB/s"
[[check]]
metric = "latency.remote_over_local"
scope = "max"
ref = 1.9
fail_above = 0.15
[[symmetry]]
metric = "latency"
warn = 0.05
fail = 0.10
"""


def machine(latency: float = 190.0, bandwidth: float = 100.0) -> Record:
    cells = [(i, j) for i in range(2) for j in range(2)]
    found = [series("latency", (i, j), [100.0 if i == j else latency] * 6) for i, j in cells]
    found += [series("bw.read", (i, j), [bandwidth if i == j else 50.0] * 6) for i, j in cells]
    return record(topology(2, 2), found)


def test_a_good_one_is_read_and_passed() -> None:
    spec = specs.loads(GOOD, "x.toml")
    result = validate(machine(), spec=spec)
    assert result.verdict == "PASS", result.reason
    assert {check.layer for check in result.checks} >= {"facts", "environment", "spec", "symmetry"}


@pytest.mark.parametrize(
    ("latency", "bandwidth", "verdict", "reason"),
    [(190, 94, "WARN", "BELOW_SPEC"), (190, 89, "FAIL", "BELOW_SPEC"), (220, 100, "FAIL", "ABOVE_SPEC")],
)
def test_bounds(latency: float, bandwidth: float, verdict: str, reason: str) -> None:
    result = validate(machine(latency, bandwidth), spec=specs.loads(GOOD, "x.toml"))
    assert result.verdict == verdict
    assert result.checks[0].reason == reason


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("sockets = 2", "sockts = 2", 6, "did you mean sockets"),
        ('metric = "bw.read.local"', 'metric = "bw.rread.local"', 11, "did you mean"),
        ("fail = 90.0", "ffail = 90.0", 12, "did you mean fail"),
        ("fail = 90.0", 'fail = "90"', 12, "str"),
        ('unit = "GB/s"', 'unit = "MB/s"', 14, "GB/s"),
        ("warn = 95.0", "warn = 85.0", 13, "beyond"),
        ('scope = "max"', 'scope = "most"', 17, "'most': each or min or max"),
        ("ref = 1.9", "", 19, "ref is missing"),
        ("schema = 1", "schema = 9", 1, "schema 9"),
        ("[match]", "[mach]", 3, "mach"),
        ("tol = 0.03", "tolerance = 0.03", 7, "tolerance"),
        ("fail = 0.10", "fail = 0.01", 22, "warn <= fail"),
        ("sockets = 2", "sockets = = 2", 6, "'sockets = = 2'"),
        ("schema = 1", "", 1, "schema is missing"),
        ("fail = 90.0\nwarn = 95.0", "", 11, "no bound"),
        ("fail = 90.0", "fail = -1", 12, "at least 0"),
    ],
)
def test_errors_name_line_and_key(old: str, new: str, line: int, said: str) -> None:
    with pytest.raises(UsageError) as error:
        specs.loads(GOOD.replace(old, new, 1), "x.toml")
    assert said in str(error.value)
    assert f"x.toml:{line}:" in str(error.value)


def _read_or_refused(text: str) -> None:
    said = "x.toml"
    try:
        specs.loads(text, "x.toml")
    except UsageError as error:
        said = str(error)
    assert said.startswith("x.toml")


@given(st.text(max_size=200))
def test_any_text_is_a_spec_or_a_usage_error(text: str) -> None:
    _read_or_refused(text)


@given(st.integers(0, len(GOOD) - 1), st.sampled_from('[]="{}x9\n.'))
def test_a_character_changed_is_a_spec_or_a_usage_error(at: int, put: str) -> None:
    _read_or_refused(GOOD[:at] + put + GOOD[at + 1 :])


@pytest.mark.parametrize(("second", "verdict"), [(100.0, "PASS"), (94.0, "WARN"), (89.0, "FAIL"), (112.0, "FAIL")])
@pytest.mark.parametrize(("metric", "family"), [("bw.read.local", "bw.read"), ("latency.local", "latency")])
def test_one_node_over_another_is_a_ratio_that_can_be_bounded(
    metric: str, family: str, second: float, verdict: str
) -> None:
    text = f"""schema = 1
name = "x"
[[check]]
metric = "{metric}"
scope = "least_over_greatest"
fail = 0.90
warn = 0.95
unit = "ratio"
"""
    found = [series(family, (i, i), [100.0 if i == 0 else second] * 6) for i in range(2)]
    result = validate(record(topology(2, 2), found), spec=specs.loads(text, "x.toml"))
    (check,) = (check for check in result.checks if check.layer == "spec")
    assert (check.verdict, check.instance, check.unit) == (verdict, "least_over_greatest", "ratio")
    assert check.value == pytest.approx(min(100.0, second) / max(100.0, second))
    with pytest.raises(UsageError, match="is in ratio"):
        specs.loads(text.replace('"ratio"', '"ns"'), "x.toml")


def test_what_the_firmware_claims_of_a_pair_is_held_against_what_was_measured() -> None:
    plain = topology(1, 2, cpuless=(1,))
    claims = (
        MemoryAttribute("read_bandwidth", 0, (0, 1), 200_000, "MB/s"),
        MemoryAttribute("read_bandwidth", 1, (0, 1), 64_000, "MB/s"),
        MemoryAttribute("read_latency", 1, (0, 1), 300, "ns"),
    )
    found = [series("bw.read", (0, 0), [150.0] * 6), series("bw.read", (0, 1), [32.0] * 6)]
    values, _ = metrics.extract(found, msgspec.structs.replace(plain, memory_attributes=claims))
    assert values["bw.read.over_firmware"] == {"node0": (0.75,) * 3, "node0->node1": (0.5,) * 3}
    assert "bw.read.over_firmware" not in metrics.extract(found, plain)[0]


def test_another_machine_is_no_verdict() -> None:
    spec = specs.loads(GOOD.replace('cpu_model = "a *"', 'cpu_model = "b *"'), "x.toml")
    result = validate(machine(bandwidth=1.0), spec=spec)
    assert result.verdict == "INCONCLUSIVE"
    assert result.checks[0].reason == "WRONG_SPEC"


def test_what_was_not_measured_is_no_pass() -> None:
    found = machine()
    only = record(found.machine, [one for one in found.series if one.case.experiment == "latency"])
    result = validate(only, spec=specs.loads(GOOD, "x.toml"))
    assert result.verdict == "INCONCLUSIVE"
    assert any(check.reason == "NO_DATA" and check.name == "bw.read.local" for check in result.checks)


@pytest.mark.parametrize("wanted", ["2", '"2"'])
def test_a_number_may_be_written_as_text(wanted: str) -> None:
    spec = specs.loads(GOOD.replace("sockets = 2", f"sockets = {wanted}"), "x.toml")
    assert validate(machine(), spec=spec).verdict == "PASS"
    assert validate(machine(), spec=specs.loads(GOOD.replace("sockets = 2", 'sockets = "3"'), "x")).verdict == "FAIL"


def test_what_the_system_does_not_tell_is_skipped() -> None:
    spec = specs.loads(GOOD.replace("sockets = 2", "dimm_count = 16"), "x.toml")
    check = next(check for check in validate(machine(), spec=spec).checks if check.name == "dimm_count")
    assert (check.verdict, check.reason) == ("SKIP", "NOT_TOLD")


def test_a_written_one_is_read_and_passed_and_catches_a_tenth() -> None:
    text = write_spec(machine())
    spec = specs.loads(text, "x.toml")
    assert validate(machine(), spec=spec).verdict == "PASS"
    assert validate(machine(bandwidth=89.0), spec=spec).verdict == "FAIL"
    assert text.count("#") > 20
