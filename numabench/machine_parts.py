# SPDX-License-Identifier: Apache-2.0
"""The parts of a `Machine`: frozen records without behaviour. Import them from `numabench.machine`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

if TYPE_CHECKING:
    from numabench import _hwloc

Relation = Literal["local", "same package", "remote", "cpu-less"]
Ids = tuple[int, ...]


class Cpu(msgspec.Struct, frozen=True):
    """One online CPU; `id` is the OS number, `core`, `package`, `l3`, `kind` are places in `Machine`."""

    id: int
    core: int
    package: int | None  # None: the machine does not say
    node: int | None
    l3: int | None  # None: no L3 cache known
    smt_index: int  # place among the online CPUs of its core
    kind: int
    allowed: bool


class MemorySideCache(msgspec.Struct, frozen=True):
    """A cache in front of the memory of a node (DRAM in front of persistent memory, for instance)."""

    level: int
    bytes: int
    line_bytes: int


class Node(msgspec.Struct, frozen=True):
    """One online node. `cpus`: its own, online; `local_cpus`: the nearest (its own if it has any)."""

    id: int
    cpus: Ids
    memory_bytes: int
    local_cpus: Ids
    allowed: bool
    subtype: str = ""
    huge_pages: dict[int, int] = {}
    memory_side_caches: tuple[MemorySideCache, ...] = ()


class Cache(msgspec.Struct, frozen=True):
    """One cache and the online CPUs that share it."""

    level: int
    type: Literal["data", "instruction", "unified"]
    bytes: int
    line_bytes: int
    cpus: Ids


class Package(msgspec.Struct, frozen=True):
    """`os_id` is the label the kernel gives: it can have gaps or be None."""

    os_id: int | None
    cpus: Ids


class CoreKind(msgspec.Struct, frozen=True):
    """CPUs of one kind, the least powerful kind first; `efficiency` is a rank, None when not known."""

    cpus: Ids
    efficiency: int | None
    attributes: dict[str, str] = {}


class Device(msgspec.Struct, frozen=True):
    """An I/O device; `nodes` are near it (empty: place not known). `pci`: bus address or ""."""

    name: str
    kind: str  # block, gpu, network, infiniband, dma, coprocessor
    nodes: Ids
    pci: str = ""
    subtype: str = ""


class Distances(msgspec.Struct, frozen=True):
    """SLIT: `values[i][j]` is the distance from node `nodes[i]` to node `nodes[j]` (10 is local)."""

    nodes: Ids = ()
    values: tuple[Ids, ...] = ()


class MemoryAttribute(msgspec.Struct, frozen=True):
    """What the firmware (HMAT) claims of one (initiator, target): a hint, never a measurement."""

    name: str  # bandwidth, read_bandwidth, write_bandwidth, latency, read_latency, write_latency
    target: int
    initiator_cpus: Ids
    value: int
    unit: str  # "MB/s" or "ns"; "" for attributes hwloc does not define


class PairClass(NamedTuple):
    """Node pairs that are alike: one of them can stand for all."""

    relation: Relation
    distance: int | None
    nearest: bool  # the initiator has CPUs among the nearest of the target
    subtype: str  # of the target


def partition(groups: Iterable[Ids], online: Ids) -> tuple[Ids, ...]:
    """Disjoint groups that cover the online CPUs; a CPU in no group makes one of its own."""
    left = set(online)
    out = []
    for group in sorted(groups):
        mine = tuple(c for c in group if c in left)
        if mine:
            out.append(mine)
            left.difference_update(mine)
    return tuple(sorted(out + [(c,) for c in left]))


def where_in(groups: Iterable[Ids]) -> dict[int, int]:
    """{CPU: place of the group it is in}."""
    return {cpu: at for at, group in enumerate(groups) for cpu in group}


def own_cpus(nodes: list[_hwloc.RawNode], files: dict[int, Ids], online: Ids) -> dict[int, Ids]:
    """{node: CPUs of its own}. To a CPU-less node hwloc gives those of its initiators: two nodes claim a CPU.

    The kernel's cpumap decides where there is one. In an XML file the smallest claim wins, then the lowest
    id: Linux numbers the nodes that have CPUs first.
    """
    own: dict[int, Ids] = {}
    left = set(online)
    for node in sorted(nodes, key=lambda n: (n["id"] not in files, len(n["cpus"]), n["id"])):
        claim = files.get(node["id"], node["cpus"])
        own[node["id"]] = tuple(c for c in sorted(claim) if c in left)
        left.difference_update(own[node["id"]])
    return own


def make_node(raw: _hwloc.RawNode, own: dict[int, Ids], distances: Distances, allowed: bool, online: Ids) -> Node:
    """A node with its nearest CPUs: its own, those hwloc puts it beside, or those of the least distance."""
    local = own[raw["id"]] or tuple(c for c in raw["cpus"] if c in frozenset(online))
    if not local and raw["id"] in distances.nodes:
        column = distances.nodes.index(raw["id"])
        to = {i: row[column] for i, row in zip(distances.nodes, distances.values, strict=True) if own.get(i)}
        local = tuple(sorted(c for i, d in to.items() if d == min(to.values()) for c in own[i]))
    base = min(raw["pages"], default=0)
    return Node(
        id=raw["id"],
        cpus=own[raw["id"]],
        memory_bytes=raw["memory_bytes"],
        local_cpus=local,
        allowed=allowed,
        subtype=raw["subtype"],
        huge_pages={size: count for size, count in sorted(raw["pages"].items()) if size != base},
        memory_side_caches=tuple(MemorySideCache(*c) for c in raw["side_caches"]),
    )
