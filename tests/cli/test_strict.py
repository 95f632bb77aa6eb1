# SPDX-License-Identifier: Apache-2.0
"""A flagged cell is seen in every form that figures leave by, and fails a strict run."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from numabench import record as records
from numabench import session
from numabench.cli import cli
from numabench.record import Record
from numabench.reports import html
from numabench.series import FATAL, FLAGS, WARNING, Options
from tests.fakes import Fake, two_nodes

real_run = session.run


def made(flags: tuple[str, ...], names: tuple[str, ...] = ("latency", "bandwidth")) -> Record:
    # Without noise and with an explicit number of passes nothing but the flags asked for is raised.
    return real_run(names, Options(profile="quick"), machine=two_nodes(), backend=Fake(noise=1e-4, flags=flags))


def run(monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], *words: str) -> Result:
    """``numabench run`` on a made-up machine."""
    monkeypatch.setattr(session, "run", lambda *args, **kwargs: made(flags))
    return CliRunner().invoke(cli, ["run", "latency", "--json", *words])


@pytest.mark.parametrize("flag", ["misplaced", "throttled", "not_steady", "unverified_placement"])
def test_strict_fails_on_a_flag_and_names_the_cell(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    done = run(monkeypatch, (flag,), "--strict")
    assert done.exit_code == 1
    assert "numabench: latency chase-n0-n0-t1-thp" in done.stderr
    assert flag in done.stderr
    json.loads(done.stdout)  # the record is complete all the same


def test_strict_passes_when_all_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(monkeypatch, (), "--strict")
    data = json.loads(done.stdout)
    assert {one["verdict"] for one in data["series"] if one["samples"]} == {"proven"}
    assert done.exit_code == 0


def test_without_strict_a_flag_is_shown_and_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(monkeypatch, ("misplaced",))
    assert done.exit_code == 0
    data = json.loads(done.stdout)
    measured = [one for one in data["series"] if one["samples"]]
    assert all(one["flags"] == ["misplaced"] and one["verdict"] == "untrusted" for one in measured)


@pytest.mark.parametrize("flag", sorted(FLAGS))
def test_every_flag_is_seen_in_every_form(flag: str, tmp_path: Path) -> None:
    record, saved = made((flag,)), tmp_path / "x.json"
    records.save(record, saved)
    shown = CliRunner().invoke(cli, ["show", str(saved)]).stdout
    assert FLAGS[flag].split()[0] in shown
    assert all(line in " ".join(shown.split()) for line in [" ".join(FLAGS[flag].split())])
    page = html.page([record])
    assert flag in page
    assert f'aria-label="flags: {flag}' in page
    assert {flag in one["flags"] for one in json.loads(saved.read_bytes())["series"] if one["samples"]} == {True}


def test_an_untrusted_cell_never_passes_an_acceptance(tmp_path: Path) -> None:
    """JUnit, OpenMetrics and the exit code of validate."""
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    records.save(made(()), good)
    records.save(made(("misplaced",)), bad)
    words = ["--baseline", str(good), "--junit", str(tmp_path / "j.xml"), "--openmetrics", str(tmp_path / "m.prom")]
    passed = CliRunner().invoke(cli, ["validate", str(good), *words])
    assert passed.exit_code == 0, passed.output
    assert 'numabench_check_status{metric="all",layer="all"} 0' in (tmp_path / "m.prom").read_text()
    failed = CliRunner().invoke(cli, ["validate", str(bad), *words])
    assert failed.exit_code in (1, 3), failed.output
    root = ElementTree.parse(tmp_path / "j.xml").getroot()
    said = [found.get("message") or "" for found in (*root.iter("failure"), *root.iter("error"))]
    assert any(FATAL["misplaced"] in text for text in said), said
    assert 'numabench_check_status{metric="all",layer="all"} 0' not in (tmp_path / "m.prom").read_text()


def test_fatal_and_warning_flags_are_two_sets() -> None:
    assert not FATAL.keys() & WARNING.keys()
