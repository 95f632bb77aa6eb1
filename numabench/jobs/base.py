# SPDX-License-Identifier: Apache-2.0
"""What a family of jobs is: how a pass over a case is prepared, and what the stamps of a window amount to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from statistics import median
from typing import NamedTuple, Protocol

from numabench import _core, kernels
from numabench.disturbance import threads
from numabench.machine import Machine
from numabench.memory import Buffer, allocate
from numabench.series import Case, Options, Sample

# Windows of one pass (method: a minimum depends on how many values it is taken from, so the count is fixed).
CHASE_WINDOWS, RATE_WINDOWS = 32, 3
CHASE_WINDOW_NS = {"quick": 2e6, "standard": 2e6, "full": 5e6}
RATE_WINDOW_NS = {"quick": 30e6, "standard": 50e6, "full": 100e6}
WARM_LIMIT_NS = {"quick": 0.3e9, "standard": 1e9, "full": 3e9}
# Only for the forecast before anything has been measured: the warm-up of a calm machine, filling (huge pages take 11
# GB/s, base pages 3), and asking where the pages are before and after (base pages; huge ones take next to nothing).
WARM_NS, SET_UP_BYTES_PER_S, PROOF_BYTES_PER_S = 0.12e9, 7e9, 20e9

Stamps = list[_core.Stamp]
Figure = Callable[[Stamps], float]


class Job(NamedTuple):
    """A prepared case: what each thread does, what a window's stamps amount to, and how many windows of what length.

    ``figure`` is asked for right after its window. ``warm_ns`` is the length of a window of the warm-up. ``estimator``
    makes the pass's figure of the windows'.
    ``extras`` gives further figures of the pass from all its windows. ``checksum`` is asked for after the last window.
    ``checks`` names flags that these windows raise. With ``turns`` each window takes the next of these works. ``twins``
    is called last, with the windows of the warm-up and the timed ones: it measures the same in ways that must not
    matter, and gives their ratios by name (series.Evidence). It may overwrite the buffers. ``team`` runs it where that
    is not the team of the case's CPUs. ``subject`` names flags of what it measures, which are no fault of its samples.
    ``awake`` are CPUs behind the case's that the last works only keep from sleeping; no evidence is taken of them.
    """

    works: list[_core.Work]
    figure: Figure
    estimator: Callable[[Sequence[float]], float]
    windows: int
    window_ns: float
    warm_ns: float = 5e6
    ring_nodes: int = 0
    checksum: Callable[[], str] | None = None
    extras: Callable[[list[Stamps]], dict[str, float]] | None = None
    checks: Callable[[list[Stamps]], tuple[str, ...]] | None = None
    turns: Sequence[list[_core.Work]] = ()
    twins: Callable[[list[Stamps], list[Stamps]], dict[str, float]] | None = None
    team: _core.Team | None = None
    subject: frozenset[str] = frozenset()
    awake: tuple[int, ...] = ()


class Bench(Protocol):
    """What a family needs of the hardware backend."""

    machine: Machine
    options: Options

    def team(self, cpus: tuple[int, ...]) -> _core.Team:
        """The team pinned to these CPUs."""


class Family(Protocol):
    """A module of this package. Cases of a group share the buffers; each case is prepared anew."""

    def buffers(self, bench: Bench, stack: ExitStack, group: Sequence[Case], seed: int) -> list[Buffer]:
        """Allocate and touch what the cases of a group work on; the stack closes it."""

    def prepare(self, bench: Bench, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, fixed: bool) -> Job:
        """Make a case ready to run; ``fixed`` asks for the same amount of work in every run, without a window."""

    def seconds(self, group: Sequence[Case], options: Options) -> float:
        """Forecast of one pass over a group, set-up included."""


class Alone(Protocol):
    """A module of this package whose cases are not windows of a team here: processes, or waits for the system."""

    def samples(self, bench: Bench, group: Sequence[Case], number: int, position: int, seed: int) -> list[Sample]:
        """One pass over the cases of a group."""

    def seconds(self, group: Sequence[Case], options: Options) -> float:
        """Forecast of one pass over a group, set-up included."""


def buffers_of(
    bench: Bench, stack: ExitStack, case: Case, sizes: Sequence[int], seed: int, fill: str = "fill_f64"
) -> list[Buffer]:
    """Buffers of these sizes on the case's target, touched by its ``touch_cpus``."""
    return [
        stack.enter_context(
            allocate(
                size,
                case.target,
                pages=case.pages,
                machine=bench.machine,
                touch=case.touch_cpus,
                fill=fill,
                seed=seed + part,
            )
        )
        for part, size in enumerate(sizes)
    ]


def one_buffer(bench: Bench, stack: ExitStack, group: Sequence[Case], seed: int) -> list[Buffer]:
    """A single buffer, as large as the largest case of the group needs."""
    first = group[0]
    fill = "fill_f32" if first.kernel.endswith("f32") else "fill_f64"
    return buffers_of(bench, stack, first, [max(case.bytes for case in group)], seed, fill)


def crew(cpus: Sequence[int], clock: _core.Clock) -> tuple[_core.Team, frozenset[int]]:
    """A new team, and the ids of its threads; no other thread may start or end meanwhile."""
    before = threads()
    return _core.Team(cpus, clock), frozenset(threads() - before)


def span_ns(stamps: Stamps) -> float:
    """From the first start to the last end."""
    return max(stamp.end_ns for stamp in stamps) - min(stamp.start_ns for stamp in stamps)


def rate_seconds(group: Sequence[Case], options: Options) -> float:
    """Forecast for a family of rate windows: filling once, then warm-up and windows per case."""
    windows = RATE_WINDOWS * RATE_WINDOW_NS[options.profile] + WARM_NS
    size = max(case.bytes for case in group)
    return size / SET_UP_BYTES_PER_S + len(group) * (windows / 1e9 + size / PROOF_BYTES_PER_S)


def rate_job(works: list[_core.Work], figure: Figure, options: Options) -> Job:
    """A job whose figure is the median of a few long windows."""
    return Job(works, figure, median, RATE_WINDOWS, RATE_WINDOW_NS[options.profile])


def family_of(case: Case) -> str:
    """Name of the family that prepares a case: its own word, else its kernel's."""
    return case.job or kernels.kernel(case.kernel, case.tier).family
