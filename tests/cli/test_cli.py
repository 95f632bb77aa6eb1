# SPDX-License-Identifier: Apache-2.0
"""What a person types: results on stdout, one line per error, the exit codes of the documentation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from numabench.record import load

ENV = {**os.environ, "COLUMNS": "100"}
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
    done = call(*words)
    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout


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
    with subprocess.Popen(command, cwd=tmp_path, env=ENV, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        end = time.monotonic() + 60
        while time.monotonic() < end and (not journal.exists() or journal.read_bytes().count(b"\n") < 4):
            time.sleep(0.01)
        told = time.monotonic()
        child.send_signal(number)
        assert child.wait(10) == code
        assert time.monotonic() - told < 2
    kept = journal.read_bytes().count(b"\n") - 1
    assert kept >= 3
    done = call("run", "--resume", "x.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = load(tmp_path / "x.json")
    assert {len(series.samples) for series in record.series if not series.unavailable} == {6}
    assert not journal.exists()


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
