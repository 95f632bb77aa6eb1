# SPDX-License-Identifier: Apache-2.0
"""Shares of threads that stream together: the least over the greatest, over all windows of a pass."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from numabench.jobs.stream import fairness


def windows(*rows: tuple[float, ...]) -> Any:
    return [[SimpleNamespace(elements=share) for share in row] for row in rows]


@pytest.mark.parametrize(
    ("rows", "share"),
    [([(100, 60), (100, 60)], 0.6), ([(100, 60), (60, 100)], 1.0), ([(90, 100, 30), (90, 80, 60)], 0.5)],
)
def test_a_thread_counts_over_all_windows(rows: list[tuple[float, ...]], share: float) -> None:
    assert fairness(windows(*rows)) == {"fairness": pytest.approx(share)}


def test_one_thread_has_nothing_to_share_with() -> None:
    assert fairness(windows((100,), (90,))) == {}
