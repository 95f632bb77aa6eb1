# SPDX-License-Identifier: Apache-2.0
"""What does handing a cache line to another core cost?"""

from collections.abc import Callable

from numabench.series import Case

EXPERIMENT = "c2c"


def test_c2c(case: Case, measured: Callable[[Case, str], None]) -> None:
    measured(case, f"core to core: {case.kernel}")
