# SPDX-License-Identifier: Apache-2.0
"""Placements of a command: what is tried fits the machine, a planted winner is found, nothing is found in noise."""

from __future__ import annotations

import random
import shlex
import subprocess
import sys

import msgspec
import pytest

from numabench.commands import Block, Metric, Run, Runner
from numabench.launchers.tune import AS_IS, Placing, judge, placings, tune
from numabench.machine import Machine
from numabench.units import parse_numbers
from tests.machine import facts

HIGH = Metric.parse("rate (.*)", "high")


@pytest.mark.parametrize("name", ["32amd64-4s2n4c-cgroup2", "128arm-2pa2n8cluster4co", "2i386-2t-hugepagesizecount"])
def test_what_is_tried_fits_the_machine(name: str) -> None:
    machine = facts.machine(name)
    ways = placings(machine)
    assert ways[0].name == AS_IS
    assert len({way.name for way in ways}) == len(ways)
    for way in ways[1:]:
        cpus = parse_numbers(way.before[2], "list")
        assert set(cpus) <= set(machine.allowed_cpus)
        assert way.variables["OMP_NUM_THREADS"] == str(len(cpus))
        assert way.before[0] in ("numactl", "taskset")
    assert not any(word == "numactl" for way in placings(machine, numactl=False) for word in way.before)
    assert any("interleave" in " ".join(way.before) for way in ways) == (len(machine.initiators()) > 1)


def test_the_line_is_what_was_run() -> None:
    way = Placing(name="x", variables={"A": "b c"}, before=("taskset", "-c", "0"))
    assert way.line(["echo", "it's"]) == "A='b c' taskset -c 0 echo 'it'\"'\"'s'"
    assert shlex.split(way.line(["echo", "it's"]))[1:] == list(way.arm(["echo", "it's"]).command)


def blocks(values: dict[str, float], noise: float, count: int = 10, seed: int = 3) -> list[Block]:
    draw = random.Random(seed)

    def run(name: str, number: int) -> Run:
        value = values[name] * (1 + draw.gauss(0, noise))
        return Run(
            arm=name, block=number, position=0, wall_s=1.0, user_s=1.0, system_s=0.0, peak_bytes=1, value=value
        )  # fmt: skip

    return [Block(number=n, runs={name: run(name, n) for name in values}) for n in range(count)]


def test_a_planted_winner_is_found_and_noise_is_not() -> None:
    ways = [Placing(name=name) for name in ("good", "same", "bad")]
    values = {AS_IS: 100.0, "good": 110.0, "same": 100.0, "bad": 80.0}
    found = {r.name: r for r in judge(blocks(values, 0.01), ways, ["x"], HIGH)}
    assert found["good"].verdict == "better"
    assert found["good"].ci is not None
    assert found["good"].ci[0] <= 1.1 <= found["good"].ci[1]
    assert found["bad"].verdict == "worse"
    assert "no detectable change" in found["same"].verdict
    low = {r.name: r for r in judge(blocks(values, 0.01), ways, ["x"], Metric.parse("wall"))}
    assert low["bad"].verdict == "better"
    assert "too few" in judge(blocks(values, 0.01, count=3), ways, ["x"], HIGH)[0].verdict


def test_false_winners_are_rare() -> None:
    """Three equal placings: at least one is called better or worse in at most 5 % of runs, but for the noise of 400."""
    ways = [Placing(name=name) for name in "abc"]
    values = {AS_IS: 100.0, "a": 100.0, "b": 100.0, "c": 100.0}
    wrong = sum(
        any(r.verdict in ("better", "worse") for r in judge(blocks(values, 0.02, seed=seed), ways, ["x"], HIGH))
        for seed in range(400)
    )
    assert wrong / 400 <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_real_commands_are_run_where_they_should() -> None:
    """A command that prints how many CPUs it may use: one core is 'better' when few is."""
    machine = Machine.load()
    if len(machine.one_cpu_per_core(machine.allowed_cpus)) < 2:
        pytest.skip("one core: nothing to choose from")
    ways = [way for way in placings(machine, numactl=False) if way.name in (AS_IS, "one thread per core", "one core")]
    runner = Runner(Metric.parse(r"(\d+)", "low"), machine=machine)
    command = ["nproc"]
    results, first = tune(command, runner, ways, 6)
    assert first["one core"] == 1
    assert results[0].name == "one core"
    assert results[0].verdict == "better"
    assert results[0].line.startswith("OMP_NUM_THREADS=1")


def test_the_command_line() -> None:
    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "numabench", "tune", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)

    assert AS_IS in call("--dry-run", "--", "true").stdout
    done = call("--blocks", "2", "--json", "--", "sh", "-c", "exit 0")
    assert done.returncode == 0, done.stderr
    assert msgspec.json.decode(done.stdout)["results"]
    failed = call("--blocks", "2", "--", "sh", "-c", "exit 3")
    assert failed.returncode == 3
    assert "status 3" in failed.stderr
    assert call("--blocks", "2", "--metric", "rate", "--", "true").returncode == 2
    assert call("--", "/no/such/program").returncode == 2
    assert call().returncode == 2


def test_an_unknown_option_is_not_taken_for_the_command() -> None:
    words = [sys.executable, "-m", "numabench", "tune", "--rounds", "3", "--", "true"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "tune has no option --rounds" in done.stderr
