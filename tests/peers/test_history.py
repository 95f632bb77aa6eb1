# SPDX-License-Identifier: Apache-2.0
"""A run against other programs is kept, and a later one says what has become worse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.peers.__main__ import main
from benchmarks.peers.duels import Duel
from benchmarks.peers.history import Report, last, worse


def duel(name: str, share: float, ci: tuple[float, float] | None) -> Duel:
    return Duel(
        name=name, who="avx2", rival="other", unit="GB/s", ours=share, theirs=1.0, share=share, ci=ci,
        spread=(0.01, 0.01), n=7,
    )  # fmt: skip


def report(taken: str, *duels: Duel, machine: str = "here") -> Report:
    return Report(taken=taken, machine=machine, duels=duels, missing=("mbw",))


def test_the_last_run_of_this_machine(tmp_path: Path) -> None:
    assert last(tmp_path / "none", "here") is None
    runs = [report(f"2026-01-0{day}T00:00:00+00:00", duel("read", day, (day, day + 0.1))) for day in (2, 1, 3)]
    for run in (*runs, report("2026-02-01T00:00:00+00:00", machine="there")):
        run.save(tmp_path)
    (tmp_path / "peers-9999.json").write_text("{")
    assert last(tmp_path, "here") == runs[2]
    assert last(tmp_path, "elsewhere") is None


def test_worse_is_beyond_both_intervals() -> None:
    before = report("a", duel("read", 1.0, (0.98, 1.02)), duel("copy", 1.0, (0.98, 1.02)), duel("add", 1.0, None))
    now = report(
        "b",
        duel("read", 0.95, (0.93, 0.97)),
        duel("copy", 0.97, (0.95, 0.99)),
        duel("add", 0.5, (0.4, 0.6)),
        duel("new", 0.1, (0.1, 0.1)),
    )
    assert worse(before, now) == ["read against other, 0.950x"]


@pytest.mark.parametrize(("words", "said"), [(["--match", "("], "'('"), (["--program", "mbw"], "NAME=PATH")])
def test_wrong_options(words: list[str], said: str) -> None:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert said in done.output


def test_missing_rivals_are_named(tmp_path: Path) -> None:
    absent = [word for name in ("multichase", "lat_mem_rd") for word in ("--program", f"{name}=/absent")]
    done = CliRunner().invoke(main, ["--only", "chase", "--keep", str(tmp_path), *absent])
    assert done.exit_code == 0
    assert "multichase is not here: build" in done.output
    assert "lat_mem_rd is not here" in done.output
    assert len(list(tmp_path.iterdir())) == 1


def test_a_library_that_is_not_there_is_named_and_rows_are_filtered(tmp_path: Path) -> None:
    absent = [word for name in ("blis", "mkl", "onednn") for word in ("--program", f"{name}=/absent.so")]
    done = CliRunner().invoke(main, ["--only", "gemm", "--match", "no such row", "--keep", str(tmp_path), *absent])
    assert done.exit_code == 0
    assert all(f"{name} is not here: " in done.output for name in ("blis", "mkl", "onednn"))
    assert "GFLOP/s" not in done.output


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_a_rival_says_that_its_result_is_right(kind: str) -> None:
    words = [sys.executable, "-m", "benchmarks.peers.blas", "numpy", "-", kind, "17", "33", "5"]
    done = subprocess.run(words, input="", capture_output=True, text=True, check=True)
    assert done.stdout == "right\n"
