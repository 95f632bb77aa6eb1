# SPDX-License-Identifier: Apache-2.0
"""One team over several nodes reads what was placed by a policy: each thread its own slice, or rows of all of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from numabench import _core, kernels
from numabench.errors import NumabenchError
from numabench.jobs import gather
from numabench.jobs.base import Bench, Job, rate_job
from numabench.jobs.base import rate_seconds as seconds
from numabench.jobs.stream import RATE_BLOCK, rate_of
from numabench.memory import Buffer, allocate
from numabench.series import Case

__all__ = ["WEIGHTS", "buffers", "prepare", "seconds"]

LEAST_SLICE = 1 << 16
# What people do with weights, in the words of the tables.
WEIGHTS = {
    "main": "main thread touches first",
    "workers": "each thread touches its slice",
    "interleave": "interleaved over the nodes",
    "weighted": "interleaved by weights",
    "preferred": "first node preferred",
    "bind": "all bound to the first node",
    "replicate": "a copy on every node",
    "apart": "an instance of its own on every node",
}
COPIES = ("replicate", "apart")


def buffers(bench: Bench, stack: ExitStack, group: Sequence[Case], seed: int) -> list[Buffer]:
    """The weights once, or once per node of ``case.targets``; all copies hold the same values."""
    case, how = group[0], str(group[0].params["weights"])
    nodes: list[int | tuple[int, ...] | None] = [tuple(case.targets)]
    touch: tuple[int, ...] = ()
    if how in ("main", "workers"):
        nodes, touch = [None], case.cpus[: None if how == "workers" else 1]
    elif how in ("bind", "preferred"):
        nodes = [case.targets[0]]
    elif how in COPIES:
        nodes = list(case.targets)
    policy = {**dict.fromkeys(COPIES, "bind"), "main": "local", "workers": "local"}.get(how, how)
    return [
        stack.enter_context(
            allocate(case.bytes, node, pages=case.pages, policy=policy, machine=bench.machine, touch=touch, seed=seed)
        )
        for node in nodes
    ]


def prepare(bench: Bench, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, fixed: bool) -> Job:
    """Each thread reads its slice, or with ``row`` rows anywhere, of its own node's copy where there is one.

    Of an instance of its own a node's threads read all slices.
    """
    kernel = kernels.kernel(case.kernel, case.tier)
    copies = {buffer.nodes[0]: buffer for buffer in buffers if buffer.nodes}
    # Whole pages, cut as touching cuts them, so that a thread reads what it touched first.
    unit = max(buffers[0].region.page_bytes, LEAST_SLICE)
    units, works = buffers[0].bytes // unit, list[_core.Work]()
    if units < len(case.cpus):
        raise NumabenchError(f"{buffers[0].bytes} bytes are fewer than a page for each of {len(case.cpus)} threads")
    node_of = {cpu: bench.machine.cpu(cpu).node or 0 for cpu in case.cpus}
    for part, cpu in enumerate(case.cpus):
        buffer = copies.get(node_of[cpu], buffers[0]) if len(buffers) > 1 else buffers[0]
        if "row" in case.params:
            works.append(gather.lookups(bench, stack, case, part, buffer.region, seed + part, fixed))
            continue
        apart = case.params["weights"] == "apart"
        mates = [other for other in case.cpus if not apart or node_of[other] == node_of[cpu]]
        low, high = (units * (mates.index(cpu) + k) // len(mates) * unit for k in (0, 1))
        works.append(
            _core.Work(kernel, a=(buffer.region, low), bytes=high - low, block=RATE_BLOCK, loops=int(fixed), seed=seed)
        )
    return rate_job(works, rate_of(kernel), bench.options)
