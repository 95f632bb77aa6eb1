# SPDX-License-Identifier: Apache-2.0
"""What firmware tells, read from a made-up root: every form of a size and a rate, and tables cut short."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from numabench import firmware
from numabench.environment import Tree
from numabench.firmware import Dimm


def device(
    size: int, rated: int = 0, configured: int = 0, length: int = 0x5C, more: dict[int, int] | None = None
) -> bytes:
    """A memory device (DMTF DSP0134, type 17) named DIMM A1 of BANK 0; ``more``: 32-bit fields by offset."""
    row = bytearray(0x5C)
    row[0], row[1] = 17, length
    struct.pack_into("<H", row, 0x0C, size)
    row[0x10], row[0x11] = 1, 2
    struct.pack_into("<H", row, 0x15, rated)
    struct.pack_into("<H", row, 0x20, configured)
    for at, value in (more or {}).items():
        struct.pack_into("<I", row, at, value)
    return bytes(row[:length]) + b"DIMM A1\0BANK 0 \0\0"


OTHER = bytes((0, 4, 0, 0)) + b"\0\0"  # a structure of another type, without texts
END = bytes((127, 4, 0, 0)) + b"\0\0"


def tree(root: Path, files: dict[str, bytes]) -> Tree:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return Tree(root)


def read(root: Path, table: bytes) -> list[Dimm] | None:
    return firmware.dimms(tree(root, {"sys/firmware/dmi/tables/DMI": table}))


@pytest.mark.parametrize(
    ("row", "size", "rated", "configured"),
    [
        (device(16384, 4800, 4400), 16 << 30, 4800, 4400),
        (device(0x8000 | 512), 512 << 10, 0, 0),
        (device(0x7FFF, more={0x1C: 65536}), 64 << 30, 0, 0),
        (device(0x7FFF, more={0x1C: 0x80000000 | 65536}), 64 << 30, 0, 0),
        (device(8192, 0xFFFF, 0xFFFF, more={0x54: 70000, 0x58: 66000}), 8 << 30, 70000, 66000),
        (device(0), 0, 0, 0),
        (device(0xFFFF), 0, 0, 0),
        (device(4096, 1333, length=0x1B), 4 << 30, 1333, 0),
    ],
    ids=["MiB", "KiB", "extended", "reserved bit", "extended rates", "empty", "unknown", "SMBIOS 2.3"],
)
def test_a_memory_device_is_read_in_every_form(
    tmp_path: Path, row: bytes, size: int, rated: int, configured: int
) -> None:
    assert read(tmp_path, OTHER + row + END) == [Dimm("DIMM A1", "BANK 0", size, rated, configured)]


def test_all_devices_are_found_between_others(tmp_path: Path) -> None:
    found = read(tmp_path, device(1024) + OTHER + device(2048) + device(0) + END)
    assert found is not None
    assert [one.bytes >> 20 for one in found] == [1024, 2048, 0]


def test_a_table_cut_anywhere_gives_what_stands_before(tmp_path: Path) -> None:
    one = device(1024)
    whole = one + device(2048) + END
    for at in range(len(whole)):
        found = read(tmp_path, whole[:at])
        assert found is not None
        assert [each.bytes >> 20 for each in found] == [1024, 2048][: (at >= 0x5C) + (at >= len(one) + 0x5C)]


def test_a_structure_shorter_than_its_head_ends_the_table(tmp_path: Path) -> None:
    assert read(tmp_path, bytes((17, 0, 0, 0)) * 8) == []


def test_errors_are_summed_over_controllers(tmp_path: Path) -> None:
    edac = "sys/devices/system/edac/mc"
    files = {f"{edac}/mc0/ce_count": b"3\n", f"{edac}/mc0/ue_count": b"0\n", f"{edac}/mc1/ce_count": b"4\n"}
    files |= {f"{edac}/mc1/ue_count": b"1\n", f"{edac}/power/ce_count": b"99\n"}
    assert firmware.errors(tree(tmp_path, files)) == {"corrected": 7, "uncorrected": 1}


def test_throttling_is_counted_by_package(tmp_path: Path) -> None:
    files = {}
    for cpu, package, core, whole in ((0, 0, 5, 7), (1, 0, 2, 7), (2, 1, 0, 1), (10, 1, 4, 1)):
        place = f"sys/devices/system/cpu/cpu{cpu}"
        files[f"{place}/topology/physical_package_id"] = f"{package}\n".encode()
        files[f"{place}/thermal_throttle/core_throttle_count"] = f"{core}\n".encode()
        files[f"{place}/thermal_throttle/package_throttle_count"] = f"{whole}\n".encode()
    files["sys/devices/system/cpu/cpufreq/thermal_throttle/core_throttle_count"] = b"99\n"
    assert firmware.throttles(tree(tmp_path, files)) == {"0": 14, "1": 5}


def test_a_root_that_tells_nothing_gives_none_and_not_zero(tmp_path: Path) -> None:
    nothing = Tree(tmp_path)
    names = ("dimms", "memory_errors", "thermal_throttles", "bios", "stepping", "microcode", "hypervisor")
    assert firmware.snapshot(nothing) == dict.fromkeys(names)
    assert "/sys/firmware/dmi/tables/DMI" in nothing.unread


def test_snapshot_holds_all_that_is_told(tmp_path: Path) -> None:
    files = {
        "sys/firmware/dmi/tables/DMI": device(1024, 3200, 2933) + END,
        "sys/class/dmi/id/bios_version": b"2.7.3\n",
        "proc/cpuinfo": b"processor\t: 0\nstepping\t: 2\nmicrocode\t: 0xa101148\n\n"
        b"processor\t: 1\nstepping\t: 3\nmicrocode\t: 0xa101149\n",
        "sys/hypervisor/type": b"xen\n",
    }
    dimm = {"locator": "DIMM A1", "bank": "BANK 0", "bytes": 1 << 30, "rated_mts": 3200, "configured_mts": 2933}
    assert firmware.snapshot(tree(tmp_path, files)) == {
        "dimms": [dimm],
        "memory_errors": None,
        "thermal_throttles": None,
        "bios": "2.7.3",
        "stepping": "2",
        "microcode": "0xa101148",
        "hypervisor": "xen",
    }


def test_arm_has_a_variant_and_a_revision_for_a_stepping(tmp_path: Path) -> None:
    files = {"proc/cpuinfo": b"processor\t: 0\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\nCPU revision\t: 1\n\n"}
    assert firmware.snapshot(tree(tmp_path, files))["stepping"] == "0x3 1"
