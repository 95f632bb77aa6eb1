# SPDX-License-Identifier: Apache-2.0
"""Facts of a machine, each with its source, and the key of machines that may be compared."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from numabench.machine import Machine
from numabench.record import Record
from numabench.settings import waited
from numabench.units import format_bytes, format_numbers
from numabench.validation.outcome import Fact

Source = Literal["sysfs", "dmi", "edac", "procfs", "unavailable"]
GIB = 1 << 30

# name: what it is, as documentation and errors say it
ABOUT = {
    "cpu_model": "CPU model",
    "cpu_stepping": "CPU stepping; on ARM variant and revision",
    "sockets": "packages",
    "numa_nodes": "NUMA nodes",
    "cpus": "online CPUs",
    "cores": "physical cores",
    "smt": "on or off: more than one thread a core",
    "cpus_per_node": "CPUs of each node, a list in the order of the nodes",
    "mem_total_gib_per_node": "memory of each node, GiB",
    "mem_total_gib": "memory of all nodes, GiB",
    "memoryless_nodes": "nodes without memory, a list",
    "cpuless_nodes": "nodes without CPUs, a list",
    "slit": "distances, a list of rows",
    "page_sizes": "huge page sizes, bytes, a list",
    "virtual": "whether this is a virtual machine",
    "dimm_count": "memory modules (SMBIOS)",
    "dimm_channels_per_socket": "memory channels with a module, per package (SMBIOS)",
    "dimm_rated_mts": "rated MT/s of the slowest module (SMBIOS)",
    "dimm_configured_mts": "configured MT/s of the slowest module (SMBIOS)",
    "dimm_layout": "memory modules by size and rated rate, such as 16 x 64 GiB 4800 MT/s (SMBIOS)",
    "kernel": "kernel release",
    "bios": "BIOS version",
    "microcode": "microcode",
    "governor": "frequency governor",
    "thp": "transparent huge pages: always, madvise, never",
    "numa_balancing": "automatic NUMA balancing, 0 or 1",
    "cpu_quota": "CPUs' worth of time that the cgroup grants",
    "restricted": "whether a cpuset or mask hides CPUs or nodes from the process",
    "cpu_pressure": "per cent of the last 10 s before the run in which some task waited for a CPU (PSI)",
    "memory_pressure": "the same for memory (PSI)",
    "load": "tasks that wanted to run, mean of the last minute before the run",
    "memory_errors_corrected": "corrected memory errors during the run (EDAC)",
    "memory_errors_uncorrected": "uncorrected memory errors during the run (EDAC)",
    "thermal_throttles": "times CPUs of each package were slowed for heat during the run, a list (Intel)",
}
BESIDE = ("microcode", "dimm_layout")  # no part of the class, but told where they differ
ENVIRONMENT = ("governor", "thp", "numa_balancing", "cpu_quota")


def facts(record: Record) -> dict[str, Fact]:
    """All facts of a record, in a fixed order. What the system did not tell is ``unavailable``."""
    machine, env = record.machine, record.environment
    found = {name: _fact(value, "sysfs") for name, value in _machine(machine).items()}
    found |= {name: _fact(value, "dmi") for name, value in _memory(machine, env.get("firmware") or {}).items()}
    found |= {name: _fact(value, "edac") for name, value in _errors(env).items()}
    found["thermal_throttles"] = _fact(_throttles(env), "sysfs")
    found |= {name: _fact(env.get(name), "sysfs" if name in ("governor", "thp") else "procfs") for name in ENVIRONMENT}
    firmware = env.get("firmware") or {}
    found |= {
        "kernel": _fact(env.get("kernel") or machine.kernel or None, "procfs"),
        "bios": _fact(firmware.get("bios"), "sysfs"),
        "cpu_stepping": _fact(firmware.get("stepping"), "procfs"),
        "microcode": _fact(firmware.get("microcode"), "procfs"),
    }
    found |= {f"{name}_pressure": _fact(waited(env.get(f"pressure_{name}")), "procfs") for name in ("cpu", "memory")}
    found["load"] = _fact(float(env["load"][0]) if env.get("load") else None, "procfs")
    if env.get("cpu_quota") is None:
        found["cpu_quota"] = Fact("none", "procfs")
    return {name: found[name] for name in ABOUT}


def _fact(value: Any, source: Source) -> Fact:
    return Fact(None, "unavailable") if value in (None, "") else Fact(value, source)


def _machine(machine: Machine) -> dict[str, Any]:
    threads = len(machine.cpus) > len(machine.cores)
    return {
        "cpu_model": machine.cpu_model,
        "sockets": len(machine.packages) or None,
        "numa_nodes": len(machine.nodes),
        "cpus": len(machine.cpus),
        "cores": len(machine.cores),
        # A guest that shows one thread a core tells nothing about the host's.
        "smt": "on" if threads else None if machine.topology_unproven else "off",
        "cpus_per_node": [len(node.cpus) for node in machine.nodes],
        "mem_total_gib_per_node": [round(node.memory_bytes / GIB, 2) for node in machine.nodes],
        "mem_total_gib": round(sum(node.memory_bytes for node in machine.nodes) / GIB, 2),
        "memoryless_nodes": [node.id for node in machine.nodes if not node.memory_bytes],
        "cpuless_nodes": [node.id for node in machine.nodes if not node.cpus],
        "slit": [list(row) for row in machine.distances.values] or None,
        "page_sizes": sorted(machine.huge_pages),
        "virtual": machine.virtual,
        "restricted": len(machine.allowed_cpus) < len(machine.cpus) or len(machine.allowed_nodes) < len(machine.nodes),
    }


def _memory(machine: Machine, firmware: Mapping[str, Any]) -> dict[str, Any]:
    dimms = [one for one in firmware.get("dimms") or [] if one["bytes"]]
    names = ("dimm_count", "dimm_channels_per_socket", "dimm_rated_mts", "dimm_configured_mts", "dimm_layout")
    if not dimms or any(not one["configured_mts"] for one in dimms):
        return dict.fromkeys(names)  # guests show one made-up module without a rate
    channels = {(one["bank"], one["locator"].rstrip("12")) if one["bank"] else one["locator"] for one in dimms}
    sockets = len(machine.packages) or 1
    return {
        "dimm_count": len(dimms),
        "dimm_channels_per_socket": len(channels) // sockets,
        "dimm_rated_mts": min(one["rated_mts"] for one in dimms) or None,
        "dimm_configured_mts": min(one["configured_mts"] for one in dimms),
        "dimm_layout": ", ".join(
            f"{count} x {format_bytes(size)}" + f" {rate} MT/s" * bool(rate)
            for (size, rate), count in sorted(Counter((one["bytes"], one["rated_mts"]) for one in dimms).items())
        ),
    }


def _errors(env: Mapping[str, Any]) -> dict[str, Any]:
    before, after = (env.get("firmware") or {}).get("memory_errors"), env.get("memory_errors_after")
    return {
        f"memory_errors_{name}": after[name] - before[name] if before and after else None
        for name in ("corrected", "uncorrected")
    }


def _throttles(env: Mapping[str, Any]) -> list[int] | None:
    before, after = (env.get("firmware") or {}).get("thermal_throttles"), env.get("thermal_throttles_after")
    if not before or not after:
        return None
    return [after[name] - before[name] for name in sorted(after, key=int) if name in before]


def theoretical_gb_per_s(found: Mapping[str, Fact]) -> dict[int, float]:
    """{node: GB/s} of the memory channels, shared evenly by the nodes of a package; empty where not known.

    Channels x configured transfers a second x 8 bytes, as STREAM figures are usually held against.
    """
    channels, rate = found["dimm_channels_per_socket"].value, found["dimm_configured_mts"].value
    sockets, nodes = found["sockets"].value, found["numa_nodes"].value
    if not channels or not rate or not sockets or nodes % sockets or found["cpuless_nodes"].value:
        return {}
    return dict.fromkeys(range(nodes), channels * sockets / nodes * rate * 8 / 1000)


def cohort(record: Record, found: Mapping[str, Fact]) -> tuple[str, dict[str, str]]:
    """Key of machines that may be compared and what it is made of.

    Amounts and modules of memory are left out, so that a machine with a module missing is held against its sound
    sisters, and so is microcode, of which an update must not void a baseline: those are told (`BESIDE`).
    """
    tiers = sorted({s.case.tier for s in record.series if s.case.tier})

    def text(name: str) -> str:
        value = found[name].value
        return "not told" if value is None else format_numbers(value) if isinstance(value, tuple) else str(value)

    of = {
        name: text(name)
        for name in (
            "cpu_model",
            "cpu_stepping",
            "sockets",
            "numa_nodes",
            "cpus_per_node",
            "slit",
            "smt",
            "dimm_configured_mts",
            "bios",
        )
    }
    of["kernel"] = ".".join(text("kernel").split("-")[0].split(".")[:2])
    of["numabench"] = record.numabench.split(".")[0]
    of["tier"] = ",".join(tiers)
    asked = record.plan.get("options")
    for name, option in (("size", "bytes"), ("pages", "pages")):
        of[name] = str((isinstance(asked, dict) and asked.get(option)) or "own choice")
    return key(of), of


def key(of: Mapping[str, str]) -> str:
    """Twelve hexadecimal digits."""
    return hashlib.sha256(repr(sorted(of.items())).encode()).hexdigest()[:12]
