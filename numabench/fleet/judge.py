# SPDX-License-Identifier: Apache-2.0
"""One verdict for every expected machine: its own results, facts against its model, figures against its class."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from numabench.analysis import outliers
from numabench.analysis.verdict import Verdict, overall
from numabench.fleet import states
from numabench.validation.metrics import BY_NAME
from numabench.validation.outcome import Cause

if TYPE_CHECKING:
    import duckdb

SCHEMA = 1
KIND = "numabench-fleet"
VISITS = 3  # so many in a row must be flagged
APART_S = 600.0  # between two of them: what keeps a machine busy for minutes must not make all three
MAJORITY, MODEL_FROM = 0.90, 8
LAYOUT = ("numa_nodes", "cpus_per_node", "slit", "smt", "dimm_configured_mts", "dimm_count")
SOFTWARE = ("cpu_stepping", "microcode", "bios", "kernel", "numabench", "tier", "size", "pages")
LESS_MEMORY = 0.03


class Finding(msgspec.Struct, frozen=True):
    """What one machine is accused of: its figure against its class, or a fact against its model."""

    reason: str
    what: str
    verdict: Verdict
    text: str
    value: float | None = None
    centre: float | None = None
    deficit: float | None = None
    z: float | None = None
    p: float | None = None
    q: float | None = None
    visits: str = ""


class Host(msgspec.Struct, frozen=True):
    """One expected machine, or one that answered without being expected."""

    host: str
    verdict: Verdict
    reason: str
    cohort: str = ""
    visits: int = 0
    expected: bool = True
    path: str = ""
    history: tuple[states.Change, ...] = ()  # its states over the visits
    findings: tuple[Finding, ...] = ()
    causes: tuple[Cause, ...] = ()


class Cohort(msgspec.Struct, frozen=True):
    """One class of machines and what may be said of it."""

    cohort: str
    model: str
    n: int
    rule: str
    of: dict[str, str]
    suspect: tuple[str, ...] = ()  # metrics on which too many are flagged
    centres: dict[str, tuple[float, float, int]] = {}  # metric[instance]: median, sigma of its logarithm, machines


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole fleet."""

    schema: int = SCHEMA
    kind: str = KIND
    counts: dict[str, int]
    expected: int
    cohorts: tuple[Cohort, ...]
    hosts: tuple[Host, ...]
    rejected: tuple[tuple[str, str], ...]
    retest: tuple[str, ...]
    quarantine: tuple[str, ...]
    cleared: tuple[str, ...] = ()  # failed once, passed twice in a row since
    dip_chance: float | None  # of a machine and metric to be flagged once and not again, from repeats
    expected_false: float | None  # machines that dips alone would flag in all visits


def judge(
    con: duckdb.DuckDBPyConnection,
    expected: Sequence[str],
    missing: Mapping[str, str] | None = None,
    rejected: Iterable[tuple[str, str]] = (),
) -> Report:
    """Verdicts of all machines. ``missing`` says why an expected machine has no result. Order of input is no matter."""
    visits: dict[str, list[tuple[Any, ...]]] = {}
    query = (
        "select host, created, cohort, model, facts, memory, verdict, reason, path from visit order by host, created"
    )
    for row in con.execute(query).fetchall():
        visits.setdefault(row[0], []).append(row)
    findings: dict[str, list[Finding]] = {host: [] for host in visits}
    latest = {host: rows[-1] for host, rows in visits.items()}
    _facts(latest, findings)
    marks: dict[tuple[str, str], states.Seen] = {}
    cohorts, once, again = _figures(con, latest, findings, marks)
    wanted = set(expected)
    hosts = []
    for name in sorted(wanted | visits.keys()):
        if name not in visits:
            why = (missing or {}).get(name, "no-data")
            hosts.append(Host(name, "MISSING", f"MISSING/{why}"))
            continue
        row, mine = latest[name], findings[name]
        verdict = overall([row[6], *(finding.verdict for finding in mine)])
        worst = next((finding for finding in mine if finding.verdict == verdict), None)
        reason = (
            row[7] if row[6] == verdict and (worst is None or verdict == "PASS") else worst.text if worst else row[7]
        )
        order = tuple(sorted(mine, key=lambda one: (-(one.deficit or 1.0), one.what)))
        seen = [(one[1], _seen(one[6], marks.get((name, one[1])))) for one in visits[name][:-1]]
        history = states.changes([*seen, (row[1], _seen(verdict, None))])
        verdict, reason = _since(verdict, reason, history)
        known = name in wanted or not wanted
        hosts.append(Host(name, verdict, reason, row[2], len(visits[name]), known, row[8], history, order))
    chance = (once - again) / once if once else None
    figures = con.execute("select count(*) from (select distinct host, metric, instance from figure)").fetchone()
    rate = once / figures[0] * chance if chance is not None and figures and figures[0] else None
    return Report(
        counts=dict(sorted(Counter(host.verdict for host in hosts).items())),
        expected=len(wanted) or len(hosts),
        cohorts=tuple(cohorts),
        hosts=tuple(hosts),
        rejected=tuple(sorted(rejected)),
        retest=tuple(
            h.host for h in hosts if h.verdict in ("SUSPECT", "MISSING", "INCONCLUSIVE") or _state(h) == "REPAIRED"
        ),
        quarantine=tuple(h.host for h in hosts if h.verdict == "FAIL"),
        cleared=tuple(h.host for h in hosts if _state(h) == "PASS" and any(c.state == "FAIL" for c in h.history)),
        dip_chance=rate,
        expected_false=None if rate is None or not figures else outliers.expected_false(figures[0], 1, rate, VISITS),
    )


def _seen(verdict: Verdict, mark: states.Seen | None) -> states.Seen:
    """What a visit showed: its own verdict, or what its class says of its figures."""
    if verdict == "FAIL" or mark == "fail":
        return "fail"
    if verdict == "SUSPECT" or mark == "suspect":
        return "suspect"
    return "pass" if verdict in ("PASS", "WARN") else "nothing"


def _state(host: Host) -> states.State:
    return host.history[-1].state if host.history else ""


def _since(verdict: Verdict, reason: str, history: tuple[states.Change, ...]) -> tuple[Verdict, str]:
    """The verdict with what the visits before it say: a failure stays until there is a pass, and one is not enough."""
    if not history or verdict == "FAIL":
        return verdict, reason
    at, state = history[-1]
    if state == "FAIL":
        return "FAIL", f"failed on {at[:10]} and has not passed since; now {verdict}: {reason}"
    if state == "REPAIRED":
        return "WARN", f"REPAIRED: passed on {at[:10]} after it had failed, one more pass clears it"
    return verdict, reason


def _facts(latest: Mapping[str, tuple[Any, ...]], findings: dict[str, list[Finding]]) -> None:
    """Facts that nine of ten machines of a model share and this one does not."""
    models: dict[str, list[str]] = {}
    for host, row in latest.items():
        models.setdefault(row[3], []).append(host)
    for hosts in models.values():
        if len(hosts) < MODEL_FROM:
            continue
        known = {host: json.loads(latest[host][4]) for host in hosts}
        for name in (*LAYOUT, *SOFTWARE):
            count = Counter(facts.get(name, "not told") for facts in known.values())
            value, n = count.most_common(1)[0]
            if value in ("not told", "None") or n < MAJORITY * len(hosts):
                continue
            for host in hosts:
                other = known[host].get(name)
                if other not in (value, None, "not told", "None"):
                    verdict: Verdict = "FAIL" if name in LAYOUT else "WARN"
                    text = f"FACT_MISMATCH {name}: {other}, {n} of {len(hosts)} of this model have {value}"
                    findings[host].append(Finding("FACT_MISMATCH", name, verdict, text))
        _memory({host: json.loads(latest[host][5]) for host in hosts}, findings)


def _memory(memory: Mapping[str, list[float] | None], findings: dict[str, list[Finding]]) -> None:
    shapes = Counter(len(gib) for gib in memory.values() if gib)
    if not shapes:
        return
    nodes, _ = shapes.most_common(1)[0]
    usual = [median(gib[node] for gib in memory.values() if gib and len(gib) == nodes) for node in range(nodes)]
    for host, gib in memory.items():
        if gib is None or len(gib) != nodes:
            continue
        for node, (have, want) in enumerate(zip(gib, usual, strict=True)):
            if want and abs(have - want) > LESS_MEMORY * want:
                text = f"FACT_MISMATCH memory of node {node}: {have:g} GiB, its model has {want:g}"
                findings[host].append(Finding("FACT_MISMATCH", "mem_total_gib_per_node", "FAIL", text))


def _figures(
    con: duckdb.DuckDBPyConnection,
    latest: Mapping[str, tuple[Any, ...]],
    findings: dict[str, list[Finding]],
    marks: dict[tuple[str, str], states.Seen],
) -> tuple[list[Cohort], int, int]:
    """Outliers and drift, class by class and metric by metric; (classes, flagged once with a repeat, flagged again)."""
    cohorts, once, again = [], 0, 0
    of_cohort: dict[str, list[str]] = {}
    for host, row in latest.items():
        of_cohort.setdefault(row[2], []).append(host)
    flagged = []
    for cohort, hosts in sorted(of_cohort.items()):
        n = len(hosts)
        row = latest[hosts[0]]
        rule = (
            "facts only" if n < 2 else "spread only" if n < outliers.OUTLIERS_FROM
            else "outliers warn" if n < outliers.FAIL_FROM else "outliers fail"
        )  # fmt: skip
        found = _cohort(con, cohort)
        flagged.append((cohort, n, found))
        centres = {
            f"{m}[{at}]": (float(np.exp(_sign(m) * c.median)), c.sigma, c.n) for (m, at), (c, *_) in found.items()
        }
        cohorts.append(Cohort(cohort, row[3], n, rule, json.loads(row[4]), (), centres))
    # False discoveries are controlled over all machines, metrics and visits at once.
    all_p = [p for _, n, found in flagged if n >= outliers.OUTLIERS_FROM for *_, p in found.values()]
    q = outliers.q_values(np.concatenate(all_p)) if all_p else np.empty(0)
    at = 0
    for place, (_cohort_key, n, found) in enumerate(flagged):
        suspect = []
        for (name, instance), (centre, hosts_of, created, r, z, deficit, p) in found.items():
            hits = np.zeros(r.size, dtype=bool)
            mine = np.ones(r.size)
            if n >= outliers.OUTLIERS_FROM:
                mine = q[at : at + r.size]
                at += r.size
                hits = outliers.flags(z, deficit, mine)
            first = np.concatenate([[True], hosts_of[1:] != hosts_of[:-1]])
            crowd = bool(hits[first].sum() > outliers.COHORT_SUSPECT * first.sum())
            if crowd:
                suspect.append(f"{name}[{instance}]")
            a, b = _hosts(
                findings, f"{name}[{instance}]", _sign(name), centre, hosts_of, created, r, z, deficit, p, mine, hits,
                n >= outliers.FAIL_FROM, crowd,
            )  # fmt: skip
            once, again = once + a, again + b
            if n >= outliers.FAIL_FROM:
                for hit in np.flatnonzero(hits).tolist():
                    _mark(marks, hits, hosts_of, created, hit, crowd)
        if suspect:
            cohorts[place] = msgspec.structs.replace(cohorts[place], suspect=tuple(suspect))
    return cohorts, once, again


def _mark(
    marks: dict[tuple[str, str], states.Seen], hits: Any, hosts: Any, created: Any, row: int, crowd: bool
) -> None:
    """What a flagged visit counts as: one of a lasting row on one metric fails."""
    host, at, first = str(hosts[row]), str(created[row]), row
    while first and hits[first - 1] and hosts[first - 1] == host:
        first -= 1
    fails = not crowd and _lasting(created[first : row + 1])
    if fails or marks.get((host, at)) != "fail":
        marks[host, at] = "fail" if fails else "suspect"


def _lasting(times: Any) -> bool:
    """Whether visits in a row are enough of them, and far enough apart on average."""
    if len(times) < VISITS:
        return False
    span = datetime.fromisoformat(str(times[-1])) - datetime.fromisoformat(str(times[0]))
    return span.total_seconds() >= (VISITS - 1) * APART_S


def _row(hits: Any) -> int:
    """How many visits in a row, up to the last one, were flagged."""
    misses = np.flatnonzero(~hits)
    return len(hits) - (int(misses[-1]) + 1 if misses.size else 0)


def _sign(name: str) -> int:
    return 1 if BY_NAME[name].better == "high" else -1


def _cohort(con: duckdb.DuckDBPyConnection, cohort: str) -> dict[tuple[str, str], Any]:
    """{(metric, instance): (centre of first visits, hosts, times, logs, z, deficits, p)}, rows by host and time."""
    keys = con.execute(
        "select distinct metric, instance from figure where cohort = ? order by metric, instance", [cohort]
    ).fetchall()
    found = {}
    for name, instance in keys:
        columns = con.execute(
            "select host, created, best from figure where cohort = ? and metric = ? and instance = ? "
            "order by host, created",
            [cohort, name, instance],
        ).fetchnumpy()
        hosts = np.asarray(columns["host"])
        r = outliers.logs(np.asarray(columns["best"], dtype=np.float64), BY_NAME[name].better)
        first = np.concatenate([[True], hosts[1:] != hosts[:-1]])
        of = outliers.centre(r[first])
        if of is not None:
            z, deficit = outliers.z_and_deficit(r, of)
            times = np.asarray(columns["created"])
            found[name, instance] = (of, hosts, times, r, z, deficit, outliers.p_values(z))
    return found


def _hosts(
    findings: dict[str, list[Finding]],
    what: str,
    sign: int,
    centre: outliers.Centre,
    hosts: Any,
    created: Any,
    r: Any,
    z: Any,
    deficit: Any,
    p: Any,
    q: Any,
    hits: Any,
    may_fail: bool,
    crowd: bool,
) -> tuple[int, int]:
    """Findings of one metric; returns how many were flagged with a later visit, and how many of those again."""
    once = again = 0
    starts = np.flatnonzero(np.concatenate([[True], hosts[1:] != hosts[:-1]]))
    ends = np.append(starts[1:], len(hosts))
    busy = np.add.reduceat(hits, starts) > 0
    for start, end in zip(starts[busy | (ends - starts > 10)], ends[busy | (ends - starts > 10)], strict=True):
        host, mine = str(hosts[start]), hits[start:end]
        fall = outliers.drifted(r[start:end])
        if fall is not None:
            text = f"DRIFT {what}: {fall * 100:.0f} % worse than its own past in its last three visits"
            findings[host].append(Finding("DRIFT", what, "SUSPECT", text, deficit=fall))
        if not mine.any():
            continue
        if end - start > 1 and mine[0]:
            once, again = once + 1, again + int(mine[1])
        if not mine[-1]:
            verdict: Verdict = "WARN"  # it did not come back
        elif not may_fail:
            verdict = "WARN"
        elif crowd:
            verdict = "SUSPECT"
        else:
            verdict = "FAIL" if _lasting(created[end - _row(mine) : end]) else "SUSPECT"
        at = start + int(np.flatnonzero(mine)[-1])
        reason = "COHORT_SUSPECT" if crowd else "OUTLIER"
        text = (
            f"{reason} {what}: {deficit[at] * 100:.0f} % worse than {centre.n} machines of its class, z {z[at]:.1f}, "
            f"flagged in {int(mine.sum())} of {end - start} visits"
        )
        findings[host].append(
            Finding(
                reason, what, verdict, text, float(np.exp(sign * r[at])), float(np.exp(sign * centre.median)),
                float(deficit[at]), float(z[at]), float(p[at]), float(q[at]), f"{int(mine.sum())}/{end - start}",
            )
        )  # fmt: skip
    return once, again
