# SPDX-License-Identifier: Apache-2.0
"""Metrics that are no matrix of nodes: prefetchers, caches, core to core; and cache figures that cannot be true."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import NamedTuple

from numabench.machine import Machine
from numabench.series import Series

CACHE_FASTER = 1.05  # a cache's rate over memory's, at the least


class Detail(NamedTuple):
    """One series that counts for a metric at an instance, such as ``latency.l2`` of ``cpu0``."""

    metric: str
    instance: str
    series: Series


def details(series: Iterable[Series], machine: Machine) -> Iterator[Detail]:
    """The series of a record that are figures of these metrics, those without a figure too."""
    for one in series:
        case = one.case
        if case.experiment == "prefetch":
            walk = case.params.get("walk")
            metric = {"sequential": "latency.sequential", "read": "bw.one_thread.local"}.get(str(walk))
            if metric:
                yield Detail(metric, f"node{case.initiator}", one)
        elif case.experiment == "c2c" and case.kernel == "pingpong_flag":
            yield from _core_to_core(one, machine)
        elif case.experiment == "hierarchy" and case.initiator == case.target and case.pages != "base":
            yield from _cache(one, machine)


def _core_to_core(one: Series, machine: Machine) -> Iterator[Detail]:
    a, b = (machine.cpu(cpu).node for cpu in one.case.cpus)
    home = one.case.target
    if a == b == home:
        yield Detail("c2c.local", f"node{a}", one)
    elif a != b and home == a:
        yield Detail("c2c.remote", f"node{a}->node{b}", one)
    elif a != b and home == b:
        yield Detail("c2c.remote_other_home", f"node{a}->node{b}", one)


def _cache(one: Series, machine: Machine) -> Iterator[Detail]:
    """A cache's figure is that of a working set of a quarter to a half of it, out of reach of the one before."""
    if "chains" in one.case.params:  # loads side by side say where it ends
        return
    cpu = one.case.cpus[0]
    smaller = 0
    for level, size in sorted(
        {c.level: c.bytes for c in machine.caches if cpu in c.cpus and c.type != "instruction"}.items()
    ):
        if max(size // 4, 2 * smaller) <= one.case.bytes <= size // 2:
            yield Detail(f"{'latency' if one.case.kernel == 'chase' else 'bw'}.l{level}", f"cpu{cpu}", one)
        smaller = size


def by_pass(found: Sequence[dict[int, float]]) -> dict[int, float]:
    """{pass: median of the series that have it}."""
    numbers = sorted({number for one in found for number in one})
    return {number: median(one[number] for one in found if number in one) for number in numbers}


def no_cache(series: Iterable[Series], machine: Machine) -> list[str]:
    """Caches whose rate is that of memory, in words: their working set did not fit, or they are not there."""
    largest: dict[int, Series] = {}
    caches: list[Detail] = []
    for one in series:
        case = one.case
        if case.experiment == "hierarchy" and case.kernel == "read" and case.initiator == case.target and one.estimate:
            cpu = case.cpus[0]
            if cpu not in largest or case.bytes > largest[cpu].case.bytes:
                largest[cpu] = one
            caches += details([one], machine)
    return [
        f"{detail.metric}[{detail.instance}] is {detail.series.estimate:.4g} GB/s, memory {memory.estimate:.4g}"
        for detail in caches
        if (memory := largest[detail.series.case.cpus[0]]).estimate
        and detail.series.estimate
        and detail.series.estimate < CACHE_FASTER * memory.estimate
    ]
