# SPDX-License-Identifier: Apache-2.0
"""Good machines of one class as a baseline: robust centre and spread of each cell, in logarithms."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median

import msgspec

from numabench.analysis.verdict import Better, Limits, best
from numabench.errors import UsageError
from numabench.validation import metrics
from numabench.validation.facts import BESIDE
from numabench.validation.outcome import Result

SCHEMA = 1
KIND = "numabench-baseline"
WARN, FAIL = 0.05, 0.10  # deficits below the centre; no figure of a single visit is to be trusted closer
BETTER = 0.25  # above the centre: no good machine was so good, so this one is another, or the figure is not true
SIGMAS = 6.0
SIGMA_FLOOR = 0.005
SPREAD_FROM = 8  # machines: fewer tell nothing of the spread between machines
TRIMMED_MOST = 0.20
VALID_DAYS = 365


class CellStat(msgspec.Struct, frozen=True):
    """One metric at one place over the good machines."""

    n: int
    median: float
    sigma: float | None  # of the logarithm, 1.4826 MAD; None below eight machines
    min: float
    max: float

    def limits(self, better: Better) -> Limits:
        """Warn at 5 %, fail at 10 % worse than the centre, or at six sigmas where that is more; warn at 25 % better."""
        wide = math.expm1(SIGMAS * self.sigma) if self.sigma else 0.0
        warn, fail = max(WARN, wide), max(FAIL, wide)
        if better == "high":
            low, high = self.median / (1 + fail), self.median * (1 + max(BETTER, wide))
            return Limits(fail_low=low, warn_low=self.median / (1 + warn), warn_high=high)
        low, high = self.median / (1 + max(BETTER, wide)), self.median * (1 + fail)
        return Limits(warn_low=low, fail_high=high, warn_high=self.median * (1 + warn))


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """What good machines of one class reach."""

    schema: int = SCHEMA
    kind: str = KIND
    numabench: str
    created: str
    expires: str
    cohort: str
    cohort_of: dict[str, str]
    beside: dict[str, list[str]] = {}  # what its machines have beside the class: microcode, modules; empty: not told
    n: int
    hosts: str  # hash of the sorted host names
    dropped: list[str]
    cells: dict[str, dict[str, CellStat]]


def build(results: Sequence[Result], files: Sequence[str] = ()) -> Baseline:
    """A baseline of machines that are all of one class and none of which failed. Raises UsageError.

    Visits of one host are one machine, the same visit given twice an error; ``files`` name the results in messages.

    Machines far from the others (six sigmas and 5 %) are left out; when that would be more than a fifth, the machines
    are no class and there is no baseline. Order does not matter.
    """
    if not results:
        raise UsageError("a baseline needs at least one result")
    first = results[0]
    for one in results:
        if one.cohort != first.cohort:
            other = [
                f"{k}: {v!r}, {one.cohort_of.get(k)!r}" for k, v in first.cohort_of.items() if one.cohort_of.get(k) != v
            ]
            raise UsageError(f"{first.host} and {one.host} are not of one class ({'; '.join(other)})")
        if one.verdict == "FAIL":
            raise UsageError(f"{one.host} failed its validation: {one.reason}")
    _refuse_twice(results, files or [one.host for one in results])
    ordered = sorted(results, key=lambda one: (one.host, one.created))
    kept, dropped = _trimmed(ordered)
    if len(dropped) > TRIMMED_MOST * len(ordered):
        raise UsageError(f"{len(dropped)} of {len(ordered)} machines are outliers: these are not machines of one class")
    newest = max(one.created for one in kept)
    hosts = sorted({one.host for one in kept})
    return Baseline(
        numabench=kept[0].numabench,
        created=newest,
        expires=(datetime.fromisoformat(newest) + timedelta(days=VALID_DAYS)).isoformat(timespec="seconds"),
        cohort=first.cohort,
        cohort_of=first.cohort_of,
        beside={
            name: sorted({str(one.facts[name].value) for one in kept if name in one.facts and one.facts[name].value})
            for name in BESIDE
        },
        n=len(hosts),
        hosts=hashlib.sha256("\n".join(hosts).encode()).hexdigest()[:12],
        dropped=sorted({one.host for one in dropped}),
        cells=_cells(kept),
    )


def _refuse_twice(results: Sequence[Result], names: Sequence[str]) -> None:
    """Two results of one visit: the same time and figures, whatever their files and hosts are called."""
    seen: dict[str, list[tuple[Result, str]]] = {}
    for one, name in zip(results, names, strict=True):
        for other, its in seen.setdefault(one.created, []):
            both = one.values.keys() & other.values.keys()
            if both and all(one.values[metric] == other.values[metric] for metric in both):
                raise UsageError(
                    f"{its} and {name} hold the same measurement ({one.host}, {one.created}): "
                    "it would count as two machines; give it once"
                )
        seen[one.created].append((one, name))


def _figures(results: Sequence[Result]) -> dict[tuple[str, str], list[float]]:
    """{(metric, instance): one figure a machine}, the median of its visits."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for one in results:
        for name, cells in one.values.items():
            if name in metrics.BY_NAME:
                for at, values in cells.items():
                    visits = found.setdefault((name, at), {}).setdefault(one.host, [])
                    visits.append(best(values, metrics.BY_NAME[name].better))
    return {where: [median(visits) for visits in hosts.values()] for where, hosts in found.items()}


def _cells(results: Sequence[Result]) -> dict[str, dict[str, CellStat]]:
    cells: dict[str, dict[str, CellStat]] = {}
    for (name, at), figures in sorted(_figures(results).items()):
        n = len(figures)
        sigma = _sigma(figures) if n >= SPREAD_FROM else None
        cells.setdefault(name, {})[at] = CellStat(n, median(figures), sigma, min(figures), max(figures))
    return cells


def _sigma(figures: Sequence[float]) -> float:
    logs = [math.log(figure) for figure in figures]
    middle = median(logs)
    return max(1.4826 * median(abs(x - middle) for x in logs), SIGMA_FLOOR)


def _trimmed(results: Sequence[Result]) -> tuple[list[Result], list[Result]]:
    """Two passes: judge each against all, then against those left."""
    kept = list(results)
    for _ in range(2):
        if len(kept) < SPREAD_FROM:
            break
        cells = _cells(kept)
        kept = [one for one in kept if not _outlier(one, cells)]
    names = {id(one) for one in kept}
    return kept, [one for one in results if id(one) not in names]


def _outlier(one: Result, cells: dict[str, dict[str, CellStat]]) -> bool:
    for name, found in one.values.items():
        for at, values in found.items():
            stat = cells.get(name, {}).get(at)
            if stat is None or stat.sigma is None:
                continue
            off = abs(math.log(best(values, metrics.BY_NAME[name].better) / stat.median))
            if off > max(SIGMAS * stat.sigma, math.log1p(WARN)):
                return True
    return False


def load(path: str | os.PathLike[str]) -> Baseline:
    """Read a baseline. Raises UsageError."""
    try:
        found = msgspec.json.decode(Path(path).read_bytes(), type=Baseline)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no baseline: {error}") from None
    if found.kind != KIND or found.schema != SCHEMA:
        raise UsageError(f"{path} is no baseline of schema {SCHEMA}")
    unknown = [name for name in found.cells if name not in metrics.BY_NAME]
    if unknown:
        raise UsageError(f"{path}: metric {unknown[0]!r} is not known to this version")
    return found
