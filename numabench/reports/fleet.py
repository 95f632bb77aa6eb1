# SPDX-License-Identifier: Apache-2.0
"""A fleet's report as files: one page, JSON, CSV, JUnit, lists for quarantine and re-test."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

from numabench.analysis.verdict import WORST_FIRST
from numabench.errors import Unsupported
from numabench.fleet.judge import Host, Report
from numabench.record import write
from numabench.reports.validation import xml_text
from numabench.validation.metrics import BY_NAME
from numabench.validation.outcome import dumps

if TYPE_CHECKING:
    import duckdb

SHOWN = 300  # machines on the page, worst first
FIGURES = 24  # of each of them, worst first
BINS, WIDTH, HEIGHT = 60, 300, 36
SPAN = 0.3  # of a logarithm, on either side of the median


def files(report: Report, con: duckdb.DuckDBPyConnection, folder: Path) -> list[Path]:
    """Write all of them; the paths. Raises RecordError, Unsupported without Jinja2."""
    made = {
        "fleet.json": dumps(report).decode(),
        "hosts.csv": _csv(report.hosts),
        "quarantine.txt": "".join(f"{h.host}\t{h.reason}\n" for h in report.hosts if h.host in set(report.quarantine)),
        "retest.txt": "".join(f"{host}\n" for host in report.retest),
        "junit.xml": junit(report),
        "fleet.html": page(report, distributions(con), figures(report, con)),
    }
    for name, text in made.items():
        write(folder / name, text.encode())
    return [folder / name for name in made]


def _csv(hosts: Iterable[Host]) -> str:
    text = io.StringIO()
    out = csv.writer(text)
    out.writerow(
        ("host", "verdict", "reason", "class", "visits", "state", "since", "worst metric", "deficit", "z", "q", "cause")
    )
    for host in hosts:
        first = next((f for f in host.findings if f.deficit is not None), None)
        figures = (first.what, f"{first.deficit:.4f}", first.z, first.q) if first else ("", "", "", "")
        cause = host.causes[0].name if host.causes else ""
        since = host.history[-1] if host.history else ("", "")
        out.writerow(
            (host.host, host.verdict, host.reason, host.cohort, host.visits, since[1], since[0], *figures, cause)
        )
    return text.getvalue()


def worst(report: Report) -> list[Host]:
    """What did not pass, worst first."""
    bad = [
        host
        for host in report.hosts
        if host.verdict not in ("PASS", "WARN") or (host.history and host.history[-1].state == "REPAIRED")
    ]
    return sorted(bad, key=lambda h: (WORST_FIRST.index(h.verdict), -_deficit(h), h.host))


def _deficit(host: Host) -> float:
    return max((finding.deficit or 0.0 for finding in host.findings), default=0.0)


def junit(report: Report) -> str:
    """One case a machine; a failure or an error says why."""
    root = ElementTree.Element("testsuites", name="numabench fleet")
    suite = ElementTree.SubElement(root, "testsuite", name="fleet", tests=str(len(report.hosts)))
    count = {"failure": 0, "error": 0}
    for host in report.hosts:
        case = ElementTree.SubElement(
            suite, "testcase", classname="numabench.fleet", name=xml_text(f"machine @{host.host}")
        )
        if host.verdict not in ("PASS", "WARN"):
            tag = "failure" if host.verdict == "FAIL" else "error"
            count[tag] += 1
            ElementTree.SubElement(case, tag, type=host.verdict, message=xml_text(host.reason))
    suite.set("failures", str(count["failure"]))
    suite.set("errors", str(count["error"]))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def distributions(con: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], list[int]]:
    """{(class, metric[instance]): counts over BINS around the median}, better to the right; counted by DuckDB."""
    query = """
        with one as (
            select cohort, metric, instance, host, arg_min(best, created) as x from figure group by all
        ), middle as (
            select cohort, metric, instance, median(x) as m from one group by all
        )
        select cohort, metric, instance, cast(floor((ln(x / m) + ?) / ? * ?) as integer) as bin, count(*)
        from one join middle using (cohort, metric, instance) group by all
    """
    found: dict[tuple[str, str], list[int]] = {}
    for cohort, name, at, place, count in con.execute(query, [SPAN, 2 * SPAN, BINS]).fetchall():
        row = found.setdefault((cohort, f"{name}[{at}]"), [0] * BINS)
        high = BY_NAME[name].better == "high"
        inside = min(max(place, 0), BINS - 1)
        row[inside if high else BINS - 1 - inside] += count
    return found


class Figure(NamedTuple):
    """A machine's latest figure beside its class's median; ``worse`` is a share, negative is better."""

    name: str
    value: float
    median: float
    worse: float


def figures(report: Report, con: duckdb.DuckDBPyConnection) -> dict[str, list[Figure]]:
    """{machine: its figures, worst first} of the machines on the page."""
    classes = {cohort.cohort: cohort.centres for cohort in report.cohorts}
    shown = {host.host: classes.get(host.cohort, {}) for host in worst(report)[:SHOWN]}
    query = """
        select host, metric, instance, arg_max(best, created) from figure
        where host in (select unnest(?::varchar[])) group by all
    """
    found: dict[str, list[Figure]] = {}
    for host, name, at, value in con.execute(query, [list(shown)]).fetchall():
        label = f"{name}[{at}]"
        if label in shown[host]:
            middle = shown[host][label][0]
            worse = 1 - (value / middle if BY_NAME[name].better == "high" else middle / value)
            found.setdefault(host, []).append(Figure(label, value, middle, worse))
    return {host: sorted(mine, key=lambda one: (-one.worse, one.name))[:FIGURES] for host, mine in found.items()}


def _bars(counts: list[int]) -> str:
    """An SVG histogram; heights by square root, so that a lone machine is seen beside thousands."""
    most = max(counts) ** 0.5 or 1.0
    step = WIDTH / BINS
    parts = [
        f'<rect x="{at * step:.1f}" y="{HEIGHT * (1 - n**0.5 / most):.1f}" width="{step - 0.5:.1f}" '
        f'height="{HEIGHT * n**0.5 / most:.1f}" class="{"good" if at >= BINS * 0.42 else "low"}"/>'
        for at, n in enumerate(counts)
        if n
    ]
    line = f'<line x1="{WIDTH / 2}" x2="{WIDTH / 2}" y1="0" y2="{HEIGHT}" stroke="#888" stroke-width="1"/>'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img">{line}{"".join(parts)}</svg>'


def page(report: Report, counts: dict[tuple[str, str], list[int]], seen: dict[str, list[Figure]]) -> str:
    """One page that works offline: classes with their distributions, machines that did not pass, each unfolding."""
    try:
        import jinja2
        import markupsafe
    except ImportError:
        raise Unsupported("the fleet's page needs Jinja2: pip install 'numabench[fleet]'") from None
    text = resources.files("numabench.reports").joinpath("page/fleet.html.j2").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    bad = worst(report)
    # Numbers only, no text of anybody's.
    bars: dict[tuple[str, str], Any] = {key: markupsafe.Markup(_bars(row)) for key, row in counts.items()}  # noqa: S704
    return environment.from_string(text).render(
        report=report,
        worst=bad[:SHOWN],
        more=max(0, len(bad) - SHOWN),
        bars=bars,
        figures=seen,
        units={name: row.unit for name, row in BY_NAME.items()},
    )
