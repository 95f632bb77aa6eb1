# SPDX-License-Identifier: Apache-2.0
"""How many loads does one core keep on the way, near and far?"""

from collections.abc import Callable

from numabench.series import Case

EXPERIMENT = "mlp"


def test_mlp(case: Case, measured: Callable[[Case, str], None]) -> None:
    measured(case, "loads side by side")
