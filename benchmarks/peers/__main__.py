# SPDX-License-Identifier: Apache-2.0
"""Other programs and numabench in turn on this machine: ratios with their intervals, never absolute claims.

Every run is kept in a folder; a later one names the comparisons that have become worse since the last one there, beyond
both intervals, and ends with 1 if there are any.

Example: python -m benchmarks.peers --program multichase=./multichase --only chase
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.peers import chase, gemm, stream, team
from benchmarks.peers.duels import Duel, Family, Missing, Ring
from benchmarks.peers.history import Report, last, worse
from numabench.backend import Hardware
from numabench.machine import Machine
from numabench.series import Options
from numabench.units import format_value

LEAST, DEFAULT = 6, 7
WIDE = 100  # letters that all columns need
WORDS = ("what", "by", "rival", "unit")
FAMILIES: dict[str, Family] = {"chase": chase, "stream": stream, "team": team, "gemm": gemm}


def _programs(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    if wrong := [one for one in given if "=" not in one]:
        raise click.BadParameter(f"{wrong[0]!r} is not NAME=PATH")
    return dict(one.split("=", 1) for one in given)


def _pattern(ctx: click.Context, param: click.Parameter, given: str) -> re.Pattern[str]:
    try:
        return re.compile(given)
    except re.error as error:
        raise click.BadParameter(f"{given!r}: {error}") from error


@click.command(help=__doc__)
@click.option("--only", type=click.Choice(list(FAMILIES)), multiple=True, help="These families only.")
@click.option("--match", default="", callback=_pattern, help="Comparisons whose name has this regular expression.")
@click.option(
    "--program", "programs", multiple=True, callback=_programs, metavar="NAME=PATH", help="Where a rival's program is."
)
@click.option("--rounds", type=click.IntRange(LEAST, 100), default=DEFAULT, show_default=True, help="Alternations.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".peers"),
    show_default=True,
    help="Folder of all runs on this machine.",
)
def main(only: tuple[str, ...], match: re.Pattern[str], programs: dict[str, str], rounds: int, keep: Path) -> None:
    machine = Machine.load()
    console, progress = Console(), Console(stderr=True)
    found: list[Duel] = []
    missing: dict[str, Missing] = {}
    with Hardware(machine, Options(profile="standard")) as hardware:
        ring = Ring(hardware, machine, rounds, programs, match)
        for name, family in FAMILIES.items():
            if only and name not in only:
                continue
            for one in family.duels(ring):
                if isinstance(one, Missing):
                    missing[one.rival] = one
                    continue
                found.append(one)
                progress.print(f"{one.name:34} {one.share:.3f} of {one.rival}", highlight=False, style="dim")
    report = Report(
        taken=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=f"{machine.cpu_model}, {len(machine.cpus)} CPUs",
        duels=tuple(found),
        missing=tuple(missing),
    )
    before = last(keep, report.machine)
    regressions = worse(before, report) if before else []
    columns = _columns(found, before)
    if console.width < WIDE:
        columns.pop("spread, %", None)  # it is in the file
    table = Table(box=None, pad_edge=False)
    for head in columns:
        table.add_column(head, justify="left" if head in WORDS else "right")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    console.print(machine.describe(), highlight=False)
    console.print(table)
    for rival, remedy in missing.values():
        console.print(f"{rival} is not here: {remedy}", highlight=False)
    console.print(f"Saved {report.save(keep)}", highlight=False)
    for name in regressions:
        console.print(f"worse than on {before.taken if before else ''}: {name}", highlight=False)
    raise SystemExit(1 if regressions else 0)


def _columns(found: list[Duel], before: Report | None) -> dict[str, list[str]]:
    """The table by columns; one that says the same in every row, or nothing, is left out."""
    then = {(one.name, one.rival): one for one in before.duels} if before else {}
    spans = [f" [{one.ci[0]:.3f}, {one.ci[1]:.3f}]" if one.ci else "" for one in found]
    olds = [then.get((one.name, one.rival)) for one in found]
    columns = {
        "what": [one.name for one in found],
        "by": [one.who for one in found],
        "rival": [one.rival for one in found],
        "ours": [format_value(one.ours) for one in found],
        "theirs": [format_value(one.theirs) for one in found],
        "unit": [one.unit for one in found],
        "better by": [f"{one.share:.3f}x{span}" for one, span in zip(found, spans, strict=True)],
        "spread, %": [f"{100 * one.spread[0]:.1f} {100 * one.spread[1]:.1f}" for one in found],
        "before": [f"{old.share:.3f}x" if old else "" for old in olds],
    }
    dull = [head for head in ("by", "before") if len(set(columns[head])) <= 1]
    return {head: cells for head, cells in columns.items() if head not in dull}


if __name__ == "__main__":
    main()
