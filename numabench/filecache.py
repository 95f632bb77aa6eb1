# SPDX-License-Identifier: Apache-2.0
"""On which node the page cache holds a file: drop it, and read it in where its pages shall be.

Pages of a file are allocated for whoever reads them in, by that thread's policy (mempolicy(7), "local" by default), and
stay there for all that map the file later. posix_fadvise(2) drops clean pages only, and none that a process has mapped.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from concurrent.futures import ThreadPoolExecutor

from numabench import _core
from numabench.errors import NumabenchError

CHUNK = 1 << 20
DROPS = 5  # pages still on their way to a list of the system are not dropped at the first call
IN_MEMORY = ("tmpfs", "ramfs", "hugetlbfs")


def place(path: str, cpu: int) -> None:
    """Have the page cache hold all of a file near a CPU. Raises NumabenchError when it cannot be dropped or read."""
    try:
        with open(path, "rb", buffering=0) as file:
            told = os.fstat(file.fileno())
            system = file_system(told.st_dev)
            if system in IN_MEMORY:
                raise NumabenchError(f"{path} is on a {system}: its pages are the file itself and are never dropped")
            os.fsync(file.fileno())
            drop(file.fileno(), told.st_size)
            read_in(file.fileno(), told.st_size, cpu)
    except OSError as error:
        raise NumabenchError(f"{path}: {error.strerror}") from error


def file_system(device: int) -> str:
    """Type of the file system with that device number (proc_pid_mountinfo(5)); empty where it is not told."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            mount, _, rest = line.partition(" - ")
            if mount.split()[2] == wanted:
                return rest.split()[0]
    return ""


def drop(file: int, size: int) -> None:
    """Take a file out of the page cache. Raises NumabenchError when mincore(2) sees some of it there, or fails."""
    for _ in range(DROPS):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        left = resident(file, size)
        if not left:
            return
        time.sleep(0.05)
    raise NumabenchError(
        f"POSIX_FADV_DONTNEED left {left} pages of the file in the page cache: a process has them mapped, "
        "or the file belongs to someone else and the system does not tell"
    )


def resident(file: int, size: int) -> int:
    """Pages of a file that are in the page cache, by mincore(2). Raises NumabenchError when it is refused."""
    import numpy as np

    libc = ctypes.CDLL(None, use_errno=True)
    found = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
    with mmap.mmap(file, size, access=mmap.ACCESS_READ) as mapped:
        base = np.frombuffer(mapped, np.uint8)
        failed = libc.mincore(ctypes.c_void_p(base.ctypes.data), ctypes.c_size_t(size), found)
        why = os.strerror(ctypes.get_errno())
        del base  # else the mapping could not be closed
    if failed:
        raise NumabenchError(f"mincore: {why}; whether the file left the page cache cannot be proven")
    return sum(byte & 1 for byte in found.raw)


def read_in(file: int, size: int, cpu: int) -> None:
    """Read all of a file on a CPU. Raises NumabenchError when it is shorter."""
    with ThreadPoolExecutor(1, initializer=_core.set_affinity, initargs=((cpu,),)) as reader:
        reader.submit(_read, file, size).result()


def _read(file: int, size: int) -> None:
    """Read it all into one small buffer."""
    into = bytearray(CHUNK)
    at = 0
    while at < size:
        got = os.preadv(file, [into], at)
        if not got:
            raise NumabenchError("the file is shorter than it was written")
        at += got
