# SPDX-License-Identifier: Apache-2.0
"""Commands that measure or show what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from numabench import record as records
from numabench import session
from numabench.cli import EXIT_FAILED, EXIT_NOTHING
from numabench.cli.progress import QUIET_S, Telling
from numabench.errors import UsageError
from numabench.machine import Machine
from numabench.series import Case, Options, Sample
from numabench.units import (
    format_bytes,
    format_seconds,
    parse_bytes,
    parse_numbers,
    parse_ratio,
    parse_seconds,
    parse_share,
    plural,
)


@click.command()
@click.argument("experiment", nargs=-1)
@click.option(
    "--profile",
    default="standard",
    type=click.Choice(["quick", "standard", "full"]),
    help="How sure: 6, 10 or 20 passes.",
)
@click.option("--budget", metavar="TIME", help="Stop after about this long, such as 60s.")
@click.option("--precision", metavar="SHARE", help="Go on until intervals are this narrow, such as 1% (half-width).")
@click.option("--strict", is_flag=True, help="Exit 1 unless every case is proven.")
@click.option("--nodes", metavar="LIST", help="Only these nodes, such as 0,1.")
@click.option("--cpus", metavar="LIST", help="Only these CPUs, such as 0-7.")
@click.option("--size", metavar="SIZE", help="Bytes of each working set, such as 1GiB.")
@click.option("--pages", type=click.Choice(["base", "thp", "2M", "1G"]), help="Page kind.")
@click.option(
    "--tier",
    default="best",
    metavar="NAME",
    help="Instruction set: scalar, avx2, avx512, neon; measured: the fastest of each kernel here.",
)
@click.option("--kernel", "kernel_names", multiple=True, metavar="NAME", help="Kernels, as listed.")
@click.option("--ratio", "ratios", multiple=True, metavar="R:W", help="Reads to writes for mixes, such as 5:1.")
@click.option("--threads", metavar="LIST", help="Thread counts of scaling, such as 1,2,4.")
@click.option("--p99", "bound", metavar="TIME", help="Bound on p99 for divide and load, such as 20ms.")
@click.option("--passes", type=click.IntRange(1, 30), metavar="N", help="Exactly so many passes.")
@click.option("--seed", type=click.IntRange(0), metavar="N", default=0, help="Order and contents.")
@click.option("-o", "--output", metavar="FILE.json", help="Where the record goes.")
@click.option("--json", "as_json", is_flag=True, help="The record on stdout.")
@click.option("--resume", metavar="FILE.json", help="Go on with an interrupted run of that name.")
@click.option("--dry-run", is_flag=True, help="Print the plan and its time, measure nothing.")
def run(
    experiment: tuple[str, ...],
    profile: str,
    budget: str | None,
    precision: str | None,
    strict: bool,
    nodes: str | None,
    cpus: str | None,
    size: str | None,
    pages: str | None,
    tier: str,
    kernel_names: tuple[str, ...],
    ratios: tuple[str, ...],
    threads: str | None,
    bound: str | None,
    passes: int | None,
    seed: int,
    output: str | None,
    as_json: bool,
    resume: str | None,
    dry_run: bool,
) -> None:
    """Measure; no name means the standard set.

    Example: numabench run latency bandwidth --profile quick -o here.json
    """
    options = Options(
        profile=profile,  # type: ignore[arg-type]
        budget_s=parse_seconds(budget) if budget else None,
        p99_s=parse_seconds(bound) if bound else None,
        precision=parse_share(precision, "--precision") if precision else None,
        nodes=parse_numbers(nodes, "--nodes") if nodes else (),
        cpus=parse_numbers(cpus, "--cpus") if cpus else (),
        bytes=parse_bytes(size) if size else None,
        pages=pages,  # type: ignore[arg-type]
        tier=tier,
        kernels=kernel_names,
        ratios=tuple(map(parse_ratio, ratios)),
        threads=parse_numbers(threads, "--threads") if threads else (),
        passes=passes,
        seed=seed,
    )
    machine = Machine.load()
    target = Path(resume or output or records.default_name())
    journal = target.with_name(target.name + ".journal")
    earlier: dict[tuple[str, str], tuple[Sample, ...]] = {}
    if resume:
        made, earlier = records.Journal.read(journal)
        experiment = tuple(made.get("names", ()))
        options = msgspec.convert(made.get("options", {}), Options, strict=False)
    cases = session.plan(experiment, options, machine)
    if dry_run:
        for case in cases:
            why = f"  unavailable: {case.unavailable}" if case.unavailable else f"  {format_bytes(case.bytes)}"
            click.echo(f"{case.experiment:10} {case.label}{why}")
        least, most = map(format_seconds, session.estimate_seconds(cases, options))
        click.echo(
            f"{plural(len(cases), 'case')}, about {least}"
            + (f" if all is calm, {most} if not" if most != least else "")
        )
        return
    keep = bool(resume or output) or not as_json
    if keep:
        records.check_writable(target)
        if not resume:
            journal.unlink(missing_ok=True)
    for case in cases:
        if options.bytes and not case.unavailable:
            _check_size(options.bytes, case.target, machine)
    _announce(cases, session.estimate_seconds(cases, options)[1])
    try:
        with Telling() as told:
            found = session.run(
                experiment,
                options,
                machine=machine,
                progress=told,
                journal=journal if keep else None,
                earlier=earlier,
            )
    except (KeyboardInterrupt, SystemExit) as end:
        if keep and journal.exists():
            end.add_note(f"go on with: numabench run --resume {target}")
        raise
    if keep:
        records.save(found, target)
        journal.unlink(missing_ok=True)
    if as_json:
        click.echo(records.dumps(found).decode(), nl=False)
    else:
        _show(found, str(target) if keep else "")
    if not any(series.samples for series in found.series):
        raise click.exceptions.Exit(EXIT_NOTHING)
    if strict:
        _insist(found)


def _announce(cases: Sequence[Case], seconds: float) -> None:
    """What a run of some length is going to do, on stderr: cases by experiment, and the time they may take."""
    if seconds > QUIET_S:
        found = Counter(case.experiment for case in cases if not case.unavailable)
        each = ", ".join(f"{name} {count}" for name, count in found.items())
        click.echo(f"cases: {each}; about {format_seconds(seconds)} (--dry-run lists them)", err=True)


def _insist(found: records.Record) -> None:
    """--strict: each case that is not proven, with its flags, on stderr, and exit code 1."""
    doubted = [series for series in found.series if series.samples and series.trust != "proven"]
    for series in doubted:
        why = ", ".join(series.flags) or "not verified"
        click.echo(f"numabench: {series.case.experiment} {series.case.label}: {series.trust}: {why}", err=True)
    if doubted:
        raise click.exceptions.Exit(EXIT_FAILED)


def _check_size(wanted: int, target: int | None, machine: Machine) -> None:
    from numabench.environment import free_bytes

    free = free_bytes(target) if target is not None else None
    if free is not None and wanted > free:
        raise UsageError(f"--size {format_bytes(wanted)}: node {target} has {format_bytes(free)} free")


@click.command()
@click.argument("file")
def show(file: str) -> None:
    """Print a saved record.

    Example: numabench show numabench-host-20261123T101500.json
    """
    _show(records.load(file), "")


def _show(found: records.Record, saved: str) -> None:
    from rich.console import Console

    from numabench.reports import terminal

    terminal.show(found, Console(), saved)
