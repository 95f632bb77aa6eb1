# SPDX-License-Identifier: Apache-2.0
"""Files of /proc and /sys with anything in them: what cannot be understood is not told, and nothing fails."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from numabench import settings as judged
from numabench.disturbance import Watch
from numabench.environment import Tree, free_bytes, free_huge_pages, memory_left_bytes, snapshot
from numabench.machine import Machine

MACHINE = Machine.load()
NODE, MM = "sys/devices/system/node", "sys/kernel/mm"
FILES = (
    "proc/self/cgroup", "proc/self/mountinfo", "proc/self/status", "proc/meminfo", "proc/stat", "proc/vmstat",
    "proc/loadavg", "proc/zoneinfo", "proc/pressure/cpu", "proc/pressure/memory", "proc/sys/kernel/numa_balancing",
    f"{NODE}/online", f"{NODE}/node0/meminfo", f"{NODE}/node0/hugepages/hugepages-2048kB/free_hugepages",
    f"{MM}/hugepages/hugepages-2048kB/free_hugepages", f"{MM}/hugepages/hugepages-2048kB/resv_hugepages",
    f"{MM}/transparent_hugepage/enabled", f"{MM}/transparent_hugepage/hugepages-64kB/enabled", "cg/cpu.max",
    "cg/cpu.stat", "cg/memory.max", "cg/memory.current", "cg/memory.stat",
)  # fmt: skip
WORDS = (
    "0::/", "4:memory:/", "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw", "some avg10=0.00 total=5", "some total=x", "max",
    "Node 0, zone   Normal", "        low      12", "Node 0 MemFree: 12 kB", "MemAvailable: 9 kB",
    "cpu0 1 2 3 4 5 6 7 8 9",
    "cpu0 -1 x 3 4 5 6 7 8 9", "cpu 1", "nr_throttled 5", "throttled_usec 9", "always [madvise] never", "[", "-5",
    "100000 0", "50000 100000", "pgmigrate_success 7", "Mems_allowed_list:\t0-1", "99999999999999999999999", "\0", " ",
)  # fmt: skip
LINE = st.one_of(st.sampled_from(WORDS), st.text(max_size=30))
TEXT = st.one_of(st.lists(LINE, max_size=6).map(lambda lines: "\n".join(lines).encode()), st.binary(max_size=60))


def write(root: Path, files: dict[str, bytes]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(FILES), TEXT), st.dictionaries(st.sampled_from(FILES), TEXT))
def test_no_content_of_any_file_is_an_error(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write(root, before)
        watch = Watch((0,), root, siblings=(1,))
        watch.start()
        for found in (free_bytes(0, root), free_huge_pages(0, 2 << 20, root), memory_left_bytes(root)):
            assert found is None or found >= 0
        facts = snapshot(MACHINE, root)
        assert all(finding.name for finding in judged.settings(facts))
        assert all(finding.name for finding in judged.load(Tree(root), 2))
        write(root, after)
        seen = watch.stop()
        assert set(seen.flags) <= {"throttled", "stolen", "contended", "sibling_busy", "migration_suspected"}
        assert seen.steal_share is None or seen.steal_share <= 1.0
