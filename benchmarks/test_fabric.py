# SPDX-License-Identifier: Apache-2.0
"""What do the links give when all nodes are busy at once?"""

from collections.abc import Callable

from numabench.series import Case

EXPERIMENT = "fabric"


def test_fabric(case: Case, measured: Callable[[Case, str], None]) -> None:
    measured(case, f"all links at once: {case.kernel}")
