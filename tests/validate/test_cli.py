# SPDX-License-Identifier: Apache-2.0
"""What an acceptance team types: exit codes of every verdict, one line per error, files whole or not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from numabench import record as records
from numabench.validation.write_spec import write_spec

from .test_causes import FAULTS, bandwidth, made

ENV = {**os.environ, "COLUMNS": "150"}


def call(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "numabench", *words]
    return subprocess.run(
        command, capture_output=True, text=True, env={**ENV, **env}, cwd=cwd, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    records.save(made(), folder / "good.json")
    records.save(made(), folder / "copy.json")
    records.save(FAULTS["memory channel missing"], folder / "bad.json")
    records.save(made(bandwidth(0.93, lambda i, j: True)), folder / "meh.json")
    records.save(made(restricted=True), folder / "restricted.json")
    records.save(made(nodes=8), folder / "other.json")
    (folder / "good.toml").write_text(write_spec(made()))
    (folder / "typo.toml").write_text(write_spec(made()).replace("sockets =", "sockts ="))
    (folder / "junk.json").write_text("{")
    return folder


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["good.json", "--spec", "good.toml"], 0),
        (["good.json"], 0),
        (["meh.json", "--spec", "good.toml"], 0),
        (["meh.json", "--spec", "good.toml", "--strict"], 1),
        (["bad.json", "--spec", "good.toml"], 1),
        (["bad.json", "--baseline", "good.json"], 1),
        (["good.json", "--baseline", "good.json"], 0),
        (["restricted.json", "--spec", "good.toml"], 3),
        (["other.json", "--baseline", "good.json"], 3),
    ],
)
def test_exit_codes(words: list[str], code: int, files: Path) -> None:
    done = call("validate", *words, cwd=files)
    assert done.returncode == code, done.stdout + done.stderr
    assert not done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["validate", "good.json", "--spec", "typo.toml"],
            "typo.toml:15: facts.sockts: fact 'sockts': did you mean sockets",
        ),
        (["validate", "good.json", "--spec", "no.toml"], "no.toml"),
        (["validate", "junk.json"], "junk.json"),
        (["validate", "no.json"], "no.json"),
        (["validate", "good.json", "--baseline", "junk.json"], "junk.json"),
        (["validate", "good.json", "--frob"], "--frob"),
        (["validate", "good.json", "--junit", "/nowhere/x.xml"], "/nowhere"),
        (["validate", "good.json", "--node-name", "../x"], "--node-name"),
        (["validate", "good.json", "--out", "nowhere"], "--out"),
        (["baseline", "build", "good.json", "other.json"], "not of one class"),
        (["baseline", "build"], "FILE"),
        (["baseline", "build", "good.json", "copy.json"], "good.json and copy.json hold the same measurement"),
        (["validate", "meh.json", "--baseline", "good.json", "--baseline", "good.json"], "give it once"),
        (["validate", "good.json", "--spec", ""], "is a variable unset"),
        (["validate", "good.json", "--spec="], "is a variable unset"),
        (["validate", ""], "is a variable unset"),
    ],
)
def test_errors_are_one_line(words: list[str], said: str, files: Path) -> None:
    done = call(*words, cwd=files)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout


def test_all_outputs_of_one_run(files: Path, tmp_path: Path) -> None:
    where = [str(tmp_path / name) for name in ("j.xml", "o.prom", "m.md")]
    done = call(
        "validate", "bad.json", "--spec", "good.toml", "--json", "--node-name", "n7", "--out", str(tmp_path),
        "--junit", where[0], "--openmetrics", where[1], "--markdown", where[2], cwd=files,
    )  # fmt: skip
    assert done.returncode == 1
    assert json.loads(done.stdout)["verdict"] == "FAIL"
    assert json.loads(done.stdout)["command"].startswith("numabench validate bad.json --spec good.toml --json")
    assert f'value="{json.loads(done.stdout)["command"]}"' in Path(where[0]).read_text()
    assert "- command: numabench validate bad.json" in Path(where[2]).read_text()
    assert json.loads(done.stdout)["reason"].startswith(
        "FACT_MISMATCH mem_total_gib_per_node: [64.0, 56.0, 64.0, 64.0]"
    )
    assert json.loads((tmp_path / "n7.json").read_text()) == json.loads(done.stdout)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["j.xml", "m.md", "n7.json", "o.prom"]


def test_the_table_names_what_failed_first_and_the_cause(files: Path) -> None:
    done = call("validate", "bad.json", "--spec", "good.toml", cwd=files, GITHUB_ACTIONS="true")
    lines = done.stdout.splitlines()
    assert lines[2].startswith("FAIL")
    assert "bw.read.local[node1]" in done.stdout
    assert "Probable cause 1: memory channel missing" in done.stdout
    assert "::error title=h1 " in done.stdout


def test_write_spec_to_stdout(files: Path) -> None:
    done = call("validate", "good.json", "--write-spec", "-", cwd=files)
    assert done.returncode == 0
    assert done.stdout == (files / "good.toml").read_text()


def test_a_specification_from_a_busy_machine_says_so(files: Path, tmp_path: Path) -> None:
    records.save(made(flags=("contended",)), tmp_path / "busy.json")
    done = call("validate", "busy.json", "--write-spec", "-", cwd=tmp_path)
    assert done.returncode == 0
    assert "\n# DOUBTFUL: in 32 of 32 cases: " in done.stdout
    assert done.stderr.startswith("doubtful: in 32 of 32 cases: ")
    assert "DOUBTFUL" not in (files / "good.toml").read_text()


def test_baseline_of_a_class(files: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.json"
    assert call("baseline", "build", "good.json", "-o", str(target), cwd=files).returncode == 0
    assert call("validate", "bad.json", "--baseline", str(target), cwd=files).returncode == 1


def test_verdict_of_a_stored_result(files: Path, tmp_path: Path) -> None:
    call("validate", "bad.json", "--spec", "good.toml", "--node-name", "n7", "--out", str(tmp_path), cwd=files)
    call("validate", "good.json", "--spec", "good.toml", "--node-name", "n8", "--out", str(tmp_path), cwd=files)
    cases = [
        (["n7.json", "--max-age", "100000d"], 1, "FAILED n7"),
        (["n8.json", "--max-age", "100000d"], 0, "OK n8"),
        (["n8.json", "--max-age", "1s"], 2, "UNKNOWN n8"),
        (["none.json"], 2, "UNKNOWN"),
    ]
    (tmp_path / "cut.json").write_bytes((tmp_path / "n7.json").read_bytes()[:500])
    for words, code, said in [*cases, (["cut.json"], 2, "UNKNOWN")]:
        started = time.monotonic()
        done = call("verdict", *words, cwd=tmp_path)
        assert time.monotonic() - started < 30
        assert (done.returncode, len(done.stdout.splitlines())) == (code, 1), done
        assert said in done.stdout
        assert len(done.stdout.strip()) <= 80
