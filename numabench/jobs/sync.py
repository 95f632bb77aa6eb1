# SPDX-License-Identifier: Apache-2.0
"""Barriers and all-reduces of a team, round after round: us each, and the 99th percentile over rounds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from numabench import _core, kernels, timing
from numabench.errors import NumabenchError
from numabench.jobs.base import Bench, Job, Stamps, one_buffer, span_ns
from numabench.memory import Buffer
from numabench.series import Case, Options

__all__ = ["buffers", "bytes_needed", "prepare", "seconds"]

WINDOWS, LINES = 7, 4096  # the barrier's lines come first, then inputs, then results
BOUND = 0.1  # of a time from one CPU's clock to another's: so well must their offset be known

buffers = one_buffer


def bytes_needed(parts: int, size: int) -> int:
    """Of the buffer for vectors of ``size`` bytes (0: a barrier)."""
    return max(LINES + 2 * parts * _apart(size), 2 << 20)


def _apart(size: int) -> int:
    return -(-size // 4096) * 4096 + 128 * (size > 0)


def prepare(bench: Bench, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, fixed: bool) -> Job:
    """``rounds`` of the case's kernel in every run; ``wait`` says how threads wait, ``size`` what they add up.

    With ``spread`` each part comes to the barrier late by up to so many ns, by chance, and a round lasts from the last
    arrival to the last exit.
    """
    region, kernel = buffers[0].region, kernels.kernel(case.kernel, case.tier)
    parts, rounds = len(case.cpus), int(case.params["rounds"])
    size, apart = int(case.params.get("size", 0)), _apart(int(case.params.get("size", 0)))
    clock = bench.team(case.cpus).clock
    spread = float(case.params.get("spread", 0))
    each = 8 * rounds * (2 if spread else 1)
    ticks = stack.enter_context(_core.Region(each * (parts if spread else 1), "base", "local"))
    view = region.as_array("u1")
    try:
        view[:LINES] = 0
    finally:
        del view
    vectors = (
        {"a": (region, LINES), "b": (region, LINES + parts * apart), "bytes": size, "stride": apart} if size else {}
    )
    works = [
        _core.Work(
            kernel,
            part=part,
            parts=parts,
            shared=(region, 0),
            wait=str(case.params.get("wait", "spin")),
            ticks=(ticks, part * each) if spread or part == 0 else None,
            delay=max(clock.additions(spread), 1) if spread else 0,
            seed=seed,
            loops=rounds,
            **vectors,  # type: ignore[arg-type]
        )
        for part in range(parts)
    ]
    hz = clock.hz
    known = timing.clocks(dict.fromkeys(case.cpus), clock) if spread else {}
    ahead = [known[str(cpu)].get("offset_ns", 0.0) for cpu in case.cpus if spread]
    bound_us = max((one.get("offset_bound_ns", 0.0) for one in known.values()), default=0.0) / 1e3
    middles: list[float] = []
    tails: list[float] = []

    def us_apart(stamps: Stamps) -> float:
        """Median over the rounds of the window that has just ended."""
        import numpy as np

        view = ticks.as_array("u8")
        try:
            seen = view[: 2 * parts * rounds].reshape(parts, rounds, 2) / hz * 1e9 - np.array(ahead)[:, None, None]
        finally:
            del view
        took = (seen[:, :, 1].max(axis=0) - seen[:, :, 0].max(axis=0)) / 1e3
        middles.append(float(np.median(took)))
        tails.append(float(np.quantile(took, 0.99)))
        return middles[-1]

    def us_per_round(stamps: Stamps) -> float:
        return span_ns(stamps) / rounds / 1e3

    def further(windows: list[Stamps]) -> dict[str, float]:
        """Percentiles over the rounds of the last window, as thread 0 saw them end."""
        import numpy as np

        if spread:
            return {"p99_us": median(tails[-len(windows) :]), "clocks_known_us": bound_us}
        view = ticks.as_array("u8")
        try:
            each = np.diff(view[:rounds].astype("f8")) / hz * 1e6
        finally:
            del view
        return {"p50_us": float(np.median(each)), "p99_us": float(np.quantile(each, 0.99))} if len(each) else {}

    def coarse(windows: list[Stamps]) -> tuple[str, ...]:
        return ("timer_coarse",) if bound_us > BOUND * median(middles[-len(windows) :]) else ()

    return Job(
        works,
        us_apart if spread else us_per_round,
        median,
        WINDOWS,
        0.0,
        extras=further,
        checks=coarse if spread else None,
        checksum=(lambda: _checked(region, parts, size, apart)) if size else None,
    )


def _checked(region: _core.Region, parts: int, size: int, apart: int) -> str:
    """Every part's result is the sum of all inputs in order of the parts, bit by bit. Raises NumabenchError."""
    import numpy as np

    view = region.as_array("u1")
    try:
        rows = [view[LINES + at * apart : LINES + at * apart + size].copy().view("f4") for at in range(2 * parts)]
    finally:
        del view
    truth = np.zeros_like(rows[0])
    for row in rows[:parts]:
        truth = truth + row
    if any(not np.array_equal(row, truth) for row in rows[parts:]):
        raise NumabenchError("all-reduce: a result is not the sum of the inputs")
    return f"{float(truth.astype('f8').sum()):.6e}"


def seconds(group: Sequence[Case], options: Options) -> float:
    """From some microseconds a round."""
    del options
    return sum(0.1 + 3 * WINDOWS * int(case.params["rounds"]) * 3e-6 for case in group)
