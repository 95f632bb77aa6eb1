# SPDX-License-Identifier: Apache-2.0
"""Runs from which a node's memory, then a CPU, is taken in their midst; prints what became of each case as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from numabench import session
from numabench.environment import free_bytes
from numabench.machine import Machine
from numabench.memory import allocate
from numabench.series import Options, Progress

MIB = 1 << 20
SIZE, LEFT, VISITS = 24 * MIB, 16 * MIB, 4  # four cases: the first pass over each is whole


def run(take: Callable[[], object]) -> dict[str, dict[str, object]]:
    """Two passes over the latencies of two nodes; ``take`` is called between them."""
    kept: list[object] = []

    def told(progress: Progress) -> None:
        if progress.done == VISITS:
            kept.append(take())

    options = Options(profile="quick", bytes=SIZE, passes=2, pages="base")
    found = session.run(["latency"], options, machine=Machine.load(), progress=told)
    for one in kept:
        if hasattr(one, "close"):
            one.close()
    return {
        f"{s.case.initiator}-{s.case.target}": {"n": len(s.samples), "flags": s.flags, "why": s.ended or s.unavailable}
        for s in found.series
    }


def main() -> None:
    """Node 1 is filled up to less than a case needs; then CPU 3, which helps to touch node 1, goes offline."""
    memory = run(lambda: allocate((free_bytes(1) or 0) - LEFT - 4 * MIB, 1))
    cpu = run(lambda: Path("/sys/devices/system/cpu/cpu3/online").write_text("0"))
    print(json.dumps({"memory": memory, "cpu": cpu}))


if __name__ == "__main__":
    main()
