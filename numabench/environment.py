# SPDX-License-Identifier: Apache-2.0
"""All that can change a result: read, recorded, never changed. A file that is not there is None, never 0."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from numabench.machine import Machine

ROOT = Path("/")
_VARIABLES = re.compile(r"^(OMP|GOMP|KMP|MKL|OPENBLAS|NUMABENCH)_|^MALLOC_")
_VMSTAT = ("numa_pages_migrated", "pgmigrate_success", "thp_collapse_alloc", "pgdemote_kswapd", "pgdemote_direct")


def _read(path: str, root: Path = ROOT) -> str | None:
    try:
        return (root / path.lstrip("/")).read_text(errors="replace").strip("\n\0")
    except OSError:
        return None


def _choice(text: str | None) -> str | None:
    """The bracketed word of ``always [madvise] never``."""
    found = re.search(r"\[(\S+)\]", text or "")
    return found[1] if found else text


def _table(text: str | None) -> dict[str, int]:
    """Lines ``key value`` or ``key: value kB`` as numbers."""
    found = (re.match(r"(\S+?):?\s+(-?\d+)", line) for line in (text or "").splitlines())
    return {match[1]: int(match[2]) for match in found if match}


def free_bytes(node: int, root: Path = ROOT) -> int | None:
    """Bytes that a new buffer could take on a node: free pages and clean page cache, less what the cgroup forbids."""
    text = _read(f"/sys/devices/system/node/node{node}/meminfo", root)
    if text is None:
        text = _read("/proc/meminfo", root)
        if text is None:
            return None
        free = _table(text).get("MemAvailable", 0) << 10
    else:
        fields = dict(re.findall(r"Node \d+ (\S+):\s+(\d+)", text))
        cache = int(fields.get("FilePages", 0)) - int(fields.get("Shmem", 0)) - int(fields.get("Dirty", 0))
        free = (int(fields.get("MemFree", 0)) + max(cache, 0) // 2) << 10
        if (_read("/sys/devices/system/node/online", root) or "") == str(node):
            # The only node: a virtual machine's balloon gives memory that the node does not count yet.
            free = max(free, _table(_read("/proc/meminfo", root)).get("MemAvailable", 0) << 10)
    limit = memory_limit_left(root)
    return free if limit is None else min(free, limit)


def free_huge_pages(node: int, page_bytes: int, root: Path = ROOT) -> int | None:
    """Free huge pages of that size in the node's own pool; None when the system has no such pool."""
    name = f"hugepages-{page_bytes >> 10}kB/free_hugepages"
    text = _read(f"/sys/devices/system/node/node{node}/hugepages/{name}", root)
    return int(text) if text else None


def cgroup_files(root: Path = ROOT) -> list[Path]:
    """Directories of this process's cgroup and its ancestors (cgroup v2), innermost first."""
    line = next((x for x in (_read("/proc/self/cgroup", root) or "").splitlines() if x.startswith("0::")), None)
    if line is None:
        return []
    base = root / "sys/fs/cgroup"
    here = base / line[3:].lstrip("/")
    return [d for d in (here, *here.parents) if d == base or base in d.parents]


def memory_limit_left(root: Path = ROOT) -> int | None:
    """Bytes left below the tightest memory limit of the cgroup and its ancestors; None without a limit."""
    left = None
    for directory in cgroup_files(root):
        limit, used = (_read(str(directory / name), Path("/")) for name in ("memory.max", "memory.current"))
        if limit and used and limit != "max":
            rest = max(int(limit) - int(used), 0)
            left = rest if left is None else min(left, rest)
    return left


def quota(root: Path = ROOT) -> float | None:
    """CPUs that the tightest cgroup quota allows; None without a quota."""
    found = []
    for directory in cgroup_files(root):
        words = (_read(str(directory / "cpu.max"), Path("/")) or "max").split()
        if words[0] != "max":
            found.append(int(words[0]) / int(words[1]))
    return min(found) if found else None


def snapshot(machine: Machine, root: Path = ROOT) -> dict[str, Any]:
    """Everything worth knowing about this system when figures are compared later."""
    cpu = machine.allowed_cpus[0] if machine.allowed_cpus else 0
    freq = f"/sys/devices/system/cpu/cpu{cpu}/cpufreq"
    thp = "/sys/kernel/mm/transparent_hugepage"
    status = dict(re.findall(r"^(\w+):\s*(.*)$", _read("/proc/self/status", root) or "", re.M))
    nodes = [node.id for node in machine.nodes]
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "governor": _read(f"{freq}/scaling_governor", root),
        "driver": _read(f"{freq}/scaling_driver", root),
        "no_turbo": _read("/sys/devices/system/cpu/intel_pstate/no_turbo", root),
        "boost": _read("/sys/devices/system/cpu/cpufreq/boost", root),
        "smt": _read("/sys/devices/system/cpu/smt/control", root),
        "thp": _choice(_read(f"{thp}/enabled", root)),
        "thp_defrag": _choice(_read(f"{thp}/defrag", root)),
        "numa_balancing": _read("/proc/sys/kernel/numa_balancing", root),
        "demotion": _read("/sys/kernel/mm/numa/demotion_enabled", root),
        "zone_reclaim_mode": _read("/proc/sys/vm/zone_reclaim_mode", root),
        "clocksource": _read("/sys/devices/system/clocksource/clocksource0/current_clocksource", root),
        "perf_event_paranoid": _read("/proc/sys/kernel/perf_event_paranoid", root),
        "seccomp": status.get("Seccomp"),
        "capabilities": status.get("CapEff"),
        "cpus_allowed": status.get("Cpus_allowed_list"),
        "nodes_allowed": status.get("Mems_allowed_list"),
        "cpu_quota": quota(root),
        "memory_limit_left_bytes": memory_limit_left(root),
        "load": (_read("/proc/loadavg", root) or "").split()[:3] or None,
        "pressure_cpu": _read("/proc/pressure/cpu", root),
        "pressure_memory": _read("/proc/pressure/memory", root),
        "free_bytes": {str(node): free_bytes(node, root) for node in nodes},
        "free_huge_pages": {
            str(node): {str(size): free_huge_pages(node, size, root) for size in machine.huge_pages} for node in nodes
        },
        "swap_used_bytes": _swap(root),
        "isolated_cpus": _read("/sys/devices/system/cpu/isolated", root),
        "nohz_full": _read("/sys/devices/system/cpu/nohz_full", root),
        "variables": {name: value for name, value in os.environ.items() if _VARIABLES.match(name)},
    }


def _swap(root: Path) -> int | None:
    info = _table(_read("/proc/meminfo", root))
    return (info["SwapTotal"] - info["SwapFree"]) << 10 if "SwapTotal" in info else None


class Watch:
    """Counters of the system before and after a pass: what others did to it meanwhile."""

    def __init__(self, cpus: tuple[int, ...], root: Path = ROOT) -> None:
        self.cpus, self.root = frozenset(f"cpu{cpu}" for cpu in cpus), root
        self.before = self._now()

    def _now(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for line in (_read("/proc/stat", self.root) or "").splitlines():
            words = line.split()
            if words and words[0] in self.cpus:
                ticks = [int(word) for word in words[1:9]]
                counts["ticks"] = counts.get("ticks", 0) + sum(ticks)
                counts["steal"] = counts.get("steal", 0) + ticks[7]
        for directory in cgroup_files(self.root)[:1]:
            counts["throttled_us"] = _table(_read(str(directory / "cpu.stat"), Path("/"))).get("throttled_usec", 0)
        vmstat = _table(_read("/proc/vmstat", self.root))
        return counts | {name: vmstat[name] for name in _VMSTAT if name in vmstat}

    def stop(self) -> dict[str, float]:
        """Changes since the watch began: ``steal_share``, ``throttled_us`` and the kernel's page-moving counters."""
        after = self._now()
        change = {name: after[name] - self.before.get(name, 0) for name in after}
        share = change.pop("steal", 0) / max(change.pop("ticks", 0), 1)
        return {"steal_share": share, "throttled_us": 0.0, **change}
