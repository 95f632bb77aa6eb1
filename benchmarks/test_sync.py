# SPDX-License-Identifier: Apache-2.0
"""What do a barrier and an all-reduce cost?"""

from collections.abc import Callable

from numabench.series import Case

EXPERIMENT = "sync"


def test_sync(case: Case, measured: Callable[[Case, str], None]) -> None:
    measured(case, f"synchronisation: {case.kernel}")
