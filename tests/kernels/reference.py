# SPDX-License-Identifier: Apache-2.0
"""What each memory kernel does, said in numpy: one round over arrays a, b, c, d (float64 views)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WORD = 2**64


class Case(NamedTuple):
    """Arrays of one call, each as long as the kernel's ``bytes``, and its scalar arguments."""

    a: Floats
    b: Floats
    c: Floats
    d: Floats
    scalar: float
    step: int
    """Elements from one access to the next: 1 but for the stride family."""


def digest(values: Floats) -> int:
    """XOR of the elements' bit patterns."""
    return int(np.bitwise_xor.reduce(values.view(np.uint64)))


def read(case: Case) -> int:
    """Reads every step-th element of a."""
    return digest(np.ascontiguousarray(case.a[:: case.step]))


def write(case: Case) -> int:
    """Stores one value, whatever it is (a property of its own), at every step-th element of a."""
    case.a[:: case.step] = case.a[:1]
    return 0


def copy(case: Case) -> int:
    """a[i] = b[i]."""
    case.a[:] = case.b
    return 0


def scale(case: Case) -> int:
    """a[i] = s * b[i]."""
    case.a[:] = case.scalar * case.b
    return 0


def add(case: Case) -> int:
    """a[i] = b[i] + c[i]."""
    case.a[:] = case.b + case.c
    return 0


def triad(case: Case) -> int:
    """a[i] = b[i] + s * c[i]."""
    case.a[:] = case.b + case.scalar * case.c
    return 0


def update(case: Case) -> int:
    """a[i] = s * a[i]."""
    case.a[:] = case.scalar * case.a
    return 0


def mix_2_1(case: Case) -> int:
    """a[i] = b[i] - a[i]."""
    case.a[:] = case.b - case.a
    return 0


def mix_3_1(case: Case) -> int:
    """a[i] = b[i] + c[i] - a[i]."""
    case.a[:] = case.b + case.c - case.a
    return 0


def mix_3_1_nt(case: Case) -> int:
    """a[i] = b[i] + c[i] + d[i]."""
    case.a[:] = case.b + case.c + case.d
    return 0


REFERENCES: dict[str, Callable[[Case], int]] = {
    "read": read,
    "write": write,
    "write_nt": write,
    "copy": copy,
    "copy_nt": copy,
    "scale": scale,
    "add": add,
    "triad": triad,
    "triad_nt": triad,
    "update": update,
    "mix_2_1": mix_2_1,
    "mix_3_1": mix_3_1,
    "mix_2_1_nt": add,
    "mix_3_1_nt": mix_3_1_nt,
    "stride_read": read,
    "stride_write": write,
}
"""Truth of one round by kernel name: changes ``case.a`` and returns what the kernel returns."""


def chase(pointers: NDArray[np.uint64], base: int, starts: list[int], loads: int) -> int:
    """Sum of the addresses at which the chains stand after ``loads`` loads each, modulo 2**64."""
    at = starts
    for _ in range(loads):
        at = [int(pointers[(address - base) // 8]) for address in at]
    return sum(at) % WORD
