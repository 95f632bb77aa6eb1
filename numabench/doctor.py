# SPDX-License-Identifier: Apache-2.0
"""Can this machine be measured, and what is in the way? Findings from facts; nothing is changed."""

from __future__ import annotations

from typing import Any

from numabench import _core, settings, timing
from numabench.capabilities import Capability, probe
from numabench.environment import Tree
from numabench.evidence import SHARED_SHARE, SHARED_WIDTH
from numabench.machine import Machine
from numabench.settings import Finding, State
from numabench.units import format_numbers, plural

LEAST_FREE = 1 << 30
MOST_CPUS = 8  # whose cores are looked at


def findings(machine: Machine, environment: dict[str, Any], tree: Tree | None = None) -> list[Finding]:
    """All findings, those of the system calls by really trying them (64 KiB per node)."""
    return [*_tried(machine), *_machine(machine), *looked_up(machine, environment, tree or Tree())]


def looked_up(machine: Machine, environment: dict[str, Any], tree: Tree) -> list[Finding]:
    """What files tell, without trying anything."""
    return [
        *settings.settings(environment),
        *settings.load(tree, len(machine.allowed_cpus)),
        *settings.memory(machine, environment, LEAST_FREE),
        settings.prefetchers(tree, machine.virtual),
        settings.memory_errors(tree),
        *settings.versions(environment["kernel"], settings.new_libnuma(), machine.hwloc),
    ]


def _tried(machine: Machine) -> list[Finding]:
    found = [finding(row) for row in probe(machine)]
    clock = _core.Clock()
    found.append(
        Finding(
            "clock",
            "ok" if clock.invariant else "warning",
            f"{clock.source}, {clock.overhead_ns:.0f} ns a reading (p99 {clock.reading()[1]:.0f})",
            "" if clock.invariant else "windows must be longer",
            source="CPUID 8000_0007h EDX[8] or the architecture's counter, and 1000 readings",
        )
    )
    allowed = machine.allowed_cpus
    shared = cores(timing.widths(allowed[:: -(-len(allowed) // MOST_CPUS)], clock))
    return [*found, shared] if shared else found


def cores(taken: dict[int, list[float]]) -> Finding | None:
    """Whether second threads work on the cores of these CPUs, by the instructions a cycle that they gave
    (timing.widths).
    """
    most = max((max(found) for found in taken.values()), default=0.0)
    if not most:
        return None
    busy = {cpu: sum(width < SHARED_WIDTH * most for width in found) / len(found) for cpu, found in taken.items()}
    worst = max(busy, key=busy.__getitem__)
    low = min(min(found) for found in taken.values())
    source = f"{plural(len(taken[worst]), 'probe')} a CPU: {low:.1f} to {most:.1f} instructions a cycle"
    if busy[worst] <= SHARED_SHARE:
        return Finding("cores", "ok", "no other thread works on them", source=source)
    return Finding(
        "cores",
        "warning",
        f"other threads worked on the core of CPU {worst} for {busy[worst]:.0%} of the time",
        "they take up to half of what a core computes, and of its caches",
        "cores or a host of your own; on the host: SMT off, or the second threads left idle",
        source,
    )


def finding(row: Capability) -> Finding:
    """A capability as the doctor puts it: what measuring needs and cannot do is a failure, the rest is told."""
    state: State = "ok"
    if row.level == "impossible":
        state = "failure" if row.needed else "note"
    elif row.level == "inferred" or row.cost:
        state = "warning" if row.needed else "note"
    return Finding(row.name, state, row.seen, row.cost, row.remedy, "tried")


def _machine(machine: Machine) -> list[Finding]:
    found = []
    if len(machine.targets()) < 2:
        effect = "remote cases are unavailable; all else is measured"
        found.append(Finding("nodes", "note", "one node", effect, source="hwloc"))
    else:
        seen = f"{plural(len(machine.targets()), 'node')} with memory, {len(machine.initiators())} with CPUs"
        found.append(Finding("nodes", "ok", seen, source="hwloc"))
    shut = [node.id for node in machine.nodes if not node.allowed]
    if shut:
        found.append(
            Finding(
                "nodes not allowed",
                "note",
                f"nodes {format_numbers(shut)} of {len(machine.nodes)}",
                "they are not measured",
                "docker run --cpuset-mems=...; systemd: AllowedMemoryNodes=",
                "Mems_allowed_list of /proc/self/status",
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
                "hwloc",
            )
        )
    if len(machine.allowed_cpus) < len(machine.cpus):
        found.append(
            Finding(
                "CPUs",
                "note",
                f"{len(machine.allowed_cpus)} of {len(machine.cpus)} CPUs are allowed",
                "the others are not measured",
                "taskset -c ...; docker run --cpuset-cpus=...; systemd: AllowedCPUs=",
                "Cpus_allowed_list of /proc/self/status",
            )
        )
    if machine.offline_cpus:
        seen = f"CPUs {format_numbers(machine.offline_cpus)}"
        remedy = "echo 1 > /sys/devices/system/cpu/cpuN/online"
        found.append(Finding("CPUs offline", "note", seen, "they are not measured", remedy, "/sys/devices/system/cpu"))
    return found
