# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.fleet.scale [MACHINES]``: a simulated fleet visited three times: time, memory, what was found."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from numabench.fleet import causes, judge, store

from .simulate import Fleet


def main(n: int) -> None:
    fleet = Fleet(n)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fleet.visit(folder, 1)
        for visit in (1, 2, 3):
            started = time.monotonic()
            with store.connect(folder / "fleet.duckdb") as con:
                rejected = store.fill(con, store.files([folder]))
                report = causes.with_causes(judge.judge(con, fleet.hosts, {}, rejected))
            took, peak = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"visit {visit}: {report.counts}; judged in {took:.1f} s, {peak:.0f} MiB with the simulation")
            if visit < 3:
                fleet.visit(folder, visit + 1, list(report.retest))
    verdict = {host.host: host.verdict for host in report.hosts}
    found = Counter((defect.name, verdict[host]) for host, defect in fleet.planted.items())
    for (defect, what), count in sorted(found.items()):
        print(f"{defect:20} {what:8} {count}")
    print(f"good machines failed: {sum(verdict[h] == 'FAIL' for h in fleet.hosts if h not in fleet.planted)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
