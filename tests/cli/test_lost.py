# SPDX-License-Identifier: Apache-2.0
"""What a system does to a run from outside: memory that is short, a disk that is full, a CPU that is taken away."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from numabench.backend import Hardware
from numabench.environment import Tree, cgroup_dirs
from numabench.errors import NumabenchError
from numabench.faults import Bench
from numabench.machine import Machine
from numabench.record import Journal
from numabench.series import FLAGS, Case, Options

MIB = 1 << 20
QUICK = ("run", "latency", "--profile", "quick", "--passes", "1", "--pages", "base")


@contextmanager
def group(controller: str, **limits: str) -> Iterator[Path]:
    """A control group below this process's own with these limits; skips where none can be made."""
    version, dirs = cgroup_dirs(Tree(), controller)
    if not dirs:
        pytest.skip(f"no control group of {controller} is to be seen")
    made = Path("/", dirs[0], f"numabench-test-{os.getpid()}")
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made in {made.parent}: {error.strerror}")
    try:
        for name, value in limits.items():
            try:
                (made / name.replace("__", ".")).write_text(value)
            except OSError as error:
                pytest.skip(f"{made / name}: {error.strerror} (version {version})")
        yield made
    finally:
        for _ in range(100):
            with suppress(OSError):
                made.rmdir()
                break
            time.sleep(0.02)


def inside(where: Path, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``numabench`` with all its memory charged to a control group."""
    shell = f'echo $$ > {where}/cgroup.procs && exec "$0" -m numabench "$@"'
    argv = ["sh", "-c", shell, sys.executable, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, cwd=cwd)


def memory_limit(size: int) -> dict[str, str]:
    version, _ = cgroup_dirs(Tree(), "memory")
    return {"memory__max" if version == 2 else "memory__limit_in_bytes": str(size)}


def test_memory_that_the_limit_does_not_leave_is_refused_before_the_killer_comes(tmp_path: Path) -> None:
    with group("memory", **memory_limit(400 * MIB)) as where:
        done = inside(where, *QUICK, "--size", "1GiB", cwd=tmp_path)
    assert done.returncode == 2, done
    assert "free" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_run_fits_itself_into_the_limit(tmp_path: Path) -> None:
    with group("memory", **memory_limit(700 * MIB)) as where:
        done = inside(where, *QUICK, "--json", cwd=tmp_path)
    assert done.returncode == 0, done  # not -9
    assert '"cache_suspect"' in done.stdout


LOWERED = """
import sys
from pathlib import Path
from rich.console import Console
from numabench import session
from numabench.reports import terminal
from numabench.series import Options

def told(progress):
    if progress.done == 2:
        Path(sys.argv[1]).write_text(sys.argv[2])

options = Options(profile="quick", bytes=256 << 20, passes=4, pages="base")
terminal.show(session.run(["latency"], options, progress=told), Console(width=200))
"""


def test_a_limit_lowered_in_the_midst_ends_the_case_in_words() -> None:
    """Between two passes the buffer is gone, and the limit can be lowered to less than the next one needs."""
    (name,) = memory_limit(0)
    with group("memory", **memory_limit(700 * MIB)) as where:
        limit = str(where / name.replace("__", "."))
        shell = f'echo $$ > {where}/cgroup.procs && exec "$0" -c "$@"'
        argv = ["sh", "-c", shell, sys.executable, LOWERED, limit, str(200 * MIB)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done
    assert re.search(r"ended after 2 passes: 256 MiB on node \d+: only [\d.]+ MiB are free", done.stdout), done
    assert FLAGS["cut_short"] in done.stdout


def test_a_full_disk_ends_in_one_line_and_keeps_what_was_taken(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting a small file system needs CAP_SYS_ADMIN: {mounted.stderr.strip()}")
    try:
        words = ("run", "latency", "--profile", "quick", "--size", "8MiB", "-o", "x.json")
        argv = [sys.executable, "-m", "numabench", *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, cwd=disk)
        assert done.returncode == 2, done
        assert "No space left on device" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        _, kept = Journal.read(disk / "x.json.journal")
        assert sum(map(len, kept.values())) >= 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def case_on(machine: Machine, cpu: int) -> Case:
    with Bench(machine) as bench:
        return bench.case(cpu=cpu)


def test_a_cpu_taken_away_in_the_midst_is_noticed() -> None:
    """A cpuset that shrinks does to threads what a CPU taken offline does: the kernel moves them to another."""
    machine = Machine.load()
    if len(machine.allowed_cpus) < 2:
        pytest.skip("one CPU is allowed")
    first, last = machine.allowed_cpus[0], machine.allowed_cpus[-1]
    version, dirs = cgroup_dirs(Tree(), "cpuset")
    if version != 1 or not dirs:
        pytest.skip("needs a cpuset of version 1, which takes single threads")
    mems = Path("/", dirs[0], "cpuset.mems").read_text().strip()
    with group("cpuset", cpuset__cpus=str(first), cpuset__mems=mems) as where, Bench(machine) as bench:
        before = set(os.listdir("/proc/self/task"))
        bench.team((last,))
        workers = set(os.listdir("/proc/self/task")) - before

        def shrink() -> None:
            for worker in workers:
                (where / "tasks").write_text(worker)

        bench.once(shrink)
        sample = bench.ordinary(case_on(machine, last))
        assert "unpinned" in sample.flags
    assert not where.exists()


def test_a_cpu_that_is_gone_costs_its_case_only() -> None:
    """Pinning is refused in words, and the next case runs."""
    machine = Machine.load()
    with Hardware(machine, Options(profile="quick")) as hardware:
        with pytest.raises(NumabenchError, match="4000"):
            hardware.team((4000,))
        assert hardware.measure([case_on(machine, machine.allowed_cpus[0])], 0, 0, 1)
