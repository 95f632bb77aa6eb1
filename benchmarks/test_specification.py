# SPDX-License-Identifier: Apache-2.0
"""Is this machine as specified? The verdict of ``numabench validate`` over the figures of the benchmarks."""

import pytest

from numabench.analysis.verdict import exit_code
from numabench.record import Record
from numabench.reports import validation as reports
from numabench.validation import spec as specs
from numabench.validation.validate import validate


def test_machine_is_as_specified(numabench_record: Record, request: pytest.FixtureRequest) -> None:
    spec = specs.load(request.config.getoption("--numabench-spec"))
    result = validate(numabench_record, spec=spec)
    if exit_code(result.verdict):
        pytest.fail(reports.markdown(result), pytrace=False)
