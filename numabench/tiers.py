# SPDX-License-Identifier: Apache-2.0
"""The instruction set that is fastest for what a run measures: all there are, in turn on the real working sets."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import msgspec

from numabench import kernels
from numabench.backend import Backend
from numabench.series import Case
from numabench.units import plural

ROUNDS = 3
FAMILIES = ("stream", "stride", "mix", "gather", "blas1", "gemm")  # others hardly depend on it


def choose(cases: Sequence[Case], taker: Backend, seed: int) -> tuple[list[Case], dict[str, dict[str, float]]]:
    """The cases, each kernel and number of threads in its fastest tier, and the medians it was chosen by.

    The first case of each is taken for all. The highest tier stays unless a lower one wins every round.
    """
    replace = msgspec.structs.replace
    names = [name for name, tier in kernels.tiers().items() if tier.usable]
    first: dict[str, Case] = {}
    for case in cases:
        if _asks(case):
            first.setdefault(_key(case), case)
    chosen: dict[str, str] = {}
    told: dict[str, dict[str, float]] = {}
    for key, case in first.items():
        known = [name for name in names if case.kernel in kernels.tiers()[name].kernels]
        taken: dict[str, list[float]] = {name: [] for name in known}
        for number in range(ROUNDS):
            order = known if number % 2 else known[::-1]
            samples = taker.measure([replace(case, tier=name) for name in order], number, number, seed)
            for name, sample in zip(order, samples, strict=True):
                taken[name].append(sample.value if case.better == "high" else -sample.value)
        better = [name for name in known if all(a > b for a, b in zip(taken[name], taken[known[-1]], strict=True))]
        chosen[key] = max(better, key=lambda name: median(taken[name]), default=known[-1])
        told[key] = {name: abs(median(values)) for name, values in taken.items()}
    return [replace(case, tier=chosen[_key(case)]) if _asks(case) else case for case in cases], told


def _asks(case: Case) -> bool:
    return not case.unavailable and not case.job and kernels.kernel(case.kernel, case.tier).family in FAMILIES


def _key(case: Case) -> str:
    return f"{case.kernel}, {plural(len(case.cpus), 'thread')}"
