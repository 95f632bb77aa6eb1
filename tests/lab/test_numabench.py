# SPDX-License-Identifier: Apache-2.0
"""numabench in every machine: what it runs is proven to be where it says, what it cannot run says why.

A machine is booted once for all tests of it; the record is read back outside and held against its description.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from numabench import record as records
from numabench.record import Record
from numabench.series import Series

from .errors import LabError
from .machines import MACHINES, Machine
from .steps import Step, run_steps
from .vm import PROJECT

pytestmark = pytest.mark.lab

MATRICES = ("latency", "bandwidth", "gemm")
EXPERIMENTS = (*MATRICES, "scaling")
QUICK = ("--profile", "quick", "--passes", "1")
PLAIN = [name for name, machine in MACHINES.items() if not machine.penalties]
SUITE = ("TWO_NODES", "FOUR_NODES", "CPULESS", "CPUSET", "FAKE_NODES", "SIXTEEN")
SUITES_TEST = "test_the_suites_own_tests_of_several_nodes_pass"
BENCHMARKS = ("ASYMMETRIC",)
# Flags that a cell must not carry; others (a busy host, a small buffer) are beside the point here.
WRONG = {"misplaced", "not_resident", "migrated", "unpinned", "short_cycle", "bad_result", "wrong_tier"}
MOST_NODES = 4  # with more, all pairs are for the latency alone


@dataclass(frozen=True)
class Ran:
    """What came of one machine."""

    machine: Machine
    steps: dict[str, Step]
    scratch: Path

    def record(self, name: str = "run") -> Record:
        assert self.steps[name].status == 0, self.steps[name]
        return records.load(self.scratch / f"{name}.json")


def needs_nodes() -> list[str]:
    """Test files with tests that need several nodes."""
    files = sorted((PROJECT / "tests").rglob("test_*.py"))
    return [
        str(file.relative_to(PROJECT))
        for file in files
        if re.search(r"(?m)^@pytest.mark.needs_nodes", file.read_text())
    ]


def steps_of(machine: Machine, scratch: Path) -> dict[str, list[str]]:
    """Name and command of all that is run in a machine."""

    def run(name: str, *words: str) -> list[str]:
        return ["numabench", "run", *words, *QUICK, "-o", str(scratch / f"{name}.json")]

    many = len(machine.nodes) > MOST_NODES
    steps = {
        "topology": ["numabench", "topology", "--json"],
        "doctor": ["numabench", "doctor", "--json"],
        "run": run(
            "run", *EXPERIMENTS, "--size", "4MiB", *(("--nodes", f"0,{len(machine.nodes) - 1}") if many else ())
        ),
    }
    if many:
        steps["every"] = run("every", "latency", "--size", "1MiB", "--pages", "base")
    if machine.name in SUITE:
        steps["suite"] = ["pytest", "-q", "-m", "needs_nodes", f"--junitxml={scratch}/suite.xml", *needs_nodes()]
    if machine.name in BENCHMARKS:
        steps["benchmarks"] = ["pytest", "-q", "benchmarks", "--numabench-size", "2MiB", "--numabench-passes", "1"]
        steps["benchmarks"] += ["--numabench-record", f"{scratch}/benchmarks.json"]
    if machine.name == "HUGEPAGES":
        steps["huge"] = run("huge", "latency", "bandwidth", "--size", "4MiB", "--pages", "2M")
    if machine.name == "OLD_CPU":
        steps["refused"] = run("refused", "latency", "--size", "1MiB", "--tier", "avx2")
    if machine.name == "BALANCING":
        steps["unbound"] = ["python", "tests/lab/unbound.py", "8"]
    return steps


_done: dict[str, Ran | LabError] = {}


@pytest.fixture(params=PLAIN)
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """What came of a machine, booted when first asked for; a failure to boot fails each test of it."""
    name = request.param
    if name not in _done:
        machine, scratch = MACHINES[name], tmp_path_factory.mktemp(name)
        steps = steps_of(machine, scratch)
        if not any(item.name == f"{SUITES_TEST}[{name}]" for item in request.session.items):
            steps.pop("suite", None)  # minutes in an emulator, and nobody asks what came of it
        try:
            _done[name] = Ran(machine, run_steps(machine, steps, scratch, timeout=900), scratch)
        except LabError as error:
            _done[name] = error
    found = _done[name]
    if isinstance(found, LabError):
        raise found
    return found


def about(*names: str) -> pytest.MarkDecorator:
    """A test of these machines only."""
    return pytest.mark.parametrize("ran", names, indirect=True)


# ---- what a cell must be, from the machine's description alone


def nodes_seen(machine: Machine) -> range:
    return range(4) if machine.name == "FAKE_NODES" else range(len(machine.nodes))


def reason(machine: Machine, i: int, j: int) -> str:
    """Why CPUs of node i cannot measure memory of node j; empty when they can."""
    if machine.name == "CPUSET":
        if i == 0:
            return "no CPU of node 0 is allowed to this process"
        return "" if j == 1 else "node 0 is not in this cpuset"
    if machine.name == "FAKE_NODES":
        return ""
    return "" if machine.nodes[j].memory_mib else f"node {j} has no memory"


def targets(machine: Machine) -> list[int]:
    """Nodes whose memory the process may use."""
    if machine.name == "CPUSET":
        return [1]
    return [j for j in nodes_seen(machine) if machine.name == "FAKE_NODES" or machine.nodes[j].memory_mib]


def initiators(machine: Machine) -> list[int]:
    return [i for i in nodes_seen(machine) if own_cpus(machine, i)]


def own_cpus(machine: Machine, node: int) -> set[int]:
    if machine.name == "FAKE_NODES":
        return set(machine.cpus_of(0)) if node == 0 else set()  # all list them, the first has them
    return set(machine.cpus_of(node))


def check_cell(machine: Machine, series: Series) -> None:
    """A measured cell: pages by the guest's own move_pages, threads by its own getcpu."""
    case = series.case
    assert series.estimate is not None, series.unavailable
    assert series.estimate > 0
    assert case.initiator is not None
    assert not WRONG & set(series.flags), series
    for sample in series.samples:
        seen = sample.evidence
        assert seen.proof == "move_pages"
        assert seen.placement_how == "bind"
        assert seen.pages_checked > 0
        assert set(seen.placement_seen) == {case.target}
        assert seen.placement_seen[case.target or 0] == seen.pages_checked
        assert (seen.pages_misplaced, seen.pages_absent, seen.migrated) == (0, 0, 0)
        assert seen.cpus_seen == case.cpus == seen.cpus_asked
        assert set(case.cpus) <= own_cpus(machine, case.initiator)
        assert seen.tier == ("scalar" if machine.name == "OLD_CPU" else "avx2")


def check_cells(machine: Machine, record: Record, nodes: Iterable[int]) -> None:
    """Every pair of every matrix is there, measured or with its reason."""
    have = tuple(nodes)
    for experiment in dict.fromkeys(s.case.experiment for s in record.series):
        mine = [s for s in record.series if s.case.experiment == experiment]
        if experiment in MATRICES:
            expected = {(i, j) for i in initiators(machine) if i in have for j in have}
            assert {(s.case.initiator, s.case.target) for s in mine} == expected
        for series in mine:
            why = reason(machine, series.case.initiator or 0, series.case.target or 0)
            if why:
                assert series.unavailable == why
                assert not series.samples
            else:
                check_cell(machine, series)


# ---- the tests


def test_no_step_crashes(ran: Ran) -> None:
    for name, step in ran.steps.items():
        allowed = {"doctor": (0, 1), "refused": (3,)}.get(name, (0,))
        assert step.status in allowed, (name, step)
        assert "Traceback" not in step.out + step.err, (name, step)
        assert "internal error" not in step.err, (name, step)


def test_topology_is_the_machines(ran: Ran) -> None:
    machine = ran.machine
    seen = json.loads(ran.steps["topology"].out)
    nodes: list[dict[str, Any]] = seen["nodes"]
    assert [node["id"] for node in nodes] == list(nodes_seen(machine))
    assert [set(node["cpus"]) for node in nodes] == [own_cpus(machine, node["id"]) for node in nodes]
    if machine.name == "FAKE_NODES":
        return
    assert [node["memory_bytes"] > 0 for node in nodes] == [node.memory_mib > 0 for node in machine.nodes]
    assert len(seen["packages"]) == machine.packages


def test_every_cell_is_proven_or_says_why(ran: Ran) -> None:
    record = ran.record()
    assert {s.case.experiment for s in record.series} == set(EXPERIMENTS)
    many = len(ran.machine.nodes) > MOST_NODES
    check_cells(ran.machine, record, (0, len(ran.machine.nodes) - 1) if many else nodes_seen(ran.machine))
    if many:
        check_cells(ran.machine, ran.record("every"), nodes_seen(ran.machine))


@about(*SUITE)
def test_the_suites_own_tests_of_several_nodes_pass(ran: Ran) -> None:
    cases = ET.parse(ran.scratch / "suite.xml").getroot().findall(".//testcase")
    assert len(cases) >= 8
    have = len(targets(ran.machine))
    for case in cases:
        assert case.find("failure") is None, ET.tostring(case)
        assert case.find("error") is None, ET.tostring(case)
        skipped = case.find("skipped")
        if skipped is not None:
            needed = re.match(r"needs (\d+) nodes with memory, this machine has (\d+)", skipped.get("message", ""))
            assert needed, ET.tostring(case)
            assert int(needed[1]) > int(needed[2]) == have


@about(*BENCHMARKS)
def test_benchmarks_run_under_pytest(ran: Ran) -> None:
    step = ran.steps["benchmarks"]
    record = ran.record("benchmarks")
    assert f"{len(record.series)} passed" in step.out
    check_cells(ran.machine, record, nodes_seen(ran.machine))


@about("HUGEPAGES")
def test_the_dry_pool_is_named_and_the_other_used(ran: Ran) -> None:
    for series in ran.record("huge").series:
        if series.case.target == 0:
            assert not series.samples
            assert re.search(r"2M pages on node 0: 0 pages are free, \d+ are needed", series.unavailable)
            assert "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages" in series.unavailable
        else:
            check_cell(ran.machine, series)
            assert {sample.evidence.page_kind_seen for sample in series.samples} == {"2M"}


@about("OLD_CPU")
def test_an_old_cpu_refuses_newer_tiers(ran: Ran) -> None:
    assert re.fullmatch(r"numabench: .*avx2.*\n", ran.steps["refused"].err)


@about("BALANCING")
def test_balancing_moves_what_is_not_bound_and_no_more(ran: Ran) -> None:
    found = json.loads(ran.steps["unbound"].out)
    assert found["unbound"] > 0, "the kernel did not balance: that bound pages stay would show nothing"
    assert found["bound"] == 0
    assert {s.case.target for s in ran.record().series if s.case.initiator != s.case.target} == {0, 1}
