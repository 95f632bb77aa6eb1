# SPDX-License-Identifier: Apache-2.0
"""What this process may do here, found by doing it: placing, proving, pinning, page kinds, counters."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from numabench import _core
from numabench.environment import Tree, free_huge_pages, more_huge_pages
from numabench.errors import NumabenchError
from numabench.machine import Machine
from numabench.memory import HUGE_BYTES, Proof, allocate
from numabench.units import plural

Level = Literal["exact", "inferred", "impossible"]

NICE = (
    "docker run --cap-add SYS_NICE ..., or --cpuset-mems=N per run; "
    "Kubernetes: securityContext.capabilities.add: [SYS_NICE]; systemd: AmbientCapabilities=CAP_SYS_NICE"
)
PROFILE = (
    "docker run --security-opt seccomp=unconfined ..., or a profile that allows move_pages; "
    "Kubernetes: securityContext.seccompProfile.type: Unconfined; systemd: SystemCallFilter=@system-service"
)
PERF = (
    "sysctl kernel.perf_event_paranoid=2; docker run --cap-add PERFMON ...; "
    "Kubernetes: securityContext.capabilities.add: [PERFMON]"
)
_TOUCHED = 1 << 16


class Capability(msgspec.Struct, frozen=True, kw_only=True):
    """One thing tried. ``cost`` is what it does to the trust in figures, ``remedy`` the line that changes it.

    ``needed``: without it something cannot be measured; else it is only good to have.
    """

    name: str
    level: Level
    seen: str
    errno: str = ""  # name of the error of the call behind it
    cost: str = ""
    remedy: str = ""
    needed: bool = True


def calls(machine: Machine) -> dict[str, str]:
    """Each system call made once: the name of its error, or nothing. mbind stands for the first node allowed."""
    node = next(iter(machine.targets()), 0)
    return {name: _core.try_call(name, node) for name in _core.CALLS}


def probe(machine: Machine, errors: dict[str, str] | None = None) -> list[Capability]:
    """All of them, by really trying; takes 64 KiB per node and a moment per CPU, and changes nothing.

    ``errors`` is what ``calls`` found, if that has been asked already.
    """
    errors = calls(machine) if errors is None else errors
    found = [row for node in machine.targets() for row in _node(machine, node, errors)]
    found.append(_pins(machine))
    found.extend(_pages(machine, errors))
    found.append(_faults(errors))
    found.extend(_counters(errors))
    return found


def as_record(machine: Machine) -> dict[str, Any]:
    """A probe as a record keeps it."""
    errors = calls(machine)
    return {"calls": errors, "table": msgspec.to_builtins(probe(machine, errors))}


def why(error: str) -> str:
    """An error with what is known of its cause; a filter's ENOSYS does not prove an old kernel."""
    status = Tree().table("proc/self/status")
    if error in ("EPERM", "ENOSYS", "EACCES") and status.get("Seccomp"):
        return f"{error} (a seccomp filter is active)"
    if error in ("EPERM", "EACCES"):
        return f"{error} (not privileged)"
    return error


def _node(machine: Machine, node: int, errors: dict[str, str]) -> Iterator[Capability]:
    """Bind two pages' worth, touch it, ask where it is: success of mbind alone is no evidence."""
    try:
        with allocate(_TOUCHED, node, machine=machine) as buffer:
            proof, how = buffer.proof(), buffer.how
    except NumabenchError as error:
        name = errno.errorcode.get(error.errno, "")
        yield Capability(
            name=f"place on node {node}",
            level="impossible",
            seen=str(error),
            errno=name,
            cost="cases on this node cannot run",
            remedy=_remedy(errors),
        )
        return
    yield from placed(node, how, proof, errors)


def _remedy(errors: dict[str, str]) -> str:
    """What to do about a buffer that could not be placed: the call that is refused decides."""
    for call in ("sched_setaffinity", "madvise_hugepage"):
        if errors[call] in ("EPERM", "ENOSYS"):
            return f"allow {call.removesuffix('_hugepage')} in the seccomp profile"
    return NICE


def placed(node: int, how: str, proof: Proof, errors: dict[str, str] | None = None) -> list[Capability]:
    """What placing a buffer on a node and asking where it is came to. Where the pages are counts first."""
    errors, wrong = errors or {}, proof.misplaced([node]) + proof.absent
    place, prove, found = f"place on node {node}", f"prove on node {node}", []
    bind, ask = errors.get("mbind", ""), errors.get("move_pages", "")
    if wrong:
        found.append(
            Capability(
                name=place,
                level="impossible",
                seen=f"{wrong} of {proof.pages} pages are not there, says {proof.how}",
                errno=bind,
                cost="figures of this node would be another's",
                remedy=NICE,
            )
        )
    elif how == "first_touch":
        found.append(
            Capability(
                name=place,
                level="inferred",
                seen=f"mbind refused: {why(bind)}; placed by first touch of a thread pinned there",
                errno=bind,
                cost="pages follow the touching thread; nodes without CPUs cannot be reached",
                remedy=NICE,
            )
        )
    elif proof.how != "none":
        seen = f"{proof.pages} of {proof.pages} pages there, proven by {proof.how}"
        found.append(Capability(name=place, level="exact", seen=seen))
    if proof.how == "none":
        found.append(
            Capability(
                name=prove,
                level="inferred" if how == "bind" else "impossible",
                seen=f"move_pages ({why(ask)}), numa_maps and get_mempolicy refused",
                errno=ask,
                cost="placement is unverified; at best timing shows it",
                remedy=PROFILE,
            )
        )
    elif proof.how != "move_pages":
        cost = (
            "placement is known in total only" if proof.how == "numa_maps" else "a call a page: large buffers take long"
        )
        found.append(
            Capability(
                name=prove,
                level="exact",
                seen=f"move_pages refused: {why(ask)}; proof by {proof.how}",
                errno=ask,
                cost=cost,
                remedy=PROFILE,
            )
        )
    return found


def _pins(machine: Machine) -> Capability:
    cpus = machine.allowed_cpus
    try:
        for at in range(0, len(cpus), 64):
            with _core.Team(cpus[at : at + 64]):
                pass
    except NumabenchError as error:
        return Capability(
            name="pin threads",
            level="impossible",
            seen=str(error),
            errno=errno.errorcode.get(error.errno, ""),
            cost="nothing can be measured",
            remedy="allow sched_setaffinity in the seccomp profile; give CPUs by taskset or --cpuset-cpus",
        )
    return Capability(name="pin threads", level="exact", seen=f"{plural(len(cpus), 'CPU')}, each read back")


def _pages(machine: Machine, errors: dict[str, str]) -> Iterator[Capability]:
    """Page kinds. A pool that is empty is no fault of the system, but its cases cannot run."""
    thp, collapse = errors["madvise_hugepage"], errors["madvise_collapse"]
    enabled = Tree().chosen("sys/kernel/mm/transparent_hugepage/enabled")
    if thp or enabled == "never":
        yield Capability(
            name="thp pages",
            level="impossible",
            seen=why(thp) if thp else "transparent huge pages are set to never",
            errno=thp,
            cost="thp cases get base pages and say so",
            remedy="echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        )
    else:
        yield Capability(
            name="thp pages",
            level="inferred" if collapse else "exact",
            seen=f"madvise works; MADV_COLLAPSE: {why(collapse) or 'works'}",
            errno=collapse,
            cost="huge pages only where the first touch found some" if collapse else "",
            remedy="Linux 6.1, and memory that is not fragmented" if collapse else "",
        )
    for name, size in HUGE_BYTES.items():
        free = {node: free_huge_pages(node, size) for node in machine.targets()}
        error = errors[f"hugetlb_{name}"]
        if error:
            yield Capability(
                name=f"{name} pages",
                level="impossible",
                seen=f"{why(error)}: the pool is empty" if error == "ENOMEM" else why(error),
                errno=error,
                cost=f"--pages {name} cannot run",
                remedy=more_huge_pages(next(iter(free)), size),
                needed=False,
            )
        else:
            pools = ", ".join(f"{count or 0} free on node {node}" for node, count in free.items())
            yield Capability(name=f"{name} pages", level="exact", seen=pools, needed=False)


def _faults(errors: dict[str, str]) -> Capability:
    error = errors["madvise_populate_write"]
    if not error:
        return Capability(name="populate", level="exact", seen="MADV_POPULATE_WRITE works", needed=False)
    return Capability(
        name="populate",
        level="inferred",
        seen=f"MADV_POPULATE_WRITE: {why(error)}",
        errno=error,
        cost="a node that runs out of memory ends the process instead of the case",
        remedy="Linux 5.14",
        needed=False,
    )


def _counters(errors: dict[str, str]) -> Iterator[Capability]:
    for kind in ("software", "hardware"):
        error = errors[f"perf_{kind}"]
        if not error:
            yield Capability(name=f"{kind} events", level="exact", seen="one opened", needed=False)
            continue
        absent = error in ("ENOENT", "EOPNOTSUPP", "ENODEV")
        yield Capability(
            name=f"{kind} events",
            level="impossible",
            seen=f"perf_event_open: {'no such counter: ' if absent else ''}{why(error)}",
            errno=error,
            cost="no counters beside the figures; the figures themselves need none",
            remedy="a machine (or virtual machine type) with performance counters" if absent else PERF,
            needed=False,
        )
