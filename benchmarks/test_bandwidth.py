# SPDX-License-Identifier: Apache-2.0
"""How much less does a node draw from remote memory?"""

from collections.abc import Callable

from numabench.series import Case

EXPERIMENT = "bandwidth"


def test_bandwidth(case: Case, measured: Callable[[Case, str], None]) -> None:
    measured(case, f"local vs remote: {case.kernel} by all cores of a node")
