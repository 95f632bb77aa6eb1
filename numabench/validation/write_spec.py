# SPDX-License-Identifier: Apache-2.0
"""A commented specification from the record of a good machine, to be edited by the people who accept machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from numabench.analysis.verdict import best
from numabench.record import Record
from numabench.units import format_value
from numabench.validation import metrics, preflight
from numabench.validation.facts import ABOUT, ENVIRONMENT, facts, theoretical_gb_per_s
from numabench.validation.outcome import Fact

_HEAD = """\
# What a machine must be, for: numabench validate FILE.json --spec THIS.toml
# Written from the record of one machine ({created}); every bound is that machine's figure with a tolerance.
# Check them against the data sheet before anybody is held to them. A key that is not known is an error.
{doubts}schema = 1
name = {name}

# Is this specification for that machine at all? If not: no verdict (exit 3), never a pass.
# Text may hold * and ?.
[match]
cpu_model = {cpu}

# Exact facts. {{ ref = 384, tol = 0.03 }} allows 3 % either way, {{ any_of = ["a", "b"] }} one of several;
# severity = "warn" makes a mismatch a warning. What the system does not tell is skipped, never passed.
[facts]
"""
_CHECKS = """
# Bounds. For each: metric, and fail and warn on its bad side, or ref with fail_below, warn_below, fail_above,
# warn_above as shares of it. A machine fails when its best round of three is past fail, and is warned when the best
# round is past warn or the middle one past fail.
#   scope     each (default), min, max or median over the nodes or pairs, or least_over_greatest: a ratio of two of them
#   instance  one of them only: "node0", "node0->node1"
#   required  true (default): not measured means no verdict;  severity  "warn": never more than a warning
"""
_SYMMETRY = """
# Cells of one class (same relation, same distance) may differ by so much; these are the defaults.
[[symmetry]]
metric = "latency"   # or "bw.read"
warn = 0.045
fail = 0.08
"""
_FACTS = (
    "sockets",
    "numa_nodes",
    "cpus_per_node",
    "smt",
    "page_sizes",
    "dimm_channels_per_socket",
    "dimm_configured_mts",
    "slit",
)


def doubts(record: Record) -> list[str]:
    """Why figures of the record may be no good reference, and which are not there."""
    measured = [series for series in record.series if series.samples]
    _, missing = metrics.extract(record.series, record.machine)
    found = preflight.preflight(facts(record), metrics.flagged(measured), len(measured))
    said = [check.text for check in found] + [f"{label} is not measured: {why}" for label, why in missing.items()]
    return [" ".join(text.split()) for text in said]


def write_spec(record: Record) -> str:
    """TOML text that `spec.loads` reads and that the record itself passes. Absolute bounds 10 % and 5 % off."""
    known = facts(record)
    model = record.machine.cpu_model
    text = _HEAD.format(
        created=record.created,
        name=_toml(f"{len(record.machine.packages) or 1}s-{len(record.machine.nodes)}n {model}".strip()),
        cpu=_toml(model.replace("[", "?") or "*"),
        doubts="".join(f"# DOUBTFUL: {text}\n" for text in doubts(record)),
    )
    text += "".join(_fact(name, known[name]) for name in _FACTS)
    memory = known["mem_total_gib_per_node"].value
    if len(set(map(round, memory))) == 1:
        text += f"mem_total_gib_per_node = {{ ref = {memory[0]}, tol = 0.03 }}   # {ABOUT['mem_total_gib_per_node']}\n"
    else:
        text += f"mem_total_gib = {{ ref = {known['mem_total_gib'].value}, tol = 0.03 }}   # {ABOUT['mem_total_gib']}\n"
    text += "\n# Settings that move figures: a mismatch is a warning unless severity says otherwise.\n[environment]\n"
    text += "".join(_fact(name, known[name]) for name in ENVIRONMENT)
    text += _CHECKS
    values, _ = metrics.extract(record.series, record.machine, theoretical_gb_per_s(known))
    for row in metrics.REGISTRY:
        if row.name in values:
            text += _check(row, values[row.name])
    return text + _SYMMETRY


def _fact(name: str, fact: Fact) -> str:
    if fact.source == "unavailable":
        return f"# {name} = ...   # {ABOUT[name]}; this system does not tell\n"
    return f"{name} = {_toml(fact.value)}   # {ABOUT[name]}; from {fact.source}\n"


def _check(row: metrics.Metric, found: Mapping[str, tuple[float, ...]]) -> str:
    # One bound for all of them, from the worst, as one does not know which of them is the better part.
    low = row.better == "high"
    figures = [best(values, row.better) for values in found.values()]
    ref = min(figures) if low else max(figures)
    side = "below" if low else "above"
    seen = ", ".join(f"{at} {format_value(best(values, row.better))}" for at, values in found.items())
    lines = [
        f"\n# {row.about}: {seen} {row.unit}",
        "[[check]]",
        f'metric = "{row.name}"',
        f"ref = {ref:.6g}",
        f"warn_{side} = 0.05",
        f"fail_{side} = 0.10",
        f'unit = "{row.unit}"',
    ]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, bool) else str(value).lower()
