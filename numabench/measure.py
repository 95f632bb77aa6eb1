# SPDX-License-Identifier: Apache-2.0
"""Passes over all cases in random order, until the intervals are tight enough or the budget is spent."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from statistics import median

from numabench.analysis import stats
from numabench.backend import Backend
from numabench.errors import NumabenchError
from numabench.series import FATAL, Case, Options, Progress, Sample, Series, Trust

PASSES = {"quick": 6, "standard": 10, "full": 20}
TIGHT = {"quick": 0.05, "standard": 0.02, "full": 0.01}
OnSample = Callable[[Case, Sample], None]


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
    earlier: dict[tuple[str, str], tuple[Sample, ...]] | None = None,
) -> list[Series]:
    """Measure the cases that are available; series come back in the order of ``cases``.

    ``earlier`` holds samples of an interrupted run by (experiment, label), not repeated here. Ends early at a
    checkpoint when every interval is tight enough, or when ``options.budget_s`` is spent (never within a pass).
    KeyboardInterrupt passes through; samples told to ``on_sample`` are kept by the caller.
    """
    samples: dict[tuple[str, str], list[Sample]] = {(c.experiment, c.label): [] for c in cases}
    failed: dict[tuple[str, str], str] = {}
    for key, kept in (earlier or {}).items():
        if key in samples:
            samples[key].extend(kept)
    todo = groups([case for case in cases if not case.unavailable])
    most = options.passes or PASSES[options.profile]
    started, visited, position = time.monotonic(), 0, sum(len(found) for found in samples.values())
    for number in range(most):
        if _enough(number, cases, samples, failed, options, time.monotonic() - started):
            break
        order = random.Random(options.seed * 1000003 + number)  # noqa: S311 - an order, no secret
        for group in order.sample(todo, len(todo)):
            left = [c for c in group if not any(s.number == number for s in samples[c.experiment, c.label])]
            left = [c for c in left if (c.experiment, c.label) not in failed]
            visited += 1
            if not left:
                continue
            left = order.sample(left, len(left))
            taken = _take(left, backend, number, position, order.getrandbits(32), failed)
            position += len(left)
            for case, sample in taken:
                samples[case.experiment, case.label].append(sample)
                if on_sample:
                    on_sample(case, sample)
            if progress:
                elapsed, total = time.monotonic() - started, len(todo) * most
                progress(
                    Progress(
                        done=visited,
                        total=total,
                        label=f"{left[-1].experiment} {left[-1].label}",
                        elapsed_s=elapsed,
                        left_s=elapsed / visited * (total - visited),
                        taken=tuple((case, sample.value) for case, sample in taken),
                    )
                )
    return [
        summary(case, samples[case.experiment, case.label], failed.get((case.experiment, case.label), ""), options)
        for case in cases
    ]


def _take(
    group: Sequence[Case],
    backend: Backend,
    number: int,
    position: int,
    seed: int,
    failed: dict[tuple[str, str], str],
) -> list[tuple[Case, Sample]]:
    """One pass over a group; when it fails, over each of its cases alone, so that one bad case costs only itself."""
    try:
        return list(zip(group, backend.measure(group, number, position, seed), strict=True))
    except NumabenchError as error:
        if len(group) == 1:
            failed[group[0].experiment, group[0].label] = str(error)
            return []
    return [pair for case in group for pair in _take([case], backend, number, position, seed, failed)]


def _enough(
    number: int,
    cases: Sequence[Case],
    samples: dict[tuple[str, str], list[Sample]],
    failed: dict[tuple[str, str], str],
    options: Options,
    spent: float,
) -> bool:
    """Whether to stop before pass ``number``: budget spent, or all intervals tight at a checkpoint."""
    if options.budget_s and number and spent * (number + 1) / number > options.budget_s:
        return True
    if options.passes or not number:
        return False
    keys = [(c.experiment, c.label) for c in cases if not c.unavailable]
    found = [[s.value for s in samples[key]] for key in keys if key not in failed]
    widths = [stats.half_width(stats.median_interval(values), median(values)) for values in found]
    return stats.may_stop(number, widths, TIGHT[options.profile])


def summary(case: Case, samples: Sequence[Sample], failure: str, options: Options) -> Series:
    """A series from its samples: the median over passes, its interval, its variation, its flags.

    Passes with a fatal flag are kept but do not count, as long as at least half of them are sound.
    """
    if case.unavailable or not samples:
        return Series(case=case, unavailable=case.unavailable or failure or "not measured before the run ended")
    sound = [sample for sample in samples if not FATAL.keys() & set(sample.flags)]
    counted = sound if 2 * len(sound) >= len(samples) else list(samples)
    values = [sample.value for sample in counted]
    estimate, ci = median(values), stats.median_interval(values)
    between, within = stats.between_within([sample.windows for sample in counted])
    # A warning of a single pass is noise of that pass; one that keeps coming describes the case.
    flags = [name for name in _names(counted) if 2 * sum(name in s.flags for s in counted) > len(counted)]
    if stats.half_width(ci, estimate) > TIGHT[options.profile]:
        flags.append("ci_wide")
    if stats.allocation_dependent(between, within):
        flags.append("allocation_dependent")
    if stats.drift_p([s.value for s in sorted(counted, key=lambda s: s.position)]) < 0.01:
        flags.append("drift")
    placed = all(sample.evidence.proof in ("move_pages", "numa_maps", "get_mempolicy") for sample in counted)
    trust: Trust = "untrusted" if FATAL.keys() & set(flags) else "proven" if placed and not flags else "inferred"
    return Series(
        case=case,
        samples=tuple(samples),
        estimate=estimate,
        ci=ci,
        spread_between=between,
        spread_within=within,
        flags=tuple(flags),
        trust=trust,
    )


def _names(samples: Sequence[Sample]) -> list[str]:
    return list(dict.fromkeys(flag for sample in samples for flag in sample.flags))
