# SPDX-License-Identifier: Apache-2.0
"""Progress on stderr: the matrices as they fill and tighten, and the time left.

Nothing is drawn while a sample is being taken: a thread that refreshes the screen would run on a measured CPU.
"""

from __future__ import annotations

import sys
from statistics import median
from typing import TYPE_CHECKING

import click

from numabench.analysis import stats
from numabench.series import Case, Cell, Progress, Table
from numabench.units import format_seconds

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live

QUIET_S = 2.0  # nothing is said about a run that is over before this
REDRAW_S, LINE_S = 0.5, 10.0
MATRICES, BAR, BELOW = 2, 30, 2
MOST_NAMED = 8  # columns that are called nodes; more have numbers alone, so that more of them fit


class Telling:
    """A context manager and the callable that a run tells its progress to."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str, str, str], dict[tuple[int, int], list[float]]] = {}
        self.last = 0.0
        self.live: Live | None = None

    def __enter__(self) -> Telling:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self.live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, now: Progress) -> None:
        """Take in the new samples; redraw, or print a line, when it is time."""
        for case, value in now.taken:
            self._keep(case, value)
        if now.elapsed_s < QUIET_S or now.elapsed_s - self.last < (REDRAW_S if self.live else LINE_S):
            return
        self.last = now.elapsed_s
        if self.live:
            self.live.update(self._draw(now, self.live.console), refresh=True)
        else:
            click.echo(f"{now.done} of {now.total}, {format_seconds(now.left_s)} left", err=True)

    def _keep(self, case: Case, value: float) -> None:
        if case.initiator is None or case.target is None or case.share:
            return  # no pair of nodes, or a point of a curve
        matrix = self.values.setdefault((case.experiment, case.kernel, case.pages, case.unit), {})
        matrix.setdefault((case.initiator, case.target), []).append(value)

    def _draw(self, now: Progress, console: Console) -> Group:
        from rich.columns import Columns
        from rich.console import Group
        from rich.padding import Padding
        from rich.segment import SegmentLines
        from rich.text import Text

        from numabench.reports import terminal

        tables = [terminal.render(table, {}, console.width - terminal.BESIDE) for table in self.matrices()[:MATRICES]]
        whole = round(BAR * now.done / max(now.total, 1))
        line = Text.assemble(
            ("━" * whole, "green"),
            ("╌" * (BAR - whole), "bright_black"),
            f" {now.done} of {now.total}, {format_seconds(now.left_s)} left  ",
            (now.label, "dim"),
            no_wrap=True,
            overflow="ellipsis",
        )
        line.truncate(console.width - len("^C"))  # echoed behind it, it would move what is erased then
        body = Columns([Padding(table, (0, terminal.BESIDE, 1, 0)) for table in tables])
        lines = console.render_lines(body, pad=False)[: max(console.height - BELOW, 0)]  # the bar is never cut off
        return Group(SegmentLines(lines, new_lines=True), line)

    def matrices(self) -> list[Table]:
        """What has been measured of every pair of nodes so far, medians with their intervals; most pairs first."""
        found = []
        largest = sorted(self.values.items(), key=lambda item: -len(item[1]))
        for (experiment, kernel, pages, unit), matrix in largest:
            rows, columns = sorted({i for i, _ in matrix}), sorted({j for _, j in matrix})
            found.append(
                Table(
                    experiment=experiment,
                    title=f"{experiment}: {kernel}, {pages} pages, {unit}",
                    unit=unit,
                    better="low" if unit == "ns" else "high",
                    corner="to node" if len(columns) > MOST_NAMED else "",
                    columns=tuple(str(j) if len(columns) > MOST_NAMED else f"node {j}" for j in columns),
                    rows=tuple((f"CPUs of {i}", tuple(_cell(matrix.get((i, j), [])) for j in columns)) for i in rows),
                    matrix=True,
                )
            )
        return found


def _cell(values: list[float]) -> Cell:
    return Cell(value=median(values), ci=stats.median_interval(values)) if values else Cell(unavailable="not yet")
