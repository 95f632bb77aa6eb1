# SPDX-License-Identifier: Apache-2.0
import os
from typing import Literal, TypedDict, type_check_only

@type_check_only
class RawNode(TypedDict):
    id: int
    cpus: tuple[int, ...]
    memory_bytes: int
    pages: dict[int, int]
    subtype: str
    side_caches: tuple[tuple[int, int, int], ...]

@type_check_only
class Files(TypedDict):
    own_cpus: dict[int, tuple[int, ...]]
    huge_pages: dict[int, int]
    hypervisor: bool
    possible_nodes: tuple[int, ...]
    distances: dict[tuple[int, int], int]
    page_bytes: int
    kernel: str
    allowed_nodes: tuple[int, ...] | None

@type_check_only
class Topology(TypedDict):
    hwloc: str
    infos: dict[str, str]
    complete_cpus: tuple[int, ...]
    allowed_cpus: tuple[int, ...]
    allowed_nodes: tuple[int, ...]
    pus: list[int]
    cores: list[tuple[int, ...]]
    packages: list[tuple[int | None, tuple[int, ...]]]
    caches: list[tuple[int, Literal["data", "instruction", "unified"], int, int, tuple[int, ...]]]
    nodes: list[RawNode]
    devices: list[tuple[str, str, str, tuple[int, ...], str]]
    distances: dict[tuple[int, int], int]
    memory_attributes: list[tuple[str, int, tuple[int, ...], int]]
    kinds: list[tuple[tuple[int, ...], int, dict[str, str]]]
    files: Files | None

def load(source: str | os.PathLike[str] | None = None) -> Topology: ...
