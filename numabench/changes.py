# SPDX-License-Identifier: Apache-2.0
"""Two records, or two sets of them, cell by cell; what may not be compared says why and is never merged quietly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

import msgspec

from numabench.analysis import clusters, compare, stats
from numabench.environment import SETTINGS
from numabench.errors import UsageError
from numabench.measure import MOVED
from numabench.record import Record
from numabench.series import FATAL, Series
from numabench.units import format_bytes, format_numbers, plural

Key = tuple[str, str]
# What a case must share with its namesake besides the name: another size is another question.
_SAME = ("kernel", "unit", "better", "bytes", "pages", "tier", "cpus", "touch_cpus", "targets", "cache_suspect")


class CellChange(msgspec.Struct, frozen=True, kw_only=True):
    """One cell before and after; the estimates are medians over passes (over runs in a set of runs)."""

    experiment: str
    label: str
    unit: str
    better: compare.Better
    base: float | None
    new: float | None
    change: compare.Change


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """All cells. ``differences`` are the facts and settings that forbid a verdict; ``accepted`` those allowed to."""

    schema: int = 1
    kind: str = "numabench-comparison"
    base: tuple[str, ...]  # when they were made
    new: tuple[str, ...]
    unit: str  # of inference: passes, or runs
    threshold: float
    differences: tuple[str, ...]
    accepted: tuple[str, ...]
    notes: tuple[str, ...]
    cells: tuple[CellChange, ...]
    only_base: tuple[str, ...]
    only_new: tuple[str, ...]

    def count(self, verdict: compare.Verdict) -> int:
        """How many cells have this verdict."""
        return sum(cell.change.verdict == verdict for cell in self.cells)

    @property
    def judged(self) -> int:
        """How many cells have a verdict at all."""
        return len(self.cells) - self.count("not comparable")


def facts(record: Record) -> dict[str, Any]:
    """What must be alike for figures to be comparable, by the name that --allow takes."""
    machine = record.machine
    found: dict[str, Any] = {
        "cpu": f"{machine.arch} {machine.cpu_model}".strip(),
        "cores": ", ".join(
            plural(len(things), noun)
            for things, noun in ((machine.packages, "package"), (machine.cores, "core"), (machine.cpus, "CPU"))
        ),
        "nodes": ", ".join(
            f"{n.id}: CPUs {format_numbers(n.cpus) or 'none'}, {format_bytes(n.memory_bytes)}" for n in machine.nodes
        ),
        "caches": ", ".join(sorted({f"L{c.level} {format_bytes(c.bytes)} {c.type}" for c in machine.caches})),
        "distances": str([list(row) for row in machine.distances.values]),
        "huge_pages": str(machine.huge_pages),
        "virtual": str(machine.virtual),
        "numabench": record.numabench,
    }
    return found | {name: record.environment.get(name) for name in SETTINGS}


def differences(base: Record, new: Record) -> dict[str, tuple[Any, Any]]:
    """Facts and settings that differ, by name. One that a record does not hold at all (None) is no difference."""
    a, b = facts(base), facts(new)
    return {k: (a[k], b[k]) for k in a if a[k] != b[k] and (k in ("cpu_quota", "governor") or None not in (a[k], b[k]))}


def _told(name: str, pair: tuple[Any, Any]) -> str:
    base, new = ("none" if side in (None, "", {}) else side for side in pair)
    return f"{name}: {base} -> {new}"


def compare_records(
    base: Sequence[Record],
    new: Sequence[Record],
    threshold: float = compare.THRESHOLD,
    allow: Sequence[str] = (),
) -> Comparison:
    """Compare one record with another, or three and more with three and more.

    With one on each side the unit is the pass, and what differs from run to run (boot, placement of the process,
    neighbours) counts as a change; with sets the unit is the run. Raises UsageError for sets that must not be merged:
    of different machines or settings, with a record twice, of one or two against more.
    """
    _check_sets(base, new)
    known = facts(base[0]).keys()
    if unknown := [name for name in allow if name not in known]:
        raise UsageError(f"--allow {', '.join(unknown)}: one of {', '.join(known)}")
    found = differences(base[0], new[0])
    stop = [_told(name, pair) for name, pair in found.items() if name not in allow]
    sides = [_by_key(side) for side in (base, new)]
    common = [key for key in sides[0] if key in sides[1]]
    sets = len(base) > 1
    rows: list[tuple[Key, list[Series], list[Series], stats.Ratio | None, tuple[str, ...]]] = []
    for key in common:
        a, b = sides[0][key], sides[1][key]
        why = tuple(stop) or _reasons(a, b, len(base), len(new))
        ratio = None if why else _ratio(a, b, sets)
        rows.append((key, a, b, ratio, why))
    usable = [(ratio, a[0].case.better) for _, a, _, ratio, _ in rows if ratio is not None]
    changes = iter(compare.judge([r for r, _ in usable], [better for _, better in usable], threshold))
    cells = tuple(
        CellChange(
            experiment=key[0],
            label=key[1],
            unit=a[0].case.unit,
            better=a[0].case.better,
            base=_middle(a),
            new=_middle(b),
            change=next(changes) if ratio is not None else _none(why),
        )
        for key, a, b, ratio, why in rows
    )
    return Comparison(
        base=tuple(r.created for r in base),
        new=tuple(r.created for r in new),
        unit="runs" if sets else "passes",
        threshold=threshold,
        differences=tuple(stop),
        accepted=tuple(_told(name, pair) for name, pair in found.items() if name in allow),
        notes=() if sets else ("one run a side: whatever differs from run to run counts as a change",),
        cells=cells,
        only_base=tuple(" ".join(key) for key in sides[0] if key not in sides[1]),
        only_new=tuple(" ".join(key) for key in sides[1] if key not in sides[0]),
    )


def _check_sets(base: Sequence[Record], new: Sequence[Record]) -> None:
    for name, side in (("BASE", base), ("NEW", new)):
        for other in side[1:]:
            if found := differences(side[0], other):
                told = "; ".join(_told(key, pair) for key, pair in found.items())
                raise UsageError(f"{name}: the records are not of one machine and setting, not merged ({told})")
    prints = [(r.created, r.duration_s, tuple(s.estimate for s in r.series)) for r in (*base, *new)]
    if len(set(prints)) < len(prints):
        raise UsageError("a record is given twice; each run counts once")
    if max(len(base), len(new)) > 1 and min(len(base), len(new)) < stats.LEAST_PASSES:
        raise UsageError(
            f"{len(base)} records against {len(new)}: one against one, or at least {stats.LEAST_PASSES} on each side"
        )


def _by_key(side: Sequence[Record]) -> dict[Key, list[Series]]:
    """Series of every record by name, those of cases that were planned."""
    found: dict[Key, list[Series]] = {}
    for record in side:
        for series in record.series:
            if series.case.kernel:
                found.setdefault((series.case.experiment, series.case.label), []).append(series)
    return found


def _reasons(a: Sequence[Series], b: Sequence[Series], runs_a: int, runs_b: int) -> tuple[str, ...]:
    """Why these series cannot be compared."""
    found: list[str] = []
    for name, side, runs in (("base", a, runs_a), ("new", b, runs_b)):
        for series in side:
            if series.estimate is None:
                found.append(f"{name}: unavailable, {series.unavailable}")
            elif not series.usable:
                found.append(f"{name}: {', '.join(FATAL[f] for f in series.flags if f in FATAL)}")
        if len(side) < runs:
            found.append(f"{name}: only in {len(side)} of {runs} records")
    if found:
        return tuple(dict.fromkeys(found))
    first = a[0].case
    for series in (*a[1:], *b):
        for field in _SAME:
            one, other = getattr(first, field), getattr(series.case, field)
            if one != other:
                found.append(f"{field}: {one} -> {other}")
    windows = {len(sample.windows) for series in (*a, *b) for sample in series.samples}
    apart = [[ns for s in one.samples for ns in s.evidence.hand_over_ns or ()] for one in (*a, *b)]
    between = clusters.split([median(seen) for seen in apart if seen], MOVED)
    if between:
        found.append(f"the hypervisor had moved the CPUs: a hand-over took {between[0]:.0f} or {between[1]:.0f} ns")
    if first.kernel == "chase" and len(windows) > 1:
        found.append(f"least of {min(windows)} and of {max(windows)} windows, and a minimum depends on how many")
    return tuple(dict.fromkeys(found))


def _passes(series: Series) -> list[float]:
    """Figures of the passes that count: those without a fatal flag."""
    return [s.value for s in series.samples if not FATAL.keys() & set(s.flags)]


def _ratio(a: Sequence[Series], b: Sequence[Series], sets: bool) -> stats.Ratio:
    if not sets:
        return stats.unpaired_ratio(_passes(b[0]), _passes(a[0]))
    runs = [[math.exp(fmean(map(math.log, _passes(series)))) for series in side] for side in (b, a)]
    return stats.unpaired_ratio(runs[0], runs[1])


def _middle(side: Sequence[Series]) -> float | None:
    known = sorted(series.estimate for series in side if series.estimate is not None)
    return (known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2 if known else None


def _none(why: tuple[str, ...]) -> compare.Change:
    return compare.Change(ratio=1.0, ci=None, n=0, p=1.0, q=1.0, mde=None, verdict="not comparable", reasons=why)
