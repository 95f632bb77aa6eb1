# SPDX-License-Identifier: Apache-2.0
"""Tables for a terminal: figures, what they mean, how sure. Shaded by value when colours are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.console import Console, Group
from rich.padding import Padding
from rich.style import Style
from rich.table import Table as RichTable
from rich.text import Text

from numabench import session
from numabench.analysis.stats import half_width
from numabench.reports import words
from numabench.series import FATAL, FLAGS, Cell, Table
from numabench.units import format_value, plural

if TYPE_CHECKING:
    from numabench.record import Record


GAP, BESIDE = 2, 4  # letters between two columns, between two tables


def _figure(cell: Cell, marks: dict[str, str], heat: float | None) -> Text:
    if cell.value is None:
        return Text(cell.text or "-", style="dim")
    width = (cell.ci[1] - cell.ci[0]) / 2 if cell.ci else None
    text = Text(format_value(cell.value, width), justify="right")
    if heat is not None:
        text.stylize(Style(color="black", bgcolor=f"rgb({int(120 + 135 * heat)},{int(230 - 110 * heat)},120)"))
    if FATAL.keys() & set(cell.flags):
        text.stylize("strike")
    if cell.ratio is not None:
        text.append(f" {cell.ratio:.2f}x", style="bold")
    if cell.flags:
        text.append(" " + "".join(sorted(marks.get(name, "?") for name in cell.flags)), style="yellow")
    return text


def _folded(widths: Sequence[int], first: int, width: int) -> list[range]:
    """Columns that fit beside the first, part by part; at least one to a part."""
    parts, begin, used = [], 0, first
    for at, one in enumerate(widths):
        if at > begin and used + GAP + one > width:
            parts.append(range(begin, at))
            begin, used = at, first
        used += GAP + one
    return [*parts, range(begin, len(widths))]


def render(table: Table, marks: dict[str, str], width: int = 80) -> Group:
    """A table with the intervals' widths below it; ``marks`` are letters of flags.

    Columns that ``width`` letters do not hold go below the others, with the names of the rows once more.
    """
    heat = words.shades(table)
    rows = [(name, [_figure(cell, marks, heat.get(id(cell))) for cell in row]) for name, row in table.rows]
    widths = [max(len(column), *(len(row[at]) for _, row in rows), 0) for at, column in enumerate(table.columns)]
    first = min(max([len(table.corner), *(len(name) for name, _ in rows)]), width // 2)
    folded: list[RichTable | Text] = []
    for part in _folded(widths, first, width):
        rich = RichTable(
            title=None if folded else table.title,
            title_justify="left",
            title_style="bold",
            box=None,
            pad_edge=False,
            min_width=0 if folded else min(len(table.title), 60),
        )
        rich.add_column(table.corner, min_width=first)
        for at in part:
            rich.add_column(table.columns[at], justify="right", no_wrap=widths[at] + GAP + first <= width)
        for name, row in rows:
            rich.add_row(name, *row[part.start : part.stop])
        folded += [Text(), rich] if folded else [rich]
    shares = [half_width(c.ci, c.value) for _, row in table.rows for c in row if c.value and c.ci]
    below = [Text(f"interval at most {max(shares) * 100:.1f} %", style="dim")] if shares else []
    if any(cell.value is not None and cell.ci is None for _, row in table.rows for cell in row):
        below.append(Text("too few passes for an interval (6 are needed)", style="dim"))
    return Group(*folded, *below)


def show(record: Record, console: Console, saved: str = "") -> None:
    """Print a record: machine, tables, meaning, evidence."""
    tables = session.tables(record)
    marks = words.legend(list(record.series))
    first, second = words.headline(record)
    console.print(Text(first, style="bold"), Text(second, style="dim"), sep="     ")
    console.print()
    small = [render(table, marks, console.width - BESIDE) for table in tables if table.matrix]
    if small:
        console.print(Columns([Padding(table, (0, BESIDE, 1, 0)) for table in small]))
    for table in tables:
        if not table.matrix:
            console.print(render(table, marks, console.width))
            console.print()
    for name, letter in marks.items():
        console.print(Text(f"  {letter}  {FLAGS[name]}", style="yellow"))
    reasons: dict[str, int] = {}
    for series in record.series:
        if series.unavailable:
            reasons[series.unavailable] = reasons.get(series.unavailable, 0) + 1
    for reason, count in reasons.items():
        console.print(Text(f"  -  unavailable ({plural(count, 'case')}): {reason}", style="dim"))
    for series in (one for one in record.series if one.ended):
        passes = plural(len(series.samples), "pass")
        console.print(Text(f"  {series.case.label} ended after {passes}: {series.ended}", style="yellow"))
    meaning = list(dict.fromkeys(line for table in tables for line in table.meaning))
    if meaning:
        console.print("\n[bold]What it means[/bold]")
        for line in meaning:
            console.print(Text(f"  {line}"))
    console.print(Text(words.proven(record)))
    for line in words.watch(record):
        console.print(Text(f"Watch:  {line}"))
    if saved:
        console.print(Text(f"Saved {saved}"))
