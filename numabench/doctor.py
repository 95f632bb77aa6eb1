# SPDX-License-Identifier: Apache-2.0
"""Can this machine be measured, and what is in the way? Findings from facts; nothing is changed."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from numabench import _core
from numabench.capabilities import Capability, probe
from numabench.machine import Machine
from numabench.units import format_bytes

State = Literal["ok", "note", "warning", "failure"]
LEAST_FREE = 1 << 30


class Finding(NamedTuple):
    """One thing looked at: what was seen, what it does to figures, and the line that changes it."""

    name: str
    state: State
    seen: str
    effect: str = ""
    remedy: str = ""


def findings(machine: Machine, environment: dict[str, Any]) -> list[Finding]:
    """All findings, those of the system calls by really trying them (64 KiB per node)."""
    return [*_tried(machine), *_machine(machine), *_settings(environment), *_memory(machine, environment)]


def _tried(machine: Machine) -> list[Finding]:
    found = [finding(row) for row in probe(machine)]
    clock = _core.Clock()
    found.append(
        Finding(
            "clock",
            "ok" if clock.invariant else "warning",
            f"{clock.source}, {clock.overhead_ns:.0f} ns a reading",
            "" if clock.invariant else "windows must be longer",
        )
    )
    return found


def finding(row: Capability) -> Finding:
    """A capability as the doctor puts it: what measuring needs and cannot do is a failure, the rest is told."""
    state: State = "ok"
    if row.level == "impossible":
        state = "failure" if row.needed else "note"
    elif row.level == "inferred" or row.cost:
        state = "warning" if row.needed else "note"
    return Finding(row.name, state, row.seen, row.cost, row.remedy)


def _machine(machine: Machine) -> list[Finding]:
    found = []
    if len(machine.targets()) < 2:
        found.append(Finding("nodes", "note", "one node", "remote cases are unavailable; all else is measured"))
    else:
        found.append(
            Finding(
                "nodes",
                "ok",
                f"{len(machine.targets())} nodes with memory, {len(machine.initiators())} with CPUs",
            )
        )
    if machine.topology_unproven:
        found.append(
            Finding(
                "topology",
                "warning",
                "a virtual machine that shows one thread per core",
                "two CPUs may share a core",
                "ask the provider for the host topology",
            )
        )
    if len(machine.allowed_cpus) < len(machine.cpus):
        found.append(
            Finding(
                "CPUs",
                "note",
                f"{len(machine.allowed_cpus)} of {len(machine.cpus)} CPUs are allowed",
                "the others are not measured",
                "taskset or cpuset of this process",
            )
        )
    return found


def _settings(env: dict[str, Any]) -> list[Finding]:
    rules: list[tuple[str, str, bool, State, str, str]] = [
        (
            "governor",
            "governor",
            env["governor"] not in (None, "performance"),
            "warning",
            "clocks change between windows",
            "cpupower frequency-set -g performance",
        ),
        (
            "thp",
            "transparent huge pages",
            env["thp"] == "never",
            "warning",
            "thp cases get base pages",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        (
            "numa_balancing",
            "NUMA balancing",
            env["numa_balancing"] not in (None, "0"),
            "note",
            "moves pages that are not bound",
            "sysctl kernel.numa_balancing=0",
        ),
        (
            "demotion",
            "demotion",
            env["demotion"] in ("1", "true"),
            "warning",
            "moves pages to slow nodes, policy or not",
            "echo 0 > /sys/kernel/mm/numa/demotion_enabled",
        ),
        (
            "cpu_quota",
            "CPU quota",
            env["cpu_quota"] is not None,
            "warning",
            "threads are stopped when it is spent",
            "run without --cpus (use --cpuset-cpus)",
        ),
        ("swap_used_bytes", "swap", bool(env["swap_used_bytes"]), "warning", "pages may be on disk", "swapoff -a"),
        (
            "clocksource",
            "clocksource",
            env["clocksource"] in ("hpet", "acpi_pm"),
            "warning",
            "the system does not trust its counter",
            "see dmesg for why the TSC was dropped",
        ),
    ]
    found = []
    for key, name, raised, state, effect, remedy in rules:
        unknown = "none" if key == "cpu_quota" else "not told by this system"
        seen = unknown if env[key] is None else str(env[key])
        found.append(Finding(name, state, seen, effect, remedy) if raised else Finding(name, "ok", seen))
    if "GOMP_CPU_AFFINITY" in env["variables"]:
        found.append(
            Finding(
                "GOMP_CPU_AFFINITY",
                "warning",
                env["variables"]["GOMP_CPU_AFFINITY"],
                "a library may shrink this process to one CPU",
                "unset GOMP_CPU_AFFINITY",
            )
        )
    return found


def _memory(machine: Machine, env: dict[str, Any]) -> list[Finding]:
    found = []
    for node in machine.targets():
        free = env["free_bytes"].get(str(node))
        wanted = max(4 * machine.llc_bytes(machine.nearest_cpus(node)), LEAST_FREE) * 4
        if free is None:
            found.append(
                Finding(f"memory of node {node}", "warning", "not told by this system", "sizes are not checked")
            )
        elif free < wanted:
            found.append(
                Finding(
                    f"memory of node {node}",
                    "warning",
                    f"{format_bytes(free)} free",
                    f"buffers of four times the caches want {format_bytes(wanted)}",
                    "free memory, or --size",
                )
            )
        else:
            found.append(Finding(f"memory of node {node}", "ok", f"{format_bytes(free)} free"))
    return found
