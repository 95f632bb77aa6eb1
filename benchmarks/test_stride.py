# SPDX-License-Identifier: Apache-2.0
"""What does an access cost at growing distances?"""

from collections.abc import Callable

from numabench.series import Case

EXPERIMENT = "stride"


def test_stride(case: Case, measured: Callable[[Case, str], None]) -> None:
    measured(case, f"stride: {case.pages} pages, memory of node {case.target}")
