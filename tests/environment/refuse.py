# SPDX-License-Identifier: Apache-2.0
"""Run a program under a real seccomp filter that refuses some system calls: ``refuse.py mbind=EPERM,... -- ARGV``."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

_NUMBERS = {
    "x86_64": {"mbind": 237, "set_mempolicy": 238, "get_mempolicy": 239, "move_pages": 279},
    "aarch64": {"mbind": 235, "get_mempolicy": 236, "set_mempolicy": 237, "move_pages": 239},
}
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF: load word, jump if equal to a constant, return a constant
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


if __name__ == "__main__":
    pairs = (pair.split("=") for pair in sys.argv[1].split(","))
    refuse({name: getattr(errno, error) for name, error in pairs})
    os.execv(sys.argv[3], sys.argv[3:])
