# SPDX-License-Identifier: Apache-2.0
"""Instances as processes: comparisons have their own interleaving driver, called once by the test.

With the quick profile every experiment runs a small model over its first cases: a look, without intervals.
--numabench-profile=standard runs them whole.
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


def asked(request: pytest.FixtureRequest) -> Options:
    profile = request.config.getoption("--numabench-profile")
    few = Options(profile="quick", bytes=SIZE, passes=PASSES, budget_s=BUDGET_S)
    return few if profile == "quick" else Options(profile=profile)


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


FEW = {
    "load": 2,
    "neighbour": 2,
    "frontend": 3,
    "story": 8,
}  # cases with the quick profile, the most telling ones first


@pytest.mark.parametrize("name", list(FEW))
def test_experiment(benchmark: Any, numa_machine: Machine, request: pytest.FixtureRequest, name: str) -> None:
    """The quick profile: a small model and the first cases, a look only; others: the whole experiment."""
    options = asked(request)
    why = experiments.find(name).unavailable(numa_machine, options)
    if why:
        pytest.skip(f"unavailable: {why}")
    cases = session.plan([name], options, numa_machine)
    if all(case.unavailable for case in cases):
        pytest.skip(f"unavailable: {cases[0].unavailable}")
    if options.profile == "quick":
        with Hardware(numa_machine, options) as hardware:
            chosen = (cases[: FEW[name]], hardware, options)
            series = benchmark.pedantic(measure, args=chosen, rounds=1, iterations=1)
    else:
        series = benchmark.pedantic(session.run, args=([name], options), rounds=1, iterations=1).series
    tell(benchmark, list(series), numa_machine, name)


def test_scaling_of_models(benchmark: Any, numa_machine: Machine, request: pytest.FixtureRequest) -> None:
    """Steps/s by threads, by instances, and by instances over all cores; quick: decode by threads."""
    options = asked(request)
    planned = session.plan(["scaling"], Options(profile="full", bytes=options.bytes), numa_machine)
    cases = [case for case in planned if case.job == "instance"]
    if options.profile == "quick":
        cases = [case for case in cases if case.kernel == "llm-decode" and case.params["by"] == "threads"]
    with Hardware(numa_machine, options) as hardware:
        series = benchmark.pedantic(measure, args=(cases, hardware, options), rounds=1, iterations=1)
    tell(benchmark, series, numa_machine, "scaling")
