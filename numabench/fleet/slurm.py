# SPDX-License-Identifier: Apache-2.0
"""One exclusive Slurm job per node: submitted in a window, watched until it ends, resumable. Slurm does the work.

Launcher exit codes decide nothing: the result file of a host does; Slurm's job state only says why a file is missing.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from numabench.errors import NumabenchError, RecordError, Unsupported, UsageError
from numabench.validation import outcome
from numabench.validation.outcome import Result

WINDOW = 256
POLL_S = 60.0
DONE = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}
WORDS = {
    "TIMEOUT": "timeout",
    "DEADLINE": "unavailable",
    "NODE_FAIL": "node-failed",
    "BOOT_FAIL": "node-failed",
    "CANCELLED": "cancelled",
    "PREEMPTED": "cancelled",
    "OUT_OF_MEMORY": "crashed",
    "COMPLETED": "no-data",
}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is, kept as expect.json before anything is submitted."""

    hosts: list[str]
    command: str
    time: str
    wait: str
    partition: str = ""
    options: list[str] = []


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One line of jobs.jsonl: the latest line of a host counts."""

    host: str
    job: str
    state: str = "SUBMITTED"
    exit: str = ""
    reason: str = ""
    started: bool = False


class State(NamedTuple):
    """How a host stands."""

    host: str
    verdict: str  # of its file, or MISSING, WAITING, RUNNING, NOT SUBMITTED
    reason: str
    job: str


def call(*words: str) -> str:
    """Run a Slurm command. Raises Unsupported when it is not installed, NumabenchError with what it said."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    except FileNotFoundError:
        raise Unsupported(f"{words[0]} is not installed: fleet run needs Slurm's commands on this host") from None
    except subprocess.TimeoutExpired:
        raise NumabenchError(f"{words[0]} did not answer in two minutes") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise NumabenchError(f"{' '.join(words[:4])}: {said[-1] if said else f'exit {done.returncode}'}")
    return done.stdout


def nodes(partition: str = "") -> list[str]:
    """All nodes of a partition, whatever their state; a drained node is missing, not forgotten."""
    words = ["sinfo", "-h", "-N", "-o", "%N", *(["-p", partition] if partition else [])]
    return list(dict.fromkeys(call(*words).split()))


def script(plan: Plan, folder: Path) -> str:
    """The batch script: the worker contract. The node's name is Slurm's, never that of the operating system."""
    return (
        f'#!/bin/sh\nexec {plan.command} --node-name "$SLURMD_NODENAME" --out {shlex.quote(str(folder.absolute()))}\n'
    )


def submit(plan: Plan, folder: Path, host: str) -> str:
    """Queue one host; the job's number. Pinned, exclusive, all memory, never requeued behind our back."""
    done = call(
        "sbatch", "--parsable", "-w", host, "-N1", "--exclusive", "--mem=0", f"--time={plan.time}",
        f"--deadline=now+{plan.wait}", "--no-requeue", "-J", "numabench", "-o", str(folder.absolute() / f"{host}.log"),
        *(["-p", plan.partition] if plan.partition else []), *plan.options, str(folder.absolute() / "worker.sh"),
    )  # fmt: skip
    return done.strip().split(";")[0]


def ask(job: Job) -> Job:
    """A job's state as Slurm tells it; unknown when it has forgotten the job already."""
    try:
        line = call("scontrol", "-o", "show", "job", job.job)
    except Unsupported:
        raise
    except NumabenchError:
        return msgspec.structs.replace(job, state="UNKNOWN")
    known = dict(re.findall(r"(\w+)=(\S+)", line))
    return msgspec.structs.replace(
        job,
        state=known.get("JobState", "UNKNOWN"),
        exit=known.get("ExitCode", ""),
        reason=known.get("Reason", ""),
        started=known.get("StartTime", "Unknown") != "Unknown" and known.get("RunTime", "") not in ("", "00:00:00"),
    )


def why(job: Job | None) -> str:
    """Why a host has no valid result, from its job."""
    if job is None:
        return "not submitted"
    if job.state == "FAILED":
        code, _, signal = job.exit.partition(":")
        return "crashed" if signal not in ("", "0") else f"no-data (exit {code})"
    return WORDS.get(job.state, f"job {job.job} is {job.state.lower()}")


def result(folder: Path, host: str) -> Result | None:
    """The valid result of a host, or None; one of another host under its name is none."""
    try:
        found = outcome.load(folder / f"{host}.json")
    except RecordError:
        return None
    return found if found.host == host else None


def read_plan(folder: Path) -> Plan:
    """The plan of a run. Raises UsageError when the folder holds none."""
    try:
        return msgspec.json.decode((folder / "expect.json").read_bytes(), type=Plan)
    except OSError:
        raise UsageError(f"{folder}: no fleet run was started there (expect.json is missing)") from None
    except msgspec.DecodeError as error:
        raise UsageError(f"{folder / 'expect.json'}: {error}") from None


def read_jobs(folder: Path) -> dict[str, Job]:
    """The latest job of each host; a last line cut short by a kill is left out."""
    found: dict[str, Job] = {}
    try:
        lines = (folder / "jobs.jsonl").read_bytes().split(b"\n")
    except OSError:
        return found
    for line in lines:
        try:
            job = msgspec.json.decode(line, type=Job)
        except msgspec.DecodeError:
            continue
        found[job.host] = job
    return found


def note(folder: Path, job: Job) -> Job:
    """Append how a host's job stands to jobs.jsonl."""
    with open(folder / "jobs.jsonl", "ab") as file:
        file.write(msgspec.json.encode(job) + b"\n")
    return job


def start(plan: Plan, folder: Path, resume: bool) -> Plan:
    """Make or reopen the folder of a run; expect.json is there before the first job. Raises UsageError."""
    if resume:
        return read_plan(folder)
    if (folder / "expect.json").exists():
        raise UsageError(f"{folder}: a fleet run was started there; --resume goes on with it, or name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "worker.sh").write_text(script(plan, folder))
        temporary = folder / ".expect.json"
        temporary.write_text(json.dumps(msgspec.to_builtins(plan), indent=1) + "\n")
        temporary.replace(folder / "expect.json")
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}") from error
    return plan


def run(
    plan: Plan,
    folder: Path,
    *,
    window: int = WINDOW,
    poll_s: float = POLL_S,
    tell: Callable[[int, int, int], None] | None = None,
) -> None:
    """Submit what has no valid result, at most ``window`` at a time, until all jobs have ended. Safe to kill: a run
    resumed waits for the jobs that are still queued and submits only what is missing. ``tell(done, all, active)``.
    """
    jobs = read_jobs(folder)
    missing = [host for host in plan.hosts if result(folder, host) is None]
    active = {h: jobs[h] for h in missing if h in jobs and jobs[h].state in ("SUBMITTED", "PENDING", "RUNNING")}
    active = {h: job for h, now in active.items() if (job := ask(now)).state not in DONE | {"UNKNOWN"}}
    waiting = [host for host in missing if host not in active]
    while waiting or active:
        while waiting and len(active) < window:
            host = waiting.pop(0)
            try:
                active[host] = note(folder, Job(host=host, job=submit(plan, folder, host)))
            except Unsupported:
                raise
            except NumabenchError as error:
                note(folder, Job(host=host, job="", state="REFUSED", reason=str(error)))
        queued = set(call("squeue", "-h", "-o", "%i").split())
        for host, job in list(active.items()):
            if job.job in queued:
                continue
            # At once: Slurm forgets a job after MinJobAge.
            now = ask(job)
            if now.state in DONE or now.state == "UNKNOWN":
                note(folder, now)
                del active[host]
        if tell:
            tell(len(plan.hosts) - len(waiting) - len(active), len(plan.hosts), len(active))
        if active:
            time.sleep(poll_s)


def status(folder: Path) -> list[State]:
    """Every expected host exactly once, and why it has no result."""
    plan, jobs = read_plan(folder), read_jobs(folder)
    found = []
    for host in plan.hosts:
        job = jobs.get(host)
        valid = result(folder, host)
        if valid is not None:
            found.append(State(host, valid.verdict, valid.reason, job.job if job else ""))
            continue
        if job is not None and job.state in ("SUBMITTED", "PENDING", "RUNNING", "STEP"):
            job = ask(job)
        if job is not None and job.state in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"):
            found.append(State(host, "WAITING" if job.state == "PENDING" else "RUNNING", job.reason, job.job))
        elif job is None:
            found.append(State(host, "MISSING", "MISSING/not submitted", ""))
        else:
            reason = job.reason if job.state == "REFUSED" else why(job)
            found.append(State(host, "MISSING", f"MISSING/{reason}", job.job))
    return found


def missing(folder: Path) -> dict[str, str]:
    """{host: why} of the hosts without a result, for `judge`; empty for a folder that no fleet run made."""
    if not (folder / "expect.json").exists():
        return {}
    return {
        one.host: one.reason.removeprefix("MISSING/")
        for one in status(folder)
        if one.verdict in ("MISSING", "WAITING", "RUNNING")
    }


def drains(hosts: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Commands that drain hosts with their reasons."""
    return [
        ["scontrol", "update", f"NodeName={host}", "State=DRAIN", f"Reason=numabench: {' '.join(reason.split())[:120]}"]
        for host, reason in hosts
    ]


def resumes(hosts: Sequence[str]) -> list[list[str]]:
    """Commands that give hosts back to their users."""
    return [["scontrol", "update", f"NodeName={host}", "State=RESUME"] for host in hosts]


def reason_of(host: str) -> str:
    """The reason that stands on a node now, without who set it; empty when none does."""
    line = call("scontrol", "-o", "show", "node", host)
    match = re.search(r" Reason=(.*?)(?: \[[^\]]*\])?\s*$", line.strip())
    return match[1].strip() if match else ""
