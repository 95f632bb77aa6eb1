# SPDX-License-Identifier: Apache-2.0
"""Published figures of real machines as records: one pass per cell, as that is what was published."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from numabench.machine import Cache, Cpu, Distances, Machine, Node, Package
from numabench.record import Record
from numabench.series import Case, Evidence, Sample, Series
from numabench.validation.baseline import build
from numabench.validation.outcome import Result
from numabench.validation.validate import validate

DATA = Path(__file__).parent / "data"
GIB = 1 << 30
CACHES = {1: 32 << 10, 2: 512 << 10, 3: 16 << 20}
Rows = list[list[float | None]]


def machines() -> dict[str, dict[str, Any]]:
    """All of them by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(DATA.glob("*.json"))}


def topology(
    sockets: int,
    nodes: int,
    model: str = "a CPU",
    cpuless: tuple[int, ...] = (),
    slit: list[list[int]] | None = None,
    memory_gib: tuple[float, ...] = (),
) -> Machine:
    """A machine of so many nodes, dealt out to the packages in order; two CPUs a node."""
    with_cpus = [node for node in range(nodes) if node not in cpuless]
    cpus_of = {node: (2 * at, 2 * at + 1) for at, node in enumerate(with_cpus)}
    per = max(len(with_cpus) // sockets, 1)
    package_of = {node: min(at // per, sockets - 1) for at, node in enumerate(with_cpus)}
    cpus = tuple(Cpu(cpu, cpu, package_of[node], node, None, 0, 0, True) for node in with_cpus for cpu in cpus_of[node])
    gib = memory_gib or (64.0,) * nodes
    near = {node: cpus_of.get(node, cpus_of[with_cpus[-1]]) for node in range(nodes)}
    return Machine(
        arch="x86_64",
        cpu_model=model,
        kernel="Linux 6.8.0",
        hwloc="",
        source="a test",
        page_bytes=4096,
        nodes=tuple(Node(node, cpus_of.get(node, ()), int(gib[node] * GIB), near[node], True) for node in range(nodes)),
        cpus=cpus,
        cores=tuple((cpu.id,) for cpu in cpus),
        caches=(),
        packages=tuple(
            Package(at, tuple(c for n in with_cpus if package_of[n] == at for c in cpus_of[n])) for at in range(sockets)
        ),
        distances=Distances(tuple(range(nodes)), tuple(map(tuple, slit))) if slit else Distances(),
        core_kinds=(),
        devices=(),
        memory_attributes=(),
        huge_pages={2097152: 0},
        offline_cpus=(),
        offline_nodes=(),
        allowed_cpus=tuple(cpu.id for cpu in cpus),
        allowed_nodes=tuple(range(nodes)),
        virtual=False,
        topology_unproven=False,
    )


def series(
    family: str, pair: tuple[int, int], values: list[float], flags: tuple[str, ...] = (), kernel: str = ""
) -> Series:
    """Passes of one cell."""
    latency = family == "latency"
    case = Case(
        experiment="latency" if latency else "bandwidth",
        kernel=kernel or ("chase" if latency else "read"),
        unit="ns" if latency else "GB/s",
        better="low" if latency else "high",
        initiator=pair[0],
        target=pair[1],
        tier="avx512",
    )
    samples = tuple(
        Sample(number=at, position=at, value=value, windows=(value,), evidence=Evidence(proof="move_pages"))
        for at, value in enumerate(values)
    )
    return Series(case=case, samples=samples, estimate=sorted(values)[len(values) // 2], flags=flags, trust="proven")


def record(machine: Machine, found: list[Series], **environment: Any) -> Record:
    """A record with a settled environment."""
    settled = {"kernel": "6.8.0", "governor": "performance", "thp": "madvise", "numa_balancing": "0", "cpu_quota": None}
    return Record(
        numabench="0.1.0",
        created="2026-11-01T12:00:00+00:00",
        duration_s=60.0,
        machine=machine,
        environment=settled | {"host": "h1"} | environment,
        capabilities={},
        plan={},
        series=tuple(found),
    )


def published(one: dict[str, Any]) -> Record | None:
    """The record of a reference machine; None when it has no matrix to look at."""
    matrices = {
        family: rows
        for family, key in (("latency", "latency_ns"), ("bw.read", "bandwidth_gb_per_s"))
        if (rows := one.get(key))
    }
    found = core_to_core(one)
    if not matrices and not found:
        return None
    nodes = len(next(iter(matrices.values()))) if matrices else one["nodes"]
    # Where the source does not say, nodes are taken to be of one package.
    machine = topology(one["sockets"] or 1, nodes, one["cpu"], tuple(one.get("cpuless_nodes", ())), one.get("slit"))
    for family, rows in matrices.items():
        small = any(a["kind"] == "buffer_too_small" and a["field"] == f"{family}_ns" for a in one["known_anomalies"])
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                if value is not None:
                    # A buffer below four times the caches is what numabench flags when it plans such a case.
                    found.append(series(family, (i, j), [value], ("cache_suspect",) if small else ()))
    found += together(one)
    if "cache_gb_per_s" in one:
        machine = msgspec.structs.replace(
            machine, caches=tuple(Cache(n, "unified", size, 64, (0,)) for n, size in CACHES.items())
        )
        found += caches(one)
    return record(machine, found) if found else None


def core_to_core(one: dict[str, Any]) -> list[Series]:
    """Lines between nodes, at home with either end."""
    rows = [(home, one["c2c_ns"].get(f"mlc_remote_hitm_home_{home}") or []) for home in ("writer", "reader")]
    return [
        moved(
            series("latency", (i, j if home == "reader" else i), [value], kernel="pingpong_flag"),
            experiment="c2c",
            cpus=(2 * i, 2 * j),
        )
        for home, matrix in rows
        for i, row in enumerate(matrix)
        for j, value in enumerate(row)
        if value is not None
    ]


def caches(one: dict[str, Any]) -> list[Series]:
    """Rates of the caches, at half of usual sizes, and of memory."""
    rates = [(size // 2, one["cache_gb_per_s"][f"l{n}"]) for n, size in CACHES.items()]
    return [
        moved(series("bw.read", (0, 0), [value]), experiment="hierarchy", cpus=(0,), bytes=size)
        for size, value in (*rates, (1 << 30, one["peak_gb_per_s"]["reads"]))
    ]


def together(one: dict[str, Any], run: str = "all_at_once", kib: int = 4 << 20) -> list[Series]:
    """A chase on every CPU at once, at the size of the source's matrix: one case a node, its CPUs' shares.

    GB/s are the lines that they load.
    """
    sweep = one.get("latency_sweep") or {}
    if run not in sweep.get("runs", {}):
        return []
    at, found = sweep["sizes_kib"].index(kib), []
    for node in sorted(set(sweep["node_of_cpu"])):
        ns = [row[at] for row, of in zip(sweep["runs"][run], sweep["node_of_cpu"], strict=True) if of == node]
        mine = series("bw.read", (node, node), [len(ns) * 64 / median(ns)])
        (sample,) = mine.samples
        found.append(
            msgspec.structs.replace(
                mine, samples=(msgspec.structs.replace(sample, extras={"fairness": min(ns) / max(ns)}),)
            )
        )
    return found


def moved(one: Series, **case: Any) -> Series:
    """The series as that of another experiment."""
    return msgspec.structs.replace(one, case=msgspec.structs.replace(one.case, **case))


def judged(one: dict[str, Any]) -> Result | None:
    """The verdict of a reference machine against itself."""
    found = published(one)
    return validate(found, host=one["name"]) if found else None


def earlier(
    one: dict[str, Any], all_of_them: dict[str, dict[str, Any]], any_method: bool = False
) -> dict[str, Any] | None:
    """The run before this one of the same machine, by the same method; None without one."""
    mine = [
        other
        for other in all_of_them.values()
        if one.get("group")
        and other.get("group") == one["group"]
        and (any_method or other.get("method") == one.get("method"))
        and (other["source"].get("date") or "") < (one["source"].get("date") or "")
        and published(other) is not None
    ]
    return max(mine, key=lambda other: other["source"].get("date") or "", default=None)


def core_to_core_before(one: dict[str, Any], all_of_them: dict[str, dict[str, Any]]) -> Result | None:
    """Core-to-core figures alone against those of the run before, by whatever method that took its matrices."""
    before = earlier(one, all_of_them, any_method=True)
    alone = [published(x | {"latency_ns": None, "bandwidth_gb_per_s": None}) for x in (before, one) if x]
    if len(alone) < 2 or alone[0] is None or alone[1] is None:
        return None
    return validate(alone[1], host=one["name"], baseline=build([validate(alone[0], host="before")]))


def builtins(value: object) -> Any:
    """As plain JSON."""
    return msgspec.to_builtins(value, str_keys=True)
