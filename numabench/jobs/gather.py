# SPDX-License-Identifier: Apache-2.0
"""Random rows of a table, read or written as embeddings are; every thread has a table and row numbers of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from numabench import _core, kernels
from numabench.jobs.base import Bench, Job, Stamps, rate_job
from numabench.jobs.base import rate_seconds as seconds
from numabench.jobs.stream import per_thread, rate_of
from numabench.machine import Machine
from numabench.memory import Buffer
from numabench.series import Case

__all__ = ["buffers", "lookups", "prepare", "row_numbers", "seconds"]

# Row numbers per thread, 4 MiB and more that stream from the thread's own node. No row comes twice before all have
# come, and those are four times what the caches hold.
NUMBERS, BLOCK, FIXED_ROWS = 1 << 20, 4096, 1 << 18
LINE, NUMBER_BYTES = 64, 4


def buffers(bench: Bench, stack: ExitStack, group: Sequence[Case], seed: int) -> list[Buffer]:
    """A table per thread of the largest team."""
    return per_thread(bench, stack, group, seed)


def row_numbers(
    stack: ExitStack, machine: Machine, cpu: int, rows: int, row: int, seed: int, zipf: bool = False
) -> tuple[_core.Region, int]:
    """Numbers of rows of ``row`` bytes in random order without repeats, on the CPU's own node; and how many.

    With ``zipf`` the row of rank r is drawn with a chance of log(1 + 1/r) / log(1 + rows), close to Zipf's law with
    exponent 1: the popular ones come again and again and stay in caches. Ranks are spread over the table by chance.
    """
    import numpy as np

    node = machine.cpu(cpu).node
    count = min(rows, max(NUMBERS, 4 * machine.llc_bytes((cpu,)) // row))
    region = stack.enter_context(_core.Region(4 * count, "thp", "local" if node is None else "bind", [node or 0]))
    rng = np.random.default_rng(seed)
    view = region.as_array("u4")
    try:
        if zipf:
            ranks = np.minimum((rows + 1) ** rng.random(count), rows).astype("u4") - 1
            view[:count] = rng.permutation(rows).astype("u4")[ranks]
        else:
            view[:count] = rng.choice(rows, count, replace=False, shuffle=True)
    finally:
        del view
    return region, count


def lookups(
    bench: Bench, stack: ExitStack, case: Case, part: int, table: _core.Region, seed: int, fixed: bool
) -> _core.Work:
    """What thread ``part`` of the case does with rows of ``row`` bytes of a table, independent of each other."""
    row = int(case.params["row"])
    zipf = bool(case.params.get("zipf", 0))
    numbers, count = row_numbers(stack, bench.machine, case.cpus[part], table.bytes // row, row, seed, zipf)
    return _core.Work(
        kernels.kernel(case.kernel, case.tier),
        a=(table, 0),
        b=(numbers, 0),
        bytes=table.bytes,
        stride=row,
        k=count,
        scalar=-1.0,
        seed=seed,
        block=BLOCK,
        loops=FIXED_ROWS if fixed else 0,
    )


def prepare(bench: Bench, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, fixed: bool) -> Job:
    """A table a thread."""
    works = [
        lookups(bench, stack, case, part, buffers[part % len(buffers)].region, seed + part, fixed)
        for part in range(len(case.cpus))
    ]
    figure, lines = rate_of(kernels.kernel(case.kernel, case.tier)), int(case.params["row"]) // LINE

    def numbers_read(windows: list[Stamps]) -> dict[str, float]:
        """What their numbers take besides the rows, which alone are counted: from the CPU's own node."""
        return {"numbers_gb_per_s": median(map(figure, windows)) * NUMBER_BYTES / (lines * LINE)}

    return rate_job(works, figure, bench.options)._replace(extras=numbers_read)
