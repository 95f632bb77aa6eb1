# SPDX-License-Identifier: Apache-2.0
"""A machine of two nodes and a backend whose true figures are known."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec

from numabench.errors import NumabenchError
from numabench.machine import Cache, Distances, Machine, Node, Package
from numabench.series import Case, Evidence, Sample


def two_nodes() -> Machine:
    """This machine's description, with its first CPU on node 0 and a made-up twin on node 1."""
    here = Machine.load()
    node = here.nodes[0]
    cpu = here.cpus[0]
    replace = msgspec.structs.replace
    nodes = tuple(replace(node, id=i, cpus=(i,), local_cpus=(i,), allowed=True, memory_bytes=8 << 30) for i in (0, 1))
    cpus = tuple(replace(cpu, id=i, core=i, node=i, l3=0, smt_index=0, allowed=True) for i in (0, 1))
    return replace(
        here,
        source="a test",
        nodes=nodes,
        cpus=cpus,
        cores=((0,), (1,)),
        caches=(),
        distances=Distances((0, 1), ((10, 21), (21, 10))),
        allowed_cpus=(0, 1),
        allowed_nodes=(0, 1),
        topology_unproven=False,
    )


def many(nodes: int = 4, cores: int = 2, smt: int = 1, packages: int = 2, bare: int = 0, l3: int = 0) -> Machine:
    """A made-up machine: so many nodes with cores of so many threads, in packages, and ``bare`` nodes without CPUs.

    CPUs are numbered node by node, second threads behind all first ones. Distance 10, 12 in a package, 32 across; 24
    to a bare node from all. One L3 per node, or one per ``l3`` cores.
    """
    here = Machine.load()
    base = here.cpus[0]
    count = nodes * cores
    per = nodes // packages
    own = [tuple(t * count + n * cores + c for t in range(smt) for c in range(cores)) for n in range(nodes)]
    threads = [tuple(core + t * count for t in range(smt)) for core in range(count)]
    domains = [threads[at : at + (l3 or cores)] for at in range(0, count, l3 or cores)]
    caches = tuple(Cache(3, "unified", 8 << 20, 64, tuple(sorted(sum(domain, ())))) for domain in domains)
    replace = msgspec.structs.replace
    ids = tuple(range(nodes + bare))

    def distance(i: int, j: int) -> int:
        if i == j:
            return 10
        return 24 if max(i, j) >= nodes else 12 if i // per == j // per else 32

    cpus = [
        replace(
            base,
            id=core + t * count,
            core=core,
            package=core // cores // per,
            node=core // cores,
            l3=core // (l3 or cores),
            smt_index=t,
            kind=0,
            allowed=True,
        )
        for t in range(smt)
        for core in range(count)
    ]
    everything = tuple(cpu.id for cpu in cpus)
    return replace(
        here,
        source="a test",
        nodes=tuple(
            Node(n, own[n] if n < nodes else (), 8 << 30, own[n] if n < nodes else everything, True) for n in ids
        ),
        cpus=tuple(cpus),
        cores=tuple(threads),
        caches=caches,
        packages=tuple(Package(p, tuple(sorted(c.id for c in cpus if c.package == p))) for p in range(packages)),
        distances=Distances(ids, tuple(tuple(distance(i, j) for j in ids) for i in ids)),
        allowed_cpus=everything,
        allowed_nodes=ids,
        topology_unproven=False,
    )


class Fake:
    """Latency 100 ns local and 190 ns remote, rates the other way round, 1 % noise; counts its calls."""

    def __init__(
        self,
        noise: float = 0.01,
        flags: tuple[str, ...] = (),
        broken: str = "",
        truth: Callable[[Case], float] | None = None,
        extras: Callable[[Case], dict[str, float]] | None = None,
    ) -> None:
        self.random, self.noise, self.flags, self.broken = random.Random(3), noise, flags, broken
        self.truth, self.extras = truth, extras
        self.calls: list[tuple[int, str]] = []

    def measure(self, group: Sequence[Case], number: int, position: int, seed: int) -> list[Sample]:
        samples = []
        for case in group:
            if case.kernel == self.broken:
                raise NumabenchError("broken on purpose")
            self.calls.append((number, case.label))
            remote = case.initiator != case.target
            truth = (
                (190.0 if remote else 100.0) if case.better == "low" else (10.0 if remote else 20.0) * len(case.cpus)
            )
            truth = self.truth(case) if self.truth else truth
            value = truth * (1 + self.random.gauss(0, self.noise))
            evidence = Evidence(
                proof="move_pages",
                pages_checked=10,
                placement_seen={case.target or 0: 10},
                cpus_asked=case.cpus,
                cpus_seen=case.cpus,
                tier=case.tier,
                page_kind_share=1.0,
            )
            samples.append(
                Sample(
                    number=number,
                    position=position,
                    value=value,
                    windows=(value,),
                    evidence=evidence,
                    flags=self.flags,
                    extras=self.extras(case) if self.extras else {},
                )
            )
        return samples
