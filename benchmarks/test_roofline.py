# SPDX-License-Identifier: Apache-2.0
"""At how many rows do weights stop being a matter of memory?"""

from collections.abc import Callable

from numabench.series import Case

EXPERIMENT = "roofline"


def test_roofline(case: Case, measured: Callable[[Case, str], None]) -> None:
    measured(case, "rows times weights")
