# SPDX-License-Identifier: Apache-2.0
"""What is said of a record besides its figures: how sure, what to watch. Pure text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from numabench.measure import moved
from numabench.record import Record
from numabench.series import FLAGS, Cell, Series, Table
from numabench.units import format_bytes, format_seconds, format_value, plural

LEAST_SPAN, LEAST_PAGE_BYTES = 0.25, 4096


def proven(record: Record) -> str:
    """One line on the evidence: pages on their nodes before and after, threads on their CPUs, cases flagged."""
    measured = [series for series in record.series if series.samples]
    evidence = [sample.evidence for series in measured for sample in series.samples]
    if not evidence:
        return "Nothing was measured."
    checked = sum(e.pages_checked for e in evidence)
    wrong = sum(e.pages_misplaced + e.pages_absent for e in evidence)
    moved = sum(e.migrated for e in evidence)
    pinned = sum(set(e.cpus_seen) <= set(e.cpus_asked) for e in evidence)
    untrusted = sum(series.trust == "untrusted" for series in measured)
    pages = f"{checked - wrong:,} of {checked:,}".replace(",", " ")
    threads = (
        "all threads on their CPUs"
        if pinned == len(evidence)
        else f"threads off their CPUs in {plural(len(evidence) - pinned, 'sample')}"
    )
    title = "Proven" if checked and not wrong and not moved else "Checked"
    return (
        f"{title}: {pages} pages on their node before and after, "
        f"{moved} moved, {threads}, {untrusted} of {plural(len(measured), 'case')} not to be trusted."
    )


def headline(record: Record) -> tuple[str, str]:
    """The machine, and the run: seed, time, passes."""
    passes = max((len(series.samples) for series in record.series), default=0)
    options = record.plan.get("options", {})
    tiers = sorted({s.evidence.tier for series in record.series for s in series.samples if s.evidence.tier})
    tier = f" · tier {', '.join(tiers)}" if tiers else ""
    if "tiers" in record.environment:
        tier += " as measured"
    return (
        record.machine.describe() + tier,
        f"seed {options.get('seed', 0)} · {format_seconds(record.duration_s)} · {plural(passes, 'pass')}",
    )


def plan(record: Record) -> str:
    """What was asked for, in one line."""
    made, options = record.plan, dict(record.plan.get("options", {}))
    said = [", ".join(made.get("names", ())) or "the standard set", plural(made.get("cases", 0), "case")]
    wanted = sorted({f"{half * 100:g} %" for half in made.get("precision", ())})
    said += [f"at most {made.get('passes')} sound passes, fewer where the interval is within ±{' or '.join(wanted)}"]
    said += [f"{key.replace('_', ' ')} {told(key, one)}" for key, one in options.items() if told(key, one)]
    return " · ".join(said)


def watch(record: Record) -> list[str]:
    """What on this system may have changed the figures."""
    env, found = record.environment, []
    if env.get("numa_balancing") not in (None, "0"):
        found.append("numa_balancing is on; bound buffers are exempt")
    if env.get("governor") not in (None, "performance"):
        found.append(f"the governor is {env['governor']}")
    if env.get("cpu_quota"):
        found.append(f"a quota of {env['cpu_quota']:.1f} CPUs applies")
    if record.machine.topology_unproven:
        found.append("the virtual machine shows one thread per core, true or not")
    return [*(f"{line} (numabench doctor)" for line in found), *_moved(record)]


def _moved(record: Record) -> list[str]:
    """Of the first case whose CPUs were moved: what a hand-over between them cost, and what came out, both ways."""
    for series in record.series:
        apart = moved(series.samples)
        if apart:
            cpus, limit = series.case.cpus, math.sqrt(apart[0] * apart[1])
            sides: tuple[list[float], list[float]] = ([], [])
            for sample in series.samples:
                far = [ns > limit for ns in sample.evidence.hand_over_ns or ()]
                if far and far[0] == far[-1]:
                    sides[far[0]].append(sample.value)
            told = [
                f"{ns:.0f} ns" + (f" ({series.case.kernel} {median(side):.3g} {series.case.unit})" if side else "")
                for ns, side in zip(apart, sides, strict=True)
            ]
            return [
                f"the hypervisor moved CPUs {cpus[0]} and {cpus[-1]} among its cores: a hand-over between them took "
                f"{told[0]} or {told[1]}; ask the provider for pinned CPUs"
            ]
    return []


def legend(series: list[Series]) -> dict[str, str]:
    """A letter for every flag that occurs."""
    seen = [name for name in FLAGS if any(name in one.flags for one in series)]
    return {name: chr(ord("a") + i) for i, name in enumerate(seen)}


def figure(cell: Cell, unit: str) -> str:
    """A cell in words: ``199.4 ns [199.0, 199.9], 1.88x [1.87, 1.90]``, or why there is none."""
    if cell.value is None:
        return cell.text or (f"unavailable: {cell.unavailable}" if cell.unavailable else "no figure")
    half = (cell.ci[1] - cell.ci[0]) / 2 if cell.ci else None
    said = f"{format_value(cell.value, half)} {unit}".rstrip()
    if cell.ci:
        said += f" [{format_value(cell.ci[0], half)}, {format_value(cell.ci[1], half)}]"
    if cell.ratio is not None:
        said += f", {cell.ratio:.2f}x"
        said += f" [{cell.ratio_ci[0]:.2f}, {cell.ratio_ci[1]:.2f}]" if cell.ratio_ci else ""
    return said


def with_flags(cell: Cell, unit: str) -> str:
    """The same, followed by what its flags mean."""
    return "; ".join([figure(cell, unit), *(FLAGS.get(name, name) for name in cell.flags)])


def short(cell: Cell) -> str:
    """The figure alone, with the digits that its interval supports; a dash without one."""
    if cell.value is None:
        return cell.text or "–"
    return format_value(cell.value, (cell.ci[1] - cell.ci[0]) / 2 if cell.ci else None)


def told(key: str, value: Any) -> str:
    """A value of the environment as text; empty where it holds nothing."""
    if isinstance(value, Mapping):
        found = {str(name): told(key, one) for name, one in value.items()}
        return ", ".join(f"{_whose(name)}: {text}" for name, text in found.items() if text)
    if isinstance(value, list | tuple):
        return ", ".join(told(key, one) for one in value)
    if key.endswith("_bytes") and isinstance(value, int):
        return format_bytes(value)
    return "" if value is None else str(value).strip().replace("\n", "; ")


def _whose(name: str) -> str:
    """Keys of the environment are nodes, sizes of pages, or names."""
    if not name.isdigit():
        return name
    return format_bytes(int(name)) if int(name) >= LEAST_PAGE_BYTES else f"node {name}"


def slug(table: Table) -> str:
    """A name for a table that can stand in a file name or an address."""
    title = table.title.split(",")[0].lower()
    title = re.sub(rf"^{table.experiment}(?![a-z])", "", title)
    return re.sub(r"[^a-z0-9]+", "-", f"{table.experiment} {title}").strip("-")


def shades(table: Table) -> dict[int, float]:
    """0 (best) to 1 (worst) for each cell, by ``id``, of a matrix with at least two different figures."""
    known = [(id(cell), cell.value) for _, row in table.rows for cell in row if cell.value is not None]
    values = [value for _, value in known]
    if not table.matrix or len(set(values)) < 2:
        return {}
    low, high = min(values), max(values)
    best, span = low if table.better == "low" else high, max(high - low, LEAST_SPAN * low)
    return {key: abs(v - best) / span for key, v in known}  # a per cent of difference is not painted as a fault


def summary(tables: Sequence[Table]) -> list[str]:
    """The first thing that each of at most three experiments says, distance before all else."""
    first: dict[str, str] = {}
    for table in tables:
        cells = [cell for _, row in table.rows for cell in row]
        if table.matrix and len(cells) == 1 and cells[0].value is not None:
            first.setdefault(table.experiment, f"{table.title.split(',')[0]}: {figure(cells[0], table.unit)}.")
        for line in table.meaning:
            first.setdefault(table.experiment, line)
    return sorted(first.values(), key=lambda line: "[" not in line)[:3]  # what has a figure before what has none
