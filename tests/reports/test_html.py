# SPDX-License-Identifier: Apache-2.0
"""The page: whole by itself, true to the record, readable without a mouse; figures as files."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from click.testing import CliRunner

from numabench import session
from numabench.cli import cli
from numabench.errors import UsageError
from numabench.record import Record, save
from numabench.reports import drawing, figures, html, words
from numabench.series import Axis, Cell, Options, Table
from tests.fakes import Fake, many, two_nodes

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Tags with their attributes; fails on a tag that is not closed where it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


@pytest.fixture(scope="module")
def record() -> Record:
    return session.run((), Options(profile="quick"), machine=two_nodes(), backend=Fake(flags=("not_steady",)))


def test_page_is_whole_and_loads_nothing(record: Record) -> None:
    page = Page(html.page([record]))
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object"), tag
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    styles = re.findall(r"url\(([^)]*)\)", html.page([record]))
    assert all(each.startswith("#") for each in styles)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {str(attributes["href"])[1:] for tag, attributes in page.tags if tag == "a"}
    assert targets <= set(ids)


def test_every_cell_is_there_with_its_interval_and_can_be_reached_by_keyboard(record: Record) -> None:
    page = Page(html.page([record]))
    tips = {
        attributes["data-tip"]: attributes for tag, attributes in page.tags if tag == "td" and "data-tip" in attributes
    }
    assert all(attributes["tabindex"] == "0" for attributes in tips.values())
    latency = [said for said in tips if said and said.startswith("CPUs of 0, node 1:") and " ns [" in said]
    assert len(latency) == 1
    assert "x [1." in latency[0]
    assert "had not settled" in latency[0]


def test_charts_carry_words_for_those_who_do_not_see_them(record: Record) -> None:
    page = Page(html.page([record]))
    said = [attributes.get("aria-label") or "" for tag, attributes in page.tags if tag == "path"]
    assert any(label.startswith("node 0, thp, 64 B: ") and " ns [" in label for label in said)
    assert sum(tag == "svg" for tag, _ in page.tags) == 3, "machine, stride, roofline"


def test_names_from_a_record_are_text_and_not_markup(record: Record) -> None:
    machine = msgspec.structs.replace(record.machine, cpu_model='<script>alert("x")</script>')
    text = html.page([msgspec.structs.replace(record, machine=machine)])
    assert "<script>alert" not in text
    assert text.count("<script>") == 1


def test_reason_of_what_could_not_run_is_said() -> None:
    broken = session.run(["bandwidth"], Options(profile="quick"), machine=two_nodes(), backend=Fake(broken="copy"))
    assert "unavailable: broken on purpose" in Page(html.page([broken])).text


def test_records_side_by_side(record: Record) -> None:
    page = Page(html.page([record, msgspec.structs.replace(record, created="2026-01-02T03:04:05Z")]))
    assert "Side by side" in page.text
    assert "2026-01-02 03:04" in page.text
    assert "1.00×" in page.text


def test_drawing_colours_the_worst_link_and_names_it(record: Record) -> None:
    drawn = drawing.draw(record)
    assert [box.name for box in drawn.boxes] == ["node 0", "node 1"]
    assert len(drawn.links) == 1
    assert drawn.links[0].label.startswith("1.9")
    one = session.run(["stride"], Options(profile="quick"), machine=two_nodes(), backend=Fake())
    assert "firmware" in drawing.draw(one).legend


def test_links_that_were_not_measured_look_like_those_that_stand_for_them_and_say_so() -> None:
    record = session.run(["latency"], Options(profile="quick"), machine=many(16, 2), backend=Fake())
    drawn = drawing.draw(record)
    measured = {link.colour for link in drawn.links if link.measured}
    others = [link for link in drawn.links if not link.measured]
    assert len(drawn.links) == 16 * 15 // 2
    assert others
    assert {link.colour for link in others} <= measured
    assert all("not measured" in link.said for link in others)
    assert "dashed" in drawn.legend
    assert html._template("machine.svg.j2").render(drawing=drawn).count("stroke-dasharray") == len(others)


def test_an_interval_far_beyond_its_curve_does_not_flatten_it() -> None:
    def scale(high: float) -> str | None:
        cells = tuple(Cell(value=value, ci=(value - 1, high)) for value in (10.0, 12.0))
        table = Table(
            experiment="x",
            title="x",
            unit="ns",
            better="low",
            corner="",
            columns=("1", "2"),
            rows=(("a", cells),),
            axis=Axis(along="columns", values=(1, 2), title="x"),
        )
        spec = figures.curves(table)
        assert spec
        return spec["layer"][1]["encoding"]["y"]["scale"].get("type")  # type: ignore[no-any-return]

    assert scale(13) is None
    assert scale(900) == "log"


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("governor", None, ""),
        ("isolated_cpus", "", ""),
        ("variables", {}, ""),
        ("free_bytes", {"0": 1 << 30, "1": None}, "node 0: 1 GiB"),
        ("free_huge_pages", {"0": {"2097152": 0, "1073741824": 3}}, "node 0: 2 MiB: 0, 1 GiB: 3"),
        ("load", ["1.0", "2.0"], "1.0, 2.0"),
        ("pressure_cpu", "some a=1\nfull a=0\n", "some a=1; full a=0"),
        ("variables", {"OMP_NUM_THREADS": "2"}, "OMP_NUM_THREADS: 2"),
    ],
)
def test_environment_reads_as_text(key: str, value: object, text: str) -> None:
    assert words.told(key, value) == text


@pytest.mark.parametrize("better", ["low", "high"])
def test_noise_is_not_painted_as_a_fault(better: Literal["low", "high"]) -> None:
    def shades(*values: float) -> list[float]:
        row = tuple(Cell(value=value) for value in values)
        columns = tuple(map(str, range(len(row))))
        table = Table(
            experiment="x",
            title="x",
            unit="",
            better=better,
            corner="",
            columns=columns,
            rows=(("0", row),),
            matrix=True,
        )
        spec = figures.heat(table)
        assert spec
        found = list(words.shades(table).values())
        assert [cell["value"] for cell in spec["data"]["values"]] == found, "the exported figure has the same colours"
        return found

    assert max(shades(200, 199, 201, 202)) < 0.1
    assert sorted(shades(100, 200)) == [0, 1]
    assert shades(100, 200) == ([0, 1] if better == "low" else [1, 0])


def test_links_are_coloured_from_no_penalty_on() -> None:
    def drawn(penalty: float) -> set[str]:
        fake = Fake(truth=lambda case: 100.0 * (penalty if case.initiator != case.target else 1.0))
        record = session.run(["latency"], Options(profile="quick"), machine=many(4), backend=fake)
        return {link.colour for link in drawing.draw(record).links}

    red, _, blue = (int(part) for part in next(iter(drawn(1.0))).removeprefix("rgb(").removesuffix(")").split(","))
    assert blue > red, "no penalty, whatever the noise"
    for colour in drawn(1.9):
        red, _, blue = (int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
        assert red > 2 * blue, "all are bad, whatever the noise"


def test_figures_as_files(record: Record, tmp_path: Path) -> None:
    names = html.figure_names(record)
    assert {"gemm-f32-n-1024", "stride-strided-access"} <= set(names)
    assert {"machine", "roofline"} <= set(names)
    for name in names:
        assert ET.fromstring(html.figure(record, name, "svg")).tag.endswith("svg")
    assert html.figure(record, "machine", "png").startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="machine, "):
        html.figure(record, "nothing", "svg")
    saved, out = tmp_path / "r.json", tmp_path / "r.png"
    save(record, saved)
    done = CliRunner().invoke(cli, ["report", str(saved), "--figure", "roofline", "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_bytes().startswith(b"\x89PNG")
    done = CliRunner().invoke(cli, ["report", str(saved), "--figure", "roofline", "-o", str(tmp_path / "r.gif")])
    assert isinstance(done.exception, UsageError)


def test_divisions_are_drawn_with_their_front() -> None:
    found = session.run(["divide"], Options(profile="quick"), machine=two_nodes(), backend=Fake())
    series = []
    for at, one in enumerate(found.series):
        samples = [msgspec.structs.replace(s, extras={"p50_ns": 1e6 * (5 + at % 3)}) for s in one.samples]
        series.append(msgspec.structs.replace(one, samples=tuple(samples), estimate=100.0 + at))
    spec = figures.pareto(msgspec.structs.replace(found, series=tuple(series)))
    assert spec
    kinds = [row["kind"] for row in spec["data"]["values"]]
    assert set(kinds) == {"on the front", "beaten in both"}
    assert ET.fromstring(html.svg(spec)).tag.endswith("svg")


def test_story_is_a_waterfall_over_its_start() -> None:
    steps = (Cell(value=10.0), Cell(value=14.0, ratio=1.4, ratio_ci=(1.3, 1.5)), Cell(unavailable="one node"))
    table = Table(
        experiment="story",
        title="One change a step",
        unit="steps/s",
        better="high",
        corner="step",
        columns=("against the step before", "against the start"),
        rows=tuple((f"step {at}", (cell, cell)) for at, cell in enumerate(steps)),
    )
    spec = figures.waterfall(table)
    assert spec
    assert [(row["ratio"], row["low"]) for row in spec["data"]["values"]] == [(1.0, 1.0), (1.4, 1.3)]
    assert "1.40x [1.30, 1.50]" in spec["data"]["values"][1]["said"]
    assert ET.fromstring(html.svg(spec)).tag.endswith("svg")


def test_a_matrix_keeps_the_order_of_its_rows_and_columns() -> None:
    cells = [[Cell(unavailable="itself") if i == j else Cell(value=1.0 + i + j) for j in range(3)] for i in range(3)]
    names = ("CPU 0", "CPU 1", "CPU 2")
    table = Table(
        experiment="x",
        title="x",
        unit="ns",
        better="low",
        corner="",
        columns=names,
        rows=tuple((name, tuple(row)) for name, row in zip(names, cells, strict=True)),
        matrix=True,
    )
    spec = figures.heat(table)
    assert spec
    texts = [one for one in re.findall(r"<text[^>]*>([^<]*)</text>", html.svg(spec)) if one.startswith("CPU")]
    assert texts == [*names, *names]


def test_knee_and_the_fitted_models_are_drawn_into_their_own_curve() -> None:
    record = session.run(("scaling",), Options(profile="standard", passes=6), machine=many(2, 8), backend=Fake())
    (table,) = [one for one in session.tables(record) if one.marks]
    assert [mark.curve for mark in table.marks] == [name for name, _ in table.rows]
    spec = figures.curves(table)
    assert spec
    for mark, one in zip(table.marks, spec["concat"], strict=True):
        values = [row for layer in one["layer"] for row in layer.get("data", {"values": []})["values"]]
        assert {"low": mark.knee_ci[0], "high": mark.knee_ci[1]} in values if mark.knee_ci else True
        assert [row["x"] for row in values if mark.curve in row.get("said", "")] == [mark.knee]
        assert {row["fit"] for row in values if "fit" in row} == set(mark.fits) != set()
        assert {x for points in mark.fits.values() for x, _ in points} <= {row["x"] for row in values if "fit" in row}
    bare = figures.curves(msgspec.structs.replace(table, marks=()))
    assert bare
    assert len(bare["layer"]) == 3


def test_an_experiment_of_many_curves_keeps_the_page_small(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(extras=lambda case: {"gb_per_s": 30.0 * float(case.params["load"])})
    record = session.run(("loaded",), Options(profile="standard", passes=6), machine=many(2, 8), backend=fake)
    tables = len(session.tables(record))
    monkeypatch.setattr(html, "MOST_CHARTS", 2)
    text = html.page([record])
    assert text.count("<summary>Figures</summary>") == 2 < tables
    assert text.count("Latency under load, ns") >= tables, "all of them stand as figures"
    assert len([name for name in html.figure_names(record) if name.startswith("loaded")]) == tables


def test_loaded_latency_has_a_curve_of_its_own_per_mix_and_pair() -> None:
    record = session.run(("loaded",), Options(profile="standard", passes=6), machine=many(2, 8), backend=Fake())
    tables = session.tables(record)
    cases = {(s.case.initiator, s.case.target, s.case.params.get("source"), s.case.kernel) for s in record.series}
    assert len({table.title for table in tables}) == len(tables) == len(cases) > 3
    assert all(table.columns == ("ns", "p99 ns") for table in tables)
