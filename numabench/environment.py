# SPDX-License-Identifier: Apache-2.0
"""All that can change a result, read and never changed: settings, limits and load."""

from __future__ import annotations

import os
import platform
import re
from typing import Any

from numabench.machine import Machine

_CPU, _NODE, _MM = "sys/devices/system/cpu", "sys/devices/system/node", "sys/kernel/mm"
_THP, _KERNEL, _CLOCK = (
    f"{_MM}/transparent_hugepage",
    "proc/sys/kernel",
    "sys/devices/system/clocksource/clocksource0",
)
_NO_LIMIT = 1 << 60  # version 1 of cgroups writes "no limit" as a number near 2^63
_VARIABLES = re.compile(
    r"OMP_\w+|KMP_\w+|GOMP_CPU_AFFINITY|(?:MALLOC|OPENBLAS|MKL|NUMABENCH)_\w+|GLIBC_TUNABLES|LD_PRELOAD"
)
# Facts of a snapshot that make figures incomparable when they differ; the others are load, or hints.
SETTINGS = (
    "kernel", "governor", "driver", "no_turbo", "boost", "smt", "thp", "thp_defrag", "numa_balancing", "demotion",
    "zone_reclaim_mode", "clocksource", "cpus_allowed", "nodes_allowed", "cpu_quota", "isolated_cpus", "nohz_full",
    "variables",
)  # fmt: skip
FALLBACK_CLOCKS = ("hpet", "acpi_pm", "jiffies")  # what the system takes when it does not trust the CPU's counter


class Tree:
    """Files below ``root``. What cannot be read is None, and ``unread`` keeps the reason by path."""

    def __init__(self, root: str | os.PathLike[str] = "/") -> None:
        self.root = os.fspath(root)
        self.unread: dict[str, str] = {}

    def raw(self, path: str) -> bytes | None:
        """The whole file, or None."""
        try:
            with open(os.path.join(self.root, path), "rb", buffering=0) as file:
                return file.read()
        except OSError as error:
            self.unread["/" + path] = error.strerror or type(error).__name__
            return None

    def text(self, path: str) -> str | None:
        """The whole file without surrounding white space, or None."""
        found = self.raw(path)
        return None if found is None else found.decode(errors="replace").strip()

    def number(self, path: str) -> int | None:
        """The file as one number; None also when it holds none."""
        found = self.text(path)
        return int(found) if found is not None and re.fullmatch(r"-?\d+", found) else None

    def chosen(self, path: str) -> str | None:
        """The bracketed word of ``always [madvise] never``."""
        match = re.search(r"\[(\w+)\]", self.text(path) or "")
        return match[1] if match else None

    def names(self, path: str) -> list[str]:
        """Names in a directory, sorted; empty when it cannot be read."""
        try:
            return sorted(os.listdir(os.path.join(self.root, path)))
        except OSError:
            return []

    def table(self, path: str) -> dict[str, int]:
        """Lines of the form ``name: value [kB]`` or ``name value``; kB become bytes."""
        rows = re.findall(r"^(?:Node \d+ )?([\w()]+):?\s+(\d+)( kB)?$", self.text(path) or "", re.M)
        return {name: int(value) * (1024 if kb else 1) for name, value, kb in rows}


def free_bytes(node: int, root: str | os.PathLike[str] = "/") -> int | None:
    """Bytes that a new buffer could take on ``node``: free memory and half of its clean page cache. None: not told.

    Never more than the cgroup's memory limit leaves. As in the kernel's MemAvailable, which counts the page cache
    likewise, what its zones keep back is not free: whoever takes of that on a node gets the out-of-memory killer.
    """
    tree = Tree(root)
    found, whole = tree.table(f"{_NODE}/node{node}/meminfo"), tree.table("proc/meminfo").get("MemAvailable")
    free = None
    if "MemFree" in found:
        cache = found.get("Active(file)", 0) + found.get("Inactive(file)", 0)
        free = max(0, found["MemFree"] - _kept_back(tree, node))
        free += max(0, cache - found.get("Dirty", 0) - found.get("Writeback", 0)) // 2
        if tree.text(f"{_NODE}/online") == str(node):
            # The only node: a virtual machine may be given memory on demand that its node does not count yet.
            free = max(free, whole or 0)
    elif node == 0 and not tree.names(_NODE):  # a kernel without NUMA: everything is node 0
        free = whole
    left = _memory_limit(tree)[1]
    return free if free is None or left is None else min(free, left)


def _kept_back(tree: Tree, node: int) -> int:
    """Bytes below the low watermarks of a node's zones."""
    zones = re.findall(r"^Node (\d+), zone.*\n(?:  .*\n)*?\s+low\s+(\d+)$", tree.text("proc/zoneinfo") or "", re.M)
    return sum(int(low) for number, low in zones if int(number) == node) * os.sysconf("SC_PAGESIZE")


def free_huge_pages(node: int, page_bytes: int, root: str | os.PathLike[str] = "/") -> int | None:
    """Huge pages of a size that are free on ``node`` and not promised to another mapping. None: no such size there."""
    tree, size = Tree(root), f"hugepages-{page_bytes // 1024}kB"
    total = f"{_MM}/hugepages/{size}"
    own = tree.number(f"{_NODE}/node{node}/hugepages/{size}/free_hugepages")
    whole = tree.number(f"{total}/free_hugepages")
    if own is None and node == 0 and not tree.names(_NODE):
        own = whole
    if own is None or whole is None:
        return own
    return max(0, min(own, whole - (tree.number(f"{total}/resv_hugepages") or 0)))


def more_huge_pages(node: int, page_bytes: int, least_bytes: int = 1 << 30) -> str:
    """The line that gives ``node`` huge pages of a size for ``least_bytes``."""
    pages = -(-least_bytes // page_bytes)
    return f"echo {pages} > /{_NODE}/node{node}/hugepages/hugepages-{page_bytes >> 10}kB/nr_hugepages (as root)"


def cgroup_dirs(tree: Tree, controller: str, pid: str = "self") -> tuple[int, list[str]]:
    """Version and directories that limit this process for a controller, its own first; version 0 when unknown."""
    path, version = None, 0
    for line in (tree.text(f"proc/{pid}/cgroup") or "").splitlines():
        number, controllers, where = [*line.split(":", 2), "", ""][:3]
        if controller in controllers.split(","):
            path, version = where, 1
            break
        if number == "0" and not controllers:
            path, version = where, 2
    if path is None:
        return 0, []
    for line in (tree.text("proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        mount, kind = left.split(), right.split()
        if len(mount) < 5 or len(kind) < 3 or kind[0] != ("cgroup2" if version == 2 else "cgroup"):
            continue
        if version == 1 and controller not in kind[2].split(","):
            continue
        # The mount may show a subtree only: a container without a cgroup namespace sees its own group as "/".
        root, point = mount[3].rstrip("/"), mount[4].strip("/")
        below = path[len(root) :] if path == root or path.startswith(root + "/") else ""
        parts = [part for part in below.split("/") if part]
        if ".." in parts:
            parts = []
        dirs = ["/".join([point, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
        return version, [d for d in dirs if os.path.isdir(os.path.join(tree.root, d))]
    return 0, []


def _cpu_quota(tree: Tree) -> float | None:
    """CPUs' worth of time that the quota grants, the least over the hierarchy; None without one."""
    version, dirs = cgroup_dirs(tree, "cpu")
    found = []
    for path in dirs:
        if version == 2:
            words = (tree.text(f"{path}/cpu.max") or "max").split()
        else:
            words = [str(tree.number(f"{path}/cpu.cfs_{name}_us") or -1) for name in ("quota", "period")]
        if len(words) == 2 and words[0].isdigit() and int(words[1]) > 0:
            found.append(int(words[0]) / int(words[1]))
    return min(found, default=None)


def cgroup_without_quota() -> str | None:
    """The nearest cgroup, upwards from this process's, without a CPU quota and open to processes; or None."""
    tree = Tree()
    version, dirs = cgroup_dirs(tree, "cpu")
    name = "cpu.max" if version == 2 else "cpu.cfs_quota_us"
    limited = [(tree.text(f"{path}/{name}") or "max").split()[0] not in ("max", "-1") for path in dirs]
    for at, path in enumerate(dirs):
        # A cgroup of version 2 that hands controllers on takes no processes, unless it is the root.
        full = version == 2 and at + 1 < len(dirs) and bool(tree.text(f"{path}/cgroup.subtree_control"))
        if not any(limited[at:]) and not full and os.access(f"/{path}/cgroup.procs", os.W_OK):
            return f"/{path}"
    return None


def _memory_limit(tree: Tree) -> tuple[int | None, int | None]:
    """The least memory limit of the hierarchy and the least that is left under any, bytes; None without one."""
    version, dirs = cgroup_dirs(tree, "memory")
    names = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
    used, cache = (
        ("memory.current", "inactive_file") if version == 2 else ("memory.usage_in_bytes", "total_inactive_file")
    )
    limits, left = [], []
    for path in dirs:
        bounds = [n for n in (tree.number(f"{path}/{name}") for name in names) if n is not None and n < _NO_LIMIT]
        if bounds:
            limits.append(min(bounds))
            reclaimable = tree.table(f"{path}/memory.stat").get(cache, 0)
            left.append(max(0, min(bounds) - max(0, (tree.number(f"{path}/{used}") or 0) - reclaimable)))
    return min(limits, default=None), min(left, default=None)


def memory_left_bytes(root: str | os.PathLike[str] = "/") -> int | None:
    """Bytes that the cgroup's memory limit still allows this process; None when nothing limits it."""
    return _memory_limit(Tree(root))[1]


def job() -> dict[str, str]:
    """Launcher and job identity from the variables that launchers set; empty outside of one."""
    names = {
        "slurm": ("SLURM_JOB_ID", "SLURMD_NODENAME", "SLURM_CLUSTER_NAME"),
        "openmpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMIX_NAMESPACE"),
        "kubernetes": ("KUBERNETES_NODE_NAME", "KUBERNETES_POD_NAME"),
    }
    for launcher, variables in names.items():
        found = {name: os.environ[name] for name in variables if name in os.environ}
        if found:
            return {"launcher": launcher, **found}
    return {}


def snapshot(machine: Machine, root: str | os.PathLike[str] = "/") -> dict[str, Any]:
    """Everything worth knowing about this system when figures are compared later; None: not told here."""
    tree = Tree(root)
    cpu = f"{_CPU}/cpu{machine.allowed_cpus[0] if machine.allowed_cpus else 0}/cpufreq"
    status = dict(re.findall(r"^(\w+):[ \t]*(.*)$", tree.text("proc/self/status") or "", re.M))
    memory, nodes = tree.table("proc/meminfo"), [node.id for node in machine.nodes]
    swap = memory.get("SwapTotal"), memory.get("SwapFree")
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "governor": tree.text(f"{cpu}/scaling_governor"),
        "driver": tree.text(f"{cpu}/scaling_driver"),
        "no_turbo": tree.text(f"{_CPU}/intel_pstate/no_turbo"),
        "boost": tree.text(f"{_CPU}/cpufreq/boost"),
        "smt": tree.text(f"{_CPU}/smt/control"),
        "thp": tree.chosen(f"{_THP}/enabled"),
        "thp_defrag": tree.chosen(f"{_THP}/defrag"),
        "mthp": {
            name: tree.chosen(f"{_THP}/{name}/enabled") for name in tree.names(_THP) if name.startswith("hugepages-")
        }
        or None,
        "numa_balancing": tree.text(f"{_KERNEL}/numa_balancing"),
        "demotion": tree.text(f"{_MM}/numa/demotion_enabled"),
        "zone_reclaim_mode": tree.text("proc/sys/vm/zone_reclaim_mode"),
        "clocksource": tree.text(f"{_CLOCK}/current_clocksource"),
        "perf_event_paranoid": tree.text(f"{_KERNEL}/perf_event_paranoid"),
        "seccomp": status.get("Seccomp"),
        "effective_capabilities": status.get("CapEff"),
        "cpus_allowed": status.get("Cpus_allowed_list"),
        "nodes_allowed": status.get("Mems_allowed_list"),
        "cpu_quota": _cpu_quota(tree),
        "memory_left_bytes": _memory_limit(tree)[1],
        "load": (tree.text("proc/loadavg") or "").split()[:3] or None,
        "pressure_cpu": tree.text("proc/pressure/cpu"),
        "pressure_memory": tree.text("proc/pressure/memory"),
        "free_bytes": {str(node): free_bytes(node, root) for node in nodes},
        "free_huge_pages": {
            str(node): {str(size): free_huge_pages(node, size, root) for size in machine.huge_pages} for node in nodes
        },
        "swap_used_bytes": swap[0] - swap[1] if swap[0] is not None and swap[1] is not None else None,
        "isolated_cpus": tree.text(f"{_CPU}/isolated"),
        "nohz_full": tree.text(f"{_CPU}/nohz_full"),
        "variables": {name: value for name, value in os.environ.items() if _VARIABLES.fullmatch(name)},
    }
