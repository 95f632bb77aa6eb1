# SPDX-License-Identifier: Apache-2.0
"""One Slurm step over the nodes of an allocation that is there already: all at once, and each for itself.

srun's exit code decides nothing (it is 0 where a node died): the result file of a host does, and what srun said of its
task tells why it is missing.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from numabench.errors import Unsupported, UsageError
from numabench.fleet import hosts as names
from numabench.fleet import slurm
from numabench.fleet.slurm import Job, Plan

_TASK = re.compile(r"^srun: error: (\S+): tasks? [\d,-]+: (.*)$", re.M)
_NODE = re.compile(r"Node failure on (\S+)")


def nodes() -> list[str]:
    """The nodes of the allocation that this runs in. Raises UsageError outside of one."""
    held = os.environ.get("SLURM_JOB_NODELIST", "")
    if not held:
        raise UsageError("--in-allocation: there is none here; salloc or sbatch comes first")
    return slurm.call("scontrol", "show", "hostnames", held).split()


def run(plan: Plan, folder: Path) -> None:
    """Measure the hosts that have no valid result, one task a node; a task or node that dies leaves the others be.

    Raises UsageError when hosts of the plan are not in the allocation, Unsupported without srun.
    """
    waiting = [host for host in plan.hosts if slurm.result(folder, host) is None]
    if not waiting:
        return
    held = set(nodes())
    if strange := [host for host in waiting if host not in held]:
        raise UsageError(f"--in-allocation: {', '.join(strange[:5])} not in this allocation; --hosts or --resume there")
    job = os.environ.get("SLURM_JOB_ID", "")
    count = str(len(waiting))
    words = [
        "srun", "-N", count, "-n", count, "--ntasks-per-node=1", "-w", ",".join(waiting), "--mem=0", "--cpu-bind=none",
        "--kill-on-bad-exit=0", "--wait=0", f"--time={plan.time}", "-o", str(folder.absolute() / "step.log"),
        *plan.options, "/bin/sh", str(folder.absolute() / "worker.sh"),
    ]  # fmt: skip
    for host in waiting:
        slurm.note(folder, Job(host=host, job=job, state="STEP", started=True))
    try:
        done = subprocess.run(words, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    except FileNotFoundError:
        raise Unsupported("srun is not installed: --in-allocation needs Slurm's commands on this host") from None
    for host, (state, code) in fates(waiting, done.stderr).items():
        slurm.note(folder, Job(host=host, job=job, state=state, exit=code, started=True))


def fates(hosts: Sequence[str], said: str) -> dict[str, tuple[str, str]]:
    """{host: (state, exit code) as Slurm has them for jobs} from what srun said; COMPLETED where it said nothing."""
    found = dict.fromkeys(hosts, ("COMPLETED", "0:0"))
    late = "DUE TO TIME LIMIT" in said
    for where, what in _TASK.findall(said):
        code = re.search(r"[Ee]xit(?:ed with exit)? code (\d+)", what)
        fate = ("FAILED", f"{code[1]}:0") if code else ("TIMEOUT", "0:15") if late else ("FAILED", "0:9")
        found |= dict.fromkeys(names.expected(where), fate)
    for where in _NODE.findall(said):
        found |= dict.fromkeys(names.expected(where.rstrip(".,")), ("NODE_FAIL", "0:0"))
    return {host: found[host] for host in hosts}
