# SPDX-License-Identifier: Apache-2.0
"""Runs in a machine that balances: pages read from another node for seconds, with a binding and without.

Usage: python tests/lab/unbound.py SECONDS; prints how many pages moved as JSON: {"bound": 0, "unbound": 123}.
"""

from __future__ import annotations

import json
import sys
import time

from numabench import kernels
from numabench._core import Team, Work
from numabench.machine import Machine
from numabench.memory import Buffer, allocate

SIZE = 8 << 20


def moved(buffer: Buffer, cpu: int, seconds: float) -> int:
    """Pages that were on another node after the CPU had read the buffer for so long."""
    before = buffer.proof().placement
    work = Work(kernels.kernel("read", "best"), a=(buffer.region, 0), bytes=SIZE, block=SIZE)
    with Team((cpu,)) as team:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            team.run([work], window_ns=2e8)
    after = buffer.proof().placement
    assert before is not None
    assert after is not None
    return after.moved_since(before)


def main(seconds: float) -> None:
    machine = Machine.load()
    home, away = machine.initiators()[:2]
    near, far = machine.cpus_of(home)[:1], machine.cpus_of(away)[0]
    found = {}
    for name, node in (("bound", home), ("unbound", None)):
        with allocate(SIZE, node, touch=near, machine=machine) as buffer:
            found[name] = moved(buffer, far, seconds)
    print(json.dumps(found))


if __name__ == "__main__":
    main(float(sys.argv[1]))
