# SPDX-License-Identifier: Apache-2.0
"""A file of our own is read in by one pinned thread, then mapped and streamed by others (numabench.filecache)."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from array import array
from collections.abc import Sequence
from contextlib import ExitStack

from numabench import _core, filecache, kernels
from numabench.errors import NumabenchError
from numabench.jobs.base import Bench, Job, rate_job, rate_seconds
from numabench.jobs.stream import RATE_BLOCK, rate_of
from numabench.memory import Buffer
from numabench.series import Case, Options
from numabench.units import format_bytes

__all__ = ["buffers", "prepare", "seconds"]

DISK_BYTES_PER_S = 0.5e9  # only for the forecast


def buffers(bench: Bench, stack: ExitStack, group: Sequence[Case], seed: int) -> list[Buffer]:
    """A file, dropped and read in by each of ``case.touch_cpus`` in turn, so that its pages are the last one's; mapped.

    It has no name and goes with its descriptor. Raises NumabenchError where it cannot be made or does not get dropped.
    """
    del bench
    case = group[0]
    file = _written(stack, case.bytes, seed)
    region = stack.enter_context(_core.Region(case.bytes, "any", fd=file))
    buffer = Buffer(region, (case.target or 0,), "first_read")
    for cpu in case.touch_cpus:
        filecache.drop(file, case.bytes)
        started = time.monotonic()
        filecache.read_in(file, case.bytes, cpu)
        buffer.filled_s = time.monotonic() - started
    return [buffer]


def prepare(bench: Bench, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, fixed: bool) -> Job:
    """Each thread reads its slice of the mapping; once before, so that what is timed takes no faults."""
    kernel, region = kernels.kernel(case.kernel, case.tier), buffers[0].region
    unit, count = os.sysconf("SC_PAGESIZE"), len(case.cpus)
    if region.bytes // unit < count:
        raise NumabenchError(f"{region.bytes} bytes are fewer than a page for each of {count} threads")
    bounds = [region.bytes // unit * part // count * unit for part in range(count + 1)]

    def works(loops: int) -> list[_core.Work]:
        return [
            _core.Work(kernel, a=(region, low), bytes=bounds[part + 1] - low, block=RATE_BLOCK, loops=loops, seed=seed)
            for part, low in enumerate(bounds[:-1])
        ]

    bench.team(case.cpus).run(works(1))
    return rate_job(works(int(fixed)), rate_of(kernel), bench.options)


def seconds(group: Sequence[Case], options: Options) -> float:
    """Writing and reading the file comes on top of the windows."""
    transfers = sum(case.bytes * (1 + len(case.touch_cpus)) for case in group)
    return rate_seconds(group, options) + transfers / DISK_BYTES_PER_S


def _written(stack: ExitStack, size: int, seed: int) -> int:
    """Descriptor of a new file of values in [0.5, 1), in TMPDIR or else the working folder, on disk."""
    folder = os.environ.get("TMPDIR") or os.getcwd()
    remedy = "name a folder on a disk: TMPDIR=FOLDER"
    try:
        free = shutil.disk_usage(folder).free
        if free < 2 * size:
            raise NumabenchError(
                f"{folder}: {format_bytes(free)} are free, the file of {format_bytes(size)} shall leave half; {remedy}"
            )
        opened = stack.enter_context(tempfile.TemporaryFile(dir=folder, buffering=0))  # noqa: SIM115 - the stack closes it
        file = opened.fileno()
        system = filecache.file_system(os.fstat(file).st_dev)
        if system in filecache.IN_MEMORY:
            raise NumabenchError(
                f"{folder} is a {system}: its pages are the file itself and are never dropped; {remedy}"
            )
        rng = random.Random(seed)  # noqa: S311 - no secret
        values = memoryview(array("d", (rng.uniform(0.5, 1.0) for _ in range(filecache.CHUNK // 8))))
        for at in range(0, size, filecache.CHUNK):
            part = values.cast("B")[: size - at]
            if os.pwrite(file, part, at) != len(part):
                raise NumabenchError(f"{folder}: the disk took only a part of the file; {remedy}")
        os.fsync(file)
    except OSError as error:
        raise NumabenchError(f"no file of {format_bytes(size)} in {folder}: {error.strerror}; {remedy}") from error
    return file
