# SPDX-License-Identifier: Apache-2.0
"""Fresh processes in blocks: order, figures, what is printed, what goes wrong, what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from numabench import environment
from numabench.commands import Arm, CommandFailed, Metric, Runner
from numabench.errors import Unsupported, UsageError

WALL = Metric.parse("wall")


def shell(name: str, script: str) -> Arm:
    return Arm(name=name, command=("sh", "-c", script))


def python(name: str, code: str) -> Arm:
    return Arm(name=name, command=(sys.executable, "-S", "-c", code))


def test_every_block_has_every_arm_once_and_pairs_of_blocks_are_mirrored(tmp_path: Path) -> None:
    log = tmp_path / "log"
    arms = [shell(name, f"echo {name} >> {log}") for name in "abc"]
    blocks = list(Runner(WALL).blocks(arms, 6, seed=3))
    order = log.read_text().split()
    assert order[:3] == ["a", "b", "c"], "warm-ups"
    in_blocks = [order[at : at + 3] for at in range(3, 21, 3)]
    assert all(sorted(block) == ["a", "b", "c"] for block in in_blocks)
    assert all(in_blocks[i] == in_blocks[i + 1][::-1] for i in (0, 2, 4))
    assert [run.arm for block in blocks for run in block.runs.values()] == order[3:]
    assert [run.position for block in blocks for run in block.runs.values()] == list(range(3, 21))


def test_the_order_is_drawn_from_the_seed() -> None:
    arms = [shell("a", ":"), shell("b", ":")]
    firsts = Counter(
        next(iter(block.runs)) for seed in range(12) for block in Runner(WALL).blocks(arms, 1, seed, warm=False)
    )
    assert set(firsts) == {"a", "b"}


def test_figures_are_those_of_the_process() -> None:
    work = "import time; time.sleep(0.2); b = bytearray(b'x') * (96 << 20)"
    run = Runner(WALL).run(python("a", work))
    assert run.value == run.wall_s > 0.2
    assert run.user_s + run.system_s < run.wall_s
    assert run.peak_bytes > 96 << 20
    assert run.core_hz > 1e6


def test_a_number_is_found_in_what_is_printed() -> None:
    arm = shell("a", "echo rate: 1.5e3 GB/s; echo rate: 2e3 GB/s; echo rate 7 >&2")
    assert Runner(Metric.parse(r"rate: (\S+)", "high")).run(arm).value == 2000, "the last one, stdout first"
    assert Runner(Metric.parse(r"rate \d", "high")).run(arm).value == 7
    assert Runner(WALL, same=r"rate: \S+").run(arm).same == "rate: 2e3"
    with pytest.raises(CommandFailed, match="printed nothing that matches"):
        Runner(Metric.parse("speed", "high")).run(arm)
    with pytest.raises(CommandFailed, match="not one number"):
        Runner(Metric.parse("GB", "high")).run(arm)
    with pytest.raises(CommandFailed, match="only positive"):
        Runner(Metric.parse("x(.*)", "high")).run(shell("a", "echo x-3"))


@pytest.mark.parametrize(("text", "better"), [("ra(ce", None), ("rate (.*)", None)])
def test_a_metric_that_says_nothing_is_refused(text: str, better: None) -> None:
    with pytest.raises(UsageError, match="--metric"):
        Metric.parse(text, better)


def test_what_fails_says_so() -> None:
    runner = Runner(WALL, timeout_s=0.3)
    with pytest.raises(CommandFailed, match=r"a ended with status 3: sh -c .*\(no luck\)"):
        runner.run(shell("a", "echo no luck >&2; exit 3"))
    with pytest.raises(CommandFailed, match="signal SIGSEGV"):
        runner.run(shell("a", "kill -SEGV $$"))
    with pytest.raises(UsageError, match="cannot run /no/such: No such file"):
        runner.run(Arm(name="a", command=("/no/such",)))
    with pytest.raises(CommandFailed, match=r"longer than 0.3 s \(--timeout\)"):
        runner.run(shell("a", "sleep 60"))
    with pytest.raises(CommandFailed, match="cannot prepare sh on CPUs"):
        runner.run(Arm(name="a", command=("sh",), cpus=(1 << 15,)))
    assert Runner(WALL, allowed=(0, 3)).run(shell("a", "exit 3")).wall_s > 0


def test_a_peak_below_our_own_is_not_told() -> None:
    with pytest.raises(Unsupported, match="needs less than numabench itself"):
        Runner(Metric.parse("memory")).run(shell("a", ":"))


def test_an_arm_has_its_variables_and_its_cpus() -> None:
    def narrow() -> None:
        os.umask(0o27)

    cpu = Runner(WALL).machine.allowed_cpus[-1]
    arm = Arm(
        name="a",
        command=("sh", "-c", "grep Cpus_allowed_list /proc/self/status; echo word $WORD; umask"),
        variables={"WORD": "hello"},
        cpus=(cpu,),
        prepare=narrow,
    )
    assert Runner(WALL, same=r"list:\s+(\S+)").run(arm).same == str(cpu)
    assert Runner(WALL, same=r"word (\S+)").run(arm).same == "hello"
    assert Runner(WALL, same=r"^0\d+$").run(arm).same == "0027"


def test_interrupt_takes_the_whole_group_down(tmp_path: Path) -> None:
    where = tmp_path / "pid"
    arm = shell("a", f"sleep 60 & echo $! > {where}.new; mv {where}.new {where}; wait")

    def interrupt() -> None:
        while not where.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        Runner(WALL).run(arm)
    thread.join()
    child = int(where.read_text())
    end = time.monotonic() + 10
    while time.monotonic() < end and _runs(child):
        time.sleep(0.01)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_a_setting_that_changes_in_between_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(WALL)
    monkeypatch.setattr("numabench.commands.snapshot", lambda machine: environment.snapshot(machine) | {"thp": "odd"})
    (block,) = runner.blocks([shell("a", ":")], 1)
    assert {key: new for key, (_, new) in block.changed.items()} == {"thp": "odd"}
