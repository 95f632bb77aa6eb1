# SPDX-License-Identifier: Apache-2.0
"""Facts read from made-up trees, where every number is known, and from this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from numabench.disturbance import Watch
from numabench.environment import free_bytes, free_huge_pages, memory_left_bytes, snapshot
from numabench.machine import Machine
from numabench.settings import settings as judged

MIB = 1 << 20
CGROUP2 = {
    "proc/self/cgroup": "0::/outer/inner",
    "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
    "sys/fs/cgroup/cgroup.procs": "",
}
CGROUP1 = {
    "proc/self/cgroup": "9:name=systemd:/\n4:memory:/box\n3:cpu,cpuacct:/box\n0::/",
    "proc/self/mountinfo": (
        "31 23 0:28 / /cg/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "32 23 0:29 / /cg/memory rw - cgroup cgroup rw,memory\n"
        "33 23 0:30 / /cg/unified rw - cgroup2 cgroup2 rw"
    ),
}


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def meminfo(node: int, **kib: int) -> dict[str, str]:
    lines = [f"Node {node} {name.replace('_file', '(file)')}: {value:>10} kB" for name, value in kib.items()]
    return {f"sys/devices/system/node/node{node}/meminfo": "\n".join(lines)}


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine.load()


def test_free_bytes_counts_half_of_the_clean_cache(tmp_path: Path) -> None:
    files = meminfo(1, MemFree=1000, Active_file=300, Inactive_file=500, Dirty=100, Writeback=0)
    tree(tmp_path, files | {"sys/devices/system/node/online": "0-1", "proc/meminfo": "MemAvailable: 999999 kB"})
    assert free_bytes(1, tmp_path) == (1000 + 350) * 1024
    assert free_bytes(0, tmp_path) is None


def test_free_bytes_leaves_what_the_zones_keep_back(tmp_path: Path) -> None:
    zone = "Node {}, zone {:>8}\n  pages free     99\n        boost    0\n        low      {}\n        high     9"
    info = "\n".join(zone.format(*row) for row in ((0, "DMA", 7), (1, "DMA32", 4), (1, "Normal", 6), (1, "Movable", 0)))
    files = meminfo(0, MemFree=1000) | meminfo(1, MemFree=1000) | {"sys/devices/system/node/online": "0-1"}
    page = os.sysconf("SC_PAGESIZE")
    tree(tmp_path, files | {"proc/zoneinfo": info})
    assert free_bytes(1, tmp_path) == 1000 * 1024 - 10 * page
    assert free_bytes(0, tmp_path) == 1000 * 1024 - 7 * page


def test_free_bytes_of_the_only_node_may_exceed_what_the_node_counts(tmp_path: Path) -> None:
    only = {"sys/devices/system/node/online": "0", "proc/meminfo": "MemAvailable: 5000 kB"}
    tree(tmp_path, meminfo(0, MemFree=1000) | only)
    assert free_bytes(0, tmp_path) == 5000 * 1024


def test_free_bytes_never_exceeds_the_cgroup(tmp_path: Path) -> None:
    limits = {
        "sys/fs/cgroup/outer/memory.max": str(100 * MIB),
        "sys/fs/cgroup/outer/memory.current": str(60 * MIB),
        "sys/fs/cgroup/outer/memory.stat": f"anon 1\ninactive_file {10 * MIB}",
        "sys/fs/cgroup/outer/inner/memory.max": "max",
        "sys/fs/cgroup/outer/inner/memory.current": str(20 * MIB),
    }
    node = meminfo(0, MemFree=1 << 20) | {"sys/devices/system/node/online": "0-1"}
    tree(tmp_path, CGROUP2 | limits | node)
    assert memory_left_bytes(tmp_path) == 50 * MIB
    assert free_bytes(0, tmp_path) == 50 * MIB


def test_free_bytes_without_numa_in_the_kernel(tmp_path: Path) -> None:
    tree(tmp_path, {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB"})
    assert free_bytes(0, tmp_path) == 5000 * 1024
    assert free_bytes(1, tmp_path) is None
    limit = {"sys/fs/cgroup/outer/memory.max": str(2 * MIB), "sys/fs/cgroup/outer/memory.current": str(MIB)}
    tree(tmp_path, CGROUP2 | limit)
    assert free_bytes(0, tmp_path) == MIB


def test_memory_limit_of_version_1(tmp_path: Path) -> None:
    tree(
        tmp_path,
        CGROUP1
        | {
            "cg/memory/memory.limit_in_bytes": "9223372036854771712",  # no limit
            "cg/memory/box/memory.limit_in_bytes": str(64 * MIB),
            "cg/memory/box/memory.usage_in_bytes": str(40 * MIB),
            "cg/memory/box/memory.stat": f"total_inactive_file {16 * MIB}",
        },
    )
    assert memory_left_bytes(tmp_path) == 40 * MIB


def test_no_limit_is_none_and_not_zero(tmp_path: Path) -> None:
    assert memory_left_bytes(tmp_path) is None
    assert free_bytes(0, tmp_path) is None


def test_huge_pages_promised_to_others_are_not_free(tmp_path: Path) -> None:
    size = "hugepages-2048kB"
    tree(
        tmp_path,
        {
            f"sys/devices/system/node/node0/hugepages/{size}/free_hugepages": "8",
            f"sys/devices/system/node/node1/hugepages/{size}/free_hugepages": "0",
            f"sys/kernel/mm/hugepages/{size}/free_hugepages": "8",
            f"sys/kernel/mm/hugepages/{size}/resv_hugepages": "5",
        },
    )
    assert free_huge_pages(0, 2 * MIB, tmp_path) == 3
    assert free_huge_pages(1, 2 * MIB, tmp_path) == 0
    assert free_huge_pages(0, 1 << 30, tmp_path) is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"sys/fs/cgroup/outer/cpu.max": "max 100000"}, None),
        ({"sys/fs/cgroup/outer/cpu.max": "150000 100000", "sys/fs/cgroup/outer/inner/cpu.max": "max 100000"}, 1.5),
        ({"sys/fs/cgroup/outer/cpu.max": "400000 100000", "sys/fs/cgroup/outer/inner/cpu.max": "50000 100000"}, 0.5),
    ],
)
def test_quota_is_the_tightest(tmp_path: Path, machine: Machine, files: dict[str, str], expected: float | None) -> None:
    tree(tmp_path, CGROUP2 | files)
    assert snapshot(machine, tmp_path)["cpu_quota"] == expected


def test_quota_of_version_1(tmp_path: Path, machine: Machine) -> None:
    quota = {"cg/cpu,cpuacct/box/cpu.cfs_quota_us": "25000", "cg/cpu,cpuacct/box/cpu.cfs_period_us": "100000"}
    none = {"cg/cpu,cpuacct/cpu.cfs_quota_us": "-1", "cg/cpu,cpuacct/cpu.cfs_period_us": "100000"}
    tree(tmp_path, CGROUP1 | quota | none)
    assert snapshot(machine, tmp_path)["cpu_quota"] == 0.25


def test_quota_where_the_mount_shows_only_the_own_group(tmp_path: Path, machine: Machine) -> None:
    """A container that shares the host's cgroup namespace: the path is the host's, the mount is the container's."""
    tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/docker/abc",
            "proc/self/mountinfo": "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup ro",
            "sys/fs/cgroup/cpu.max": "200000 100000",
        },
    )
    assert snapshot(machine, tmp_path)["cpu_quota"] == 2.0


def settings(root: Path, machine: Machine) -> dict[str, str]:
    return {finding.name: finding.state for finding in judged(snapshot(machine, root))}


@pytest.mark.parametrize(
    ("path", "bad", "good", "name", "state"),
    [
        ("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", "powersave", "performance", "governor", "warning"),
        (
            "sys/kernel/mm/transparent_hugepage/enabled",
            "always madvise [never]",
            "always [madvise] never",
            "transparent huge pages",
            "warning",
        ),
        ("proc/sys/kernel/numa_balancing", "1", "0", "NUMA balancing", "note"),
        ("proc/sys/kernel/numa_balancing", "2", "0", "NUMA balancing", "note"),
        ("sys/kernel/mm/numa/demotion_enabled", "true", "false", "demotion", "warning"),
        ("proc/meminfo", "SwapTotal: 9 kB\nSwapFree: 8 kB", "SwapTotal: 9 kB\nSwapFree: 9 kB", "swap", "warning"),
        (
            "sys/devices/system/clocksource/clocksource0/current_clocksource",
            "hpet",
            "tsc",
            "clock source",
            "warning",
        ),
    ],
)
def test_setting_is_found_and_only_then(
    tmp_path: Path, machine: Machine, path: str, bad: str, good: str, name: str, state: str
) -> None:
    path = path.format(cpu=machine.allowed_cpus[0])
    assert settings(tree(tmp_path / "bad", {path: bad}), machine)[name] == state
    assert settings(tree(tmp_path / "good", {path: good}), machine)[name] == "ok"


def test_affinity_variable_of_openmp(tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_CPU_AFFINITY", raising=False)
    assert "GOMP_CPU_AFFINITY" not in settings(tmp_path, machine)
    monkeypatch.setenv("GOMP_CPU_AFFINITY", "0-3")
    assert settings(tmp_path, machine)["GOMP_CPU_AFFINITY"] == "warning"


def test_variables_kept_are_those_that_matter(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("SOME_TOKEN", "not for a record")
    kept = snapshot(machine, tmp_path)["variables"]
    assert kept["OMP_NUM_THREADS"] == "3"
    assert "SOME_TOKEN" not in kept


STAT = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 {0} 0 0 {1} 0 0 0 {2} 0 0\ncpu1 0 0 0 0 0 0 0 {3} 0 0\nintr 5\n"


def counters(root: Path, user: int, idle: int, steal: int, other: int, throttled: int, waited: int, moved: int) -> None:
    tree(
        root,
        CGROUP2
        | {
            "proc/stat": STAT.format(user, idle, steal, other),
            "sys/fs/cgroup/outer/inner/cpu.stat": f"nr_throttled {throttled}\nthrottled_usec {throttled * 7}",
            "proc/pressure/cpu": f"some avg10=0.00 avg60=0.00 avg300=0.00 total={waited}\nfull avg10=0.00 total=0",
            "proc/vmstat": f"numa_pages_migrated {moved}\npgdemote_kswapd {moved}\nthp_fault_alloc {moved}",
        },
    )


def test_watch_tells_what_changed_on_its_cpus_only(tmp_path: Path) -> None:
    counters(tmp_path, user=100, idle=50, steal=10, other=0, throttled=2, waited=1000, moved=4)
    watch = Watch((0,), tmp_path)
    watch.start()
    counters(tmp_path, user=170, idle=70, steal=20, other=10**6, throttled=5, waited=10**9, moved=6)
    seen = watch.stop()
    assert seen.steal_share == pytest.approx(10 / 100)
    assert (seen.throttled_count, seen.throttled_us) == (3, 21)
    assert seen.cpu_pressure_us == 10**9 - 1000
    assert seen.memory_pressure_us is None
    assert seen.moved == {"numa_pages_migrated": 2, "pgdemote_kswapd": 2}
    assert set(seen.flags) == {"throttled", "stolen", "contended", "migration_suspected"}


def test_watch_tells_when_a_sibling_works_or_the_cpuset_changes(tmp_path: Path) -> None:
    """CPU 1 is the second thread of CPU 0's core; one tick of 10 ms is no use to speak of."""

    def now(user: int, idle: int, nodes: str) -> None:
        rows = f"cpu 1 1 1 1 1 1 1 1 0 0\ncpu0 {idle} 0 0 5 0 0 0 0 0 0\ncpu1 {user} 0 0 {idle} 7 0 0 0 0 0\nintr 5\n"
        tree(tmp_path, {"proc/stat": rows, "proc/self/status": f"Name:\tx\nMems_allowed_list:\t{nodes}\nSeccomp:\t0"})

    seen = []
    for user, nodes in ((6, "0-1"), (1, "0-1"), (0, "1")):
        now(100, 100, "0-1")
        watch = Watch((0,), tmp_path, siblings=(1,))
        watch.start()
        now(100 + user, 140 - user, nodes)
        seen.append(watch.stop())
    assert [s.sibling_share for s in seen] == [pytest.approx(5 / 40), 0.0, 0.0]
    assert [set(s.flags) for s in seen] == [{"sibling_busy"}, set(), {"migration_suspected"}]
    assert seen[2].nodes_allowed == ("0-1", "1")


def test_watch_of_a_quiet_system_raises_no_flag(tmp_path: Path) -> None:
    counters(tmp_path, 100, 50, 10, 0, 2, 1000, 4)
    watch = Watch((0,), tmp_path)
    watch.start()
    counters(tmp_path, 1100, 50, 19, 500, 2, 1000, 4)  # 9 of 1009 ticks stolen: below one per cent
    seen = watch.stop()
    assert seen.flags == ()
    assert seen.throttled_us == 0


@pytest.mark.parametrize(
    ("runs", "waited_us", "flags"),
    [(100, 8000, ()), (100, 8000 + 10**6, ("contended",)), (1, 8000, ("contended",))],
    ids=["own", "others wait too", "one long wait is for others"],
)
def test_watch_does_not_take_its_own_waking_for_others_work(
    runs: int, waited_us: int, flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two that waited longest account for it: one that wakes and one that is woken, on a CPU of its own each."""
    monkeypatch.setattr("time.monotonic", iter((0.0, 0.5)).__next__)

    def now(waits_us: tuple[int, ...], runs: int, pressure_us: int) -> None:
        counters(tmp_path, 100, 50, 10, 0, 2, pressure_us, 4)
        tids = {f"proc/self/task/{at}/schedstat": f"7 {us * 1000} {runs}" for at, us in enumerate(waits_us)}
        tree(tmp_path, tids)

    now((10, 10, 10), 5, 1000)
    watch = Watch((0,), tmp_path)
    watch.start()
    now((3010, 5010, 5010), 5 + runs, 1000 + waited_us)
    seen = watch.stop()
    assert (seen.cpu_pressure_us, seen.own_wait_us) == (waited_us, min(10_000, 2 * 300 * runs))
    assert seen.flags == flags


def test_watch_without_files_knows_nothing_and_does_not_fail(tmp_path: Path) -> None:
    watch = Watch((0,), tmp_path)
    watch.start()
    seen = watch.stop()
    facts = (seen.steal_share, seen.throttled_count, seen.throttled_us, seen.cpu_pressure_us, seen.memory_pressure_us)
    assert (*facts, seen.own_wait_us) == (None,) * 6
    assert (seen.moved, seen.flags) == ({}, ())


def test_watch_stopped_without_a_start() -> None:
    with pytest.raises(ValueError, match="not started"):
        Watch((0,)).stop()


def test_snapshot_of_nothing_is_none_never_zero(tmp_path: Path, machine: Machine) -> None:
    found = snapshot(machine, tmp_path)
    own = {"kernel", "python", "variables", "free_bytes", "free_huge_pages"}
    told = {name: value for name, value in found.items() if name not in own and value is not None}
    assert told == {}
    assert set(found["free_bytes"].values()) == {None}


def test_snapshot_of_this_machine(machine: Machine) -> None:
    found = snapshot(machine)
    assert found["cpus_allowed"]
    assert set(found["free_bytes"]) == {str(node.id) for node in machine.nodes}
    for node in machine.targets():
        assert found["free_bytes"][str(node)] > 0
