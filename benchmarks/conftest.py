# SPDX-License-Identifier: Apache-2.0
"""The experiments under pytest-benchmark.

All cases are measured first, in interleaved passes (numabench_record): from there come figures and intervals.
Then each benchmark times one fixed amount of work of its case, so that pytest-benchmark's own table,
--benchmark-json and --benchmark-compare work as always; its rounds run back to back and therefore carry no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from numabench import session
from numabench.backend import Hardware
from numabench.machine import Machine
from numabench.pytest_plugin import options_of
from numabench.record import Record
from numabench.series import Case, Options

ROUNDS = 5


@cache
def planned(experiment: str, options: Options) -> tuple[Case, ...]:
    return tuple(session.plan([experiment], options, Machine.load()))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The gate is there only with something to hold this machine against."""
    return (
        True if collection_path.name == "test_specification.py" and not config.getoption("--numabench-spec") else None
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One benchmark per case of the experiment that the file names."""
    experiment = getattr(metafunc.module, "EXPERIMENT", None)
    if experiment and "case" in metafunc.fixturenames:
        cases = planned(experiment, options_of(metafunc.config))
        metafunc.parametrize("case", cases, ids=[case.label for case in cases])


@pytest.fixture(scope="session")
def hardware(request: pytest.FixtureRequest, numa_machine: Machine) -> Iterator[Hardware]:
    with Hardware(numa_machine, options_of(request.config)) as found:
        yield found


@pytest.fixture
def measured(benchmark: Any, hardware: Hardware, numabench_record: Record) -> Callable[[Case, str], None]:
    """Report a case: figures and evidence into extra_info, a fixed amount of work into the table."""

    def report(case: Case, group: str) -> None:
        series = next(
            s for s in numabench_record.series if s.case.label == case.label and s.case.experiment == case.experiment
        )
        if series.estimate is None:
            pytest.skip(f"unavailable: {series.unavailable}")
        benchmark.group = group
        benchmark.extra_info.update(
            unit=case.unit,
            estimate=series.estimate,
            ci=series.ci,
            passes=len(series.samples),
            flags=series.flags,
            trust=series.trust,
            evidence=msgspec.to_builtins(series.samples[-1].evidence, str_keys=True),
        )
        with hardware.fixed_work(case, seed=1) as work:
            benchmark.pedantic(work, rounds=ROUNDS, iterations=1, warmup_rounds=1)

    return report
