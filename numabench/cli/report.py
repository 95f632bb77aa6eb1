# SPDX-License-Identifier: Apache-2.0
"""The command that makes pages and pictures."""

from __future__ import annotations

from pathlib import Path

import click

from numabench import record as records
from numabench.errors import UsageError


@click.command()
@click.argument("file", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE", help="Where it goes; report.html, or NAME.svg for a figure.")
@click.option("--figure", metavar="NAME", help="One figure only, as FILE.svg or FILE.png; 'list' prints the names.")
def report(file: tuple[str, ...], output: str | None, figure: str | None) -> None:
    """Make one self-contained page from one or several records; it works offline.

    Example: numabench report monday.json tuesday.json -o report.html
    """
    from numabench.reports import html

    target = Path(output or (f"{figure}.svg" if figure else "report.html"))
    records.check_writable(target)
    found = [records.load(name) for name in file]
    if figure == "list":
        for name in html.figure_names(found[0]):
            click.echo(name)
        return
    if figure:
        if len(found) > 1:
            raise UsageError(f"--figure draws one record, {len(found)} were given")
        records.write(target, html.figure(found[0], figure, target.suffix.removeprefix(".")))
    else:
        records.write(target, html.page(found).encode())
    click.echo(f"Wrote {target}")
