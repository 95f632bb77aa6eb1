# SPDX-License-Identifier: Apache-2.0
"""Observations for the signature table from checks, facts and figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median

from numabench.analysis import signatures
from numabench.analysis.matrix import Fault
from numabench.analysis.verdict import best
from numabench.units import plural
from numabench.validation.metrics import BY_NAME
from numabench.validation.outcome import Cause, Check, Fact

FLAT = 0.03  # of remote over local
UNHIDDEN = 0.8  # of sequential over random: prefetchers hide next to nothing
FALLS = 0.03  # of a figure from the first round to the last
LESS_MEMORY, MODULE_GIB = 0.03, 1.0  # a module is at least so large; less is what the kernel keeps on a small node
_DISTURBED = {"contended": "others at work", "stolen": "time stolen", "throttled": "quota stopped threads"}
BAD = ("WARN", "FAIL", "SUSPECT")


def causes(seen: Mapping[str, str]) -> tuple[Cause, ...]:
    """The two best matches."""
    return tuple(
        Cause(name=one.cause, score=score, evidence=evidence, check=one.check, remedy=one.remedy)
        for one, score, evidence in signatures.match(seen)
    )


def observed(
    facts: Mapping[str, Fact],
    checks: Sequence[Check],
    faults: Mapping[str, Sequence[Fault]],
    values: Mapping[str, Mapping[str, tuple[float, ...]]],
) -> dict[str, str]:
    """{observation: evidence in words}. Facts alone are no fault: they count beside a check that did not pass."""
    seen: dict[str, str] = {}
    _of_facts(seen, facts, checks)
    for family, found in faults.items():
        for fault in found:
            _of_fault(seen, family, fault)
    confirmed = any(
        fault.worst.kind == "persistent" and fault.worst.deviation > 0 for f in faults.values() for fault in f
    )
    _of_figures(seen, checks, values, confirmed)
    flat = [best(figures, "low") for figures in values.get("latency.remote_over_local", {}).values()]
    if flat and max(abs(ratio - 1) for ratio in flat) < FLAT:
        seen["flat matrix"] = f"remote latency is {max(flat):.2f}x local"
    unhidden = [best(figures, "low") for figures in values.get("latency.sequential_over_random", {}).values()]
    if unhidden and min(unhidden) > UNHIDDEN:
        seen["nothing fetched ahead"] = f"a load of the next line takes {min(unhidden):.2f}x one at random"
    _over_time(seen, values)
    return {name: text for name, text in seen.items() if name in signatures.OBSERVATIONS}


def _over_time(seen: dict[str, str], values: Mapping[str, Mapping[str, tuple[float, ...]]]) -> None:
    """Whether most figures get worse, or better, from round to round."""
    trends = []
    for name, cells in values.items():
        row = BY_NAME.get(name)
        for figures in cells.values() if row and not row.ratio else ():
            sign = 1 if row and row.better == "high" else -1
            steps = [sign * math.log(b / a) for a, b in pairwise(figures)]
            if len(figures) > 2:
                trends.append(sum(steps) if max(steps) < 0 or min(steps) > 0 else 0.0)
    for word, sign in (("figures fall", -1), ("figures rise", 1)):
        count = sum(sign * trend > FALLS for trend in trends)
        if 2 * count > len(trends):
            seen[word] = (
                f"{count} of {len(trends)} figures, by more than {FALLS * 100:g} % from the first round to the last"
            )


def _of_facts(seen: dict[str, str], facts: Mapping[str, Fact], checks: Sequence[Check]) -> None:
    bad = {check.name: check for check in checks if check.verdict in BAD and check.layer in ("facts", "environment")}
    memory = facts["mem_total_gib_per_node"].value or []
    own = [gib for node, gib in enumerate(memory) if node not in (facts["cpuless_nodes"].value or [])]
    lacking = median(own) - min(own) if own else 0.0
    if len(own) > 1 and min(own) > 0 and lacking > max(LESS_MEMORY * median(own), MODULE_GIB):
        node = memory.index(min(own))
        seen["node's memory low"] = f"node {node} has {min(own):g} GiB, the median is {median(own):g}"
    without = [
        node for node in facts["memoryless_nodes"].value or [] if node not in (facts["cpuless_nodes"].value or [])
    ]
    if without:
        seen["a node without memory"] = f"node {without[0]} has CPUs and no memory"
    sockets, nodes = facts["sockets"].value, facts["numa_nodes"].value
    if sockets and nodes < sockets:
        seen["too few nodes"] = f"{plural(nodes, 'node')} for {plural(sockets, 'package')}"
    check = bad.get("numa_nodes")
    if check:
        wanted = "".join(c for c in check.limit.split(" ")[0] if c.isdigit())
        word = "too many nodes" if wanted and nodes > int(wanted) else "too few nodes"
        seen[word] = f"{plural(nodes, 'node')}, expected {check.limit}"
    if "mem_total_gib_per_node" in bad and "node's memory low" not in seen:
        seen["memory low"] = f"{memory} GiB, expected {bad['mem_total_gib_per_node'].limit}"
    rated, configured = facts["dimm_rated_mts"].value, facts["dimm_configured_mts"].value
    if "dimm_configured_mts" in bad or (rated and configured and configured < rated):
        seen["memory rate low"] = f"modules run at {configured} MT/s, rated {rated}"
    for name, word in (
        ("dimm_channels_per_socket", "channels low"),
        ("dimm_count", "channels low"),
        ("smt", "threads per core differ"),
    ):
        if name in bad:
            seen[word] = f"{name} is {facts[name].value}, expected {bad[name].limit}"
    count, channels = facts["dimm_count"].value, (facts["dimm_channels_per_socket"].value or 0) * (sockets or 1)
    if count and channels and count % channels:
        seen["modules uneven"] = f"{count} modules on {channels} channels"
    if facts["governor"].value not in (None, "performance"):
        seen["governor saves power"] = f"governor {facts['governor'].value}"
    if facts["thp"].value == "never":
        seen["huge pages off"] = "transparent huge pages: never"
    if facts["numa_balancing"].value not in (None, "0"):
        seen["balancing on"] = "numa_balancing is on"
    if facts["virtual"].value:
        seen["virtual"] = "a virtual machine"
    if nodes == 1:
        seen["one node shown"] = "one node"
    if facts["restricted"].value:
        seen["restricted"] = "CPUs or nodes are hidden from this process"
    heat = facts["thermal_throttles"].value or []
    if any(heat):
        hot = max(range(len(heat)), key=heat.__getitem__)
        seen["slowed for heat"] = f"CPUs of package {hot} were slowed for heat {heat[hot]} times"
    if facts["memory_errors_corrected"].value or facts["memory_errors_uncorrected"].value:
        seen["memory errors"] = f"{facts['memory_errors_corrected'].value} corrected errors during the run"


def _of_fault(seen: dict[str, str], family: str, fault: Fault) -> None:
    if fault.worst.deviation <= 0:
        return
    text = f"{family}: {fault.name} {fault.worst.deviation * 100:.0f} % worse than its like"
    quality = "latency high" if family == "latency" else "bandwidth low"
    if fault.what in ("link", "pair"):
        seen[f"link {quality}"] = text
    elif fault.what == "CPUs of node":
        seen["one package slow"] = text
    else:
        seen[f"one node's {quality}"] = text


def _of_figures(
    seen: dict[str, str],
    checks: Iterable[Check],
    values: Mapping[str, Mapping[str, tuple[float, ...]]],
    confirmed: bool,
) -> None:
    bad: dict[str, list[Check]] = {}
    for check in checks:
        if check.verdict in BAD and check.layer in ("spec", "baseline"):
            bad.setdefault(check.name, []).append(check)
        if check.reason == "UNSTABLE":
            seen.setdefault("rounds differ", f"{check.label}: {check.text}")
        # What disturbs a few of the cases does not put the same fault into both measurements.
        if check.name in _DISTURBED and (check.verdict == "INCONCLUSIVE" or not confirmed):
            seen[_DISTURBED[check.name]] = check.text
    for name, all_word, one_word in (
        ("bw.read.local", "all bandwidth low", "one node's bandwidth low"),
        ("latency.local", "all latency high", "one node's latency high"),
        ("bw.read.remote", "remote bandwidth low", "link bandwidth low"),
        ("latency.remote", "", "link latency high"),
        ("bw.one_thread.local", "one thread slow", "one thread slow"),
        ("latency.sequential", "one thread slow", "one thread slow"),
        ("latency.l1", "caches slow", "caches slow"),
        ("latency.l2", "caches slow", "caches slow"),
        ("c2c.local", "core to core slow", ""),
    ):
        mine = bad.get(name, [])
        if not mine:
            continue
        everywhere = len(mine) == len(values.get(name, {})) or mine[0].instance in ("median", "max")
        if name.endswith("remote") and name.replace("remote", "local") in bad:
            continue  # what is near is slow already: the links are not to blame
        word = all_word if everywhere and (len(mine) > 1 or not name.endswith("remote")) else one_word
        if word:
            seen.setdefault(word, f"{mine[0].label}: {_much(mine[0])}")


def _much(check: Check) -> str:
    margin = f", {abs(check.margin) * 100:.0f} % past" if check.margin is not None and check.margin < 0 else ""
    value = f"{check.value:.4g}" if isinstance(check.value, float) else check.value
    return f"{value} {check.unit}{margin} (limit {check.limit})"
