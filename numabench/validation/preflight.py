# SPDX-License-Identifier: Apache-2.0
"""Whether the figures of a visit can carry a verdict: what disturbed it, and which figures it makes doubtful. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from numabench.analysis.verdict import spread
from numabench.series import FLAGS
from numabench.settings import BUSY, overloaded
from numabench.units import plural
from numabench.validation.layers import PICK
from numabench.validation.outcome import Check, Fact

Hindered = Mapping[tuple[str, str], Sequence[str]]  # (metric, instance): the series that others had a part in
REMEDY = "ps -eo pcpu,pid,comm --sort=-pcpu | head names them; stop them and measure again"
SAID = 3  # of those series


def preflight(facts: Mapping[str, Fact], flagged: Mapping[str, int], series: int) -> list[Check]:
    """Whether figures of this visit can carry a verdict at all; ``flagged`` counts the series that carry a flag."""
    checks = _before(facts)
    if facts["restricted"].value:
        text = "a cpuset or mask hides CPUs or nodes from this process"
        checks.append(
            Check(layer="preflight", name="restricted", verdict="INCONCLUSIVE", reason="RESTRICTED", text=text)
        )
    for flag, count in flagged.items():
        busy = flag != "cache_suspect"
        checks.append(
            Check(
                layer="preflight",
                name=flag,
                verdict="INCONCLUSIVE" if busy and 2 * count > series else "WARN",
                reason="BUSY" if busy else "INVALID",
                text=f"in {count} of {series} cases: {FLAGS[flag]}",
            )
        )
    heat = facts["thermal_throttles"]
    if any(heat.value or ()):
        text = f"CPUs were slowed for heat during the run, by package: {heat.value} times"
        checks.append(Check(layer="preflight", name="thermal_throttles", verdict="WARN", reason="THROTTLED", text=text))
    for kind, verdict in (("corrected", "WARN"), ("uncorrected", "FAIL")):
        fact = facts[f"memory_errors_{kind}"]
        if fact.value:
            checks.append(
                Check(
                    layer="preflight",
                    name=f"memory_errors_{kind}",
                    verdict="FAIL" if verdict == "FAIL" else "WARN",
                    reason="ECC",
                    value=float(fact.value),
                    text=f"{fact.value} {kind} memory errors during the run",
                )
            )
    return checks


def _before(facts: Mapping[str, Fact]) -> list[Check]:
    """A warning when the machine was busy before the run; what was at work meanwhile, the flags of the cases tell.

    The load of the last minute may be that of our own last run: it counts only where the system tells no pressure.
    """
    load, untold = facts["load"].value or 0.0, facts["cpu_pressure"].value is None
    said = [
        f"tasks waited for {what} {share:g} % of the last 10 s"
        for name, what in (("cpu_pressure", "CPUs"), ("memory_pressure", "memory"))
        if (share := facts[name].value or 0.0) > BUSY
    ]
    said += [f"{load:g} tasks wanted to run on {plural(facts['cpus'].value, 'CPU')}, mean of a minute"] * (
        untold and overloaded(load, facts["cpus"].value)
    )
    text = f"{' and '.join(said)} before the run: {REMEDY}"
    return [Check(layer="preflight", name="busy before", verdict="WARN", reason="BUSY", text=text)] if said else []


def caches(said: Sequence[str]) -> list[Check]:
    """A warning for each cache figure that is memory's."""
    why = "; its working set did not fit the cache, or the cache is not there"
    return [
        Check(layer="preflight", name="cache_is_memory", verdict="WARN", reason="INVALID", text=f"{text}{why}")
        for text in said
    ]


def doubted(checks: Sequence[Check], hindered: Hindered) -> list[Check]:
    """Where others were at work a figure cannot fail the machine: what failed by it is suspect.

    So are all figures of a machine that was busy or restricted, those ``hindered``, and those that missed a bound by
    less than their own rounds differ: another visit might pass.
    """
    everywhere = any(check.layer == "preflight" and check.verdict == "INCONCLUSIVE" for check in checks)

    def judged(check: Check) -> Check:
        if check.verdict != "FAIL" or check.layer not in ("spec", "baseline", "symmetry"):
            return check
        why = _doubt(check, everywhere, _by(check, hindered))
        return msgspec.structs.replace(check, verdict="SUSPECT", text=f"{check.text} {why}".strip()) if why else check

    return [judged(check) for check in checks]


def _doubt(check: Check, everywhere: bool, by: Sequence[str]) -> str:
    """Why what failed is no more than suspect; empty: it failed."""
    if everywhere or by:
        more = f" and {len(by) - SAID} more" if len(by) > SAID else ""
        return "while others were at work" + (f" ({', '.join(by[:SAID])}{more})" if by else "")
    apart = spread(check.rounds)
    if check.margin is not None and apart > abs(check.margin):
        return f"by less than its rounds differ ({apart * 100:.1f} %)"
    return ""


def _by(check: Check, hindered: Hindered) -> list[str]:
    """The series others had a part in of those a check rests on; a scope rests on all instances."""
    if check.layer == "symmetry":  # whose odd cells were measured again
        return []
    every = check.instance in PICK
    names = [by for (name, at), by in hindered.items() if name == check.name and (every or at == check.instance)]
    return list(dict.fromkeys(series for by in names for series in by))
