# SPDX-License-Identifier: Apache-2.0
"""Does placement matter to a multiplication?"""

from collections.abc import Callable

from numabench.series import Case

EXPERIMENT = "gemm"


def test_gemm(case: Case, measured: Callable[[Case, str], None]) -> None:
    measured(case, f"local vs remote: {case.kernel} n={case.params['n']}")
