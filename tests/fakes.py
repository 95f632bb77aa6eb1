# SPDX-License-Identifier: Apache-2.0
"""A machine of two nodes and a backend whose true figures are known."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec

from numabench.errors import NumabenchError
from numabench.machine import Distances, Machine
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
