# SPDX-License-Identifier: Apache-2.0
"""Each wrong method misleads, its right figure is the one computed by hand, and a blind suite would miss it."""

from __future__ import annotations

import pytest

from numabench import selftest
from numabench.analysis import methods, stats, tails


def test_a_closed_loop_hides_the_stall() -> None:
    shown = methods.closed_loop()
    # 1010 ms for the request held up; each one after it is late by 10 ms less; the 21st greatest of 2000 is p99.
    assert (shown.wrong, shown.right) == (10.0, 810.0)
    assert shown.noticed


def test_the_start_is_not_the_server() -> None:
    shown = methods.warm_up()
    assert shown.wrong > 2 * shown.right
    assert shown.right == 10.0
    assert shown.noticed


def test_the_greatest_of_fifty_is_no_percentile() -> None:
    shown = methods.too_few()
    # Of a log-normal with sigma 0.5 and median 10 the 99th percentile is 10 exp(0.5 * 2.3263) = 32.0.
    assert shown.right == pytest.approx(32.0, rel=0.02)
    assert abs(shown.wrong / shown.right - 1) > 0.1
    assert shown.noticed


def test_luck_is_no_gain() -> None:
    shown = methods.best_of_twenty()
    assert shown.wrong > 1.1
    assert shown.right == pytest.approx(1, abs=0.05)
    assert shown.noticed


def test_a_suite_without_the_checks_misses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "settled", lambda values: True)
    monkeypatch.setattr(tails, "needed", lambda share: 1)
    monkeypatch.setattr(tails, "queue", lambda scheduled, service: list(service))
    monkeypatch.setattr(stats, "ratio", lambda a, b: stats.Ratio(1.2, (1.1, 1.3), 0.0, 20))
    states = {selftest._method(method()).state for method in methods.METHODS}
    assert states == {"missed"}
