# SPDX-License-Identifier: Apache-2.0
"""How many threads are worth it?"""

from collections.abc import Callable

from numabench.series import Case

EXPERIMENT = "scaling"


def test_scaling(case: Case, measured: Callable[[Case, str], None]) -> None:
    measured(case, f"threads: the same work of {case.kernel} on memory of node {case.target}")
