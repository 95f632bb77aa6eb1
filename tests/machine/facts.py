# SPDX-License-Identifier: Apache-2.0
"""What the model says of a machine, put as the fact files of the captured trees put it (data/README.md)."""

from __future__ import annotations

import functools
import json
import lzma
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numabench.machine import Machine

DATA = Path(__file__).parent / "data"
SHM = "/dev/shm"  # thousands of small files: some disks take 40 s for all machines, memory takes 2
NAMES = sorted(path.stem for path in DATA.glob("*.json"))
CACHE_TYPES = {"data": "Data", "instruction": "Instruction", "unified": "Unified"}


@contextmanager
def unpacked(name: str) -> Iterator[Path]:
    """The captured files of a machine, as long as they are needed."""
    packed = lzma.decompress((DATA / f"{name}.tar.xz").read_bytes())
    with tempfile.TemporaryDirectory(dir=SHM if os.access(SHM, os.W_OK) else None) as folder:
        subprocess.run(["tar", "-x", "-C", folder], input=packed, check=True)
        yield Path(folder) / name


@functools.cache
def machine(name: str) -> Machine:
    """One of the captured machines."""
    with unpacked(name) as tree:
        return Machine.load(tree)


def expected(name: str) -> dict[str, Any]:
    """The facts of one capture, by name of the fact; facts that the capture has no data for are left out."""
    given = json.loads((DATA / f"{name}.json").read_text())
    nodes = given["nodes"]
    facts: dict[str, Any] = {
        "nodes": [n["id"] for n in nodes],
        "node_cpus": {n["id"]: n["cpus"] for n in nodes},
        "node_memory": {n["id"]: n["mem_total_bytes"] for n in nodes if n["mem_total_bytes"] is not None},
        "online": given["online_cpus"],
        "offline": given["offline_cpus"],
        "cores": given["cores"],
        "core_cpus": sorted(given["core_cpus"]),
        "smt": given["smt"],
        "packages": given["packages"],
        "package_cpus": sorted(given["package_cpus"]),
        "distances": {(int(i), int(j)): d for i, row in (given["distances"] or {}).items() for j, d in row.items()},
        "caches": sorted(
            [c["level"], c["type"], c["size_bytes"], c["line_size"], sorted(c["shared_cpus"])] for c in given["caches"]
        ),
        "core_kinds": sorted(given["core_kinds"]["partition"]),
        "huge_pages": {
            int(i): {int(kb) << 10: count for kb, count in sizes.items()}
            for i, sizes in (given["hugepages"]["nodes"] or {}).items()
        },
        "allowed_cpus": given["allowed"]["cpus"],
        "allowed_nodes": given["allowed"]["mems"],
        "side_caches": {
            int(i): [[c["level"], c["size_bytes"]] for c in caches]
            for i, caches in (given["memory_side_caches"] or {}).items()
        },
        "arch": given["arch"],
    }
    if given["cache_instances"]:
        facts["cache_instances"] = sorted(
            [c["level"], c["type"], c["size_bytes"], c["count"]]
            for c in given["cache_instances"]
            if c["count"] is not None
        )
    if given["arch"] is None:
        del facts["arch"]
    return facts


def accepted(name: str) -> dict[str, list[Any]]:
    """Other answers that are as good, by fact."""
    given = json.loads((DATA / f"{name}.json").read_text())
    found: dict[str, list[Any]] = given.get("accepted", {})
    return found


def seen(machine: Machine) -> dict[str, Any]:
    """The same facts as the model has them."""
    first = machine.cpus[0].id
    instances: dict[tuple[int, str, int], int] = {}
    for cache in machine.caches:
        key = (cache.level, CACHE_TYPES[cache.type], cache.bytes)
        instances[key] = instances.get(key, 0) + 1
    found = machine.distances
    return {
        "nodes": [n.id for n in machine.nodes],
        "node_cpus": {n.id: list(n.cpus) for n in machine.nodes},
        "node_memory": {n.id: n.memory_bytes for n in machine.nodes},
        "online": [c.id for c in machine.cpus],
        "offline": list(machine.offline_cpus),
        "cores": len(machine.cores),
        "core_cpus": sorted(list(core) for core in machine.cores),
        "smt": max(len(core) for core in machine.cores),
        "packages": len(machine.packages),
        "package_cpus": sorted(list(p.cpus) for p in machine.packages),
        "distances": {(i, j): found.values[a][b] for a, i in enumerate(found.nodes) for b, j in enumerate(found.nodes)},
        "caches": sorted(
            [c.level, CACHE_TYPES[c.type], c.bytes, c.line_bytes, sorted(c.cpus)]
            for c in machine.caches
            if first in c.cpus
        ),
        "cache_instances": sorted([level, kind, size, count] for (level, kind, size), count in instances.items()),
        "core_kinds": sorted(list(kind.cpus) for kind in machine.core_kinds),
        "huge_pages": {n.id: dict(n.huge_pages) for n in machine.nodes if n.huge_pages},
        "allowed_cpus": list(machine.allowed_cpus),
        "allowed_nodes": list(machine.allowed_nodes),
        "side_caches": {
            n.id: [[c.level, c.bytes] for c in n.memory_side_caches] for n in machine.nodes if n.memory_side_caches
        },
        "arch": machine.arch,
    }
