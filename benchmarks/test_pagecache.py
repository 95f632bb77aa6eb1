# SPDX-License-Identifier: Apache-2.0
"""Does who read a file first decide how fast others read it?"""

from collections.abc import Callable

from numabench.series import Case

EXPERIMENT = "pagecache"


def test_pagecache(case: Case, measured: Callable[[Case, str], None]) -> None:
    measured(case, "mapped file")
