# SPDX-License-Identifier: Apache-2.0
"""Memory in which the ranks of one model add up their outputs.

First where ranks agree on the next request, then a barrier for each thread, then of every operation the parts of all
ranks and the sums of all ranks.
"""

from __future__ import annotations

from numabench import _core, kernels
from numabench.instance.spec import PAGE, UNIT, Spec
from numabench.presets import Model, Op, cuts

BARRIER = 256  # bytes
Place = tuple[_core.Region, int]


def exchange_bytes(model: Model, ranks: int, threads: int) -> int:
    """Size of the memory for so many ranks of so many threads."""
    return _meeting(threads) + 2 * ranks * sum(map(vector_bytes, model.summed))


def vector_bytes(op: Op) -> int:
    """Room of an operation's outputs."""
    return -(-op.m * op.n * 4 // PAGE) * PAGE


def _meeting(threads: int) -> int:
    return PAGE * (1 + -(-threads * BARRIER // PAGE))


class Exchange:
    """One rank's view: where its parts and its sums are, touched by it, and the works that add up."""

    def __init__(self, spec: Spec, threads: int, region: _core.Region) -> None:
        self.spec, self.threads, self.region = spec, threads, region
        self.first: dict[Op, int] = {}
        at = _meeting(threads)
        for op in spec.model.summed:
            self.first[op] = at
            for start in (self._at(op, spec.rank), self._at(op, spec.rank + spec.ranks)):
                with memoryview(region) as view:
                    view[start : start + vector_bytes(op)] = bytes(vector_bytes(op))
            at += 2 * spec.ranks * vector_bytes(op)
        self.parts: dict[Op, Place] = {op: (region, self._at(op, spec.rank)) for op in self.first}
        self.sums: dict[Op, Place] = {op: (region, self._at(op, spec.rank + spec.ranks)) for op in self.first}

    def _at(self, op: Op, vector: int) -> int:
        return self.first[op] + vector * vector_bytes(op)

    def work(self, op: Op, t: int, loops: int = 1) -> _core.Work | None:
        """A thread's share, the same of every rank's parts, with the same thread of the others; None: it has none."""
        spec, region = self.spec, self.region
        first, last = cuts(op.m * op.n * 4, self.threads, UNIT)[t]
        if first == last:
            return None
        return _core.Work(
            kernels.kernel("allreduce_f32", spec.tier),
            a=(region, self._at(op, 0) + first),
            b=(region, self._at(op, spec.ranks) + first),
            shared=(region, PAGE + t * BARRIER),
            stride=vector_bytes(op),
            bytes=last - first,
            part=spec.rank,
            parts=spec.ranks,
            loops=loops,
            wait="polite" if spec.wait == "futex" else spec.wait,  # futexes of barriers are those of one process
        )
