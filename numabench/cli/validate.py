# SPDX-License-Identifier: Apache-2.0
"""Commands that judge one machine: validate, baseline, verdict."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from numabench import record as records
from numabench.analysis.verdict import exit_code
from numabench.cli.progress import Telling
from numabench.errors import NumabenchError, RecordError, UsageError
from numabench.series import Options
from numabench.units import parse_bytes, parse_seconds
from numabench.validation import outcome
from numabench.validation import spec as specs
from numabench.validation import validate as validation
from numabench.validation.baseline import Baseline, build
from numabench.validation.baseline import load as load_baseline


def finish(code: int) -> None:
    """Leave with an exit code other than 0."""
    if code:
        raise click.exceptions.Exit(code)


@click.command()
@click.argument("file", required=False)
@click.option("--spec", "spec_file", metavar="SPEC.toml", help="What the machine must be.")
@click.option("--baseline", multiple=True, metavar="GOOD.json", help="A baseline, or records of good machines.")
@click.option("--write-spec", metavar="SPEC.toml", help="Write a commented example from the record ('-': stdout).")
@click.option("--profile", default="quick", type=click.Choice(["quick", "standard", "full"]), help="When measuring.")
@click.option("--passes", type=click.IntRange(3, 30), metavar="N", help="Exactly so many passes, at least 3.")
@click.option("--size", metavar="SIZE", help="Bytes of each working set, such as 1GiB.")
@click.option("--pages", type=click.Choice(["base", "thp", "2M", "1G"]), help="Page kind.")
@click.option("--budget", metavar="TIME", help="Stop measuring after about this long, such as 60s.")
@click.option("--seed", type=click.IntRange(0), metavar="N", default=0, help="Order and contents.")
@click.option("--record", "record_file", metavar="FILE.json", help="Keep the record measured.")
@click.option("--out", metavar="DIR", help="Worker: write DIR/HOST.json, whole or not at all.")
@click.option("--node-name", metavar="HOST", help="The host as its scheduler calls it.")
@click.option("--junit", metavar="FILE.xml", help="JUnit XML.")
@click.option("--openmetrics", metavar="FILE.prom", help="For node_exporter's textfile collector.")
@click.option("--markdown", metavar="FILE.md", help="For a job summary ('-': stdout, instead of the table).")
@click.option("--json", "as_json", is_flag=True, help="The result on stdout.")
@click.option("--all", "everything", is_flag=True, help="Show what passed, too.")
@click.option("--strict", is_flag=True, help="A warning is a failure.")
def validate(
    file: str | None,
    spec_file: str | None,
    baseline: tuple[str, ...],
    write_spec: str | None,
    profile: str,
    passes: int | None,
    size: str | None,
    pages: str | None,
    budget: str | None,
    seed: int,
    record_file: str | None,
    out: str | None,
    node_name: str | None,
    junit: str | None,
    openmetrics: str | None,
    markdown: str | None,
    as_json: bool,
    everything: bool,
    strict: bool,
) -> None:
    """Judge a record, or measure this machine and judge it.

    Against a specification, a baseline, and always against itself. Exit 0 passed, 1 failed, 3 no verdict.

    Example: numabench validate here.json --spec genoa.toml
    """
    spec = specs.load(spec_file) if spec_file else None
    good = _baseline(baseline) if baseline else None
    if out and not file and not node_name and validation.local_rank():
        click.echo("another process of this job measures this host: nothing to do (mpirun -N 1)", err=True)
        return
    host = node_name or (validation.host() if not file else "")
    if host and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", host):
        raise UsageError(f"--node-name {host!r}: letters, digits, dot, dash and underscore are allowed")
    for target in (write_spec, record_file, junit, openmetrics, markdown):
        if target and target != "-":
            records.check_writable(target)
    if out and not Path(out).is_dir():
        raise UsageError(f"--out {out}: no such folder")
    if out:
        records.check_writable(Path(out) / "HOST.json")
    found: dict[str, Any] = {}
    if file:
        record = records.load(file)
    else:
        from numabench.validation.visit import visit

        options = Options(
            profile=profile,  # type: ignore[arg-type]
            budget_s=parse_seconds(budget) if budget else None,
            bytes=parse_bytes(size) if size else None,
            pages=pages,  # type: ignore[arg-type]
            passes=passes,
            seed=seed,
        )
        with Telling() as told:
            wanted = [*(good.cells if good else ()), *(check.metric for check in (spec.check if spec else ()))]
            record, again = visit(options, progress=told, note=lambda text: click.echo(text, err=True), wanted=wanted)
        found = {"again": again, "machine_id": validation.machine_id(), "job": record.environment["job"]}
        if record_file:
            records.save(record, record_file)
    if write_spec:
        _write_spec(record, write_spec)
        return
    command = shlex.join(["numabench", *sys.argv[1:]])
    result = validation.validate(record, host=host, spec=spec, baseline=good, command=command, **found)
    if out:
        outcome.save(result, Path(out) / f"{result.host}.json")
    _show(result, junit, openmetrics, markdown, as_json, everything)
    finish(exit_code(result.verdict, strict))


def _write_spec(record: records.Record, target: str) -> None:
    from numabench.validation.write_spec import doubts, write_spec

    text = write_spec(record)
    for doubt in doubts(record):
        click.echo(f"doubtful: {doubt}", err=True)
    if target == "-":
        click.echo(text, nl=False)
    else:
        records.write(target, text.encode())
        click.echo(f"Wrote {target}: check every bound before anybody is held to it", err=True)


def _show(
    result: outcome.Result,
    junit: str | None,
    openmetrics: str | None,
    markdown: str | None,
    as_json: bool,
    everything: bool,
) -> None:
    from numabench.reports import validation as reports

    if junit:
        records.write(junit, reports.junit([result]).encode())
    if openmetrics:
        records.write(openmetrics, reports.openmetrics(result).encode())
    if markdown and markdown != "-":
        records.write(markdown, reports.markdown(result).encode())
    if as_json:
        click.echo(outcome.dumps(result).decode(), nl=False)
    elif markdown == "-":
        click.echo(reports.markdown(result), nl=False)
    else:
        from rich.console import Console

        console = Console()
        console.print(result.machine, style="bold", highlight=False)
        if everything or any(check.verdict != "PASS" for check in result.checks):
            console.print(*reports.table(result, console.width, everything), sep="\n")
        for line in reports.summary(result):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if os.environ.get("GITHUB_ACTIONS") == "true" and not as_json:
        for line in reports.github(result):
            click.echo(line)


def _baseline(files: tuple[str, ...]) -> Baseline:
    """A baseline file, or one made of the records or results named."""
    if len(files) == 1:
        try:
            kind = msgspec.json.decode(Path(files[0]).read_bytes(), type=_Kind).kind
        except OSError as error:
            raise UsageError(f"cannot read {files[0]}: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise UsageError(f"--baseline {files[0]}: not a JSON document of numabench") from None
        if kind == "numabench-baseline":
            return load_baseline(files[0])
    return build([_good(file) for file in files], files)


class _Kind(msgspec.Struct):
    kind: str = ""


def _good(file: str) -> outcome.Result:
    """A result, or the result of a record; named after its file when it names no host."""
    try:
        return outcome.load(file)
    except RecordError:
        record = records.load(file)
        return validation.validate(record, host=record.environment.get("host") or Path(file).stem)


@click.group()
def baseline() -> None:
    """Good machines of one class as a baseline.

    Example: numabench baseline build good/*.json -o genoa.json
    """


@baseline.command("build")
@click.argument("file", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE.json", help="Where it goes; stdout without it.")
def baseline_build(file: tuple[str, ...], output: str | None) -> None:
    """From records or results of good machines; another class of machine, or one that failed, is refused.

    Example: numabench baseline build good/*.json -o genoa.json
    """
    found = build([_good(name) for name in file], file)
    if output:
        records.check_writable(output)
        outcome.save(found, output)
        dropped = f", left out as outliers: {', '.join(found.dropped)}" if found.dropped else ""
        click.echo(
            f"Baseline of {found.n} machine{'s' * (found.n != 1)}, class {found.cohort}{dropped}: {output}", err=True
        )
    else:
        click.echo(outcome.dumps(found).decode(), nl=False)


@click.command()
@click.argument("file")
@click.option("--max-age", default="8d", metavar="TIME", help="Older results are no verdict, such as 12h or 8d.")
def verdict(file: str, max_age: str) -> None:
    """A stored result in one line, for health checks: exit 0 passed, 1 failed, 2 not known. Measures nothing.

    Example: numabench verdict /var/lib/numabench/HOST.json --max-age 8d
    """
    from datetime import UTC, datetime

    from numabench.reports.validation import one_line

    days = re.fullmatch(r"(\d+(?:\.\d+)?)d", max_age)
    most = float(days[1]) * 86400 if days else parse_seconds(max_age)
    try:
        result = outcome.load(file)
        age = (datetime.now(UTC) - datetime.fromisoformat(result.created)).total_seconds()
    except (NumabenchError, ValueError, TypeError) as error:
        click.echo(f"numabench UNKNOWN: {error}"[:80])
        raise click.exceptions.Exit(2) from None
    if age > most:
        click.echo(f"numabench UNKNOWN {result.host}: result is {age / 86400:.1f} days old"[:80])
        raise click.exceptions.Exit(2)
    click.echo(one_line(result))
    finish({0: 0, 1: 1}.get(exit_code(result.verdict), 2))
