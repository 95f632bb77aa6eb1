# SPDX-License-Identifier: Apache-2.0
"""One self-contained page from one or several records, and single figures as SVG or PNG.

Figures are drawn when the page is made (Vega-Lite, by vl-convert), so that it needs no library, no network and no
script to be read; the script adds tooltips and keyboard access.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from numabench import session
from numabench.errors import Unsupported, UsageError
from numabench.experiments import base
from numabench.record import Record
from numabench.reports import drawing, figures, words
from numabench.reports.axes import Spec
from numabench.series import FATAL, FLAGS, Series, Table

FIGURE_KINDS = ("svg", "png")
PNG_SCALE = 2.0
MOST_CHARTS = (
    40  # of an experiment, as one per pair of many nodes; the others stand as figures, and --figure draws them
)
NEEDS = "needs two more packages: pip install 'numabench[report]'"
HALF_WIDTH, LEAST_COLUMN = 56, 10  # letters that half of the page's width takes, and a column with its ratio
STYLE: dict[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "domain": False,
        "tickSize": 4,
        "labelSeparation": 8,
    },
    "legend": {"labelFontSize": 12},
    "title": {"fontSize": 13, "anchor": "start"},
}


class Card(NamedTuple):
    """One table of one record, with what the template cannot work out by itself."""

    record: str
    table: Table
    heat: dict[int, float]  # id of a cell: 0 (best) to 1 (worst)
    chart: str  # SVG, or ""
    unavailable: str

    @property
    def compared(self) -> bool:
        """Whether any figure has a ratio beside it."""
        return any(cell.ratio is not None for cell in figures.cells(self.table))


class Section(NamedTuple):
    """The same table of all records."""

    id: str
    title: str
    cards: list[Card]

    @property
    def wide(self) -> bool:
        """Whether it needs the page's whole width."""
        table = self.cards[0].table
        letters = sum(max(len(column), LEAST_COLUMN) for column in table.columns)
        names = max((len(name) for name, _ in table.rows), default=0)
        return len(self.cards) > 1 or (not self.cards[0].chart and letters + names > HALF_WIDTH)


class View(NamedTuple):
    """What is said of one record as a whole."""

    name: str
    record: Record
    headline: tuple[str, str]
    tables: list[Table]
    summary: list[str]
    drawing: drawing.Drawing
    roofline: str
    watch: list[str]
    proven: str


@cache
def _renderer() -> Any:
    try:
        import vl_convert
    except ImportError as error:
        raise Unsupported(f"drawing figures {NEEDS}") from error
    return vl_convert


def _template(name: str) -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise Unsupported(f"the page {NEEDS}") from error
    loader = jinja2.PackageLoader("numabench.reports", "page")
    made = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    made.globals.update(
        figure=words.figure,
        with_flags=words.with_flags,
        short=words.short,
        plan=words.plan,
        cell=base.cell,
        id=id,
        FATAL=FATAL,
        FLAGS=FLAGS,
    )
    return made.get_template(name)


def svg(spec: Spec) -> str:
    """A specification as SVG."""
    return str(_renderer().vegalite_to_svg({**spec, "config": STYLE}))


def figure_names(record: Record) -> list[str]:
    """Names that `figure` takes for this record."""
    return ["machine", *figures.all_of(record, session.tables(record))]


def figure(record: Record, name: str, kind: str) -> bytes:
    """One figure of a record as ``svg`` or ``png``. Raises UsageError with the names there are."""
    if kind not in FIGURE_KINDS:
        raise UsageError(f"figure as {kind!r}: {' and '.join(FIGURE_KINDS)} can be made")
    known = figures.all_of(record, session.tables(record))
    if name == "machine":
        text = _template("machine.svg.j2").render(drawing=drawing.draw(record), alone=True)
    elif name in known:
        text = str(_renderer().vegalite_to_svg({**known[name], "config": {**STYLE, "background": "white"}}))
    else:
        raise UsageError(f"figure {name!r}: this record gives {', '.join(figure_names(record))}")
    if kind == "svg":
        return bytes(text.encode())
    return bytes(_renderer().svg_to_png(text, scale=PNG_SCALE))


def page(records: Sequence[Record]) -> str:
    """The page as one HTML document. Raises Unsupported when the packages that draw are missing."""
    names = _names(records)
    views = [_view(name, record) for name, record in zip(names, records, strict=True)]
    environment, untold = _environment(views)
    return str(
        _template("report.html.j2").render(
            views=views,
            sections=_sections(views),
            beside=_beside(views) if len(views) > 1 else [],
            environment=environment,
            untold=untold,
            style=_text("report.css"),
            script=_text("report.js"),
        )
    )


def _text(name: str) -> str:
    return (files("numabench.reports") / "page" / name).read_text()


def _names(records: Sequence[Record]) -> list[str]:
    """A short name for each: the time it was taken, numbered where that is not enough."""
    made = [record.created.replace("T", " ")[:16] for record in records]
    return [name if made.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(made)]


def _view(name: str, record: Record) -> View:
    roof, tables = figures.roofline(record), session.tables(record)
    return View(
        name,
        record,
        words.headline(record),
        tables,
        words.summary(tables),
        drawing.draw(record),
        _inline(roof) if roof else "",
        words.watch(record),
        words.proven(record),
    )


def _inline(spec: Spec) -> str:
    """SVG that takes its colours and its width from the page."""
    text = svg(spec)
    return re.sub(r'(<svg[^>]*?) width="[\d.]+" height="[\d.]+"', r"\1", text, count=1)


def _sections(views: Sequence[View]) -> list[Section]:
    found: dict[tuple[str, str], list[Card]] = {}
    for view in views:
        drawn: Counter[str] = Counter()
        for table in view.tables:
            spec = figures.chart(table, view.record) if drawn[table.experiment] < MOST_CHARTS else None
            drawn[table.experiment] += spec is not None
            reasons = {cell.unavailable for cell in figures.cells(table) if cell.unavailable}
            card = Card(
                view.name, table, words.shades(table), _inline(spec) if spec else "", "; ".join(sorted(reasons))
            )
            found.setdefault((table.experiment, table.title), []).append(card)
    return [Section(words.slug(cards[0].table), title, cards) for (_, title), cards in found.items()]


def _beside(views: Sequence[View]) -> list[tuple[str, list[Series | None]]]:
    """Cases that at least two of the records have, in the first one's order."""
    at = [{(s.case.experiment, s.case.label): s for s in view.record.series if s.usable} for view in views]
    shared = [key for key in dict.fromkeys(k for one in at for k in one) if sum(key in one for one in at) > 1]
    return [(f"{experiment} {label}", [one.get((experiment, label)) for one in at]) for experiment, label in shared]


def _environment(views: Sequence[View]) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """What was seen of each system, key by key, and the keys that hold nothing in any record."""
    keys = dict.fromkeys(key for view in views for key in view.record.environment)
    rows = [(key, [words.told(key, view.record.environment.get(key)) for view in views]) for key in keys]
    return [row for row in rows if any(row[1])], [key for key, texts in rows if not any(texts)]
