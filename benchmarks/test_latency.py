# SPDX-License-Identifier: Apache-2.0
"""How much longer does one dependent load take on a remote node?"""

from collections.abc import Callable

from numabench.series import Case

EXPERIMENT = "latency"


def test_latency(case: Case, measured: Callable[[Case, str], None]) -> None:
    measured(case, f"local vs remote: one dependent load, {case.pages} pages")
