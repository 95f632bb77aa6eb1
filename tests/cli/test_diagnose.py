# SPDX-License-Identifier: Apache-2.0
"""diagnose as a person uses it: a quota that is spent; what is not seen; what is refused."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from numabench import diagnose
from numabench.analysis import compare, stats
from numabench.analysis.diagnosis import Facts, Thread
from numabench.commands import Arm, Block, Run
from numabench.diagnose import judged
from numabench.machine import Machine
from numabench.processes import Observer
from tests.cli import fails_in_one_line
from tests.fakes import many

WORK = "for _ in range(600): sum(range(100000))"
PYTHON = (sys.executable, "-S", "-E", "-c")


def call(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "numabench", "diagnose", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


# A barrier that spins, as many runtimes have: a thread without a CPU holds up all that spin for it.
TEAM = """
import mmap, os
team = int(os.environ.get("OMP_NUM_THREADS", 3 * len(os.sched_getaffinity(0))))
shared = mmap.mmap(-1, team)
for me in range(team):
    if not os.fork():
        for turn in range(1, 31):
            for _ in range(4):
                sum(range(100000 // team))
            shared[me] = turn
            while min(shared[:team]) < turn: pass
        os._exit(0)
for me in range(team): os.wait()
"""
HOP = """
import os
cpus = sorted(os.sched_getaffinity(0))
for n in range(15000):
    os.sched_setaffinity(0, {cpus[n % len(cpus)]})
    sum(range(1000))
"""


@pytest.fixture
def narrow() -> Iterator[Path]:
    """A cgroup with three tenths of a CPU; skipped where none can be made (the virtual machines always make one)."""
    root = Path("/sys/fs/cgroup")
    old = (root / "cpu/cpu.cfs_quota_us").exists() or (root / "cpu/cpu.shares").exists()
    group = (root / "cpu" if old else root) / f"numabench-test-{os.getpid()}"
    try:
        group.mkdir()
        if old:
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text("30000")
        else:
            (group / "cpu.max").write_text("30000 100000")
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"no cgroup can be made here: {error}")
    yield group
    group.rmdir()


def tried(cause: str, command: tuple[str, ...], within: tuple[str, ...]) -> dict[str, Any]:
    """What came of the change proposed for a cause, with all of numabench run ``within`` another command."""
    words = [*within, sys.executable, "-m", "numabench", "diagnose", "--json", "--", *command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    found = json.loads(done.stdout)
    assert done.returncode == 1, done.stderr + done.stdout
    of_it: list[dict[str, Any]] = [one for one in found["tried"] if one["cause"] == cause]
    seen = {finding["cause"] for finding in found["findings"]}
    if seen & {"contended", "stolen"} and (not of_it or "that comes first" in str(of_it[0].get("reason"))):
        pytest.skip("others have the CPUs, and that comes first")
    assert of_it, found
    first: dict[str, object] = of_it[0]
    return first


def test_a_quota_is_found_and_to_run_without_it_is_faster(narrow: Path) -> None:
    inside = ("sh", "-c", f'echo $$ > {narrow}/cgroup.procs; exec "$@"', "sh")
    found = tried("throttled", (*PYTHON, "for _ in range(200): sum(range(100000))"), inside)
    if found["outcome"] == "not tried":
        assert "no cgroup without a quota" in str(found["reason"])
    else:
        assert found["outcome"] == "proven", found


def helps(found: dict[str, object]) -> None:
    """The interval of what the change does to the time is below 1."""
    ci = found["ci"]
    assert found["outcome"] == "proven", found
    assert isinstance(ci, list)
    assert ci[1] < 1, found


def test_more_threads_than_cpus_are_found_and_fewer_are_faster() -> None:
    helps(tried("oversubscribed", (*PYTHON, TEAM), ()))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs to hop between")
def test_a_thread_that_hops_is_found_and_to_stay_is_faster() -> None:
    helps(tried("bouncing", (*PYTHON, HOP), ()))


# Threads that only stand in each other's way: n of them take n times as long as one. Half a second, so that the start
# of the interpreter stays below the twentieth of the time from which a thread counts as busy.
TOO_MANY = """
import os, time
team = int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))
for me in range(team):
    if not os.fork():
        while time.process_time() < 0.5 * team: pass
        os._exit(0)
for me in range(team): os.wait()
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs for two threads")
def test_a_program_that_is_faster_with_half_of_its_threads_is_healthy_but_bound_by_them() -> None:
    words = [sys.executable, "-m", "numabench", "diagnose", "--json", "--", *PYTHON, TOO_MANY]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    found = json.loads(done.stdout)
    if found["findings"]:  # others have the CPUs: then nothing else is tried or judged
        assert (done.returncode, found["bounds"]) == (1, [])
        assert "comes first" in found["halved"]["reason"]
        return
    assert done.returncode == 0, "a bound is no fault"
    assert found["halved"]["outcome"] == "faster", found["halved"]
    assert [(b["cause"], b["proven"]) for b in found["bounds"]] == [("synchronisation", True)]


def calm(threads: int) -> Facts:
    run = tuple(Thread(tid=n, name="t", run_s=1.0, wait_s=0.0, cpus={n % 2: 9}, migrations=0) for n in range(threads))
    return Facts(seconds=1.0, threads=run, allowed=(0, 1), run_by_node={0: 1.0 * threads}, anonymous={}, files={})


class Ran:
    """Stands for the runner: walls of the command as it is and with half of its threads."""

    def __init__(self, whole: float, half: float) -> None:
        self.walls = (whole, half)

    def blocks(self, arms: Sequence[Arm], most: int, warm: bool) -> Iterator[Block]:
        assert not warm
        for number in range(most):
            walls = [wall * (1 + 0.001 * (-1) ** number) for wall in self.walls]
            yield Block(number=number, runs={a.name: ran(wall) for a, wall in zip(arms, walls, strict=True)})


def ran(wall_s: float) -> Run:
    return Run(arm="", block=0, position=0, wall_s=wall_s, user_s=1, system_s=0, peak_bytes=1, value=wall_s)


@pytest.mark.parametrize(
    ("once", "left", "blocks", "outcome", "said"),
    [
        (1.9, 2, None, "slower", ""),
        (0.6, 4, None, "not tried", "follows neither"),
        (None, 2, None, "not tried", "did not end"),
        (1.1, 2, (1.0, 0.8), "faster", ""),
        (0.9, 2, (1.0, 1.5), "slower", ""),
        (1.1, 2, (1.0, 1.001), "as fast", ""),
    ],
)
def test_half_of_the_threads_once_then_in_blocks(
    monkeypatch: pytest.MonkeyPatch,
    once: float | None,
    left: int,
    blocks: tuple[float, float] | None,
    outcome: str,
    said: str,
) -> None:
    def observed(runner: Any, changed: Arm, *rest: object) -> tuple[Facts, Run | None]:
        assert changed.variables["OMP_NUM_THREADS"] == "2"
        assert len(changed.cpus) == 1, "half of the two CPUs it used"
        return calm(left), None if once is None else ran(once)

    monkeypatch.setattr(diagnose, "_observed", observed)
    runner: Any = Ran(*blocks) if blocks else None
    machine = many(nodes=1, packages=1)
    found = diagnose._halve(runner, Arm(name="a", command=("x",)), calm(4), 1.0, machine, 1.0, 6, None)
    assert found.outcome == outcome, found
    assert said in found.reason
    if blocks:
        assert found.ci is not None
        assert found.ratio == pytest.approx(blocks[1] / blocks[0])


def change(*logs: float) -> compare.Change:
    return compare.judge([stats.ratio([math.exp(x) for x in logs], [1.0] * len(logs))], ["low"])[0]


def test_a_try_proves_takes_back_or_leaves_open() -> None:
    assert judged(change(-0.2, -0.21, -0.19, -0.22, -0.2, -0.18))[0] == "proven"
    assert judged(change(0.2, 0.21, 0.19, 0.22, 0.2, 0.18))[0] == "withdrawn"
    assert judged(change(0.001, -0.001, 0.002, -0.002, 0.003, -0.003))[0] == "withdrawn"
    assert judged(change(0.5, -0.6, 0.7, -0.4, 0.3, -0.5))[0] == "undecided"


def test_looking_says_what_it_saw_and_what_not() -> None:
    done = call("--no-try", "--", *PYTHON, WORK)
    assert done.returncode in (0, 1), done.stderr
    assert "node 0" in done.stdout
    assert "Not seen" in done.stdout
    assert "what bounds it" in done.stdout or "instructions a cycle" in done.stdout
    assert "task-clock" in done.stdout, "counted, or why not"
    if done.returncode == 0:
        assert "Healthy" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become two other users")
def test_another_users_process_is_seen_without_privileges_but_for_its_pages() -> None:
    stranger: list[str] = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"]
    with subprocess.Popen([*stranger, *PYTHON, "while True: sum(range(10000))"]) as other:
        try:
            words = ["-m", "numabench", "diagnose", "--pid", str(other.pid), "--seconds", "1s", "--json"]
            stranger[2] = "54321"
            done = subprocess.run([*stranger, sys.executable, *words], capture_output=True, text=True, check=False)
        finally:
            other.kill()
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)
    assert found["facts"]["threads"][0]["run_s"] > 0
    assert found["facts"]["anonymous"] == {}
    assert "CAP_SYS_PTRACE" in found["facts"]["unseen"][0]


def test_a_process_of_someone_else_is_only_looked_at() -> None:
    with subprocess.Popen([*PYTHON, "while True: sum(range(10000))"]) as other:
        try:
            done = call("--pid", str(other.pid), "--seconds", "1s", "--json")
        finally:
            other.kill()
    found = json.loads(done.stdout)
    assert found["facts"]["run_by_node"]
    assert all(t["outcome"] == "not tried" and "not ours" in t["reason"] for t in found["tried"])


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    task = tmp_path / "proc/77/task/77"
    task.mkdir(parents=True)
    observer = Observer(77, Machine.load(), str(tmp_path))
    for ticks in (0, 50):
        words = ["S", *["0"] * 10, str(ticks), *["0"] * 24, "1", "0"]
        (task / "stat").write_text(f"77 (a (b) c) {' '.join(words)}")
        assert observer.step()
    facts = observer.facts()
    assert facts.threads[0].name == "a (b) c"
    assert facts.threads[0].run_s == pytest.approx(50 / os.sysconf("SC_CLK_TCK"))
    assert facts.threads[0].cpus == {1: 1}
    text = " ".join(facts.unseen)
    for word in ("CAP_SYS_PTRACE", "sched)", "schedstat", "cgroup", "balancing", "counters"):
        assert word in text


def test_pages_are_those_of_its_work_not_of_its_start_or_end(tmp_path: Path) -> None:
    task = tmp_path / "proc/77/task/77"
    task.mkdir(parents=True)
    observer = Observer(77, Machine.load(), str(tmp_path))
    looks = ((100, 0, 10), (200, 64, 10), (900, 256, 8000), (990, 256, 8000), (1000, 0, 20))
    for ticks, file, own in looks:
        words = ["S", *["0"] * 10, str(ticks), *["0"] * 24, "1", "0"]
        (task / "stat").write_text(f"77 (a) {' '.join(words)}")
        lines = [f"7f00 bind:1 anon={own} dirty={own} N1={own} kernelpagesize_kB=4"]
        lines += [f"7f10 default file=/a\\040model mapped={file} N0={file} kernelpagesize_kB=4"] if file else []
        (task.parent.parent / "numa_maps").write_text("\n".join(lines))
        observer._maps_due = 0.0
        assert observer.step()
    facts = observer.facts()
    assert facts.anonymous == {1: 8000 * 4096}
    assert facts.files == {"/a model": {0: 256 * 4096}}
    tick = os.sysconf("SC_CLK_TCK")
    assert facts.user_s == pytest.approx(900 / tick), "from the first look on"
    assert facts.since_s[""] == pytest.approx(800 / tick), "they came between the second look and the third"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "--pid"),
        (["--pid", "1", "--", "true"], 2, "--pid"),
        (["--pid", "999999999"], 3, "no such process"),
        (["--seconds", "x", "--pid", "1"], 2, "positive"),
        (["--", "/no/such"], 2, "cannot run /no/such"),
        (["--", "false"], 3, "status 1"),
        (["--", "true"], 3, "nothing can be said"),
        (["--", "sleep", "0.5"], 3, "did not use the CPU"),
    ],
)
def test_errors_are_one_line(words: list[str], code: int, said: str) -> None:
    fails_in_one_line(call(*words), code, said)
