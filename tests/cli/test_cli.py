# SPDX-License-Identifier: Apache-2.0
"""What a person types: results on stdout, one line per error, the exit codes of the documentation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
import pytest

from numabench import session
from numabench.cli import COMMANDS, cli, main
from numabench.cli.run import _announce
from numabench.record import load
from numabench.series import FATAL, Options
from tests.cli import fails_in_one_line
from tests.fakes import many

ENV = {**os.environ, "COLUMNS": "100"}
# A signal that comes while coverage holds its lock leaves it locked for good: what is interrupted runs without it.
UNTRACED = {name: value for name, value in ENV.items() if not name.startswith("COVERAGE_")}
QUICK = ["run", "latency", "--profile", "quick", "--size", "8MiB", "--passes", "2"]


def call(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "numabench", *words]
    return subprocess.run(command, capture_output=True, text=True, env=ENV, cwd=cwd, timeout=120, check=False)


@pytest.mark.parametrize(
    "words", [["--help"], ["topology"], ["doctor"], ["list"], ["run", "--help"], ["run", "--dry-run"]]
)
def test_looking_works(words: list[str]) -> None:
    done = call(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("words", [["topology", "--json"], ["doctor", "--json"], ["list", "--json"]])
def test_json_is_one_document(words: list[str]) -> None:
    assert json.loads(call(*words).stdout)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["rnu"], 2, "did you mean run"),
        (["run", "latncy"], 2, "did you mean latency"),
        (["run", "--nodes", "77"], 2, "nodes here: 0"),
        (["run", "--nodes", "x"], 2, "--nodes"),
        (["run", "--cpus", "9999"], 2, "9999"),
        (["run", "--size", "0"], 2, "positive"),
        (["run", "--size", "-1"], 2, "positive"),
        (["run", "latency", "--size", "900TiB"], 2, "free"),
        (["run", "--budget", "never"], 2, "positive"),
        (["run", "--tier", "avx1024"], 2, "avx512"),
        (["run", "bandwidth", "--kernel", "tirad"], 2, "triad"),
        (["run", "--profile", "best"], 2, "quick"),
        (["run", "-o", "/nowhere/x.json"], 2, "does not exist"),
        (["show", "/nonexistent.json"], 2, "cannot read"),
        (["show", "/proc/self/status"], 2, "not JSON"),
        (["topology", "--from", "/nonexistent"], 2, "/nonexistent"),
        (["run", "--resume", "/nonexistent.json"], 2, "cannot read"),
    ],
)
def test_errors_are_one_line(words: list[str], code: int, said: str) -> None:
    fails_in_one_line(call(*words), code, said)


def test_run_saves_what_it_shows(tmp_path: Path) -> None:
    done = call(*QUICK, "-o", "x.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Idle latency" in done.stdout
    assert "Proven" in done.stdout
    record = load(tmp_path / "x.json")
    assert all(len(series.samples) == 2 for series in record.series if not series.unavailable)
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert "Idle latency" in call("show", "x.json", cwd=tmp_path).stdout


def test_run_json_is_the_record(tmp_path: Path) -> None:
    done = call(*QUICK, "--json", cwd=tmp_path)
    data = json.loads(done.stdout)
    first = data["series"][0]
    assert data["schema"] == 1
    assert {
        "experiment",
        "case",
        "unit",
        "samples",
        "estimate",
        "ci",
        "n",
        "verdict",
        "evidence",
        "flags",
    } <= first.keys()
    assert first["evidence"]["placement_seen"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_interrupt_keeps_samples_and_resume_goes_on(tmp_path: Path, number: int, code: int) -> None:
    command = [
        sys.executable,
        "-m",
        "numabench",
        "run",
        "latency",
        "--profile",
        "quick",
        "--size",
        "8MiB",
        "-o",
        "x.json",
    ]
    journal = tmp_path / "x.json.journal"
    with subprocess.Popen(command, cwd=tmp_path, env=UNTRACED, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        late = threading.Timer(90, child.kill)
        late.start()
        end = time.monotonic() + 60
        while time.monotonic() < end and (not journal.exists() or journal.read_bytes().count(b"\n") < 4):
            time.sleep(0.01)
        told = time.monotonic()
        child.send_signal(number)
        assert child.wait(10) == code
        assert time.monotonic() - told < 2
        assert child.stderr
        said = [line for line in child.stderr.read().decode().splitlines() if "interrupted" in line]
        late.cancel()
    if number != signal.SIGKILL:
        assert said == ["numabench: interrupted; go on with: numabench run --resume x.json"]
    kept = journal.read_bytes().count(b"\n") - 1
    assert kept >= 3
    done = call("run", "--resume", "x.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = load(tmp_path / "x.json")
    for series in (one for one in record.series if not one.unavailable):
        sound = [sample for sample in series.samples if not FATAL.keys() & set(sample.flags)]
        assert len(sound) == 6 or len(series.samples) == 9  # unsound passes are replaced, up to half as many again
        assert len({sample.number for sample in series.samples}) == len(series.samples)
    assert not journal.exists()


@pytest.mark.parametrize("name", list(COMMANDS))
def test_interrupt_of_any_command_is_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    found = cli.get_command(click.Context(cli), name)
    assert found
    monkeypatch.setattr(found, "invoke", pressed)
    monkeypatch.setattr(found, "parse_args", lambda ctx, args: args)
    monkeypatch.setattr(sys, "argv", ["numabench", name])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == 130
    out, err = capsys.readouterr()
    assert (out, err.strip()) == ("", "numabench: interrupted")


def test_record_of_a_dead_pipe_is_quiet() -> None:
    done = subprocess.run(
        f"{sys.executable} -m numabench list | head -1",
        shell=True,
        capture_output=True,
        text=True,
        env=ENV,
        check=False,
    )
    assert "Traceback" not in done.stderr


def test_a_long_run_says_first_what_it_will_do(capsys: pytest.CaptureFixture[str]) -> None:
    cases = session.plan(["latency", "migration"], Options(), many(nodes=1, packages=1))
    _announce(cases, 95.0)
    assert capsys.readouterr().err == "cases: latency 2, migration 9; about 95 s (--dry-run lists them)\n"
    _announce(cases, 1.0)
    assert capsys.readouterr().err == ""
