# SPDX-License-Identifier: Apache-2.0
"""Wrong ways to measure a server, on a simulated one whose right figure is known: what each would have said."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from numabench.analysis import stats, tails

SERVICE_MS = 10.0
REQUESTS, RATE_PER_MS = 2000, 0.05
STALL_MS = 1000.0


class Wrong(NamedTuple):
    """A wrong method: its figure, the right one beside it, and whether this package refuses or corrects the wrong."""

    name: str
    fools: str
    unit: str
    wrong: float
    right: float
    noticed: bool


def closed_loop() -> Wrong:
    """A stall of one second: a loop that waits for each answer asks nothing meanwhile (Tene, coordinated omission)."""
    service = [SERVICE_MS] * REQUESTS
    service[REQUESTS // 2] += STALL_MS
    scheduled = [n / RATE_PER_MS for n in range(REQUESTS)]
    said, right = _p99(service), _p99(tails.queue(scheduled, service))
    name, fools = "closed loop over a stall", "no request is sent while the server stalls, so none is late"
    return Wrong(name, fools, "ms p99", said, right, right > 2 * said)


def warm_up() -> Wrong:
    """The first requests are slow and belong to the start, not to the server's usual latency."""
    values = [SERVICE_MS * (1 + 2 * max(0.0, 1 - n / 700)) for n in range(1000)]
    head = values[:600]
    tail = values[700:]
    noticed = not tails.settled(head) and tails.settled(tail)
    return Wrong("warm-up included", "the start is taken for the server", "ms p50", median(head), median(tail), noticed)


def too_few() -> Wrong:
    """A 99th percentile of 50 requests is their greatest, whatever it is."""
    draw = random.Random(7)  # noqa: S311 - a simulation
    values = [SERVICE_MS * draw.lognormvariate(0, 0.5) for _ in range(100_000)]
    few = values[:50]
    name, fools = "p99 of 50 requests", "the greatest of a few is called a percentile"
    return Wrong(name, fools, "ms p99", max(few), _p99(values), tails.quantile(few, 0.99).value is None)


def best_of_twenty() -> Wrong:
    """The best of twenty tries of a change that changes nothing, against one try of the old."""
    draw = random.Random(11)  # noqa: S311 - a simulation
    old, new = ([100 * math.exp(draw.gauss(0, 0.05)) for _ in range(20)] for _ in range(2))
    fair = stats.ratio(new, old)
    noticed = fair.ci is not None and fair.ci[0] <= 1 <= fair.ci[1]
    name, fools = "best of 20", "luck is called a gain"
    return Wrong(name, fools, "x", max(new) / old[0], fair.value, noticed)


def _p99(values: Sequence[float]) -> float:
    return tails.quantile(values, 0.99).value or math.nan


METHODS: Sequence[Callable[[], Wrong]] = (closed_loop, warm_up, too_few, best_of_twenty)
