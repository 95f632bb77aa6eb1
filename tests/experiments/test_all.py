# SPDX-License-Identifier: Apache-2.0
"""What holds for every experiment."""

from __future__ import annotations

from typing import Literal

import pytest

from numabench import experiments, jobs, session
from numabench.machine import Machine
from numabench.series import Options
from tests.fakes import Fake, many

PROFILES: tuple[Literal["quick", "standard", "full"], ...] = ("quick", "standard", "full")
MACHINES = {
    "one node": many(nodes=1, packages=1),
    "four nodes": many(nodes=4, packages=2, smt=2),
    "CPU-less": many(nodes=2, packages=2, bare=1),
}
NAMES = [experiment.name for experiment in experiments.ALL]


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES.keys())
@pytest.mark.parametrize("name", NAMES)
def test_plan_is_complete_and_its_cases_can_be_told_apart(name: str, machine: Machine) -> None:
    for profile in PROFILES:
        cases = session.plan([name], Options(profile=profile), machine)
        assert cases
        assert len({case.label for case in cases}) == len(cases)
        for case in cases:
            assert case.experiment == name
            if not case.unavailable:
                assert jobs.alone(case) or jobs.family(case)
                assert case.bytes > 0
                assert case.cpus
                # A node without CPUs is a target only.
                assert all(machine.cpu(cpu).node is not None for cpu in case.cpus)
        least, most = session.estimate_seconds(cases, Options(profile=profile))
        assert 0 <= least <= most


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES.keys())
@pytest.mark.parametrize("name", NAMES)
def test_summary_has_a_meaning(name: str, machine: Machine) -> None:
    if all(case.unavailable for case in session.plan([name], Options(profile="quick"), machine)):
        pytest.skip("nothing can run there")
    backend = Fake(extras=lambda case: {"hop_us": 5.0})
    record = session.run([name], Options(profile="quick"), machine=machine, backend=backend)
    tables = session.tables(record)
    assert tables
    assert name == "gemm" or any(table.meaning for table in tables)  # one node has nothing to compare gemm with
    for table in tables:
        for _, row in table.rows:
            assert len(row) == len(table.columns)


def test_bare_nodes_are_targets() -> None:
    machine = MACHINES["CPU-less"]
    for name in ("latency", "bandwidth", "mixes", "fabric"):
        cases = session.plan([name], Options(), machine)
        assert any(case.target == 2 or 2 in case.targets for case in cases), name
        assert all(case.initiator != 2 for case in cases), name
