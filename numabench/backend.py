# SPDX-License-Identifier: Apache-2.0
"""One pass over a case on real hardware: fresh buffers, warm-up, timed windows, and the evidence for them."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import Protocol, Self

from numabench import _core, jobs, kernels, timing
from numabench.analysis import stats
from numabench.disturbance import Watch, moves
from numabench.environment import FALLBACK_CLOCKS, Tree
from numabench.errors import NumabenchError
from numabench.evidence import evidence, flags, prefetch, shared
from numabench.jobs.base import WARM_LIMIT_NS, Job, Stamps, crew
from numabench.machine import Machine
from numabench.memory import Buffer
from numabench.series import Case, Evidence, Options, Sample
from numabench.units import format_numbers, parse_numbers

Windows = list[Stamps]
CLOCK_TRIES = 5  # of reading two clocks at once, since others may take the CPU in between
RETAKES = 20  # of a window in which nobody's turn came


class Backend(Protocol):
    """Whoever can take a sample of each case of a group: the hardware, or a test's stand-in."""

    def measure(self, group: Sequence[Case], number: int, position: int, seed: int) -> list[Sample]:
        """One pass over the cases of a group; NumabenchError when a case cannot run."""


class Hardware:
    """The machine itself. A context manager: teams of threads live as long as it does."""

    def __init__(self, machine: Machine, options: Options) -> None:
        self.machine, self.options = machine, options
        env = Tree()
        fallback = env.text("sys/devices/system/clocksource/clocksource0/current_clocksource") in FALLBACK_CLOCKS
        self.clock = _core.Clock("monotonic_raw" if fallback else None)
        self.balancing = env.text("proc/sys/kernel/numa_balancing") not in (None, "0")
        self.reference_s = partial(time.clock_gettime, time.CLOCK_MONOTONIC_RAW)
        self.widest: dict[int, float] = {}  # instructions a cycle, by kind of core
        self.call_ns: dict[tuple[str, str], float | None] = {}  # of each kernel and tier, measured once
        self.teams: dict[tuple[int, ...], _core.Team] = {}
        self.members: dict[tuple[int, ...], frozenset[int]] = {}  # their threads

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for team in self.teams.values():
            team.close()
        self.teams.clear()

    def team(self, cpus: tuple[int, ...]) -> _core.Team:
        """The team pinned to these CPUs."""
        if cpus not in self.teams:
            self.teams[cpus], self.members[cpus] = crew(cpus, self.clock)
        return self.teams[cpus]

    def measure(self, group: Sequence[Case], number: int, position: int, seed: int) -> list[Sample]:
        """Allocate once for the group, then run each case of it. Raises NumabenchError."""
        try:
            return self._measure(group, number, position, seed)
        except NumabenchError as error:
            wanted = {cpu for case in group for cpu in (*case.cpus, *case.touch_cpus)}
            online = Tree().text("sys/devices/system/cpu/online")
            gone = wanted - set(parse_numbers(online, "CPUs online")) if online else set()
            if error.errno != errno.EINVAL or not gone:
                raise
            raise NumabenchError(f"CPU {format_numbers(sorted(gone))} went offline during the run ({error})") from error

    def _measure(self, group: Sequence[Case], number: int, position: int, seed: int) -> list[Sample]:
        alone = jobs.alone(group[0])
        if alone:
            return alone.samples(self, group, number, position, seed)
        with ExitStack() as stack:
            buffers = jobs.family(group[0]).buffers(self, stack, group, seed)
            return [self._sample(case, buffers, number, position + i, seed) for i, case in enumerate(group)]

    @contextmanager
    def fixed_work(self, case: Case, seed: int) -> Iterator[Callable[[], object]]:
        """A call that does the same work every time it is made, for timing from outside."""
        with ExitStack() as stack:
            alone = jobs.alone(case)
            own = getattr(alone, "fixed", None)
            if own is not None:
                yield stack.enter_context(own(self, case, seed))
                return
            if alone:
                yield partial(alone.samples, self, [case], 0, 0, seed)
                return
            family = jobs.family(case)
            job = family.prepare(self, stack, case, family.buffers(self, stack, [case], seed), seed, True)
            yield lambda: self.team(case.cpus).run(job.works)

    def _sample(self, case: Case, buffers: list[Buffer], number: int, position: int, seed: int) -> Sample:
        """Warm up, take the windows, prove: everything between two proofs of where the pages are."""
        with ExitStack() as stack:
            job = jobs.family(case).prepare(self, stack, case, buffers, seed, False)
            apart, call_ns = self._apart(case), self._call_ns(case)
            before = [buffer.proof() for buffer in buffers]
            cores = {other for cpu in case.cpus for other in self.machine.siblings(cpu)}
            watch = Watch(case.cpus, siblings=cores - set(case.cpus))
            watch.start()
            crew = (*case.cpus, *job.awake)
            moves_before = self._moves(crew)
            began, then = self._clocks()
            warm, windows, values, settled = self._windows(case, job)
            ended, now = self._clocks()
            moves_after = self._moves(crew)
            changes = watch.stop()
            still = self._apart(case)
            after = [buffer.proof() for buffer in buffers]
            extras = job.extras(windows) if job.extras else {}
            filled_s = sum(buffer.filled_s for buffer in buffers)
            extras["fill_gb_per_s"] = sum(buffer.bytes for buffer in buffers) / max(filled_s, 1e-9) / 1e9
            twins = job.twins(warm, windows) if job.twins else {}
            placed = timing.nearest(buffers, self.machine, self.team) if before[0].how == "none" else None
            seen = Evidence(
                placement_timed=placed,
                clock_off=(ended - began) / 1e9 / (now - then) - 1 if now > then else -1.0,
                **evidence(case, buffers, before, after, windows, changes, self.clock, call_ns),  # type: ignore[arg-type]
                shared_share=shared(windows, self.machine, self.widest),
                hand_over_ns=(apart, still) if apart and still else None,
                cpu_moves=None if moves_before is None or moves_after is None else moves_after - moves_before,
                awake=job.awake,
                ring_nodes=job.ring_nodes,
                twins=twins,
                prefetch=prefetch(case, twins),
                checksum=job.checksum() if job.checksum else "",
            )
            return Sample(
                number=number,
                position=position,
                value=job.estimator(values),
                windows=values,
                evidence=seen,
                flags=tuple(
                    flag
                    for flag in dict.fromkeys(
                        (
                            *flags(case, seen, changes, windows, settled, self.machine, self.clock, self.balancing),
                            *(job.checks(windows) if job.checks else ()),
                        )
                    )
                    if flag not in job.subject
                ),
                extras={"median": median(values)} | extras,
            )

    def _clocks(self) -> tuple[float, float]:
        """The clock (ns) and the system's (s) at the same moment: of several tries the one that took least."""
        tries = []
        for _ in range(CLOCK_TRIES):
            before, now_ns, after = self.reference_s(), self.clock.now_ns(), self.reference_s()
            tries.append((abs(after - before), now_ns, (before + after) / 2))
        _, now_ns, now_s = min(tries)
        return now_ns, now_s

    def _moves(self, cpus: tuple[int, ...]) -> int | None:
        """How often threads of the team were moved to another CPU so far; None where the system does not tell."""
        self.team(cpus)
        told = [moves(tid) for tid in self.members[cpus]]
        return int(sum(one[0] for one in told if one)) if all(told) else None

    def _call_ns(self, case: Case) -> float | None:
        """What a call of the case's kernel costs besides its elements; None for jobs that are more than its windows."""
        if case.job:
            return None
        kernel = kernels.kernel(case.kernel, case.tier)
        key = kernel.tier, kernel.name
        if key not in self.call_ns:
            self.call_ns[key] = timing.call_ns(kernel, case.cpus[0], self.clock)
        return self.call_ns[key]

    def _apart(self, case: Case) -> float | None:
        """What a hand-over between the first and the last CPU costs, where CPUs may be moved; None elsewhere."""
        ends = case.cpus[0], case.cpus[-1]
        return timing.hand_over(self.team(ends)) if self.machine.virtual and ends[0] != ends[1] else None

    def _windows(self, case: Case, job: Job) -> tuple[Windows, Windows, tuple[float, ...], bool]:
        """Warm up until the figures settle or the limit is reached; then exactly so many windows, with figures."""
        team = job.team or self.team((*case.cpus, *job.awake))
        measuring = slice(len(job.works) - len(job.awake))
        limit = time.monotonic() + WARM_LIMIT_NS[self.options.profile] / 1e9
        warm: Windows = []
        figures: list[float] = []
        while not stats.steady(figures) and time.monotonic() < limit:
            warm.append(self._window(team, job.works, job.warm_ns))
            figures.append(job.figure(warm[-1][measuring]))
        settled = stats.steady(figures)
        turns = job.turns or [job.works]
        windows: Windows = []
        values: list[float] = []
        for at in range(job.windows):
            taken = self._window(team, turns[at % len(turns)], job.window_ns, core_hz=True)
            windows.append(taken[measuring])
            values.append(job.figure(windows[-1]))
        return warm, windows, tuple(values), settled

    def _window(self, team: _core.Team, works: list[_core.Work], window_ns: float, core_hz: bool = False) -> Stamps:
        """One window in which every thread worked: on a busy machine a turn may come after the end.

        Raises NumabenchError when that happens time and again.
        """
        for _ in range(RETAKES):
            stamps = team.run(works, window_ns=window_ns, core_hz=core_hz)
            if all(stamp.elements for stamp, work in zip(stamps, works, strict=True) if work.kernel):
                return stamps
        raise NumabenchError(
            f"{RETAKES} windows of {window_ns / 1e6:g} ms ended before CPU {', '.join(map(str, team.cpus))} got to the "
            "work: stop what else runs there, or choose others with --cpus"
        )
