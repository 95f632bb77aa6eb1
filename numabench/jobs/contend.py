# SPDX-License-Identifier: Apache-2.0
"""All threads of a team add to one line: ns an addition of all together, and the least share over the greatest."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from numabench import _core, kernels
from numabench.jobs.base import RATE_WINDOW_NS, Bench, Job, Stamps, one_buffer, span_ns
from numabench.memory import Buffer
from numabench.series import Case, Options

__all__ = ["buffers", "prepare", "seconds"]

# Home agents and slices differ by line, so each window has a line of its own.
LINES, PAD, BLOCK, FIXED = 8, 128, 256, 10_000

buffers = one_buffer


def prepare(bench: Bench, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, fixed: bool) -> Job:
    """Windows take turns over some lines; the share of each thread is over all of them."""
    region, kernel = buffers[0].region, kernels.kernel(case.kernel, case.tier)
    places = random.Random(seed).sample(range(region.bytes // PAD), LINES)  # noqa: S311 - places, no secret
    turns = [
        [_core.Work(kernel, shared=(region, place * PAD), block=BLOCK, loops=FIXED if fixed else 0) for _ in case.cpus]
        for place in places
    ]

    def ns_each(stamps: Stamps) -> float:
        return span_ns(stamps) / sum(stamp.elements for stamp in stamps)

    def further(windows: list[Stamps]) -> dict[str, float]:
        shares = [sum(stamps) for stamps in zip(*([s.elements for s in row] for row in windows), strict=True)]
        return {"fairness": min(shares) / max(shares)}

    length = RATE_WINDOW_NS[bench.options.profile] / LINES
    return Job(turns[0], ns_each, median, LINES, length, extras=further, turns=turns)


def seconds(group: Sequence[Case], options: Options) -> float:
    """A window a line."""
    return len(group) * (0.1 + 2 * RATE_WINDOW_NS[options.profile] / 1e9)
