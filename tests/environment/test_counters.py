# SPDX-License-Identifier: Apache-2.0
"""Counters: the kernel's own read for real, a CPU's by a made-up opener on the same path, and what is refused."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from numabench import _core
from numabench.analysis.diagnosis import Counter
from numabench.counters import EVENTS, Counters, Event, events, unseen
from numabench.errors import Unsupported
from numabench.reports.verdicts import counted

SOFTWARE = [event for event in EVENTS if event.type == 1]
SPIN = "import time; t = time.process_time()\nwhile time.process_time() - t < 0.2: pass"
FAULTS = "b = bytearray(64 << 20)"


def allowed() -> bool:
    return not _core.try_call("perf_software")


def by_name(found: tuple[Counter, ...]) -> dict[str, Counter]:
    return {counter.name: counter for counter in found}


@pytest.fixture
def counting() -> Iterator[Counters]:
    made = Counters(SOFTWARE)
    yield made
    made.close()
    made.close()


@pytest.mark.skipif(not allowed(), reason="perf_event_open is refused here")
def test_a_command_is_counted_from_its_exec_with_its_children(counting: Counters) -> None:
    counting.add(threading.get_native_id(), from_exec=True)
    children = f"import subprocess, sys; [subprocess.run([sys.executable, '-S', '-E', '-c', {SPIN!r}]) for _ in '12']"
    subprocess.run([sys.executable, "-S", "-E", "-c", children], check=True)
    sum(range(3_000_000))  # of this process nothing is counted
    seen = by_name(counting.read())
    assert 0.4 < (seen["task-clock"].value or 0) * 1e-9 < 0.4 + 0.6, "two children of 0.2 s, three interpreters' starts"
    assert seen["task-clock"].counted == 1.0


@pytest.mark.skipif(not allowed(), reason="perf_event_open is refused here")
def test_faults_of_a_process_that_runs_already(counting: Counters) -> None:
    code = f"import signal; signal.raise_signal(signal.SIGSTOP); {FAULTS}"
    with subprocess.Popen([sys.executable, "-S", "-E", "-c", code]) as process:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        counting.add(process.pid)
        os.kill(process.pid, signal.SIGCONT)
        process.wait()
        seen = by_name(counting.read())
    # Base pages take 16384 faults; huge ones at least 32.
    assert 32 <= (seen["page-faults"].value or 0) < 20_000


def opened_as(answers: dict[str, tuple[int, int, int] | str]) -> Counters:
    """Counters whose descriptors hold what a CPU's would: value, time enabled, time running."""
    names = {(event.type, event.config): event.name for event in EVENTS}

    def made(tid: int, kind: int, config: int, kernel: bool, from_exec: bool) -> int:
        del tid, kernel, from_exec
        answer = answers.get(names[kind, config], "ENOENT - no such counter")
        if isinstance(answer, str):
            raise Unsupported(f"perf_event_open({kind}, {config:#x}): {answer}", getattr(errno, answer.split()[0]))
        out, into = os.pipe()
        os.write(into, struct.pack("QQQ", *answer))
        os.close(into)
        return out

    return Counters(EVENTS, made)


def test_values_are_summed_over_threads_and_scaled_to_all_of_the_time() -> None:
    found = opened_as({"cycles": (1000, 50, 50), "instructions": (100, 80, 20), "node-loads": (7, 90, 0)})
    for tid in (os.getpid(), os.getpid()):
        found.add(tid)
    seen = by_name(found.read())
    found.close()
    assert (seen["cycles"].value, seen["cycles"].counted) == (2000, 1.0)
    assert (seen["instructions"].value, seen["instructions"].counted) == (800, 0.25)
    assert (seen["node-loads"].value, seen["node-loads"].reason) == (None, "all counters of the CPU were taken")
    assert "ENOENT" in seen["dTLB-load-misses"].reason
    assert any(line == "node-loads (all counters of the CPU were taken)" for line in unseen(seen.values()))


def test_counts_in_words_with_what_they_come_to() -> None:
    answers: dict[str, tuple[int, int, int] | str] = {
        "task-clock": (2_500_000_000, 9, 9),
        "cycles": (8_000_000_000, 10, 10),
        "instructions": (4_000_000_000, 10, 5),
        "LLC-load-misses": (16_000_000, 10, 10),
        "dTLB-load-misses": (4_000_000, 10, 10),
        "node-loads": (12_000_000, 10, 10),
        "node-load-misses": (9_000_000, 10, 10),
    }
    found = opened_as(answers)
    found.add(os.getpid())
    text = " ".join(counted(found.read()))
    found.close()
    for said in (
        "task-clock 2.50 s",
        "cycles 8.00 G",
        "instructions 8.00 G",
        "1.00 instructions a cycle",
        "2.00 LLC-load-misses",
        "75% of its loads from memory went to another node",
        "instructions 50%",
    ):
        assert said in text


def test_a_refusal_is_told_and_a_thread_that_ended_is_none() -> None:
    found = opened_as({"cycles": "EACCES - Permission denied"})
    found.add(2**22 + 1)  # above the largest number of a thread
    assert all("no thread of it ran" in counter.reason for counter in found.read())
    found.add(os.getpid())
    said = unseen(found.read())[0]
    assert "EACCES; for its user sysctl kernel.perf_event_paranoid=1" in said
    assert "what bounds it" in said


def test_every_event_is_asked_for_once() -> None:
    wanted = events()
    assert len({event.name for event in wanted}) == len(wanted)
    assert len({(event.type, event.config) for event in wanted}) == len(wanted)
    assert all(isinstance(event, Event) for event in wanted)
