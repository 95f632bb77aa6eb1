# SPDX-License-Identifier: Apache-2.0
"""A file of our own is read in by one pinned thread, then mapped and streamed by others.

Pages of a file are allocated for whoever reads them in, by that thread's policy (mempolicy(7), "local" by default), and
stay there for all that map the file later. posix_fadvise(2) drops clean pages only, hence the fsync before.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import tempfile
import time
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from numabench import _core, kernels
from numabench.errors import NumabenchError
from numabench.jobs.base import Bench, Job, rate_job, rate_seconds
from numabench.jobs.stream import RATE_BLOCK, rate_of
from numabench.memory import Buffer
from numabench.series import Case, Options
from numabench.units import format_bytes

__all__ = ["buffers", "prepare", "seconds"]

CHUNK = 1 << 20
DROPS = 5  # pages still on their way to a list of the system are not dropped at the first call
IN_MEMORY = ("tmpfs", "ramfs", "hugetlbfs")
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
        _drop(file, region)
        started = time.monotonic()
        with ThreadPoolExecutor(1, initializer=_core.set_affinity, initargs=((cpu,),)) as reader:
            reader.submit(_read, file, case.bytes).result()
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
        system = _file_system(os.fstat(file).st_dev)
        if system in IN_MEMORY:
            raise NumabenchError(
                f"{folder} is a {system}: its pages are the file itself and are never dropped; {remedy}"
            )
        rng = random.Random(seed)  # noqa: S311 - no secret
        values = memoryview(array("d", (rng.uniform(0.5, 1.0) for _ in range(CHUNK // 8))))
        for at in range(0, size, CHUNK):
            part = values.cast("B")[: size - at]
            if os.pwrite(file, part, at) != len(part):
                raise NumabenchError(f"{folder}: the disk took only a part of the file; {remedy}")
        os.fsync(file)
    except OSError as error:
        raise NumabenchError(f"no file of {format_bytes(size)} in {folder}: {error.strerror}; {remedy}") from error
    return file


def _file_system(device: int) -> str:
    """Type of the file system with that device number (proc_pid_mountinfo(5)); empty where it is not told."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            mount, _, rest = line.partition(" - ")
            if mount.split()[2] == wanted:
                return rest.split()[0]
    return ""


def _drop(file: int, region: _core.Region) -> None:
    """Take the file out of the page cache. Raises NumabenchError when mincore(2) sees some of it there, or fails."""
    for _ in range(DROPS):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        left = resident(region)
        if not left:
            return
        time.sleep(0.05)
    raise NumabenchError(f"POSIX_FADV_DONTNEED left {left} pages of the file in the page cache")


def resident(region: _core.Region) -> int:
    """Pages of a mapped file that are in the page cache, by mincore(2). Raises NumabenchError when it is refused."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = ctypes.create_string_buffer(-(-region.bytes // os.sysconf("SC_PAGESIZE")))
    if libc.mincore(ctypes.c_void_p(region.address), ctypes.c_size_t(region.bytes), found):
        why = os.strerror(ctypes.get_errno())
        raise NumabenchError(f"mincore: {why}; whether the file left the page cache cannot be proven")
    return sum(byte & 1 for byte in found.raw)


def _read(file: int, size: int) -> None:
    """Read it all into one small buffer."""
    into = bytearray(CHUNK)
    at = 0
    while at < size:
        got = os.preadv(file, [into], at)
        if not got:
            raise NumabenchError("the file is shorter than it was written")
        at += got
