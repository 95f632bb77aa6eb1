# SPDX-License-Identifier: Apache-2.0
"""Names of hosts, Kubernetes Jobs against the schema, guards before draining."""

from __future__ import annotations

import json
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from click.testing import CliRunner

from numabench.cli.fleet import fleet as command
from numabench.errors import UsageError
from numabench.fleet import actions, allocation, hosts, kubernetes
from numabench.fleet.judge import Host, Report


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a,b", ["a", "b"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[08-10,12].x", ["n08.x", "n09.x", "n10.x", "n12.x"]),
        ("r[1-2]n[1-2],login", ["r1n1", "r1n2", "r2n1", "r2n2", "login"]),
        ("a,a", ["a"]),
    ],
)
def test_expansion(text: str, found: list[str]) -> None:
    assert hosts.expand(text) == found


@pytest.mark.parametrize(
    "text", ["", "n[", "n[3-1]", "n[a]", "a b", "../x", "-x", "n[1-99999999]", "n[1-9999][1-9999]", "a;b"]
)
def test_nonsense_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        hosts.expand(text)


def test_files_of_names(tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("# all\nn[1-2]\n\nlogin # the other\n")
    assert hosts.expected(str(names)) == ["n1", "n2", "login"]
    expect = tmp_path / "expect.json"
    expect.write_text('{"hosts": ["a", "b"]}')
    assert hosts.expected(str(expect)) == ["a", "b"]
    expect.write_text("7")
    with pytest.raises(UsageError, match="list of hosts"):
        hosts.expected(str(expect))


def test_jobs_keep_the_kubernetes_schema() -> None:
    text = kubernetes.jobs(["Node_1.example.org", "x" * 80, "x" * 81], "registry/numabench:1", "/var/lib/numabench")
    found = [json.loads(part) for part in text.split("---\n") if part]
    assert len({job["metadata"]["name"] for job in found}) == 3
    for job in found:
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    broken = json.loads(json.dumps(found[0]))
    broken["spec"]["template"]["spec"]["restartPolicie"] = "Never"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


def test_jobs_have_the_command_asked_for_and_no_file_of_this_host(tmp_path: Path) -> None:
    spec = tmp_path / "x.toml"
    spec.write_text("")
    words = ["run", "--engine", "kubernetes", "--hosts", "n[1-2]", "--image", "i", "--out", "/var/lib/nb"]
    done = CliRunner().invoke(command, [*words, "--command", "numabench validate --spec /x.toml"])
    assert done.exit_code == 0, done.output
    found = [json.loads(part) for part in done.output.split("---\n") if part]
    (container,) = found[1]["spec"]["template"]["spec"]["containers"]
    assert container["command"][:4] == ["numabench", "validate", "--spec", "/x.toml"]
    for more in (["--spec", str(spec)], ["--command", "it's"]):
        with pytest.raises(UsageError):
            CliRunner().invoke(command, [*words, *more], catch_exceptions=False, standalone_mode=False)


def fleet(n: int, failed: int) -> Report:
    found = tuple(Host(f"h{at}", "FAIL" if at < failed else "PASS", "x", "class") for at in range(n))
    return Report(
        counts={}, expected=n, cohorts=(), hosts=found, rejected=(), retest=(), quarantine=(), dip_chance=None,
        expected_false=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("n", "failed", "allowed"), [(10, 3, True), (100, 4, False), (1000, 10, True), (1000, 11, False)]
)
def test_guard(n: int, failed: int, allowed: bool) -> None:
    if allowed:
        actions.guard(fleet(n, failed))
    else:
        with pytest.raises(UsageError, match="would be drained"):
            actions.guard(fleet(n, failed))


def test_what_srun_said_is_why_a_host_is_missing() -> None:
    said = (
        "srun: error: n2: task 1: Exited with exit code 3\n"
        "srun: error: n[3-4]: tasks 2-3: Killed\n"
        "srun: error: Node failure on n5\n"
    )
    fates = allocation.fates([f"n{i}" for i in range(1, 6)], said)
    assert fates == {
        "n1": ("COMPLETED", "0:0"),
        "n2": ("FAILED", "3:0"),
        "n3": ("FAILED", "0:9"),
        "n4": ("FAILED", "0:9"),
        "n5": ("NODE_FAIL", "0:0"),
    }
    late = "slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***\n"
    assert allocation.fates(["n1"], late + "srun: error: n1: task 0: Terminated\n") == {"n1": ("TIMEOUT", "0:15")}
