# SPDX-License-Identifier: Apache-2.0
"""Probable causes of machines that are not well: the signature table over what the fleet and their own results say."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from numabench.errors import RecordError
from numabench.fleet.judge import Finding, Host, Report
from numabench.validation import causes, outcome
from numabench.validation.facts import ABOUT
from numabench.validation.metrics import BY_NAME
from numabench.validation.outcome import Check, Fact

MOST = 2000  # machines whose results are read again; a fleet with more bad ones has another problem


def with_causes(report: Report) -> Report:
    """The report with the two best causes of each machine that failed or is suspect."""
    left = MOST
    hosts = []
    for host in report.hosts:
        if host.verdict in ("FAIL", "SUSPECT") and left:
            left -= 1
            hosts.append(_one(host))
        else:
            hosts.append(host)
    return msgspec.structs.replace(report, hosts=tuple(hosts))


def _one(host: Host) -> Host:
    try:
        result = outcome.load(host.path)
    except RecordError:
        return host
    checks = [*result.checks, *(_check(finding) for finding in host.findings)]
    untold = dict.fromkeys(ABOUT, Fact(None, "unavailable"))  # for a result of a version that told less
    seen = causes.observed(untold | result.facts, checks, {}, result.values)
    for finding in host.findings:
        if finding.what.startswith("mem_total"):
            seen["node's memory low"] = finding.text
        elif finding.what == "numa_nodes":
            seen["too many nodes"] = finding.text
        elif finding.what == "smt":
            seen["threads per core differ"] = finding.text
        elif finding.what == "dimm_configured_mts":
            seen["memory rate low"] = finding.text
    slow = _slow_nodes(host.findings)
    if slow:
        seen["one package slow"] = f"bandwidth and latency of node {slow[0]} are both worse than its class"
    own = [cause for cause in result.causes if cause.name not in {c.name for c in causes.causes(seen)}]
    return msgspec.structs.replace(host, causes=(*causes.causes(seen), *own)[:2])


def _slow_nodes(findings: Sequence[Finding]) -> list[str]:
    nodes: dict[str, set[str]] = {}
    for finding in findings:
        name, _, at = finding.what.partition("[")
        if finding.reason == "OUTLIER" and name.endswith(".local"):
            nodes.setdefault(at.removeprefix("node").rstrip("]"), set()).add(name.split(".")[0])
    return sorted(node for node, kinds in nodes.items() if kinds >= {"bw", "latency"})


def _check(finding: Finding) -> Check:
    name, _, at = finding.what.partition("[")
    row = BY_NAME.get(name)
    return Check(
        layer="baseline" if row else "facts",
        name=name,
        instance=at.rstrip("]"),
        verdict=finding.verdict,
        reason="OUTLIER" if row else "FACT_MISMATCH",
        value=finding.value if row else finding.text,
        unit=row.unit if row else "",
        limit=f"its class has {finding.centre:.4g}" if finding.centre else "",
        margin=-finding.deficit if finding.deficit else None,
        text=finding.text,
    )
