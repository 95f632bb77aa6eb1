# SPDX-License-Identifier: Apache-2.0
"""Descriptions of machines, and complaints: nothing here boots."""

from __future__ import annotations

from pathlib import Path

import pytest

from .errors import MissingTool, find_tools
from .guest import parse_list
from .image import _loading_order
from .machines import MACHINES, Machine, Node


def test_cpus_are_numbered_node_by_node() -> None:
    machine = Machine("X", (Node(2), Node(3), Node(0)))
    assert [list(machine.cpus_of(node)) for node in range(3)] == [[0, 1], [2, 3, 4], []]


def test_a_node_without_cpus_before_one_with_is_refused() -> None:
    with pytest.raises(ValueError, match="must come first"):
        Machine("X", (Node(0), Node(1)))


def test_a_matrix_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="2 x 2"):
        Machine("X", (Node(1), Node(1)), distances=((10, 20, 20),) * 3)
    with pytest.raises(ValueError, match="2 x 2"):
        Machine("X", (Node(1), Node(1))).penalised(((1, 2), (3, 4)), bytes_per_s=((1,),))


def test_names_are_the_names_in_the_catalogue() -> None:
    assert all(name == machine.name for name, machine in MACHINES.items())


def test_default_distances_are_the_kernels() -> None:
    assert MACHINES["TWO_NODES"].slit() == ((10, 20), (20, 10))


def test_missing_programs_are_named_with_one_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool) as caught:
        find_tools("qemu-system-x86_64", "cpio")
    assert str(caught.value) == ("qemu-system-x86_64, cpio not found: apt-get install cpio qemu-system-x86")


def test_modules_load_after_what_they_need() -> None:
    listing = "a/virtio_pci.ko: b/virtio_ring.ko b/virtio.ko\na/9pnet_virtio.ko: c/9pnet.ko b/virtio.ko\n"
    listing += "d/9p.ko: c/9pnet.ko\ne/overlay.ko:\nb/virtio.ko:\nb/virtio_ring.ko: b/virtio.ko\nc/9pnet.ko:\n"
    order = [Path(path).stem for path in _loading_order(listing)]
    assert order == ["virtio", "virtio_ring", "virtio_pci", "9pnet", "9pnet_virtio", "9p", "overlay"]


@pytest.mark.parametrize(("text", "numbers"), [("", []), ("0", [0]), ("0-2,7\n", [0, 1, 2, 7])])
def test_kernel_lists(text: str, numbers: list[int]) -> None:
    assert parse_list(text) == numbers
