# SPDX-License-Identifier: Apache-2.0
"""Passes over all cases in random order, until the intervals are tight enough or the budget is spent."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from statistics import median

import msgspec

from numabench.analysis import clusters, screen, stats
from numabench.backend import Backend
from numabench.errors import NumabenchError
from numabench.machine import Machine
from numabench.series import FATAL, Case, Options, Progress, Sample, Series, Trust

PASSES = {"quick": 6, "standard": 10, "full": 20}
CAP = stats.CHECKPOINTS[-1]  # passes, when a precision or a budget is asked for
# Half-width of the interval, as a share, at which a case is done: of times, and of rates.
TIGHT = {"quick": (0.05, 0.05), "standard": (0.01, 0.02), "full": (0.01, 0.01)}
MOVED = 2.0  # factor between hand-overs that noise does not explain
AGAIN = 3  # further passes over a case that stands out of its class
Key = tuple[str, str]
OnSample = Callable[[Case, Sample], None]


def most_passes(options: Options) -> int:
    """So many passes over a case at most, those to replace unsound ones aside."""
    if options.passes:
        return options.passes
    return CAP if options.precision or options.budget_s else PASSES[options.profile]


def tight(case: Case, options: Options) -> float:
    """Half-width of the interval, as a share of the estimate, at which the case needs no more passes."""
    return options.precision or TIGHT[options.profile][case.better == "high"]


def groups(cases: Sequence[Case]) -> list[list[Case]]:
    """Cases that one allocation per pass serves; every other case is a group of its own."""
    found: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        key = case.share or case.label
        found.setdefault((case.experiment, key), []).append(case)
    return list(found.values())


def measure(
    cases: Sequence[Case],
    backend: Backend,
    options: Options,
    progress: Callable[[Progress], None] | None = None,
    on_sample: OnSample | None = None,
    earlier: dict[Key, tuple[Sample, ...]] | None = None,
    machine: Machine | None = None,
) -> list[Series]:
    """Measure the cases that are available; series come back in the order of ``cases``.

    ``earlier`` holds samples of an interrupted run by (experiment, label), not repeated here. A case is visited until
    its interval is tight enough at a checkpoint, so that time goes to those that are not; ``options.budget_s`` ends
    it sooner. With the ``machine`` cells of a matrix that do not fit their class are measured again.
    KeyboardInterrupt passes through; samples told to ``on_sample`` are kept by the caller.
    """
    run = _Run(cases, backend, options, progress, on_sample, earlier or {})
    most = most_passes(options)
    for number in range(2 * most):
        if not run.round(number, run.wanted(most)):
            break
    suspects = [] if options.passes or run.over() or machine is None else run.odd(machine)
    run.again = True
    for _ in range(AGAIN if suspects else 0):
        run.round(1 + max(number for seen in run.numbers.values() for number in seen), suspects)
    run.correlate()
    return [
        summary(case, run.samples[key(case)], run.failed.get(key(case), ""), options, run.correlation[case.experiment])
        for case in cases
    ]


def key(case: Case) -> Key:
    """What samples are kept by."""
    return case.experiment, case.label


class _Run:
    """The samples so far, what they cost, and whom to visit next."""

    def __init__(
        self,
        cases: Sequence[Case],
        backend: Backend,
        options: Options,
        progress: Callable[[Progress], None] | None,
        on_sample: OnSample | None,
        earlier: dict[Key, tuple[Sample, ...]],
    ) -> None:
        self.backend, self.options, self.progress, self.on_sample = backend, options, progress, on_sample
        self.samples: dict[Key, list[Sample]] = {key(c): list(earlier.get(key(c), ())) for c in cases}
        self.numbers: dict[Key, set[int]] = {k: {s.number for s in found} for k, found in self.samples.items()}
        self.failed: dict[Key, str] = {}
        self.correlation: dict[str, float] = dict.fromkeys((case.experiment for case in cases), 0.0)
        self.groups = groups([case for case in cases if not case.unavailable])
        self.cost = [0.0] * len(self.groups)  # seconds of the last visit
        self.due: list[int] = []  # passes that each group may still need
        self.again = False  # whether passes are taken of cases that did not fit their class
        self.started, self.visited = time.monotonic(), 0
        self.position = sum(map(len, self.samples.values()))

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    def over(self) -> bool:
        """Whether the budget is spent."""
        return bool(self.options.budget_s) and self.elapsed() >= (self.options.budget_s or 0)

    def wanted(self, most: int) -> list[Case]:
        """Cases that need another pass."""
        return [c for group in self.groups for c in group if key(c) not in self.failed and not self.done(c, most)]

    def done(self, case: Case, most: int) -> bool:
        """Whether a case is tight enough at a checkpoint, or has had its passes.

        Only sound passes count towards them, so that others are repeated, up to half as many again. A case with a
        pass that stands far out goes on to the next checkpoint.
        """
        found = self.samples[key(case)]
        values = [s.value for s in found if not FATAL.keys() & set(s.flags)]
        if self.options.passes:
            return len(found) >= self.options.passes
        if len(values) >= most or len(found) >= most + (most + 1) // 2:
            return True
        if len(values) not in stats.CHECKPOINTS or stands_out(values):
            return False
        return self.half_width(case) <= tight(case, self.options)

    def half_width(self, case: Case) -> float:
        """Of the interval as it stands, as a share."""
        found = self.samples[key(case)]
        values = [s.value for s in counted(found)]
        return stats.half_width(interval(found, self.correlation[case.experiment]), median(values))

    def correlate(self) -> None:
        """See how much the passes of each experiment resemble those before them."""
        columns: dict[str, list[list[float]]] = {name: [] for name in self.correlation}
        for (experiment, _), found in self.samples.items():
            if len(found) >= stats.LEAST_PASSES:
                columns[experiment].append([s.value for s in counted(found)])
        self.correlation = {name: stats.correlation(found) for name, found in columns.items()}

    def round(self, number: int, wanted: Sequence[Case]) -> bool:
        """Visit each of the cases once, in an order of this pass; False when there was none to visit or no time."""
        self.correlate()
        self.due = [self.passes_due(group) for group in self.groups]
        keys = {key(c) for c in wanted if number not in self.numbers[key(c)]}
        chosen = [i for i, group in enumerate(self.groups) if any(key(c) in keys for c in group)]
        chosen = self.afford(chosen, number)
        order = random.Random(self.options.seed * 1000003 + number)  # noqa: S311 - an order, no secret
        visits = order.sample(range(len(self.groups)), len(self.groups))
        for place in [i for i in visits if i in chosen]:
            left = [c for c in self.groups[place] if key(c) in keys and key(c) not in self.failed]
            if left:
                self.visit(place, order.sample(left, len(left)), number, order.getrandbits(32), chosen)
        return bool(chosen) or bool(wanted and not keys)

    def afford(self, chosen: list[int], number: int) -> list[int]:
        """Those of the groups that the budget still allows: all or none while intervals cannot be had without all.

        After that, those whose cases are farthest from tight for the time they take.
        """
        if not self.options.budget_s or not number:
            return chosen
        left = self.options.budget_s - self.elapsed()
        if sum(self.cost[i] for i in chosen) <= left:
            return chosen
        if number < stats.LEAST_PASSES:
            return []
        kept = []
        for i in sorted(chosen, key=lambda i: max(map(self.excess, self.groups[i])) / max(self.cost[i], 1e-9))[::-1]:
            if self.cost[i] <= left:
                kept.append(i)
                left -= self.cost[i]
        return kept

    def excess(self, case: Case) -> float:
        """How many times wider than asked for the interval is."""
        if not self.samples[key(case)] or key(case) in self.failed:
            return 0.0
        return min(self.half_width(case) / tight(case, self.options), 100.0)

    def visit(self, place: int, left: Sequence[Case], number: int, seed: int, chosen: Sequence[int]) -> None:
        """One pass over cases of a group."""
        began = time.monotonic()
        taken = _take(left, self.backend, number, self.position, seed, self.failed)
        self.position += len(left)
        for case, made in taken:
            sample = msgspec.structs.replace(made, again=self.again)
            self.samples[key(case)].append(sample)
            self.numbers[key(case)].add(sample.number)
            if self.on_sample:
                self.on_sample(case, sample)
        self.cost[place] = time.monotonic() - began
        self.due[place] = self.passes_due(self.groups[place])
        self.visited += 1
        if self.progress:
            self.progress(self.told(left[-1], taken))

    def passes_due(self, group: Sequence[Case]) -> int:
        """Passes that a group may still need: a case that is not done is taken to need all of its passes."""
        most = most_passes(self.options)
        left = [c for c in group if key(c) not in self.failed and not self.done(c, most)]
        return max([max(most - len(self.samples[key(c)]), 1) for c in left], default=0)

    def told(self, last: Case, taken: Sequence[tuple[Case, Sample]]) -> Progress:
        """How far it is."""
        known = [cost for cost in self.cost if cost]
        mean = sum(known) / max(len(known), 1)
        left = sum(n * (cost or mean) for n, cost in zip(self.due, self.cost, strict=True))
        if self.options.budget_s:
            left = min(left, max(self.options.budget_s - self.elapsed(), 0.0))
        return Progress(
            done=self.visited,
            total=self.visited + sum(self.due),
            label=f"{last.experiment} {last.label}",
            elapsed_s=self.elapsed(),
            left_s=left,
            taken=tuple((case, sample.value) for case, sample in taken),
        )

    def odd(self, machine: Machine) -> list[Case]:
        """Cases far off their class by the passes of their turn, with controls."""
        cases = [c for group in self.groups for c in group if key(c) not in self.failed]
        return screen.suspects([Series(case=c, samples=tuple(self.samples[key(c)])) for c in cases], machine)


def stands_out(values: Sequence[float]) -> bool:
    """Whether a pass is more than 5 % and 4 robust standard deviations from the median of its case."""
    middle = median(values)
    return any(
        abs(z) > 4 and abs(v - middle) > 0.05 * abs(middle)
        for v, z in zip(values, stats.modified_z(values), strict=True)
    )


def _take(
    group: Sequence[Case],
    backend: Backend,
    number: int,
    position: int,
    seed: int,
    failed: dict[Key, str],
) -> list[tuple[Case, Sample]]:
    """One pass over a group; when it fails, over each of its cases alone, so that one bad case costs only itself."""
    try:
        return list(zip(group, backend.measure(group, number, position, seed), strict=True))
    except NumabenchError as error:
        if len(group) == 1:
            failed[key(group[0])] = str(error)
            return []
    return [pair for case in group for pair in _take([case], backend, number, position, seed, failed)]


def counted(samples: Sequence[Sample]) -> list[Sample]:
    """Passes in the order of time without those with a fatal flag, as long as at least half of them are sound."""
    ordered = sorted(samples, key=lambda sample: sample.position)
    sound = [sample for sample in ordered if not FATAL.keys() & set(sample.flags)]
    return sound if 2 * len(sound) >= len(ordered) else ordered


def interval(samples: Sequence[Sample], correlation: float) -> tuple[float, float] | None:
    """95 % interval of the median over passes, wider where passes resemble those before them.

    ``correlation`` is that of all cases of the experiment; this case's own counts if it is larger. Where most passes
    were disturbed by others, or the CPUs were moved, it is all that was seen: figures of a machine that others change
    are no sample of it.
    """
    values = [sample.value for sample in counted(samples)]
    if len(values) < stats.LEAST_PASSES:
        return None
    found = stats.median_interval(values, max(correlation, stats.correlation([values])))
    disturbed = 2 * sum("contended" in sample.flags for sample in samples) > len(samples)
    if found and (disturbed or moved(samples)):
        everything = [sample.value for sample in samples]
        found = min(*everything, found[0]), max(*everything, found[1])
    return found


def moved(samples: Sequence[Sample]) -> tuple[float, float] | None:
    """What a hand-over between the case's CPUs cost (ns) before and after they were moved; None: they were not."""
    seen = [ns for sample in samples for ns in sample.evidence.hand_over_ns or ()]
    return clusters.split(seen, MOVED)


def summary(case: Case, samples: Sequence[Sample], failure: str, options: Options, correlation: float = 0.0) -> Series:
    """A series from its samples: the median over passes, its interval, its variation, its flags."""
    if case.unavailable or not samples:
        return Series(case=case, unavailable=case.unavailable or failure or "not measured before the run ended")
    passes = counted(samples)
    values = [sample.value for sample in passes]
    estimate, ci = median(values), interval(samples, correlation)
    between, within = stats.between_within([sample.windows for sample in passes])
    # A warning of a single pass is noise of that pass; one that keeps coming describes the case.
    flags = usual([sample.flags for sample in passes])
    if stats.half_width(ci, estimate) > tight(case, options):
        flags.append("ci_wide")
    if moved(samples):
        flags.append("cpus_moved")
    if failure:
        flags.append("cut_short")
    if stats.allocation_dependent(between, within):
        flags.append("allocation_dependent")
    if stats.drift_p([s.value for s in passes]) < 0.01:
        flags.append("drift")
    placed = all(sample.evidence.proof in ("move_pages", "numa_maps", "get_mempolicy") for sample in passes)
    trust: Trust = "untrusted" if FATAL.keys() & set(flags) else "proven" if placed and not flags else "inferred"
    return Series(
        case=case,
        samples=tuple(samples),
        estimate=estimate,
        ci=ci,
        correlation=max(correlation, stats.correlation([values])),
        spread_between=between,
        spread_within=within,
        outliers=sum(abs(z) > 3.5 for z in stats.modified_z(values)),
        flags=tuple(flags),
        trust=trust,
        ended=failure,
    )


def usual(passes: Sequence[Sequence[str]]) -> list[str]:
    """Flags that more than half of the passes raise, in the order of their first appearance."""
    names = dict.fromkeys(flag for flags in passes for flag in flags)
    return [name for name in names if 2 * sum(name in flags for flags in passes) > len(passes)]
