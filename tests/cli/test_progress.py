# SPDX-License-Identifier: Apache-2.0
"""Progress: matrices fill and tighten on a terminal, plain lines elsewhere, silence while nothing takes long."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from numabench import session
from numabench.cli.progress import Telling
from numabench.series import Case, Options, Progress
from tests.fakes import Fake, two_nodes


def case(initiator: int, target: int, share: str = "") -> Case:
    return Case(
        experiment="latency", kernel="chase", unit="ns", better="low", initiator=initiator, target=target, share=share
    )


def now(elapsed: float, *taken: tuple[Case, float]) -> Progress:
    return Progress(done=3, total=12, label="latency chase", elapsed_s=elapsed, left_s=75, taken=taken)


def test_matrix_fills_and_tightens() -> None:
    telling = Telling()
    telling(now(0.1, (case(0, 0), 100.0), (case(1, 1), 101.0), (case(0, 1, share="curve"), 5.0)))
    table = telling.matrices()[0]
    assert [[cell.value for cell in row] for _, row in table.rows] == [[100.0, None], [None, 101.0]]
    for step in range(7):
        telling(now(0.1, (case(0, 1), 190.0 + step)))
    cell = telling.matrices()[0].rows[0][1][1]
    assert cell.value == 193.0
    assert cell.ci == (190.0, 196.0)


@pytest.mark.parametrize("width", [50, 120])
def test_what_is_drawn_fits_and_names_the_time_left(width: int) -> None:
    telling, out = Telling(), io.StringIO()
    telling(now(0.1, (case(0, 0), 100.0)))
    console = Console(file=out, width=width)
    console.print(telling._draw(now(5.0), console))
    text = out.getvalue()
    assert "node 0" in text
    assert "3 of 12" in text
    assert max(map(len, text.splitlines())) <= width


def test_what_is_drawn_is_no_higher_than_the_terminal_and_ends_with_the_time_left() -> None:
    telling, out = Telling(), io.StringIO()
    telling(now(0.1, *((case(i, j), 100.0) for i in range(16) for j in range(16))))
    console = Console(file=out, width=80, height=20)
    console.print(telling._draw(now(5.0), console))
    lines = out.getvalue().splitlines()
    assert len(lines) < 20
    assert "to node" in lines[1]
    assert "3 of 12, 75 s left" in lines[-1]


def test_lines_elsewhere_at_most_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    telling = Telling()
    with telling:
        for elapsed in (0.5, 1.9, 3.0, 9.0, 10.1, 12.0, 20.2):
            telling(now(elapsed))
    assert capsys.readouterr().err.splitlines() == ["3 of 12, 75 s left"] * 2


def test_a_run_tells_every_sample_once() -> None:
    told: list[Progress] = []
    found = session.run(
        ["latency"], Options(profile="quick"), machine=two_nodes(), backend=Fake(), progress=told.append
    )
    taken = sorted(value for each in told for _, value in each.taken)
    assert taken == sorted(sample.value for series in found.series for sample in series.samples)
