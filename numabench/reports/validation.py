# SPDX-License-Identifier: Apache-2.0
"""A validation result as people and programs read it: text, markdown, JUnit XML, OpenMetrics textfile, annotations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from xml.etree import ElementTree

from rich.table import Table
from rich.text import Text

from numabench.units import format_value
from numabench.validation.outcome import Check, Result

STYLE = {
    "PASS": "green",
    "WARN": "yellow",
    "FAIL": "bold red",
    "SKIP": "dim",
    "INCONCLUSIVE": "magenta",
    "SUSPECT": "bold yellow",
    "MISSING": "bold red",
}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
COLUMNS = ("verdict", "check", "seen", "limit", "margin", "why")
LEAST_WHY = 40  # columns beside the others; in fewer it would be a word a line


def figure(check: Check) -> str:
    """The figure with its unit."""
    if isinstance(check.value, float):
        return f"{format_value(check.value)} {check.unit}".strip()
    return "-" if check.value is None else str(check.value)


def _row(check: Check) -> tuple[str, ...]:
    margin = f"{check.margin * 100:+.1f} %" if check.margin is not None else ""
    why = f"{check.reason}: {check.text}" if check.reason and check.text else check.reason or check.text
    return (check.verdict, check.label, figure(check), check.limit, margin, why)


def table(result: Result, width: int, everything: bool = False) -> list[Table | Text]:
    """Checks as a table, failing ones first, then what does not fit beside them; passes only if asked for."""
    rows = [_row(check) for check in result.checks if everything or check.verdict != "PASS"]
    filled = [at for at in range(len(COLUMNS)) if any(row[at] not in ("", "-") for row in rows)]
    why = COLUMNS.index("why")
    beside = [max(len(text) for text in (COLUMNS[at], *(row[at] for row in rows))) + 2 for at in filled if at != why]
    below = why in filled and width - sum(beside) < LEAST_WHY
    if below:
        filled.remove(why)
    rich = Table(box=None, pad_edge=False)
    for at in filled:
        # Names whole, however narrow the terminal: they are what people copy.
        whole, right = COLUMNS[at] in ("verdict", "check"), COLUMNS[at] == "margin"
        rich.add_column(COLUMNS[at], overflow="fold", no_wrap=whole, justify="right" if right else "left")
    for row in rows:
        rich.add_row(Text(row[0], style=STYLE[row[0]]), *(Text(row[at]) for at in filled[1:]))
    return [rich, *(Text(f"{row[1]}: {row[why]}") for row in rows if below and row[why])]


def summary(result: Result) -> list[str]:
    """What stands below the table: probable causes, counts, the verdict with its reason."""
    lines = []
    for at, cause in enumerate(result.causes, start=1):
        lines.append(f"Probable cause {at}: {cause.name} (score {cause.score:g}): {'; '.join(cause.evidence)}")
        lines.append(f"  to tell: {cause.check}")
        lines.append(f"  remedy:  {cause.remedy}")
    lines.append(f"{_counts(result.checks)}; held against {result.against}")
    lines.append(f"{result.verdict} {result.host}: {result.reason}")
    return lines


def _counts(checks: Iterable[Check]) -> str:
    count: dict[str, int] = {}
    for check in checks:
        count[check.verdict] = count.get(check.verdict, 0) + 1
    return ", ".join(f"{number} {verdict}" for verdict, number in count.items())


def markdown(result: Result) -> str:
    """For a job summary or a ticket."""
    lines = [
        f"## {result.verdict}: {_cell(result.host)}",
        "",
        f"{_cell(result.machine)}, {result.created}, held against {_cell(result.against)}",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    lines += ["| " + " | ".join(map(_cell, _row(check))) + " |" for check in result.checks]
    said = [*summary(result), *([f"command: {result.command}"] if result.command else [])]
    lines += ["", *(f"- {_cell(line.strip())}" for line in said)]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def junit(results: Sequence[Result]) -> str:
    """JUnit XML: one suite a host, one case a check; the host is in each name, as many viewers drop the attribute.

    FAIL is a failure, what gave no verdict an error, SKIP skipped; a warning passes with its text as output.
    """
    root = ElementTree.Element("testsuites", name="numabench validate")
    for result in results:
        counts = dict.fromkeys(("failures", "errors", "skipped"), 0)
        suite = ElementTree.SubElement(
            root, "testsuite", name="numabench", hostname=xml_text(result.host), timestamp=result.created
        )
        if result.command:
            properties = ElementTree.SubElement(suite, "properties")
            ElementTree.SubElement(properties, "property", name="command", value=xml_text(result.command))
        checks: Sequence[Check] = result.checks
        if not any(check.verdict == result.verdict for check in checks):
            # The verdict itself came from no check: it must not get lost among passes.
            text = result.reason
            checks = (Check(layer="preflight", name="verdict", verdict=result.verdict, text=text), *checks)
        names: dict[str, int] = {}
        for check in checks:
            name = f"{check.layer}.{check.label}"
            names[name] = names.get(name, 0) + 1
            if names[name] > 1:
                name += f" ({names[name]})"
            case = ElementTree.SubElement(
                suite, "testcase", classname=f"numabench.{check.layer}", name=xml_text(f"{name} @{result.host}")
            )
            _case(case, check, counts)
        suite.set("tests", str(len(checks)))
        for kind, number in counts.items():
            suite.set(kind, str(number))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(case: ElementTree.Element, check: Check, counts: dict[str, int]) -> None:
    properties = ElementTree.SubElement(case, "properties")
    known = {"value": figure(check), "unit": check.unit, "limit": check.limit, "margin": check.margin}
    for name, value in known.items():
        if value not in ("", None, "-"):
            ElementTree.SubElement(properties, "property", name=name, value=xml_text(str(value)))
    for at, value in enumerate(check.rounds):
        ElementTree.SubElement(properties, "property", name=f"round {at + 1}", value=repr(value))
    said = (figure(check), check.limit and f"({check.limit})", check.text)
    message = xml_text(f"{check.label}: {' '.join(part for part in said if part not in ('', '-'))}")
    if check.verdict == "FAIL":
        ElementTree.SubElement(case, "failure", type=check.reason or "FAIL", message=message)
        counts["failures"] += 1
    elif check.verdict in ("INCONCLUSIVE", "MISSING", "SUSPECT"):
        ElementTree.SubElement(case, "error", type=check.reason or check.verdict, message=message)
        counts["errors"] += 1
    elif check.verdict == "SKIP":
        ElementTree.SubElement(case, "skipped", message=message)
        counts["skipped"] += 1
    elif check.verdict == "WARN":
        ElementTree.SubElement(case, "system-out").text = f"WARN {check.reason}: {message}"


def xml_text(text: str) -> str:
    """Text without what XML cannot hold."""
    return _CONTROL.sub("?", text)


_STATUS = {"PASS": 0, "WARN": 0, "FAIL": 1}


def openmetrics(result: Result) -> str:
    """For node_exporter's textfile collector: few series, no time stamps (the collector takes none)."""
    status: dict[tuple[str, str], int] = {}
    worst: dict[str, tuple[float, float | None]] = {}
    for check in result.checks:
        key = (check.name, check.layer)
        number = _STATUS.get(check.verdict, 2)
        if check.verdict != "SKIP":
            status[key] = 1 if 1 in (number, status.get(key)) else max(number, status.get(key, 0))
        if isinstance(check.value, float) and check.layer in ("spec", "baseline"):
            old = worst.get(check.name)
            if old is None or (check.margin or 0.0) < (old[1] or 0.0):
                worst[check.name] = (check.value, check.margin)
    lines = ["# HELP numabench_check_status Verdict of the last validation: 0 pass, 1 fail, 2 not known."]
    lines.append("# TYPE numabench_check_status gauge")
    lines.append(f'numabench_check_status{{metric="all",layer="all"}} {_STATUS.get(result.verdict, 2)}')
    lines += [
        f'numabench_check_status{{metric="{_label(name)}",layer="{layer}"}} {number}'
        for (name, layer), number in sorted(status.items())
    ]
    if worst:
        lines += ["# HELP numabench_value Figure of the worst instance.", "# TYPE numabench_value gauge"]
        lines += [f'numabench_value{{metric="{_label(n)}",scope="worst"}} {v!r}' for n, (v, _) in sorted(worst.items())]
        lines += [
            "# HELP numabench_margin_ratio Distance of that figure to its failing bound; negative is past it.",
            "# TYPE numabench_margin_ratio gauge",
        ]
        lines += [
            f'numabench_margin_ratio{{metric="{_label(n)}"}} {m!r}'
            for n, (_, m) in sorted(worst.items())
            if m is not None
        ]
    lines += [
        "# HELP numabench_last_run_timestamp_seconds When the figures were taken.",
        "# TYPE numabench_last_run_timestamp_seconds gauge",
        f"numabench_last_run_timestamp_seconds {datetime.fromisoformat(result.created).timestamp():.0f}",
    ]
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def github(result: Result, most: int = 10) -> list[str]:
    """GitHub workflow commands, worst first; GitHub shows few, hence a last line with the total."""
    bad = [check for check in result.checks if check.verdict not in ("PASS", "SKIP", "WARN")]

    def escaped(text: str) -> str:
        return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    def title(text: str) -> str:
        return escaped(text).replace(":", "%3A").replace(",", "%2C")

    lines = [
        f"::error title={title(f'{result.host} {check.label}')}::{escaped(' '.join(_row(check)[2:]))}"
        for check in bad[:most]
    ]
    if len(bad) > most:
        lines.append(f"::error title={title(result.host)}::{len(bad)} checks did not pass, {most} are shown")
    return lines


def one_line(result: Result, age: str = "") -> str:
    """At most 80 characters, for health checks."""
    words = {"PASS": "OK", "WARN": "OK", "FAIL": "FAILED"}.get(result.verdict, "UNKNOWN")
    line = f"numabench {words} {result.host}{age}: {result.verdict} {result.reason}"
    return line if len(line) <= 80 else line[:77] + "..."
