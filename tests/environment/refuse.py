# SPDX-License-Identifier: Apache-2.0
"""Run a module under a real seccomp filter that refuses some system calls: ``refuse.py mbind=EPERM,... -- MODULE ...``.

``numa_maps=hidden`` hides that file as well, which takes root.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import runpy
import struct
import sys

_NUMBERS = {
    "x86_64": {
        "madvise": 28,
        "sched_setaffinity": 203,
        "mbind": 237,
        "set_mempolicy": 238,
        "get_mempolicy": 239,
        "move_pages": 279,
        "perf_event_open": 298,
    },
    "aarch64": {
        "sched_setaffinity": 122,
        "madvise": 233,
        "mbind": 235,
        "get_mempolicy": 236,
        "set_mempolicy": 237,
        "move_pages": 239,
        "perf_event_open": 241,
    },
}
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF: load word, jump if equal to a constant, return a constant
_NEW_MOUNTS, _BIND, _RECURSIVE, _PRIVATE = 0x20000, 0x1000, 0x4000, 1 << 18
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def refuse(calls: dict[str, int]) -> None:
    """Install the filter for this process and all it starts: each call named returns its error number."""
    rules = [(_LOAD, 0, 0, 0)]  # the word at 0 of seccomp_data is the number of the call
    for name, error in calls.items():
        rules += [(_JUMP_EQUAL, 0, 1, _NUMBERS[platform.machine()][name]), (_RETURN, 0, 0, _ERRNO | error)]
    code = b"".join(struct.pack("HBBI", *rule) for rule in [*rules, (_RETURN, 0, 0, _ALLOW)])
    body = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("HP", len(rules) + 1, ctypes.addressof(body)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0), (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(program))):
        if libc.prctl(*(ctypes.c_ulong(word) for word in (*arguments, 0, 0))) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def hide(path: str) -> None:
    """Put an empty file in the place of ``path``, in a mount namespace of this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    private, bind = ctypes.c_ulong(_PRIVATE | _RECURSIVE), ctypes.c_ulong(_BIND)
    if (
        libc.unshare(_NEW_MOUNTS) != 0
        or libc.mount(b"none", b"/", None, private, None) != 0
        or libc.mount(b"/dev/null", path.encode(), None, bind, None) != 0
    ):
        raise OSError(ctypes.get_errno(), f"hide {path}")


if __name__ == "__main__":
    pairs = dict(pair.split("=") for pair in sys.argv[1].split(","))
    # What is mounted over a process's files is lost when it executes a program: the module runs in this one.
    if pairs.pop("numa_maps", ""):
        hide(f"/proc/{os.getpid()}/numa_maps")
    refuse({name: getattr(errno, error) for name, error in pairs.items()})
    sys.argv = sys.argv[3:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
