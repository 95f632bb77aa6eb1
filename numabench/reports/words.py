# SPDX-License-Identifier: Apache-2.0
"""What is said of a record besides its figures: how sure, what to watch. Pure text."""

from __future__ import annotations

from numabench.record import Record
from numabench.series import FLAGS, Series
from numabench.units import format_seconds


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
        else f"threads off their CPUs in {len(evidence) - pinned} samples"
    )
    title = "Proven" if checked and not wrong and not moved else "Checked"
    return (
        f"{title}: {pages} pages on their node before and after, "
        f"{moved} moved, {threads}, {untrusted} of {len(measured)} cases not to be trusted."
    )


def headline(record: Record) -> tuple[str, str]:
    """The machine, and the run: seed, time, passes."""
    passes = max((len(series.samples) for series in record.series), default=0)
    options = record.plan.get("options", {})
    tiers = sorted({s.evidence.tier for series in record.series for s in series.samples if s.evidence.tier})
    tier = f" · tier {', '.join(tiers)}" if tiers else ""
    return (
        record.machine.describe() + tier,
        f"seed {options.get('seed', 0)} · {format_seconds(record.duration_s)} · {passes} passes",
    )


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
    return [f"{line} (numabench doctor)" for line in found]


def legend(series: list[Series]) -> dict[str, str]:
    """A letter for every flag that occurs."""
    seen = [name for name in FLAGS if any(name in one.flags for one in series)]
    return {name: chr(ord("a") + i) for i, name in enumerate(seen)}
