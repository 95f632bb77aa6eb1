# SPDX-License-Identifier: Apache-2.0
"""Pointer chases: multichase."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial

from benchmarks.peers.duels import Duel, Figure, Missing, Ring, command

BYTES, STRIDE, WINDOW = 256 << 20, 256, 256 << 10  # multichase's own defaults


def duels(ring: Ring) -> Iterator[Duel | Missing]:
    """Base pages and thp, one chain."""
    program = ring.programs["multichase"]
    if shutil.which(program) is None:
        yield Missing("multichase", "build it from its public repository and give --multichase PATH")
        return
    cpu = ring.machine.allowed_cpus[:1]
    for pages, flag in (("base", []), ("thp", ["-H"])):
        shape = {"stride": STRIDE, "window": WINDOW}
        case = ring.case("chase", cpu, pages, "best", BYTES, better="low", params=shape)
        fixed = ["-s", str(STRIDE), "-m", str(BYTES), "-T", str(WINDOW), "-n", "3"]
        words = ["taskset", "-c", str(cpu[0]), program, *fixed, *flag]
        theirs: dict[str, Figure] = {"multichase": partial(command, words, r"([\d.]+)")}
        yield ring.duel(f"chase, {pages}", "ns", {"best": ring.ours(case)}, theirs, lower=True)
