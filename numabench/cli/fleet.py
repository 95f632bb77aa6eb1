# SPDX-License-Identifier: Apache-2.0
"""Commands for many machines: run on an engine, collect, status, actions."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import msgspec

from numabench.analysis.verdict import exit_code
from numabench.cli.validate import finish
from numabench.errors import NumabenchError, UsageError
from numabench.fleet import hosts as names
from numabench.units import format_seconds

STATES = ("FAIL", "MISSING", "SUSPECT", "INCONCLUSIVE", "RUNNING", "WAITING", "WARN", "PASS")


@click.group()
def fleet() -> None:
    """Many machines: run on Slurm or any launcher, collect, judge, act.

    Example: numabench fleet run --out /shared/run1 --spec genoa.toml
    """


@fleet.command("collect")
@click.argument("folder", nargs=-1, required=True)
@click.option("--expect", metavar="HOSTS", help="Names, ranges n[1-8], a file of names, or an expect.json.")
@click.option("-o", "--output", metavar="DIR", help="Where page, lists, CSV, JSON and the DuckDB store go.")
@click.option("--json", "as_json", is_flag=True, help="The report on stdout.")
def collect(folder: tuple[str, ...], expect: str | None, output: str | None, as_json: bool) -> None:
    """One verdict for every expected machine, from the results below DIR. Exit 1 when any failed, 3 when any has none.

    Example: numabench fleet collect results/ --expect n[001-512] -o report/
    """
    from numabench.fleet import causes, judge, store

    for one in folder:
        if not Path(one).is_dir():
            raise UsageError(f"{one}: no such folder")
    plan = Path(folder[0]) / "expect.json"
    if expect is None and plan.exists():
        expect = str(plan)
    expected = names.expected(expect) if expect else []
    target = Path(output) if output else None
    if target:
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--output {output}: {error.strerror}") from error
    started = time.monotonic()

    def tell(number: int) -> None:
        took = time.monotonic() - started
        if took > 2:
            left = took / number * max(0, len(expected) - number)
            click.echo(f"{number} results, about {format_seconds(left)} left", err=True)

    with store.connect(target / "fleet.duckdb" if target else None) as con:
        rejected = store.fill(con, store.files(folder), tell)
        report = causes.with_causes(judge.judge(con, expected, _missing(folder), rejected))
        if target:
            from numabench.reports import fleet as reports

            made = reports.files(report, con, target)
            click.echo(f"Wrote {', '.join(path.name for path in made)} and fleet.duckdb in {target}", err=True)
    if as_json:
        from numabench.validation.outcome import dumps

        click.echo(dumps(report).decode(), nl=False)
    else:
        _show(report)
    codes = {exit_code(host.verdict) for host in report.hosts}
    finish(1 if 1 in codes else 3 if codes - {0} or not report.hosts else 0)


def _missing(folders: tuple[str, ...]) -> dict[str, str]:
    from numabench.fleet import slurm

    found: dict[str, str] = {}
    for one in folders:
        try:
            found |= slurm.missing(Path(one))
        except NumabenchError as error:
            click.echo(f"numabench: {error}; why hosts are missing is not known", err=True)
    return found


def _show(report: object, most: int = 30) -> None:
    from numabench.fleet.judge import Report
    from numabench.reports.fleet import worst

    assert isinstance(report, Report)
    bad = worst(report)
    for host in bad[:most]:
        cause = f"  [{host.causes[0].name}]" if host.causes else ""
        click.echo(f"{host.verdict:12} {host.host:20} {host.reason}{cause}")
    if len(bad) > most:
        click.echo(f"... and {len(bad) - most} more")
    for cohort in report.cohorts:
        click.echo(f"{cohort.n} x {cohort.model} ({cohort.cohort}): {cohort.rule}")
    for path, why in report.rejected[:10]:
        click.echo(f"left out: {path}: {why}")
    if len(report.rejected) > 10:
        click.echo(f"... and {len(report.rejected) - 10} more files left out")
    click.echo(", ".join(f"{n} {verdict}" for verdict, n in report.counts.items()) or "no machine")


@fleet.command("run")
@click.option("--engine", type=click.Choice(["slurm", "kubernetes"]), default="slurm", help="kubernetes: experimental.")
@click.option("--out", "folder", metavar="DIR", required=True, help="A folder that all nodes share.")
@click.option("--hosts", "host_list", metavar="HOSTS", help="Names or ranges; without it all nodes of the partition.")
@click.option("--partition", default="", show_default=False, help="Slurm partition.")
@click.option("--window", type=click.IntRange(1, 9999), metavar="N", default=256, help="Jobs in the queue at a time.")
@click.option("--time", "limit", default="30", help="Time limit of a job, as sbatch takes it.")
@click.option("--wait", default="1day", help="How long to wait for a busy node, such as 12hours or 1day.")
@click.option("--poll", type=click.FloatRange(0.2), default=60.0, help="Seconds between looks at the queue.")
@click.option(
    "--command",
    "worker",
    default="",
    show_default=False,
    help="Instead of this numabench's validate; keeps the contract.",
)
@click.option("--spec", metavar="SPEC.toml", help="Passed on to validate.")
@click.option("--baseline", metavar="GOOD.json", help="Passed on to validate.")
@click.option("--option", multiple=True, metavar="WORD", help="A further option of sbatch, such as --account=x.")
@click.option("--image", default="", show_default=False, help="kubernetes: container image that has numabench.")
@click.option("--in-allocation", is_flag=True, help="One step over the nodes of the allocation this runs in, at once.")
@click.option("--resume", is_flag=True, help="Go on with the run of that folder: only what is missing.")
def run(
    engine: str,
    folder: str,
    host_list: str | None,
    partition: str,
    window: int,
    limit: str,
    wait: str,
    poll: float,
    worker: str,
    spec: str | None,
    baseline: str | None,
    option: tuple[str, ...],
    image: str,
    in_allocation: bool,
    resume: bool,
) -> None:
    """Validate every node by one exclusive Slurm job each; resumable. Judge with fleet collect.

    Inside salloc or sbatch --in-allocation takes all nodes at once, in one step.

    Example: numabench fleet run --out /shared/run1 --partition all --spec genoa.toml
    """
    from numabench.fleet import allocation, kubernetes, slurm

    target = Path(folder)
    if engine == "kubernetes":
        if not host_list or not image:
            raise UsageError("--engine kubernetes: --hosts and --image are needed; it prints Jobs and runs nothing")
        if spec or baseline:
            what = "--spec" if spec else "--baseline"
            raise UsageError(
                f"--engine kubernetes: {what} is a file of the image: --command 'numabench validate {what} /PATH'"
            )
        try:
            words = shlex.split(worker) or kubernetes.COMMAND
        except ValueError as error:
            raise UsageError(f"--command {worker!r}: {error}") from None
        click.echo(kubernetes.jobs(names.expected(host_list), image, folder, words), nl=False)
        return
    command = worker or f"{shlex.quote(sys.executable)} -m numabench validate"
    for name, file in (("--spec", spec), ("--baseline", baseline)):
        if file:
            if not Path(file).is_file():
                raise UsageError(f"{name} {file}: no such file")
            command += f" {name} {shlex.quote(str(Path(file).absolute()))}"
    if not re.fullmatch(r"\d+\s*(?:second|minute|hour|day|week)s?", wait):
        raise UsageError(f"--wait {wait!r}: a number with seconds, minutes, hours or days, such as 12hours")
    plan = slurm.Plan(hosts=[], command=command, time=limit, wait=wait, partition=partition, options=list(option))
    if not resume:
        held = allocation.nodes if in_allocation else lambda: slurm.nodes(partition)
        found = names.expected(host_list) if host_list else held()
        if not found:
            raise UsageError(f"--partition {partition!r}: Slurm knows no node there")
        plan = msgspec.structs.replace(plan, hosts=found)
    plan = slurm.start(plan, target, resume)
    started, last = time.monotonic(), [0.0, -1.0]

    def tell(done: int, total: int, active: int) -> None:
        took = time.monotonic() - started
        if done != last[1] and took - last[0] > 2:
            last[:] = [took, done]
            left = f", about {format_seconds(took / done * (total - done))} left" if done else ""
            click.echo(f"{done} of {total} hosts done, {active} in the queue{left}", err=True)

    try:
        if in_allocation:
            allocation.run(plan, target)
        else:
            slurm.run(plan, target, window=window, poll_s=poll, tell=tell)
    except (KeyboardInterrupt, SystemExit) as end:
        how = "go on with what is missing" if in_allocation else "jobs go on; go on watching"
        end.add_note(f"{how}: numabench fleet run --out {folder} --resume{' --in-allocation' * in_allocation}")
        raise
    finish(_states(target, False))


@fleet.command("status")
@click.argument("folder")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def status(folder: str, as_json: bool) -> None:
    """Every host of a fleet run: its verdict, or who is missing and why.

    Example: numabench fleet status /shared/run1
    """
    finish(_states(Path(folder), as_json))


def _states(folder: Path, as_json: bool) -> int:
    from numabench.fleet import slurm

    found = slurm.status(folder)
    if as_json:
        data = [one._asdict() for one in found]
        click.echo(msgspec.json.format(msgspec.json.encode(data), indent=1).decode())
    else:
        for one in sorted(found, key=lambda one: (STATES.index(one.verdict), one.host)):
            if one.verdict not in ("PASS", "WARN"):
                click.echo(f"{one.verdict:12} {one.host:20} {one.reason}")
        count = {state: sum(one.verdict == state for one in found) for state in STATES}
        click.echo(", ".join(f"{n} {state}" for state, n in count.items() if n))
    seen = {one.verdict for one in found}
    return 1 if "FAIL" in seen else 3 if seen - {"PASS", "WARN"} else 0


@fleet.command("actions")
@click.argument("report")
@click.option("--apply", is_flag=True, help="Run them; without it they are only printed.")
def actions(report: str, apply: bool) -> None:
    """Drain commands for machines that failed, resume commands for those cleared since. Prints; does nothing by itself.

    With --apply it refuses when more than 3 machines and 1 % of a class would go, and leaves nodes alone that
    somebody else has given a reason. A machine is cleared by two passes in a row after a failure.

    Example: numabench fleet actions report/fleet.json
    """
    from numabench.fleet import actions as doing

    found = doing.load(report)
    drains, resumes = doing.drains(found), doing.resumes(found)
    if not drains and not resumes:
        click.echo("no machine failed, and none was cleared: nothing to do", err=True)
        return
    if not apply:
        for _, words in (*drains, *resumes):
            click.echo(shlex.join(words))
        return
    doing.guard(found)
    if not shutil.which("scontrol"):
        raise UsageError("--apply needs scontrol on this host")
    stands = doing.reasons([host for host, _ in (*drains, *resumes)])
    for host, words in drains:
        if stands[host] and not stands[host].startswith(doing.OURS):
            click.echo(f"{host}: left alone, its reason is {stands[host]!r}", err=True)
            continue
        subprocess.run(words, check=True, timeout=120)
        click.echo(f"drained {host}")
    for host, words in resumes:
        if stands[host].startswith(doing.OURS):  # of nobody else's draining, and not where there is none
            subprocess.run(words, check=True, timeout=120)
            click.echo(f"resumed {host}")
