# SPDX-License-Identifier: Apache-2.0
"""Two threads pass a line back and forth: ns one way, half a round trip, over many lines of one home."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from numabench import _core, kernels
from numabench.jobs.base import Bench, Job, Stamps, one_buffer, span_ns
from numabench.memory import Buffer
from numabench.series import Case, Options

__all__ = ["buffers", "prepare", "seconds"]

# Home agents and slices differ by line, so each window has a line of its own (method: at least 32).
LINES, ROUNDS, PAD = 32, 1000, 128

buffers = one_buffer


def prepare(bench: Bench, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, fixed: bool) -> Job:
    """The case's primitive between its two CPUs; nothing pauses in the hand-over."""
    region, kernel = buffers[0].region, kernels.kernel(case.kernel, case.tier)
    rounds = int(case.params.get("rounds", ROUNDS))
    places = random.Random(seed).sample(range(region.bytes // PAD - 2), LINES)  # noqa: S311 - places, no secret
    turns = [
        [
            _core.Work(kernel, part=part, parts=2, shared=(region, place * PAD), loops=rounds, seed=seed + at + 1)
            for part in (0, 1)
        ]
        for at, place in enumerate(places)
    ]

    def one_way_ns(stamps: Stamps) -> float:
        return span_ns(stamps) / (2 * rounds)

    return Job(turns[0], one_way_ns, median, LINES, 0.0, turns=turns)


def seconds(group: Sequence[Case], options: Options) -> float:
    """Short: a hand-over takes some 0.1 us, but each run wakes two threads."""
    del options
    return 0.1 + 2 * LINES * ROUNDS * 0.5e-6 * len(group)
