# SPDX-License-Identifier: Apache-2.0
"""What the doctor says of made-up trees in which one thing is wrong, and that it fits a terminal of 80 columns."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from numabench import settings
from numabench.doctor import cores, looked_up
from numabench.environment import Tree, snapshot
from numabench.machine import Machine
from numabench.settings import Finding
from tests.environment.test_environment import CGROUP2, meminfo, tree
from tests.fakes import two_nodes

CPU = "sys/devices/system/cpu"
GIB = 1 << 20  # in KiB, as meminfo counts
QUIET = {
    "proc/pressure/cpu": "some avg10=0.10 avg60=9.00 avg300=9.00 total=5\nfull avg10=0.00 total=0",
    "proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=5",
    "proc/pressure/io": "some avg10=0.00 avg60=0.00 avg300=0.00 total=5",
    "proc/loadavg": "0.60 0.50 0.40 1/99 7",
    "proc/stat": "cpu  1000 0 100 8000 10 0 0 5 0 0\ncpu0 1 0 0 0 0 0 0 0 0 0",
    "proc/cpuinfo": "processor\t: 0\nvendor_id\t: GenuineIntel",
    "proc/sys/kernel/numa_balancing": "0",
    "proc/sys/vm/zone_reclaim_mode": "0",
    f"{CPU}/intel_pstate/no_turbo": "1",
    f"{CPU}/cpufreq/boost": "0",
    f"{CPU}/smt/control": "off",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
    "sys/kernel/mm/numa/demotion_enabled": "false",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
    "sys/devices/system/node/online": "0-1",
    "proc/meminfo": "MemAvailable: 99999999 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB",
    "sys/devices/system/edac/mc/mc0/ce_count": "0",
    "sys/devices/system/edac/mc/mc0/ue_count": "0",
    **meminfo(0, MemFree=40 * GIB),
    **meminfo(1, MemFree=40 * GIB),
}


@pytest.fixture(scope="module")
def machine() -> Machine:
    return two_nodes()


def looked(root: Path, machine: Machine, **changes: str) -> dict[str, Finding]:
    """Findings by name for a quiet machine with some files changed (``__`` stands for a slash)."""
    files = QUIET | {name.replace("__", "/"): text for name, text in changes.items()}
    tree(root, files)
    return {f.name: f for f in looked_up(machine, snapshot(machine, root), Tree(root))}


def test_a_quiet_machine_raises_nothing(tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_CPU_AFFINITY", raising=False)
    found = looked(tmp_path, machine)
    of_this_process = {"kernel version", "libnuma version", "hwloc version"}
    raised = {name: f for name, f in found.items() if f.state != "ok" and name not in of_this_process}
    assert raised == {}
    assert all(f.source for f in found.values())


@pytest.mark.parametrize(
    ("path", "text", "name", "state", "seen", "remedy"),
    [
        ("proc__pressure__cpu", "some avg10=7.50 avg60=0", "pressure on CPUs", "warning", "7.50 %", "ps "),
        ("proc__pressure__memory", "some avg10=3.00 avg60=0", "pressure on memory", "warning", "3.00 %", "ps "),
        ("proc__pressure__io", "some avg10=3.00 avg60=0", "pressure on disks", "note", "3.00 %", "ps "),
        ("proc__loadavg", "3.10 0 0 1/9 7", "load", "warning", "3.10 tasks", "ps "),
        ("proc__stat", "cpu  900 0 0 0 0 0 0 100 0 0", "steal", "warning", "10.00 %", "host"),
        (f"{CPU}/intel_pstate/no_turbo", "0", "turbo (Intel)", "note", "0", "no_turbo"),
        (f"{CPU}/cpufreq/boost", "1", "turbo (boost)", "note", "1", "boost"),
        (f"{CPU}/smt/control", "on", "SMT", "note", "on", "smt/control"),
        ("proc__sys__vm__zone_reclaim_mode", "1", "zone reclaim", "note", "1", "sysctl"),
        ("sys/devices/system/edac/mc/mc0/ue_count", "2", "memory errors", "warning", "2 uncorrected", "edac-util"),
        ("sys/devices/system/edac/mc/mc0/ce_count", "9", "memory errors", "note", "9 corrected", "edac-util"),
    ],
)
def test_one_thing_wrong_is_named_with_its_remedy(
    tmp_path: Path, machine: Machine, path: str, text: str, name: str, state: str, seen: str, remedy: str
) -> None:
    found = looked(tmp_path, machine, **{path: text})[name]
    assert found.state == state
    assert seen in found.seen
    assert remedy in found.remedy
    assert found.effect
    assert found.source.startswith("/")


def test_what_files_do_not_tell_is_said_and_no_alarm(tmp_path: Path, machine: Machine) -> None:
    found = {f.name: f for f in looked_up(machine, snapshot(machine, tmp_path), Tree(tmp_path))}
    for name in ("governor", "SMT", "steal", "memory errors", "pressure on CPUs"):
        assert (found[name].state, found[name].seen) == ("ok", settings.UNTOLD)
    assert found["memory of node 1"].state == "warning"


def test_memory_of_each_node_apart(tmp_path: Path, machine: Machine) -> None:
    tight = meminfo(1, MemFree=GIB // 2)
    found = looked(tmp_path, machine, **tight)
    assert found["memory of node 0"].state == "ok"
    assert found["memory of node 1"].state == "warning"
    assert "512 MiB free" in found["memory of node 1"].seen
    assert "--size" in found["memory of node 1"].remedy


def test_huge_pages_on_one_node_only(tmp_path: Path, machine: Machine) -> None:
    size = next(iter(sorted(machine.huge_pages)), None)
    if size is None:
        pytest.skip("this kernel has no huge pages")
    pools = {
        f"sys/devices/system/node/node{node}/hugepages/hugepages-{size >> 10}kB/free_hugepages": str(count)
        for node, count in ((0, 7), (1, 0))
    }
    found = looked(tmp_path, machine, **pools)
    assert found["huge pages of node 0"].state == "ok"
    assert "7 x " in found["huge pages of node 0"].seen
    assert found["huge pages of node 1"].state == "warning"
    assert f"node1/hugepages/hugepages-{size >> 10}kB/nr_hugepages" in found["huge pages of node 1"].remedy


def test_memory_limit_of_the_group(tmp_path: Path, machine: Machine) -> None:
    group = "sys/fs/cgroup/outer/inner"
    files = {**CGROUP2, f"{group}/memory.max": str(1 << 30), f"{group}/memory.current": "0"}
    found = looked(tmp_path, machine, **files)["memory limit"]
    assert found.state == "warning"
    assert "1 GiB" in found.seen
    assert "MemoryMax" in found.remedy


@pytest.mark.parametrize(
    ("vendor", "register", "value", "off"),
    [
        ("GenuineIntel", 0x1A4, 0b0000, ""),
        ("GenuineIntel", 0x1A4, 0b1001, "L2 stream, L1 IP"),
        ("AuthenticAMD", 0xC0000108, 0b100010, "L1 stride, L2 up/down"),
    ],
)
def test_prefetchers_that_are_switched_off(tmp_path: Path, vendor: str, register: int, value: int, off: str) -> None:
    path = tmp_path / "dev/cpu/0/msr"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:  # a sparse file: the register's number is the offset, as in the device
        file.seek(register)
        file.write(struct.pack("<Q", value))
    tree(tmp_path, {"proc/cpuinfo": f"vendor_id\t: {vendor}"})
    found = settings.prefetchers(Tree(tmp_path), False)
    assert found.state == ("warning" if off else "ok")
    assert off in found.seen


def test_prefetchers_that_cannot_be_read(tmp_path: Path) -> None:
    tree(tmp_path, {"proc/cpuinfo": "vendor_id\t: GenuineIntel"})
    assert "not readable" in settings.prefetchers(Tree(tmp_path), False).seen
    assert "modprobe msr" in settings.prefetchers(Tree(tmp_path), False).remedy
    assert "no known way" in settings.prefetchers(Tree(tmp_path / "none"), False).seen


def test_versions_with_traps() -> None:
    def state(kernel: str, libnuma: bool | None, hwloc: str) -> dict[str, str]:
        return {f.name.split()[0]: f.state for f in settings.versions(kernel, libnuma, hwloc)}

    assert state("5.10.0-28-amd64", False, "2.2.0") == {"kernel": "note", "libnuma": "note", "hwloc": "note"}
    assert state("6.12.1", True, "2.11.2") == {"kernel": "ok", "libnuma": "ok", "hwloc": "ok"}
    assert state("odd", None, "") == {"kernel": "ok", "libnuma": "ok", "hwloc": "ok"}
    old = next(iter(settings.versions("5.10.0", None, "")))
    assert "MADV_COLLAPSE" in old.effect
    assert "POPULATE" in old.effect


@pytest.mark.parametrize("columns", [80, 100])
def test_it_fits_the_terminal(columns: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "numabench", "doctor"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": str(columns)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    # A path is never broken, so that it can be copied: only lines of a single word may be longer.
    assert [line for line in lines if len(line) > columns and len(line.split()) > 1] == []
    assert any(line.startswith("ok ") for line in lines)
    assert "doctor --json" in lines[-1]


def test_threads_on_the_same_cores_are_told_by_the_cores_width() -> None:
    calm = cores({0: [6.0] * 9 + [2.9], 2: [5.9] * 10})
    assert calm
    assert (calm.state, calm.seen) == ("ok", "no other thread works on them")
    busy = cores({0: [6.0] * 10, 2: [3.1] * 5 + [5.9] * 5})
    assert busy
    assert (busy.state, busy.seen) == ("warning", "other threads worked on the core of CPU 2 for 50% of the time")
    assert busy.source == "10 probes a CPU: 3.1 to 6.0 instructions a cycle"
    assert cores({}) is None
