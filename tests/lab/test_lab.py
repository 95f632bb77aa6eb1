# SPDX-License-Identifier: Apache-2.0
"""The lab itself: machines are what they are described as, and a command's fate always travels back."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .errors import BootError, Stuck, TimeLimit
from .guest import Facts, facts
from .machines import MACHINES
from .vm import PROJECT, boot

pytestmark = pytest.mark.lab

ONE_NODE = MACHINES["ONE_NODE"]
FAKE_NODES = 4


@pytest.fixture(scope="module", params=MACHINES)
def booted(request: pytest.FixtureRequest) -> tuple[str, Facts]:
    return request.param, facts(MACHINES[request.param])


def test_topology_is_as_described(booted: tuple[str, Facts]) -> None:
    name, seen = booted
    machine = MACHINES[name]
    nodes = range(len(machine.nodes))
    if name == "FAKE_NODES":
        # The kernel splits the memory; every part lists all CPUs of the node it is of.
        assert seen.nodes == seen.with_memory == list(range(FAKE_NODES))
        assert all(cpus == list(machine.cpus_of(0)) for cpus in seen.cpus.values())
        return
    assert seen.nodes == list(nodes)
    assert seen.with_memory == [node for node in nodes if machine.nodes[node].memory_mib]
    assert seen.with_cpus == [node for node in nodes if machine.nodes[node].cpus]
    assert seen.cpus == {node: list(machine.cpus_of(node)) for node in nodes}
    assert seen.distances == machine.slit()
    assert seen.packages == machine.packages


def test_settings_are_as_described(booted: tuple[str, Facts]) -> None:
    name, seen = booted
    assert seen.allowed == ([1] if name == "CPUSET" else seen.nodes if name == "FAKE_NODES" else seen.with_memory)
    assert seen.huge_pages == {node: 24 if (name, node) == ("HUGEPAGES", 1) else 0 for node in seen.nodes}
    assert seen.balancing == (1 if name == "BALANCING" else 0)
    assert ("avx" in seen.flags) == (name != "OLD_CPU")
    assert {"tsc", "sse4_2"} <= seen.flags
    assert seen.clock == "tsc"


def test_status_and_both_streams_travel() -> None:
    heard: list[str] = []
    result = boot(ONE_NODE, ["sh", "-c", "echo out; pwd; echo 'a b' >&2; exit 7"], stream=heard.append)
    assert (result.status, result.stdout, result.stderr) == (7, f"out\n{PROJECT}\n", "a b\n")
    assert sorted("".join(heard).splitlines()) == sorted(["out", str(PROJECT), "a b"])


def test_death_by_a_signal_is_a_status() -> None:
    assert boot(ONE_NODE, ["sh", "-c", "kill -SEGV $$"]).status == 128 + signal.SIGSEGV


def test_a_missing_command_is_a_status() -> None:
    assert boot(ONE_NODE, ["no-such-command"]).status == 127


def test_output_is_whole_and_binary_safe(tmp_path: Path) -> None:
    lines = 20_000
    result = boot(ONE_NODE, ["sh", "-c", f"seq {lines}; seq {lines} >&2; printf '\\377\\n'"], scratch=tmp_path)
    expected = "".join(f"{number}\n" for number in range(1, lines + 1))
    assert (result.stdout, result.stderr) == (expected + "\N{REPLACEMENT CHARACTER}\n", expected)


def test_scratch_is_shared_both_ways_and_nothing_else_is_written(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "given").write_text("from the host")
    script = f"[ $LAB_SCRATCH = {scratch} ] && cd {scratch} && cp given taken && touch {tmp_path}/outside"
    assert boot(ONE_NODE, ["sh", "-c", script], scratch=scratch).status == 0
    assert (scratch / "taken").read_text() == "from the host"
    assert not (tmp_path / "outside").exists()


def test_the_guest_runs_the_same_python_with_what_is_asked_for() -> None:
    program = "import os, sys; print(sys.executable, sys.prefix, os.environ['WORD'])"
    result = boot(ONE_NODE, [sys.executable, "-c", program], environment={"WORD": "it's"})
    assert result.stdout.split() == [sys.executable, sys.prefix, "it's"]


def _machines_of(scratch: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "qemu-system" in arguments and str(scratch) in arguments:
            found.append(process.name)
    return found


def test_the_time_limit_kills_and_keeps_what_was_written(tmp_path: Path) -> None:
    alive: list[list[str]] = []
    with pytest.raises(TimeLimit, match="ONE_NODE: killed after 20 s") as caught:
        boot(
            ONE_NODE,
            ["sh", "-c", "echo early; exec sleep 600"],
            timeout=20,
            scratch=tmp_path,
            stream=lambda _: alive.append(_machines_of(tmp_path)),
        )
    assert caught.value.stdout == "early\n"
    assert len(alive) == 1
    assert len(alive[0]) == 1
    assert _machines_of(tmp_path) == []


def test_a_machine_that_stands_still_is_killed_at_once_and_one_that_did_is_not(tmp_path: Path) -> None:
    says = "echo '<0>watchdog: BUG: soft lockup - CPU#1 stuck for {}s! [python:140]' > /dev/kmsg; echo said; sleep {}"
    with pytest.raises(Stuck, match="ONE_NODE: killed: its CPU 1 stood still for 143 s") as caught:
        boot(ONE_NODE, ["sh", "-c", says.format(143, 600)], timeout=100, scratch=tmp_path)
    assert caught.value.stdout == "said\n"
    assert _machines_of(tmp_path) == []
    assert boot(ONE_NODE, ["sh", "-c", says.format(26, 1)], timeout=100).status == 0


def test_a_machine_that_stood_still_once_is_booted_again(tmp_path: Path) -> None:
    says = "echo '<0>watchdog: BUG: soft lockup - CPU#1 stuck for 143s! [python:140]' > /dev/kmsg; sleep 600"
    once = f"[ -e $LAB_SCRATCH/again ] && exit 7; touch $LAB_SCRATCH/again; {says}"
    assert boot(ONE_NODE, ["sh", "-c", once], timeout=100, scratch=tmp_path).status == 7


def test_no_machine_outlives_its_starter(tmp_path: Path) -> None:
    program = f"from pathlib import Path; from tests.lab import MACHINES, boot; boot(MACHINES['ONE_NODE'], \
['sleep', '600'], scratch=Path({str(tmp_path)!r}))"
    with subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT) as starter:
        try:
            _wait_until(lambda: bool(_machines_of(tmp_path)))
        finally:
            starter.kill()
    _wait_until(lambda: not _machines_of(tmp_path))


def _wait_until(condition: object, seconds: float = 20.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_kernel_that_finds_no_init_is_a_failure() -> None:
    broken = dataclasses.replace(ONE_NODE, kernel=("rdinit=/missing", "root=/dev/missing"))
    with pytest.raises(BootError, match=r"(?s)no exit status came back.*Kernel panic"):
        boot(broken, ["true"])


def test_a_setup_step_that_fails_is_a_failure() -> None:
    broken = dataclasses.replace(ONE_NODE, setup=("true", "echo 1 > /proc/no/such/file"))
    with pytest.raises(BootError, match="ONE_NODE: failed: echo 1 > /proc/no/such/file"):
        boot(broken, ["true"])


def test_what_qemu_refuses_is_a_failure() -> None:
    with pytest.raises(BootError, match="unable to find CPU model"):
        boot(dataclasses.replace(ONE_NODE, cpu="no-such-cpu"), ["true"])


def test_run_returns_the_status_of_the_command() -> None:
    command = [sys.executable, "-m", "tests.lab", "run", "ONE_NODE", "--", "sh", "-c", "echo word; exit 5"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (5, "word\n")
