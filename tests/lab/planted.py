# SPDX-License-Identifier: Apache-2.0
"""Programs with one thing wrong, each told to the diagnosis inside a virtual machine; prints one JSON document."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
from click.testing import CliRunner

from numabench.cli import cli
from numabench.diagnose import Diagnosis
from numabench.reports import verdicts

PYTHON = [sys.executable, "-S", "-E", "-c"]
SPIN = (
    "import time; b = bytearray(b'x' * (48 << 20)); t = time.monotonic()\nwhile time.monotonic() - t < 5: sum(b[:9999])"
)
BOUNCE = """
import os, time
t, n = time.monotonic(), 0
while time.monotonic() - t < 5:
    n += 1
    os.sched_setaffinity(0, {n % 2})
    sum(range(2000))
"""
CROWD = """
import os, time
for _ in range(3 * os.cpu_count()):
    if not os.fork():
        t = time.monotonic()
        while time.monotonic() - t < 5: pass
        os._exit(0)
for _ in range(3 * os.cpu_count()): os.wait()
"""
MAPPED = """
import mmap, time
f = open("/tmp/model", "rb")
m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
t = time.monotonic()
while time.monotonic() - t < 5:
    sum(m[::4096])
"""


# Reads a line of every 64 bytes of 24 MiB, over and over: each is a miss that costs what its node costs.
LAPS = "b = bytearray(24 << 20); any(b[::64].count(1) for _ in range(6))"
# The same of a file that LAB_MODEL names and that another node has read in before.
MODEL_LAPS = (
    "import mmap, os; b = mmap.mmap(os.open(os.environ['LAB_MODEL'], 0), 0, access=mmap.ACCESS_READ)\n"
    "any(b[::64].count(1) for _ in range(6))"
)
HOP = """
import os
cpus = sorted(os.sched_getaffinity(0))
for n in range(8000):
    os.sched_setaffinity(0, {cpus[n % len(cpus)]})
    sum(range(1000))
"""


def on(node: int, memory: int, code: str) -> list[str]:
    return ["numactl", f"--cpunodebind={node}", f"--membind={memory}", *PYTHON, code]


def told(command: list[str]) -> dict[str, object]:
    done = CliRunner().invoke(cli, ["diagnose", "--no-try", "--seconds", "4s", "--json", "--", *command])
    try:
        found = json.loads(done.stdout)
    except ValueError:
        return {"code": done.exit_code, "causes": [], "said": done.output + repr(done.exception)}
    said = [f["evidence"] for f in found["findings"]]
    causes = [f["cause"] for f in found["findings"]]
    facts = {
        k: found["facts"][k] for k in ("run_by_node", "anonymous", "files", "seconds", "unseen", "throttled_share")
    }
    return {"code": done.exit_code, "causes": causes, "said": said, "facts": facts}


def throttled(command: list[str]) -> dict[str, object]:
    """In a new cgroup of version 2 with a fifth of a CPU."""
    root = Path("/sys/fs/cgroup")
    if not (root / "cgroup.controllers").exists():
        root.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "cgroup2", "none", root], check=True)
    (root / "cgroup.subtree_control").write_text("+cpu")
    group = root / "planted"
    group.mkdir()
    (group / "cpu.max").write_text("20000 100000")
    # The program alone lives in it; what watches it does not.
    return told(["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *command])


def tried(command: list[str], *words: str) -> dict[str, object]:
    """All of it: watched, the change tried in blocks."""
    done = CliRunner().invoke(cli, ["diagnose", "--seconds", "60s", *words, "--json", "--", *command])
    try:
        found = json.loads(done.stdout)
    except ValueError:
        return {"code": done.exit_code, "said": done.output + repr(done.exception)}
    text = "\n".join(verdicts.diagnosis(msgspec.json.decode(done.stdout, type=Diagnosis)))
    return {"code": done.exit_code, "findings": found["findings"], "tried": found["tried"], "words": text}


def moved() -> None:
    """Where distance costs: pages, its own and of a file, on the wrong node of a program that insists on its CPUs."""
    record = "/tmp/record.json"
    words = ["run", "latency", "--profile", "quick", "--size", "2MiB", "--pages", "thp", "--passes", "3", "-o", record]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    subprocess.run(
        ["numactl", "--cpunodebind=1", "cat", os.environ["LAB_MODEL"]], check=True, stdout=subprocess.DEVNULL
    )
    found = {
        "wrong node": tried(on(0, 1, LAPS), "--record", record),
        "residue": tried(on(0, 0, MODEL_LAPS), "--record", record),
    }
    print(json.dumps(found), flush=True)
    os._exit(0)


def main() -> None:
    """All of them, the healthy one first."""
    if sys.argv[1:] == ["moved"]:
        moved()
    model = ["dd", "if=/dev/zero", "of=/tmp/model", "bs=1M", "count=64"]
    subprocess.run(["numactl", "--membind=1", *model], check=True, stderr=subprocess.DEVNULL)
    found = {
        "healthy": told(on(0, 0, SPIN)),
        "wrong node": told(on(0, 1, SPIN)),
        "bouncing": told([*PYTHON, BOUNCE]),
        "crowd": told([*PYTHON, CROWD]),
        "residue": told(on(0, 0, MAPPED)),
        "bouncing tried": tried([*PYTHON, HOP]),
    }
    with contextlib.redirect_stderr(io.StringIO()):
        found["throttled"] = throttled(on(0, 0, SPIN))
    print(json.dumps(found), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
