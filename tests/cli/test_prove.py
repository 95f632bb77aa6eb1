# SPDX-License-Identifier: Apache-2.0
"""compare and ab as a person uses them: verdicts, exit codes, what is refused and why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from numabench import session
from numabench.changes import compare_records
from numabench.errors import UsageError
from numabench.record import Record, save
from numabench.reports import verdicts
from numabench.series import Options, Sample, Series
from tests.cli import fails_in_one_line
from tests.fakes import Fake, two_nodes

replace = msgspec.structs.replace


def call(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "numabench", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def made(seed: int = 0, slower: float = 1.0, experiment: str = "latency", flags: tuple[str, ...] = ()) -> Record:
    """A record of a machine with known figures; the samples of the pair (0, 1) are multiplied by ``slower``."""
    options = Options(profile="standard", seed=seed, passes=10)
    record = session.run([experiment], options, machine=two_nodes(), backend=Fake(flags=flags))

    def changed(series: Series) -> Series:
        if (series.case.initiator, series.case.target) != (0, 1):
            return series
        samples: list[Sample] = [replace(s, value=s.value * slower) for s in series.samples]
        return replace(series, samples=tuple(samples), estimate=(series.estimate or 0) * slower)

    created = f"2026-01-01T00:00:{seed:02}+00:00"
    return replace(record, created=created, series=tuple(map(changed, record.series)))


def files(folder: Path, *records: Record) -> list[str]:
    paths = [folder / f"{at}.json" for at in range(len(records))]
    for record, path in zip(records, paths, strict=True):
        save(record, path)
    return [str(path) for path in paths]


def test_a_slower_cell_is_worse_and_the_others_are_not(tmp_path: Path) -> None:
    base, new = files(tmp_path, made(1), made(2, slower=1.2))
    done = call("compare", base, new, "--json")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    worse = [cell for cell in found["cells"] if cell["change"]["verdict"] == "worse"]
    assert worse
    assert all("n0-n1" in cell["label"] for cell in worse)
    assert all(cell["change"]["ci"][0] < 1.2 < cell["change"]["ci"][1] for cell in worse)
    assert call("compare", new, base).returncode == 0, "better the other way round"
    text = call("compare", base, new).stdout
    assert text.startswith(f"{len(found['cells'])} cells: {len(worse)} worse")
    assert "found in 90% of comparisons" in text
    table = [line for line in call("compare", base, new, "--markdown").stdout.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(found["cells"])
    assert len({line.count("|") for line in table}) == 1


def test_no_change_is_no_verdict_against_anyone() -> None:
    found = compare_records([made(1)], [made(2)])
    assert found.judged == len(found.cells) > 4
    assert found.count("worse") + found.count("better") == 0


def test_another_machine_or_setting_is_said_and_may_be_meant(tmp_path: Path) -> None:
    base, new = made(1), made(2, slower=1.2)
    other = replace(
        new,
        machine=replace(new.machine, cpu_model="Other 9000"),
        environment=new.environment | {"numa_balancing": "1", "load": ["9"]},
    )
    base = replace(base, environment=base.environment | {"numa_balancing": "0"})
    paths = files(tmp_path, base, other)
    done = call("compare", *paths)
    assert done.returncode == 3
    assert done.stdout.startswith("Not comparable: cpu, numa_balancing differ")
    assert "Other 9000" in done.stdout
    assert "numa_balancing: 0 -> 1" in done.stdout
    assert "load" not in done.stdout
    assert call("compare", *paths, "--allow", "cpu").returncode == 3
    meant = call("compare", *paths, "--allow", "cpu", "--allow", "numa_balancing")
    assert meant.returncode == 1
    assert "deliberately different: numa_balancing: 0 -> 1" in meant.stdout
    assert "--allow weather: one of cpu" in call("compare", *paths, "--allow", "weather").stderr


def test_a_cell_of_another_size_or_not_to_be_trusted_is_left_out_with_the_reason() -> None:
    base, new = made(1), made(2)
    first = new.series[0]
    resized = replace(
        new, series=(replace(first, case=replace(first.case, bytes=first.case.bytes * 2)), *new.series[1:])
    )
    cell = compare_records([base], [resized]).cells[0]
    assert cell.change.verdict == "not comparable"
    assert cell.change.reasons[0].startswith("bytes: ")
    cells = compare_records([base], [made(3, flags=("throttled",))]).cells
    assert {cell.change.verdict for cell in cells} == {"not comparable"}
    assert "new: the cgroup's CPU quota" in cells[0].change.reasons[0]
    fewer = compare_records([base], [replace(new, series=new.series[1:])])
    assert len(fewer.only_base) == 1
    assert "only in base, not compared: " in "\n".join(verdicts.comparison(fewer))


def test_wrong_sets_are_refused() -> None:
    base = made(1)
    with pytest.raises(UsageError, match="given twice"):
        compare_records([base], [base])
    with pytest.raises(UsageError, match="one against one, or at least 6"):
        compare_records([base, made(2)], [made(3), made(4)])
    odd = made(2)
    odd = replace(odd, machine=replace(odd.machine, cpu_model="Other 9000"))
    with pytest.raises(UsageError, match=r"BASE: the records are not of one machine and setting, not merged \(cpu: "):
        compare_records([base, odd], [made(3), made(4)])


def test_sets_of_runs_count_runs() -> None:
    sides = [[made(10 * side + run, slower) for run in range(6)] for side, slower in ((1, 1.0), (2, 1.2))]
    found = compare_records(sides[0], sides[1])
    assert found.unit == "runs"
    assert {cell.change.n for cell in found.cells} == {6}
    assert found.count("worse") > 0
    assert all("n0-n1" in c.label for c in found.cells if c.change.verdict == "worse")


def test_ab_finds_a_slower_command_and_says_what_it_could_see() -> None:
    done = call("ab", "--a", "sleep 0.02", "--b", "sleep 0.06", "--blocks", "6", "--json", "--effect", "100%")
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["change"]["verdict"] == "worse"
    assert found["change"]["ratio"] > 1.5
    assert found["change"]["mde"] > 0
    assert [len(found[key]) for key in ("same", "blocks")] == [6, 6]
    assert found["commands"] == {"A": ["sleep", "0.02"], "B": ["sleep", "0.06"]}


COUNT = "sh -c 'echo rate: {} sum {}; true'"
RATE = ("--metric", r"rate: (\d+)", "--better", "high", "--blocks", "6")


def test_ab_by_a_figure_in_the_output() -> None:
    better = call("ab", "--a", COUNT.format(10, 7), "--b", COUNT.format(20, 7), *RATE, "--same", "sum .*")
    assert better.returncode == 0, better.stdout
    assert "Verdict: better" in better.stdout
    assert "2.000x [2.000, 2.000]" in better.stdout
    worse = call("ab", "--a", COUNT.format(20, 7), "--b", COUNT.format(10, 7), *RATE, "--markdown")
    assert worse.returncode == 1
    assert "**Verdict: worse**" in worse.stdout
    cheat = call("ab", "--a", COUNT.format(10, 7), "--b", COUNT.format(20, 8), *RATE, "--same", "sum .*")
    assert cheat.returncode == 3
    assert "did not do the same work: 'sum 7' and 'sum 8'" in cheat.stdout


def test_ab_gives_no_verdict_on_a_command_that_differs_from_itself() -> None:
    wild = "python3 -c 'import random; print(\"rate:\", random.randint(1, 1000))'"
    done = call("ab", "--a", wild, "--b", COUNT.format(1, 1), *RATE)
    assert done.returncode == 3
    assert "No verdict: the same command" in done.stdout
    assert "not run" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["ab", "--a", "true"], 2, "--aa"),
        (["ab", "--a", "true", "--b", "true", "--aa"], 2, "--aa"),
        (["ab", "--a", "'", "--b", "true"], 2, "--a"),
        (["ab", "--a", " ", "--b", "true"], 2, "empty command"),
        (["ab", "--a", "/no/such", "--b", "true"], 2, "cannot run /no/such"),
        (["ab", "--a", "true", "--b", "true", "--metric", "x"], 2, "--better"),
        (["ab", "--a", "true", "--b", "true", "--same", "("], 2, "--same"),
        (["ab", "--a", "true", "--b", "true", "--threshold", "x"], 2, "per cent"),
        (["ab", "--a", "true", "--b", "true", "--blocks", "2"], 2, "blocks"),
        (["ab", "--a", "false", "--b", "true"], 3, "ended with status 1"),
        (["ab", "--a", "sleep 9", "--b", "true", "--timeout", "100ms"], 3, "longer than"),
        (["compare", "/no/such.json"], 2, "BASE and NEW"),
        (["compare", "/no/such.json", "/no/other.json"], 2, "cannot read"),
    ],
)
def test_errors_are_one_line(words: list[str], code: int, said: str) -> None:
    fails_in_one_line(call(*words), code, said)


def test_interrupt_ends_the_trial_and_its_command() -> None:
    command = [sys.executable, "-m", "numabench", "ab", "--a", "sleep 98.7", "--b", "true"]
    # A signal that comes while coverage holds its lock leaves it locked for good.
    untraced = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    with subprocess.Popen(command, env=untraced, stderr=subprocess.PIPE, text=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not children.read_text():
            time.sleep(0.01)
        child = int(children.read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr
        assert process.stderr.read().count("interrupted") == 1
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
