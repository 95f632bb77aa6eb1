# SPDX-License-Identifier: Apache-2.0
"""What a person reads: figures, reasons, flags, evidence; plain when it is no terminal."""

from __future__ import annotations

import io
import re

import msgspec
import pytest
from rich.console import Console

from numabench import session
from numabench.record import Record
from numabench.reports import terminal, words
from numabench.series import FLAGS, Options
from tests.fakes import Fake, many, two_nodes


def text_of(record: Record, width: int = 120, colour: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=colour, color_system="truecolor" if colour else None)
    terminal.show(record, console, "x.json")
    return out.getvalue()


@pytest.fixture(scope="module")
def record() -> Record:
    return session.run((), Options(profile="quick"), machine=two_nodes(), backend=Fake())


def test_matrices_stand_with_their_ratio_and_meaning(record: Record) -> None:
    text = text_of(record)
    for word in ("Idle latency", "CPUs of 0", "CPUs of 1", "node 1", "1.9", "What it means", "Proven:", "Saved x.json"):
        assert word in text
    assert "\x1b[" not in text
    assert "\x1b[" in text_of(record, colour=True)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(record: Record, width: int) -> None:
    assert max(map(len, text_of(record, width).splitlines())) <= width


@pytest.mark.parametrize("nodes", [8, 16])
@pytest.mark.parametrize("width", [60, 80])
def test_columns_that_do_not_fit_go_below_and_none_is_lost(nodes: int, width: int) -> None:
    machine = many(nodes=nodes)
    options = Options(profile="standard", passes=6, nodes=tuple(range(nodes)))
    found = session.run(["latency", "c2c"], options, machine=machine, backend=Fake(0.0))
    text = text_of(found, width)
    assert max(map(len, text.splitlines())) <= width
    assert "\u2026" not in text
    matrix, *_ = session.tables(found)
    heads = re.findall(r"node \d+", text.partition("interval at most")[0])
    assert heads == list(matrix.columns)
    assert len(heads) == nodes
    figures = [cell for _, row in matrix.rows for cell in row if cell.value is not None]
    assert len(figures) > nodes
    assert text.partition("interval at most")[0].count("1.90x") == len([c for c in figures if c.ratio])


def test_every_flag_gets_a_letter_and_an_explanation() -> None:
    flagged = session.run(["latency"], Options(profile="quick"), machine=two_nodes(), backend=Fake(flags=("stolen",)))
    text = text_of(flagged, 200)
    assert f"  a  {FLAGS['stolen']}" in text
    assert "5 of 5 cases not to be trusted" in text


def test_a_case_that_failed_shows_a_dash_and_why() -> None:
    broken = session.run(["bandwidth"], Options(profile="quick"), machine=two_nodes(), backend=Fake(broken="copy"))
    text = text_of(broken)
    assert "broken on purpose" in text
    assert "unavailable (1 case)" in text


def test_misplaced_pages_are_not_called_proven(record: Record) -> None:
    series = record.series[0]
    sample = series.samples[0]
    evidence = msgspec.structs.replace(sample.evidence, pages_misplaced=3)
    bad = msgspec.structs.replace(series, samples=(msgspec.structs.replace(sample, evidence=evidence),))
    line = words.proven(msgspec.structs.replace(record, series=(bad,)))
    assert line.startswith("Checked: 7 of 10 pages")
    assert words.proven(record).startswith("Proven:")
    assert words.proven(msgspec.structs.replace(record, series=())) == "Nothing was measured."


def test_what_to_watch(record: Record) -> None:
    noisy = {**record.environment, "numa_balancing": "1", "governor": "powersave", "cpu_quota": 1.5}
    lines = words.watch(msgspec.structs.replace(record, environment=noisy))
    assert [any(word in line for line in lines) for word in ("numa_balancing", "powersave", "1.5 CPUs")] == [True] * 3
    quiet = {**record.environment, "numa_balancing": "0", "governor": "performance", "cpu_quota": None}
    assert words.watch(msgspec.structs.replace(record, environment=quiet)) == []
