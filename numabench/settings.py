# SPDX-License-Identifier: Apache-2.0
"""Settings, load and versions that change figures: what is seen and where, what it does, what changes it. Only read."""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from numabench import firmware
from numabench.environment import FALLBACK_CLOCKS, Tree, more_huge_pages
from numabench.machine import Machine
from numabench.units import format_bytes, plural

State = Literal["ok", "note", "warning", "failure"]
UNTOLD = "not told by this system"
BUSY = 1.0  # per cent of time in which some task waited (PSI), or that the hypervisor took
_CPU, _NODE, _MM = "sys/devices/system/cpu", "sys/devices/system/node", "sys/kernel/mm"
# Model-specific registers that switch prefetchers off, a bit each. Intel: "Disclosure of Hardware Prefetcher Control
# on Some Intel Processors" (a bit set is one switched off); AMD: Processor Programming Reference, Prefetch Control.
_PREFETCHERS = {
    "GenuineIntel": (0x1A4, {0: "L2 stream", 1: "L2 adjacent line", 2: "L1 stream", 3: "L1 IP"}),
    "AuthenticAMD": (0xC0000108, {0: "L1 stream", 1: "L1 stride", 2: "L1 region", 3: "L2 stream", 5: "L2 up/down"}),
}
_SINCE = (
    ((5, 14), "no MADV_POPULATE_WRITE: a node that runs out of memory ends the process"),
    ((5, 15), "no policy that prefers several nodes"),
    ((6, 1), "no MADV_COLLAPSE: huge pages only where the first touch finds some"),
    ((6, 9), "no weighted interleaving"),
)


class Finding(NamedTuple):
    """One thing looked at: what was seen, what it does to figures, the line that changes it, and where it was read."""

    name: str
    state: State
    seen: str
    effect: str = ""
    remedy: str = ""
    source: str = ""


class Rule(NamedTuple):
    """A fact of ``environment.snapshot`` and the values that raise it; ``none`` is what its absence means."""

    key: str
    name: str
    state: State
    effect: str
    remedy: str
    source: str
    bad: tuple[str, ...] = ()
    good: tuple[str, ...] = ()  # instead of ``bad``: everything else raises it
    none: str = UNTOLD


RULES = (
    Rule(
        "governor", "governor", "warning", "clocks change between windows", "cpupower frequency-set -g performance",
        f"{_CPU}/cpu*/cpufreq/scaling_governor", good=("performance",),
    ),
    Rule(
        "no_turbo", "turbo (Intel)", "note", "the clock depends on load and heat; its drift is recorded",
        "echo 1 > /sys/devices/system/cpu/intel_pstate/no_turbo", f"{_CPU}/intel_pstate/no_turbo", bad=("0",),
    ),
    Rule(
        "boost", "turbo (boost)", "note", "the clock depends on load and heat; its drift is recorded",
        "echo 0 > /sys/devices/system/cpu/cpufreq/boost", f"{_CPU}/cpufreq/boost", bad=("1",),
    ),
    Rule(
        "smt", "SMT", "note", "work on a sibling halves a core; one thread a core is used here, siblings should idle",
        "echo off > /sys/devices/system/cpu/smt/control", f"{_CPU}/smt/control", bad=("on",),
    ),
    Rule(
        "thp", "transparent huge pages", "warning", "thp cases get base pages",
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled", f"{_MM}/transparent_hugepage/enabled",
        bad=("never",),
    ),
    Rule(
        "numa_balancing", "NUMA balancing", "note", "moves pages that are not bound, other programs' too",
        "sysctl kernel.numa_balancing=0", "proc/sys/kernel/numa_balancing", good=("0",),
    ),
    Rule(
        "demotion", "demotion", "warning", "moves pages to slow nodes, policy or not",
        "echo 0 > /sys/kernel/mm/numa/demotion_enabled", f"{_MM}/numa/demotion_enabled", bad=("1", "true"),
    ),
    Rule(
        "zone_reclaim_mode", "zone reclaim", "note", "allocations without a binding stall to stay local",
        "sysctl vm.zone_reclaim_mode=0", "proc/sys/vm/zone_reclaim_mode", good=("0",),
    ),
    Rule(
        "cpu_quota", "CPU quota", "warning", "threads are stopped when it is spent",
        "run without --cpus, use --cpuset-cpus; Kubernetes: CPU manager policy static; systemd: CPUQuota=",
        "cpu.max or cpu.cfs_quota_us of the control groups", good=(), none="none",
    ),
    Rule(
        "swap_used_bytes", "swap", "warning", "pages may be on disk", "swapoff -a", "proc/meminfo", good=("0",),
    ),
    Rule(
        "clocksource", "clock source", "warning", "the system does not trust its counter; windows get longer",
        "dmesg | grep -i -e tsc -e clocksource   shows why it was dropped",
        "sys/devices/system/clocksource/clocksource0/current_clocksource", bad=FALLBACK_CLOCKS,
    ),
)  # fmt: skip


def settings(env: dict[str, Any]) -> Iterator[Finding]:
    """What a snapshot of the environment says, rule by rule."""
    for rule in RULES:
        value = env[rule.key]
        if value is None:
            yield Finding(rule.name, "ok", rule.none, source="/" + rule.source)
            continue
        raised = str(value) in rule.bad if rule.bad else str(value) not in rule.good
        if raised:
            yield Finding(rule.name, rule.state, str(value), rule.effect, rule.remedy, "/" + rule.source)
        else:
            yield Finding(rule.name, "ok", str(value), source="/" + rule.source)
    if "GOMP_CPU_AFFINITY" in env["variables"]:
        yield Finding(
            "GOMP_CPU_AFFINITY",
            "warning",
            env["variables"]["GOMP_CPU_AFFINITY"],
            "a library may shrink this process to one CPU",
            "unset GOMP_CPU_AFFINITY",
            "environment of this process",
        )


def waited(pressure: str | None) -> float | None:
    """Per cent of the last 10 s in which some task waited, of a file of PSI; None: not told."""
    some = re.search(r"^some avg10=(\d+(?:\.\d+)?)\b", pressure or "", re.M)
    return float(some[1]) if some else None


def overloaded(load: float, cpus: int) -> bool:
    """Whether so many tasks that want to run, this process among them, are in each other's way."""
    return load > max(0.5 * cpus, 1.0)


def load(tree: Tree, cpus: int) -> Iterator[Finding]:
    """What else wants this machine now: pressure (PSI), tasks that want to run, time that the hypervisor took."""
    for name, what in (("cpu", "CPUs"), ("memory", "memory"), ("io", "disks")):
        source = f"proc/pressure/{name}"
        some = waited(tree.text(source))
        if some is None:
            yield Finding(f"pressure on {what}", "ok", UNTOLD, remedy="boot with psi=1", source="/" + source)
        elif some > BUSY:
            yield Finding(
                f"pressure on {what}",
                "warning" if name != "io" else "note",
                f"some task waited {some:.2f} % of the last 10 s",
                f"other work wants the {what}: passes are flagged contended",
                "ps -eo pcpu,rss,pid,comm --sort=-pcpu | head   names it; stop it",
                "/" + source,
            )
        else:
            yield Finding(f"pressure on {what}", "ok", f"{some:.2f} % of the last 10 s", source="/" + source)
    words = re.match(r"\d+(?:\.\d+)?\b", tree.text("proc/loadavg") or "")
    if words:
        busy = overloaded(float(words[0]), cpus)
        yield Finding(
            "load",
            "warning" if busy else "ok",
            f"{words[0]} tasks wanted to run or waited for a disk, on {plural(cpus, 'CPU')} (mean of a minute)",
            "threads wait for their CPUs" if busy else "",
            "ps -eo pcpu,pid,comm --sort=-pcpu | head   names them; stop them" if busy else "",
            "/proc/loadavg",
        )
    yield from _steal(tree)


def _steal(tree: Tree) -> Iterator[Finding]:
    """Fields of the first line of /proc/stat: user nice system idle iowait irq softirq steal, in ticks since boot."""
    row = [int(word) for word in (tree.text("proc/stat") or "").partition("\n")[0].split()[1:9] if word.isdigit()]
    if len(row) < 8 or not sum(row):
        yield Finding("steal", "ok", UNTOLD, source="/proc/stat")
        return
    share = 100 * row[7] / sum(row)
    seen = f"{share:.2f} % of the CPU time since boot"
    if share > BUSY:
        yield Finding(
            "steal",
            "warning",
            seen,
            "the hypervisor runs others on these CPUs; passes with more than 1 % do not count",
            "a machine type with CPUs of its own, or another host",
            "/proc/stat",
        )
    else:
        yield Finding("steal", "ok", seen, source="/proc/stat")


def memory(machine: Machine, env: dict[str, Any], least_free: int) -> Iterator[Finding]:
    """Free memory and huge pages of each node, and what a control group leaves of it."""
    for node in machine.targets():
        source, name = f"/{_NODE}/node{node}/meminfo", f"memory of node {node}"
        free = env["free_bytes"].get(str(node))
        wanted = max(4 * machine.llc_bytes(machine.nearest_cpus(node)), least_free) * 4
        if free is None:
            yield Finding(name, "warning", UNTOLD, "sizes are not checked", source=source)
        elif free < wanted:
            effect = f"buffers of four times the caches want {format_bytes(wanted)}"
            yield Finding(name, "warning", f"{format_bytes(free)} free", effect, "free memory, or --size", source)
        else:
            yield Finding(name, "ok", f"{format_bytes(free)} free", source=source)
    pools = {n: {int(size): count or 0 for size, count in found.items()} for n, found in env["free_huge_pages"].items()}
    for node in machine.targets():
        own = pools.get(str(node), {})
        elsewhere = sorted(s for s, count in own.items() if not count and any(p.get(s) for p in pools.values()))
        source = f"/{_NODE}/node{node}/hugepages"
        seen = ", ".join(f"{count} x {format_bytes(size)} free" for size, count in sorted(own.items())) or UNTOLD
        if elsewhere:
            size = format_bytes(elsewhere[0]).replace(" MiB", "M").replace(" GiB", "G")
            yield Finding(
                f"huge pages of node {node}", "warning", seen, f"other nodes have some: --pages {size} is "
                "unavailable here only", more_huge_pages(node, elsewhere[0]), source,
            )  # fmt: skip
        else:
            yield Finding(f"huge pages of node {node}", "ok", seen, source=source)
    left, source = env["memory_left_bytes"], "memory.max or memory.limit_in_bytes of the control groups"
    if left is not None:
        short = left < 4 * least_free
        yield Finding(
            "memory limit",
            "warning" if short else "note",
            f"a control group leaves {format_bytes(left)}",
            "larger buffers are refused" + (", caches may not be kept out of the figures" if short else ""),
            "docker run --memory=...; Kubernetes: resources.limits.memory; systemd: MemoryMax=",
            source,
        )


def prefetchers(tree: Tree, virtual: bool) -> Finding:
    """Whether prefetchers are switched off, where that can be read: a register, by root, with the module msr."""
    vendor = re.search(r"^vendor_id\s*:\s*(\w+)", tree.text("proc/cpuinfo") or "", re.M)
    known = _PREFETCHERS.get(vendor[1]) if vendor else None
    if known is None:
        return Finding("prefetchers", "ok", "no known way to read them on this CPU", source="/proc/cpuinfo")
    register, bits = known
    source = "dev/cpu/0/msr"
    value = None
    with suppress(OSError, struct.error), open(os.path.join(tree.root, source), "rb", buffering=0) as file:
        value = struct.unpack("<Q", os.pread(file.fileno(), 8, register))[0]
    if value is None:
        why = "the hypervisor keeps them to itself" if virtual else "as root: modprobe msr; numabench doctor"
        return Finding(
            "prefetchers", "ok", f"not readable here (register {register:#x}); taken to be on", remedy=why,
            source="/" + source,
        )  # fmt: skip
    off = [name for bit, name in bits.items() if value >> bit & 1]
    if not off:
        return Finding("prefetchers", "ok", "all on", source=f"/{source} {register:#x}")
    return Finding(
        "prefetchers",
        "warning",
        f"switched off: {', '.join(off)}",
        "streams and strides are slower than programs find on machines as delivered",
        f"wrmsr -a {register:#x} 0",
        f"/{source} {register:#x}",
    )


def versions(kernel: str, libnuma: bool | None, hwloc: str) -> Iterator[Finding]:
    """Versions that behave differently from what a reader of the figures would think.

    ``libnuma`` is what ``new_libnuma`` tells.
    """
    found = _numbers(kernel)
    missing = [text for since, text in _SINCE if found and found < since]
    if missing:
        yield Finding("kernel version", "note", kernel, "; ".join(missing), "Linux 6.9 or newer", "uname")
    else:
        yield Finding("kernel version", "ok", kernel, source="uname")
    if libnuma is False:
        yield Finding(
            "libnuma version",
            "note",
            "older than 2.0.19",
            "numactl and others take a refused binding for done; numabench asks the kernel itself",
            "numactl 2.0.19 or newer",
            "symbols of libnuma.so.1",
        )
    else:
        seen = UNTOLD if libnuma is None else "2.0.19 or newer"
        yield Finding("libnuma version", "ok", seen, source="symbols of libnuma.so.1")
    if hwloc and _numbers(hwloc) < (2, 3):
        effect = "no attributes of memory: fast and slow nodes are told apart by measuring only"
        yield Finding("hwloc version", "note", hwloc, effect, "hwloc 2.3 or newer", "hwloc_get_api_version")
    else:
        yield Finding("hwloc version", "ok", hwloc or UNTOLD, source="hwloc_get_api_version")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(word) for word in re.findall(r"\d+", version)[:2])


def new_libnuma() -> bool | None:
    """Whether libnuma is 2.0.19 or newer, which brought weighted interleaving and an end to numactl#232: its
    numa_available() said yes where a filter refuses mbind. None without libnuma.
    """
    try:
        return hasattr(ctypes.CDLL("libnuma.so.1"), "numa_set_weighted_interleave_mask")
    except OSError:
        return None


def memory_errors(tree: Tree) -> Finding:
    """Corrected and uncorrected errors that the memory controllers counted since boot."""
    counted = firmware.errors(tree)
    source = "/sys/devices/system/edac/mc"
    if counted is None:
        return Finding("memory errors", "ok", UNTOLD, source=source)
    seen = ", ".join(f"{count} {name}" for name, count in counted.items())
    if counted["uncorrected"] or counted["corrected"]:
        state: State = "warning" if counted["uncorrected"] else "note"
        return Finding(
            "memory errors", state, seen, "corrections take time on one channel; a node may be slow for it",
            "edac-util -v   names the DIMM", source,
        )  # fmt: skip
    return Finding("memory errors", "ok", seen, source=source)
