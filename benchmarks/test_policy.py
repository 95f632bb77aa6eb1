# SPDX-License-Identifier: Apache-2.0
"""Where should the weights of an instance that spans nodes live?"""

from collections.abc import Callable

from numabench.series import Case

EXPERIMENT = "policy"


def test_policy(case: Case, measured: Callable[[Case, str], None]) -> None:
    measured(case, "placement of weights")
