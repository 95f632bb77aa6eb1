# SPDX-License-Identifier: Apache-2.0
"""Figures as Vega-Lite specifications: pure data made of tables and records, drawn by whoever has a renderer.

Grammar: Satyanarayan et al., "Vega-Lite: A Grammar of Interactive Graphics", IEEE TVCG 23(1), 2017.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from numabench.analysis import scaling
from numabench.experiments.serving import name_of
from numabench.record import Record
from numabench.reports import words
from numabench.reports.axes import (
    COLOURS,
    HEIGHT,
    IN_BINARY,
    LEGEND,
    SMALL,
    WIDE_LABELS,
    WIDTH,
    Spec,
    logarithmic,
    ticks,
)
from numabench.series import Axis, Cell, Marks, Series, Table

HEAT = {"domain": [0, 1], "range": ["#e6f0f5", "#d9642c"]}
MOST_CURVES = 8
HEADROOM = 1.4  # above the roof


def curves(table: Table) -> Spec | None:
    """A table with an axis as curves with their intervals; small multiples where units differ or curves are marked."""
    if table.axis is None:
        return None
    rows = [r for r in _points(table, table.axis) if r["value"] is not None and (r["x"] > 0 or not table.axis.log)]
    names = list(dict.fromkeys(row["curve"] for row in rows))
    if len({row["x"] for row in rows}) < 2 or not names:
        return None
    x = {
        "field": "x",
        "type": "quantitative",
        "title": table.axis.title,
        "scale": {"type": "log", "base": 2} if table.axis.log else {"zero": False},
        "axis": {
            "values": ticks(sorted({row["x"] for row in rows}), table.axis.title.endswith("bytes")),
            "labelOverlap": True,
            **({"labelExpr": IN_BINARY} if table.axis.title.endswith("bytes") else {"format": "~s"}),
        },
    }
    if table.unit and not table.marks:
        return _several(rows, names, x, table.unit)
    return _multiples(rows, names, x, table.marks)


def _points(table: Table, axis: Axis) -> Iterator[dict[str, Any]]:
    for i, (name, cells) in enumerate(table.rows):
        for j, cell in enumerate(cells):
            along = axis.along == "columns"
            curve = name if along else table.columns[j]
            yield {
                "x": axis.values[j if along else i],
                "curve": curve,
                "value": cell.value,
                "low": cell.ci[0] if cell.ci else cell.value,
                "high": cell.ci[1] if cell.ci else cell.value,
                "said": f"{curve}, {table.columns[j] if along else name}: {words.figure(cell, table.unit)}",
            }


def _several(rows: list[dict[str, Any]], names: list[str], x: Spec, unit: str) -> Spec:
    low, high = min(row["low"] for row in rows), max(row["high"] for row in rows)
    wide = low > 0 and high > 20 * low
    scaled = logarithmic(low, high) if wide else {"scale": {"zero": True}}
    y = {"field": "value", "type": "quantitative", "title": unit, **scaled}
    colour = {
        "field": "curve",
        "type": "nominal",
        "title": None,
        "sort": names,
        "scale": {"range": list(COLOURS)},
        "legend": {"orient": "bottom", "columns": 2, "labelLimit": 240, **LEGEND} if len(names) > 1 else None,
    }
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "data": {"values": rows},
        "encoding": {"x": x, "color": colour},
        "layer": _marks(y),
    }


def _marks(y: Spec) -> list[Spec]:
    bounds = {"y": {**y, "field": "low"}, "y2": {"field": "high"}}
    return [
        {"mark": {"type": "area", "opacity": 0.22, "aria": False}, "encoding": bounds},
        {"mark": {"type": "line", "strokeWidth": 2, "aria": False}, "encoding": {"y": y}},
        {
            "mark": {"type": "point", "filled": True, "size": 36},
            "encoding": {"y": y, "description": {"field": "said"}},
        },
    ]


def _marked(mark: Marks, x: Spec, y: Spec) -> Iterator[Spec]:
    """The knee as an upright line, its interval as a band, every fitted model as a dashed line with its name."""
    low, high = mark.knee_ci or (mark.knee, mark.knee)
    yield {
        "data": {"values": [{"low": low, "high": high}]},
        "mark": {"type": "rect", "opacity": 0.12, "aria": False},
        "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "color": {"value": "#888"}},
    }
    span = f" [{low:g}, {high:g}]" if mark.knee_ci else ""
    yield {
        "data": {"values": [{"x": mark.knee, "said": f"{mark.curve}: knee at {mark.knee:g}{span}"}]},
        "mark": {"type": "rule", "strokeDash": [2, 3]},
        "encoding": {"x": x, "color": {"value": "#888"}, "description": {"field": "said"}},
    }
    for number, (name, points) in enumerate(mark.fits.items()):
        data = {"values": [{"x": a, "value": b, "fit": name} for a, b in points]}
        dash = {"strokeDash": [6, 3] if number == 0 else [2, 2], "strokeWidth": 1.5}
        both = {"x": x, "y": y, "color": {"value": "#888"}}
        yield {"data": data, "mark": {"type": "line", "aria": False, **dash}, "encoding": both}
        yield {
            "data": {"values": data["values"][len(points) * (number + 1) // 3 :][:1]},
            "mark": {"type": "text", "dy": 14, "dx": 6, "align": "left", "fontSize": 10, "aria": False},
            "encoding": {**both, "text": {"field": "fit"}},
        }


def _multiples(rows: list[dict[str, Any]], names: list[str], x: Spec, marks: Sequence[Marks]) -> Spec:
    y = {"field": "value", "type": "quantitative", "title": None}
    side = SMALL if len(names) > 1 else WIDTH
    charts = [
        {
            "title": {"text": name, "fontSize": 11, "anchor": "start"},
            "width": side,
            "height": side * 2 // 3 if side == SMALL else HEIGHT,
            "data": {"values": [row for row in rows if row["curve"] == name]},
            "encoding": {"x": x, "color": {"value": COLOURS[i % len(COLOURS)]}},
            "layer": [*_marks(y), *(one for mark in marks if mark.curve == name for one in _marked(mark, x, y))],
        }
        for i, name in enumerate(names[:MOST_CURVES])
    ]
    return {"concat": charts, "columns": 2, "spacing": {"row": 62, "column": 44}, "bounds": "flush"}


def heat(table: Table) -> Spec | None:
    """A matrix as coloured cells, for export; the page shows it as a table."""
    shades = words.shades(table)
    cells = [
        {
            "row": name,
            "column": column,
            "value": None if cell.value is None else shades.get(id(cell), 0.0),
            "text": words.short(cell),
            "said": f"{name}, {column}: {words.figure(cell, table.unit)}",
        }
        for name, row in table.rows
        for column, cell in zip(table.columns, row, strict=True)
    ]
    if not table.matrix or not any(cell["value"] is not None for cell in cells):
        return None
    head = {"type": "nominal", "title": None}
    order = [name for name, _ in table.rows]  # empty cells would change it
    side = 58 if len(table.columns) <= 8 else 40
    return {
        "title": {"text": table.title, "anchor": "start"},
        "width": side * len(table.columns),
        "height": min(side, 40) * len(table.rows),
        "data": {"values": cells},
        "encoding": {
            "x": {
                **head,
                "field": "column",
                "sort": list(table.columns),
                "axis": {"orient": "top", "labelAngle": 0 if side > 40 else -45},
            },
            "y": {**head, "field": "row", "sort": order},
        },
        "layer": [
            {
                "mark": "rect",
                "encoding": {
                    "color": {"field": "value", "type": "quantitative", "legend": None, "scale": HEAT},
                    "description": {"field": "said"},
                },
            },
            {"mark": {"type": "text", "color": "#111", "aria": False}, "encoding": {"text": {"field": "text"}}},
        ],
    }


def roofline(record: Record) -> Spec | None:
    """Ceilings per placement and the kernels measured under them, over arithmetic intensity.

    Method: Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009. The roof is the highest rate measured, the
    slopes are the best bandwidth measured from the same CPUs for each target.
    """
    rates = [s for s in record.series if s.usable and s.case.unit == "GFLOP/s"]
    streams = [s for s in record.series if s.usable and s.case.unit == "GB/s" and s.case.initiator is not None]
    if not rates or not streams:
        return None
    roof = max(rates, key=lambda s: s.estimate or 0)
    slopes = _slopes(streams, roof)
    if not slopes:
        return None
    points, intensities = [], []
    for series in rates:
        flops = _intensity(series)
        if flops and _where(series) in slopes and series.estimate:
            said = f"{series.case.label}: {series.estimate:.4g} GFLOP/s at {flops:.3g} flop/byte"
            points.append({"x": flops, "y": series.estimate, "curve": _where(series), "said": said})
            intensities.append(flops)
    lines, peak = [], roof.estimate or 0.0
    bends = [peak / rate for rate in slopes.values()]
    left, right = min([*bends, *intensities]) / 16, 4 * max([*bends, *intensities])
    for name, rate in slopes.items():
        for at in (left, peak / rate, right):
            lines.append({"x": at, "y": min(peak, rate * at), "curve": name})
    names = list(slopes)
    colour = {
        "field": "curve",
        "type": "nominal",
        "title": None,
        "scale": {"domain": names, "range": [COLOURS[i % len(COLOURS)] for i in range(len(names))]},
        "legend": {"orient": "bottom", "columns": 3, **LEGEND},
    }
    least = min(min(peak, rate * left) for rate in slopes.values())
    x = {"field": "x", "type": "quantitative", "title": "flop per byte", **logarithmic(left, right)}
    y = {"field": "y", "type": "quantitative", "title": "GFLOP/s", **logarithmic(least, HEADROOM * peak)}
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "encoding": {"x": x, "y": y, "color": colour},
        "layer": [
            {"data": {"values": lines}, "mark": {"type": "line", "strokeWidth": 2, "aria": False}},
            {
                "data": {"values": points},
                "mark": {"type": "point", "filled": True, "size": 60},
                "encoding": {"description": {"field": "said"}},
            },
        ],
    }


def _where(series: Series) -> str:
    case = series.case
    return "local" if case.initiator == case.target else f"node {case.initiator} on memory of node {case.target}"


def _slopes(streams: Sequence[Series], roof: Series) -> dict[str, float]:
    """Best bandwidth from the roof's initiator: local, and the worst remote target."""
    mine = [s for s in streams if s.case.initiator == roof.case.initiator and len(s.case.cpus) == len(roof.case.cpus)]
    best: dict[str, float] = {}
    for series in mine:
        best[_where(series)] = max(best.get(_where(series), 0.0), series.estimate or 0.0)
    far = {name: rate for name, rate in best.items() if name != "local"}
    worst = min(far, key=lambda name: far[name]) if far else ""
    return {name: best[name] for name in ("local", worst) if best.get(name)}


def _intensity(series: Series) -> float | None:
    """Flop per byte of a multiplication that reads its operands once and writes its result once."""
    m, n, k = (series.case.params.get(key) for key in ("m", "n", "k"))
    if not (isinstance(m, int) and isinstance(n, int) and isinstance(k, int)):
        return None
    element = {"f64": 8, "bf16": 2, "int8": 1, "s8": 1}
    size = next((width for tag, width in element.items() if tag in series.case.kernel), 4)
    return 2 * m * n * k / (size * (m * k + k * n + 2 * m * n))


def waterfall(table: Table) -> Spec | None:
    """Steps of a story as bars: throughput over that of the start, with intervals, from the second column's ratios."""
    rows = [
        {
            "step": name,
            "ratio": cells[1].ratio or 1.0,
            "low": cells[1].ratio_ci[0] if cells[1].ratio_ci else cells[1].ratio or 1.0,
            "high": cells[1].ratio_ci[1] if cells[1].ratio_ci else cells[1].ratio or 1.0,
            "said": f"{name}: {words.figure(cells[1], table.unit)}",
        }
        for name, cells in table.rows
        if len(cells) > 1 and cells[1].value is not None
    ]
    if len(rows) < 2:
        return None
    y = {"field": "step", "type": "nominal", "sort": None, "title": None, "axis": WIDE_LABELS}
    x = {"type": "quantitative", "title": "throughput over the start", "axis": {"tickCount": 5}}
    return {
        "width": WIDTH - 120,
        "height": 26 * len(rows),
        "data": {"values": rows},
        "encoding": {"y": y},
        "layer": [
            {
                "mark": {"type": "bar", "color": COLOURS[0], "opacity": 0.75},
                "encoding": {"x": {**x, "field": "ratio"}, "description": {"field": "said"}},
            },
            {
                "mark": {"type": "rule", "aria": False},
                "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}},
            },
            {
                "data": {"values": [{"one": 1}]},
                "mark": {"type": "rule", "strokeDash": [4, 3], "aria": False},
                "encoding": {
                    "x": {"field": "one", "type": "quantitative"},
                    "y": {"value": 0},
                    "y2": {"value": "height"},
                },
            },
        ],
    }


def pareto(record: Record) -> Spec | None:
    """Divisions of the machine by throughput and step time; the front is what nothing beats in both."""
    found = [
        s for s in record.series if s.case.experiment == "divide" and s.usable and "p50_ns" in s.samples[-1].extras
    ]
    points = [
        (name_of(s.case), s.estimate or 0.0, median(sample.extras["p50_ns"] for sample in s.samples) / 1e6)
        for s in found
        if not s.case.params.get("confirm")
    ]
    if len(points) < 2:
        return None
    front = set(scaling.pareto([(x, y) for _, x, y in points]))
    rows = []
    for at, (name, x, y) in enumerate(points):
        kind = "on the front" if at in front else "beaten in both"
        said = f"{name}: {x:.4g} steps/s, {y:.4g} ms, {kind}"
        rows.append({"x": x, "y": y, "name": name, "kind": kind, "said": said})
    at_xy = {
        "x": {"field": "x", "type": "quantitative", "title": "steps/s, all instances", "scale": {"zero": False}},
        "y": {"field": "y", "type": "quantitative", "title": "p50 of a step, ms", "scale": {"zero": False}},
    }
    kinds = {"domain": ["on the front", "beaten in both"], "range": [COLOURS[1], COLOURS[0]]}
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "data": {"values": rows},
        "encoding": at_xy,
        "layer": [
            {
                "transform": [{"filter": "datum.kind == 'on the front'"}],
                "mark": {"type": "line", "color": COLOURS[1], "strokeDash": [4, 3], "aria": False},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 70},
                "encoding": {
                    "color": {
                        "field": "kind",
                        "type": "nominal",
                        "title": None,
                        "scale": kinds,
                        "legend": {"orient": "bottom", **LEGEND, "symbolType": "circle"},
                    },
                    "description": {"field": "said"},
                },
            },
            {
                "transform": [{"filter": "datum.kind == 'on the front'"}],  # the others' names would cover each other
                "mark": {"type": "text", "dy": -10, "fontSize": 10, "aria": False},
                "encoding": {"text": {"field": "name"}},
            },
        ],
    }


def chart(table: Table, record: Record) -> Spec | None:
    """What a table looks like as a figure, if it looks like one."""
    if table.experiment == "story":
        return waterfall(table)
    if table.experiment == "divide" and table.columns[:1] == ("steps/s",) and "again" not in table.title:
        return pareto(record)
    return curves(table)


def all_of(record: Record, tables: Sequence[Table]) -> dict[str, Spec]:
    """Every figure that this record can give, by name."""
    found: dict[str, Spec] = {}
    for table in tables:
        for spec in (heat(table), chart(table, record)):
            if spec:
                name = words.slug(table)
                found[name if name not in found else f"{name}-{len(found)}"] = spec
    roof = roofline(record)
    return found | ({"roofline": roof} if roof else {})


def cells(table: Table) -> Iterator[Cell]:
    """All cells of a table."""
    return (cell for _, row in table.rows for cell in row)
