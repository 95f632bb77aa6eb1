# SPDX-License-Identifier: Apache-2.0
"""What the firmware says of memory, errors and heat: SMBIOS, BIOS, CPU revision, EDAC, thermal counters. Only read."""

from __future__ import annotations

import re
import struct
from typing import Any

import msgspec

from numabench.environment import Tree

_DMI = "sys/firmware/dmi/tables/DMI"
_EDAC = "sys/devices/system/edac/mc"
_CPU = "sys/devices/system/cpu"
_MEMORY_DEVICE = 17


class Dimm(msgspec.Struct, frozen=True):
    """One memory socket (SMBIOS type 17); 0 bytes: empty. Rates in MT/s, 0: not told."""

    locator: str
    bank: str
    bytes: int
    rated_mts: int
    configured_mts: int


def dimms(tree: Tree) -> list[Dimm] | None:
    """Memory sockets of the machine; None where the table cannot be read (needs root, absent in many guests)."""
    table = tree.raw(_DMI)
    if table is None:
        return None
    found, at = [], 0
    while at + 4 <= len(table):
        kind, length = table[at], table[at + 1]
        if length < 4 or at + length > len(table):
            break
        end = table.find(b"\0\0", at + length)
        end = len(table) if end < 0 else end
        texts = [text.decode(errors="replace").strip() for text in table[at + length : end].split(b"\0")]
        if kind == _MEMORY_DEVICE and length >= 0x17:
            found.append(_device(table[at : at + length], texts))
        at = end + 2
    return found


def _device(row: bytes, texts: list[str]) -> Dimm:
    """Offsets are those of DMTF DSP0134, Memory Device (Type 17)."""

    def word(at: int, size: str = "<H") -> int:
        return int(struct.unpack_from(size, row, at)[0]) if at + struct.calcsize(size) <= len(row) else 0

    def text(at: int) -> str:
        number = row[at] if at < len(row) else 0
        return texts[number - 1] if 0 < number <= len(texts) else ""

    size = word(0x0C)
    if size == 0x7FFF:
        size_bytes = (word(0x1C, "<I") & 0x7FFFFFFF) << 20
    elif size in (0, 0xFFFF):
        size_bytes = 0
    else:
        size_bytes = (size & 0x7FFF) << (10 if size & 0x8000 else 20)
    rated, configured = word(0x15), word(0x20)
    return Dimm(
        text(0x10),
        text(0x11),
        size_bytes,
        word(0x54, "<I") if rated == 0xFFFF else rated,
        word(0x58, "<I") if configured == 0xFFFF else configured,
    )


def errors(tree: Tree) -> dict[str, int] | None:
    """Corrected and uncorrected memory errors since boot over all controllers; None without EDAC."""
    found = {}
    for name, file in (("corrected", "ce_count"), ("uncorrected", "ue_count")):
        counts = [tree.number(f"{_EDAC}/{mc}/{file}") for mc in tree.names(_EDAC) if mc.startswith("mc")]
        known = [count for count in counts if count is not None]
        if not known:
            return None
        found[name] = sum(known)
    return found


def throttles(tree: Tree) -> dict[str, int] | None:
    """{package: times its CPUs were slowed for heat since boot}; None where that is not counted (Intel alone does).

    Linux, Documentation/ABI/testing/sysfs-devices-system-cpu: each CPU shows its core's and its package's count. Of a
    package all CPUs show the same, so the greatest is the package's; those of the cores are added to it.
    """
    found: dict[str, int] = {}
    packages: dict[str, int] = {}
    for name in tree.names(_CPU):
        core = tree.number(f"{_CPU}/{name}/thermal_throttle/core_throttle_count") if name[3:].isdigit() else None
        if core is None:
            continue
        where = tree.text(f"{_CPU}/{name}/topology/physical_package_id") or "0"
        whole = tree.number(f"{_CPU}/{name}/thermal_throttle/package_throttle_count") or 0
        found[where] = found.get(where, 0) + core
        packages[where] = max(packages.get(where, 0), whole)
    return {where: count + packages[where] for where, count in found.items()} or None


def snapshot(tree: Tree) -> dict[str, Any]:
    """All of it, for the record; None: not told here."""
    sockets = dimms(tree)
    cpu = re.split(r"\n\s*\n", tree.text("proc/cpuinfo") or "")[0]
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in cpu.splitlines())}
    revision = [told[name] for name in ("CPU variant", "CPU revision") if name in told]  # as ARM calls it
    return {
        "dimms": None if sockets is None else [msgspec.to_builtins(one) for one in sockets],
        "memory_errors": errors(tree),
        "thermal_throttles": throttles(tree),
        "bios": tree.text("sys/class/dmi/id/bios_version"),
        "stepping": told.get("stepping") or " ".join(revision) or None,
        "microcode": told.get("microcode"),
        "hypervisor": tree.text("sys/hypervisor/type"),
    }
