# SPDX-License-Identifier: Apache-2.0
"""How much of a load's latency do the hardware prefetchers hide?"""

from collections.abc import Callable

from numabench.series import Case

EXPERIMENT = "prefetch"


def test_prefetch(case: Case, measured: Callable[[Case, str], None]) -> None:
    measured(case, "order of loads")
