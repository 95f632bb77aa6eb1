# SPDX-License-Identifier: Apache-2.0
"""The machine as experiments plan with it: frozen, pure data, the same whether read here or from a file."""

from __future__ import annotations

import os

# Taken before any third-party import: some runtimes narrow the mask of the process when they are imported.
INITIAL_AFFINITY: frozenset[int] = frozenset(os.sched_getaffinity(0))

from bisect import bisect_left  # noqa: E402
from collections.abc import Iterable  # noqa: E402

import msgspec  # noqa: E402

from numabench import _hwloc  # noqa: E402
from numabench.errors import TopologyError  # noqa: E402
from numabench.machine_parts import (  # noqa: E402
    Cache,
    CoreKind,
    Cpu,
    Device,
    Distances,
    Ids,
    MemoryAttribute,
    MemorySideCache,
    Node,
    Package,
    PairClass,
    Relation,
    make_node,
    own_cpus,
    partition,
    where_in,
)
from numabench.units import plural  # noqa: E402

__all__ = [
    "INITIAL_AFFINITY",
    "Cache",
    "CoreKind",
    "Cpu",
    "Device",
    "Distances",
    "Machine",
    "MemoryAttribute",
    "MemorySideCache",
    "Node",
    "Package",
    "PairClass",
    "Relation",
]

_RELATIONS: tuple[Relation, ...] = ("local", "same package", "remote", "cpu-less")


class Machine(msgspec.Struct, frozen=True):
    """A machine as hwloc sees it. Sets of CPUs and nodes are sorted tuples of OS numbers."""

    arch: str
    cpu_model: str
    kernel: str
    hwloc: str
    source: str
    page_bytes: int  # 0: not recorded
    nodes: tuple[Node, ...]
    cpus: tuple[Cpu, ...]
    cores: tuple[Ids, ...]
    caches: tuple[Cache, ...]
    packages: tuple[Package, ...]
    distances: Distances
    core_kinds: tuple[CoreKind, ...]
    devices: tuple[Device, ...]
    memory_attributes: tuple[MemoryAttribute, ...]
    huge_pages: dict[int, int]
    offline_cpus: Ids
    offline_nodes: Ids
    allowed_cpus: Ids
    allowed_nodes: Ids
    virtual: bool
    topology_unproven: bool

    @classmethod
    def load(cls, source: str | os.PathLike[str] | None = None, affinity: Iterable[int] | None = None) -> Machine:
        """Read this machine (None), an hwloc XML file or a directory that holds a captured Linux tree.

        affinity: CPUs the process may use; for this machine the mask at import when None, else no limit.
        Raises TopologyError, with the remedy, for a source that cannot be read or an affinity without CPUs.
        """
        machine = _build(_hwloc.load(source), "this machine" if source is None else os.fspath(source))
        if affinity is None and source is None:
            affinity = INITIAL_AFFINITY
        return machine if affinity is None else machine.restrict(cpus=affinity)

    def restrict(self, cpus: Iterable[int] | None = None, nodes: Iterable[int] | None = None) -> Machine:
        """The same machine with fewer allowed CPUs or nodes. Raises TopologyError when none is left."""
        keep = frozenset(self.allowed_cpus).intersection(self.allowed_cpus if cpus is None else cpus)
        mems = frozenset(self.allowed_nodes).intersection(self.allowed_nodes if nodes is None else nodes)
        for what, left, had in (("CPU", keep, self.allowed_cpus), ("node", mems, self.allowed_nodes)):
            if had and not left:
                raise TopologyError(f"no allowed {what} is left; allowed here: {_ranges(had)}")
        return msgspec.structs.replace(
            self,
            cpus=tuple(msgspec.structs.replace(c, allowed=c.id in keep) for c in self.cpus),
            nodes=tuple(msgspec.structs.replace(n, allowed=n.id in mems) for n in self.nodes),
            allowed_cpus=tuple(sorted(keep)),
            allowed_nodes=tuple(sorted(mems)),
        )

    def node(self, node_id: int) -> Node:
        """The node of this OS number; TopologyError names those that exist."""
        for node in self.nodes:
            if node.id == node_id:
                return node
        raise TopologyError(f"{self._missing(node_id)}; nodes here: {_ranges(n.id for n in self.nodes)}")

    def cpu(self, cpu_id: int) -> Cpu:
        """The online CPU of this OS number; TopologyError names those that exist."""
        at = bisect_left(self.cpus, cpu_id, key=lambda cpu: cpu.id)
        if at < len(self.cpus) and self.cpus[at].id == cpu_id:
            return self.cpus[at]
        state = "is offline" if cpu_id in self.offline_cpus else "does not exist"
        raise TopologyError(f"CPU {cpu_id} {state}; CPUs here: {_ranges(c.id for c in self.cpus)}")

    def initiators(self) -> Ids:
        """Nodes with at least one allowed CPU of their own."""
        return tuple(n.id for n in self.nodes if not set(n.cpus).isdisjoint(self.allowed_cpus))

    def targets(self) -> Ids:
        """Nodes that have memory which this process may use."""
        return tuple(n.id for n in self.nodes if n.memory_bytes > 0 and n.allowed)

    def unavailable_reason(self, node_id: int, initiator: bool = False) -> str | None:
        """Why this node cannot be used as a target (or as an initiator); None when it can."""
        if all(n.id != node_id for n in self.nodes):
            return self._missing(node_id)
        node = self.node(node_id)
        if initiator:
            if not node.cpus:
                return f"node {node_id} has no CPUs"
            return None if node_id in self.initiators() else f"no CPU of node {node_id} is allowed to this process"
        if node.memory_bytes == 0:
            return f"node {node_id} has no memory"
        return None if node.allowed else f"node {node_id} is not in this cpuset"

    def _missing(self, node_id: int) -> str:
        return f"node {node_id} {'is offline' if node_id in self.offline_nodes else 'does not exist'}"

    def one_cpu_per_core(self, cpus: Iterable[int]) -> Ids:
        """The first of the given CPUs on each core, in the order given."""
        first: dict[int, int] = {}
        for cpu in cpus:
            first.setdefault(self.cpu(cpu).core, cpu)
        return tuple(first.values())

    def cpus_of(self, node_id: int, smt: bool = False) -> Ids:
        """Allowed CPUs of a node: one per core, or all with smt=True. Empty for a CPU-less node."""
        cpus = self._allowed(self.node(node_id).cpus)
        return cpus if smt else self.one_cpu_per_core(cpus)

    def nearest_cpus(self, node_id: int) -> Ids:
        """Allowed CPUs nearest to a node: its own or its initiators', else those of the least distance."""
        near = self._allowed(self.node(node_id).local_cpus)
        if near:
            return near
        far = {i: self.distance(i, node_id) for i in self.initiators()}
        known = [d for d in far.values() if d is not None]
        if not known:
            return self.allowed_cpus
        return self._allowed(c for i, d in far.items() if d == min(known) for c in self.node(i).cpus)

    def _allowed(self, cpus: Iterable[int]) -> Ids:
        allowed = frozenset(self.allowed_cpus)
        return tuple(c for c in sorted(cpus) if c in allowed)

    def llc_bytes(self, cpus: Iterable[int]) -> int:
        """Bytes of last-level cache these CPUs reach: the sum over the caches touched, 0 if none is known."""
        best: dict[int, int] = {}
        for at, cache in enumerate(self.caches):
            if cache.type != "instruction":
                for cpu in cache.cpus:
                    if cpu not in best or cache.level > self.caches[best[cpu]].level:
                        best[cpu] = at
        return sum(self.caches[at].bytes for at in {best[self.cpu(c).id] for c in cpus if self.cpu(c).id in best})

    def l3_domains(self) -> tuple[Ids, ...]:
        """CPUs of each L3 cache; `Cpu.l3` counts in this order."""
        return _l3(self.caches)

    def siblings(self, cpu_id: int) -> Ids:
        """Online CPUs of the same core, this one included."""
        return self.cores[self.cpu(cpu_id).core]

    def distance(self, i: int, j: int) -> int | None:
        """SLIT distance from node i to node j; None when not known (to itself 10, by definition)."""
        self.node(i), self.node(j)
        if i in self.distances.nodes and j in self.distances.nodes:
            return self.distances.values[self.distances.nodes.index(i)][self.distances.nodes.index(j)]
        return 10 if i == j else None

    def relation(self, i: int, j: int) -> Relation:
        """How node j lies to node i; "cpu-less" when one of two nodes has no CPUs of its own."""
        a, b = self.node(i), self.node(j)
        if i == j:
            return "local"
        if not a.cpus or not b.cpus:
            return "cpu-less"
        packages = [{self.cpu(c).package for c in n.cpus} - {None} for n in (a, b)]
        return "same package" if packages[0] & packages[1] else "remote"

    def pair_classes(self) -> dict[PairClass, tuple[tuple[int, int], ...]]:
        """(initiator, target) pairs by class, nearest classes first; only pairs that can be used here."""
        found: dict[PairClass, list[tuple[int, int]]] = {}
        for i in self.initiators():
            for j in self.targets():
                target = self.node(j)
                nearest = not set(self.node(i).cpus).isdisjoint(target.local_cpus)
                key = PairClass(self.relation(i, j), self.distance(i, j), nearest, target.subtype)
                found.setdefault(key, []).append((i, j))

        def order(key: PairClass) -> tuple[int, int, bool, str]:
            return (_RELATIONS.index(key.relation), key.distance or 0, not key.nearest, key.subtype)

        return {key: tuple(found[key]) for key in sorted(found, key=order)}

    def describe(self) -> str:
        """One line such as `2 x EPYC 9224 · 2 nodes · 48 cores / 96 CPUs · 384 GiB · Linux 6.8`."""
        model = _short_model(self.cpu_model) or self.arch or "unknown CPU"
        total = sum(n.memory_bytes for n in self.nodes) / 2**30
        cpus, nodes = len(self.cpus), len(self.nodes)
        words = [
            f"{len(self.packages)} x {model}" if self.packages else model,
            plural(nodes, "node"),
            f"{plural(len(self.cores), 'core')} / {plural(cpus, 'CPU')}",
            f"{total:.0f} GiB" if total >= 10 else f"{total:.1f} GiB",
            " ".join(".".join(word.split("-")[0].split(".")[:2]) for word in self.kernel.split()[:2]),
        ]
        return " · ".join(word for word in words if word)


def _l3(caches: Iterable[Cache]) -> tuple[Ids, ...]:
    return tuple(c.cpus for c in caches if c.level == 3 and c.type != "instruction")


def _ranges(ids: Iterable[int]) -> str:
    """Numbers as the kernel lists them: 0-3,8."""
    out: list[list[int]] = []
    for i in sorted(ids):
        if out and i == out[-1][1] + 1:
            out[-1][1] = i
        else:
            out.append([i, i])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in out) or "none"


def _short_model(model: str) -> str:
    """The model without marks, vendor and filler words: EPYC 9224 of "AMD EPYC 9224 24-Core Processor"."""
    model = model.partition("@")[0]
    for mark in ("(R)", "(TM)", "(r)", "(tm)"):
        model = model.replace(mark, " ")
    words = [w for w in model.split() if w not in ("Intel", "AMD", "CPU", "Processor") and not w.endswith("-Core")]
    return " ".join(words)


_UNITS = {"bandwidth": "MB/s", "latency": "ns"}
_VIRTUAL = (
    "QEMU",
    "KVM",
    "VMware",
    "VirtualBox",
    "innotek",
    "Xen",
    "HVM domU",
    "Virtual Machine",
    "Bochs",
    "BHYVE",
)


def _build(raw: _hwloc.Topology, source: str) -> Machine:
    files, infos = raw["files"], raw["infos"]
    online = tuple(sorted(raw["pus"]))
    cores = partition(raw["cores"], online)
    # Groups without any package number are made up by the kernel (PowerPC: one per core).
    known = [p for p in raw["packages"] if p[1]]
    packages = () if len(known) > 1 and all(p[0] is None for p in known) else tuple(Package(*p) for p in known)
    caches = tuple(Cache(*c) for c in sorted(raw["caches"], key=lambda c: (c[0], c[1], c[4])))
    kinds = [CoreKind(cpus, None if rank < 0 else rank, notes) for cpus, rank, notes in raw["kinds"]]
    rest = tuple(sorted(set(online).difference(*(k.cpus for k in kinds))))
    if rest:
        kinds.append(CoreKind(rest, None))
    own = own_cpus(raw["nodes"], files["own_cpus"] if files else {}, online)
    core_of, kind_of = where_in(cores), where_in(k.cpus for k in kinds)
    package_of, l3_of = where_in(p.cpus for p in packages), where_in(_l3(caches))
    node_of = {c: n for n, cpus in own.items() for c in cpus}
    matrix = raw["distances"] or (files["distances"] if files else {})
    ids = tuple(sorted({i for i, _ in matrix}))
    complete = all((i, j) in matrix for i in ids for j in ids)
    distances = Distances(ids, tuple(tuple(matrix[i, j] for j in ids) for i in ids)) if complete else Distances()
    node_ids = sorted(own)
    allowed_cpus = tuple(c for c in online if c in frozenset(raw["allowed_cpus"]))
    allowed_nodes = tuple(n for n in node_ids if n in frozenset(raw["allowed_nodes"]))
    if files and files["allowed_nodes"] is not None:
        allowed_nodes = tuple(n for n in allowed_nodes if n in files["allowed_nodes"])
    nodes = tuple(
        make_node(n, own, distances, n["id"] in allowed_nodes, online)
        for n in sorted(raw["nodes"], key=lambda n: n["id"])
    )
    virtual = bool(files and files["hypervisor"]) or any(
        word in infos.get(key, "") for key in ("DMISysVendor", "DMIProductName") for word in _VIRTUAL
    )
    total: dict[int, int] = {}
    for node in nodes:
        for size, count in node.huge_pages.items():
            total[size] = total.get(size, 0) + count
    kernel = f"{infos.get('OSName', '')} {infos.get('OSRelease', '')}".strip()
    pages = [size for n in raw["nodes"] for size in n["pages"]]
    return Machine(
        arch=infos.get("Architecture", ""),
        cpu_model=infos.get("CPUModel", ""),
        kernel=kernel or (files["kernel"] if files else ""),
        hwloc=raw["hwloc"],
        source=source,
        page_bytes=files["page_bytes"] if files else min(pages, default=0),
        nodes=nodes,
        cpus=tuple(
            Cpu(
                id=c,
                core=core_of[c],
                package=package_of.get(c),
                node=node_of.get(c),
                l3=l3_of.get(c),
                smt_index=cores[core_of[c]].index(c),
                kind=kind_of[c],
                allowed=c in allowed_cpus,
            )
            for c in online
        ),
        cores=cores,
        caches=caches,
        packages=packages,
        distances=distances,
        core_kinds=tuple(kinds),
        devices=tuple(
            Device(name, kind, () if len(nodes) > 1 and len(near) == len(nodes) else near, pci, subtype)
            for name, kind, pci, near, subtype in raw["devices"]
        ),
        memory_attributes=tuple(_attribute(*a) for a in sorted(raw["memory_attributes"])),
        huge_pages=(files["huge_pages"] if files else {}) or total,
        offline_cpus=tuple(c for c in raw["complete_cpus"] if c not in frozenset(online)),
        offline_nodes=tuple(n for n in (files["possible_nodes"] if files else ()) if n not in own),
        allowed_cpus=allowed_cpus,
        allowed_nodes=allowed_nodes,
        virtual=virtual,
        topology_unproven=virtual and all(len(core) == 1 for core in cores),
    )


def _attribute(name: str, target: int, cpus: Ids, value: int) -> MemoryAttribute:
    """hwloc's ReadBandwidth becomes read_bandwidth; its numbers are those of the HMAT files in sysfs."""
    name = "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).strip("_")
    return MemoryAttribute(name, target, cpus, value, _UNITS.get(name.split("_")[-1], ""))
