# SPDX-License-Identifier: Apache-2.0
"""Instances as processes: comparisons have their own interleaving driver, called once by the test.

With the quick profile divide runs its three most telling arms; the other experiments need --numabench-profile=standard.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from numabench import experiments, session
from numabench.backend import Hardware
from numabench.experiments import base
from numabench.machine import Machine
from numabench.measure import measure
from numabench.series import Options, Series

SIZE, PASSES, ARMS, BUDGET_S = 16 << 20, 3, 3, 15.0


def tell(benchmark: Any, series: list[Series], machine: Machine, name: str) -> None:
    """Figures, evidence and what they mean into extra_info."""
    benchmark.group = f"instances: {name}"
    benchmark.extra_info["meaning"] = [
        line for table in experiments.find(name).summarise(series, machine) for line in table.meaning
    ]
    benchmark.extra_info["series"] = [
        {
            "case": one.case.label,
            "unit": one.case.unit,
            "estimate": one.estimate,
            "ci": one.ci,
            "flags": one.flags,
            "trust": one.trust,
            "evidence": msgspec.to_builtins(one.samples[-1].evidence, str_keys=True),
        }
        for one in series
        if one.samples
    ]


def test_divide(benchmark: Any, numa_machine: Machine) -> None:
    """The default, the same pinned, and the largest division into several."""
    divide = experiments.find("divide")
    options = Options(profile="quick", bytes=SIZE, passes=PASSES, budget_s=BUDGET_S)
    why = divide.unavailable(numa_machine, options)
    if why:
        pytest.skip(f"unavailable: {why}")
    cases = session.plan(["divide"], options, numa_machine)[:ARMS]
    with Hardware(numa_machine, options) as hardware:
        series = benchmark.pedantic(measure, args=(cases, hardware, options), rounds=1, iterations=1)
    assert all(one.estimate for one in series), [one.unavailable for one in series]
    tell(benchmark, series, numa_machine, "divide")
    ratio = base.paired(series[-1], series[0])
    benchmark.extra_info["ratio_to_default"] = ratio._asdict() if ratio else None


@pytest.mark.parametrize("name", ["load", "neighbour", "frontend", "story"])
def test_experiment(benchmark: Any, numa_machine: Machine, request: pytest.FixtureRequest, name: str) -> None:
    profile = request.config.getoption("--numabench-profile")
    if profile == "quick":
        pytest.skip(f"minutes: pytest benchmarks --numabench-profile=standard, or numabench run {name}")
    why = experiments.find(name).unavailable(numa_machine, Options())
    if why:
        pytest.skip(f"unavailable: {why}")
    options = Options(profile=profile)
    record = benchmark.pedantic(session.run, args=([name], options), rounds=1, iterations=1)
    tell(benchmark, list(record.series), numa_machine, name)
