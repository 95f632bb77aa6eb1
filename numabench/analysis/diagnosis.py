# SPDX-License-Identifier: Apache-2.0
"""What bounds a running program: the decision tree over what was seen of it, without hardware counters. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

# Starting values, tried on planted causes in the lab.
STOLEN, THROTTLED, WAITING = 0.01, 0.01, 0.10  # shares of the time
BOUNCES_PER_S = 10.0  # of a busy thread
BUSY = 0.05  # of a CPU: below it a thread's place does not matter
ELSEWHERE = 0.25  # share of accesses expected to go to another node
LEAST_BYTES = 16 << 20  # fewer pages are not worth a word
Cause = Literal["throttled", "stolen", "oversubscribed", "contended", "bouncing", "misplaced", "page cache residue"]
FIRST = ("throttled", "stolen", "oversubscribed", "contended")  # nothing else can be trusted while these last


class Thread(msgspec.Struct, frozen=True, kw_only=True):
    """One thread over the time it was watched."""

    tid: int
    name: str
    run_s: float
    wait_s: float | None  # runnable, but waiting for a CPU; None: not told
    cpus: dict[int, int]  # CPU: how often it was seen there
    migrations: int | None  # from CPU to CPU, by the kernel's count, else as seen
    switches: int | None = None  # involuntary


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a process and its children. ``unseen`` says what was not, and what it would take."""

    seconds: float
    threads: tuple[Thread, ...]
    allowed: tuple[int, ...]  # CPUs the process may use
    run_by_node: dict[int, float]  # CPU seconds
    anonymous: dict[int, int]  # bytes by node
    files: dict[str, dict[int, int]]  # bytes by node of every mapped file or shared memory
    throttled_share: float | None = None
    steal_share: float | None = None
    faults: int = 0
    major_faults: int = 0
    memory_pressure_share: float | None = None
    balancing: dict[str, int] = {}  # counters of automatic NUMA balancing that rose, of the whole system
    unseen: tuple[str, ...] = ()


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One cause, its evidence, the one change to try. ``gain`` is what the change is worth at most, if known."""

    cause: Cause
    evidence: str
    change: str
    trusted: bool = True  # False: seen while the CPUs were contended
    gain: float | None = None
    node: int | None = None  # the node that the pages are on
    bytes: int = 0  # of these pages


def busy(facts: Facts) -> list[Thread]:
    """Threads that ran, or could have run, for at least a twentieth of the time."""
    return [t for t in facts.threads if t.run_s + (t.wait_s or 0.0) > BUSY * facts.seconds]


def elsewhere(run: Mapping[int, float], pages: Mapping[int, int]) -> float:
    """Share of accesses that leave their node if every CPU second touches every page alike."""
    time, size = sum(run.values()), sum(pages.values())
    if not time or not size:
        return 0.0
    return 1 - sum(run.get(node, 0.0) / time * share / size for node, share in pages.items())


def expected_gain(
    run: Mapping[int, float], pages: Mapping[int, int], latency_ns: Mapping[tuple[int, int], float]
) -> float | None:
    """Time of the accesses as they are over that of local ones, by a measured matrix; None where it has a hole."""
    time, size = sum(run.values()), sum(pages.values())
    now = local = 0.0
    for i, seconds in run.items():
        for j, share in pages.items():
            weight = seconds / time * share / size if time and size else 0.0
            if weight and not {(i, j), (i, i)} <= latency_ns.keys():
                return None
            if weight:
                now, local = now + weight * latency_ns[i, j], local + weight * latency_ns[i, i]
    return now / local if local else None


def findings(facts: Facts, latency_ns: Mapping[tuple[int, int], float] | None = None) -> list[Finding]:
    """Causes found, in the order of the tree; none: healthy, as far as could be seen."""
    found = [*_cpu(facts), *_bouncing(facts), *_pages(facts, latency_ns or {})]
    contended = any(f.cause in FIRST for f in found)
    return [msgspec.structs.replace(f, trusted=False) if contended and f.cause not in FIRST else f for f in found]


def _cpu(facts: Facts) -> list[Finding]:
    found: list[Finding] = []
    if (facts.throttled_share or 0) > THROTTLED:
        said = f"its cgroup was stopped for {facts.throttled_share:.0%} of the time: the CPU quota is spent"
        found.append(Finding(cause="throttled", evidence=said, change="a larger cpu.max, or fewer threads"))
    if (facts.steal_share or 0) > STOLEN:
        said = f"the hypervisor took {facts.steal_share:.1%} of the CPU time"
        found.append(Finding(cause="stolen", evidence=said, change="another host, or dedicated CPUs"))
    threads = busy(facts)
    run, wait = sum(t.run_s for t in threads), sum(t.wait_s or 0.0 for t in threads)
    if run and wait / (run + wait) > WAITING and not found:
        share = f"its busy threads waited for a CPU {wait / (run + wait):.0%} of the time they could run"
        wanted = sum((t.run_s + (t.wait_s or 0.0)) / facts.seconds for t in threads)
        if wanted > 1.1 * len(facts.allowed) and run > 0.5 * len(facts.allowed) * facts.seconds:
            said = f"{len(threads)} busy threads on {len(facts.allowed)} CPUs; {share}"
            change = f"{len(facts.allowed)} threads, such as OMP_NUM_THREADS={len(facts.allowed)}"
            found.append(Finding(cause="oversubscribed", evidence=said, change=change))
        elif not _bouncing(facts):  # a thread that changes CPU has to wait for its turn on each
            change = "CPUs of its own, or the other work off"
            found.append(Finding(cause="contended", evidence=f"{share}; other work has its CPUs", change=change))
    return found


def _bouncing(facts: Facts) -> list[Finding]:
    rates = [(t.migrations or 0) / facts.seconds for t in busy(facts)] if facts.seconds else []
    bouncing = [rate for rate in rates if rate > BOUNCES_PER_S]
    if not bouncing:
        return []
    said = f"{len(bouncing)} of {len(rates)} busy threads change CPU, up to {max(bouncing):.0f} times a second"
    return [Finding(cause="bouncing", evidence=said, change="pin the threads (taskset, OMP_PROC_BIND=close)")]


def _pages(facts: Facts, latency_ns: Mapping[tuple[int, int], float]) -> list[Finding]:
    found: list[Finding] = []
    kinds: list[tuple[Cause, str, dict[int, int]]] = [("misplaced", "its own memory", facts.anonymous)]
    kinds += [("page cache residue", path, pages) for path, pages in facts.files.items()]
    for cause, what, pages in kinds:
        size, share = sum(pages.values()), elsewhere(facts.run_by_node, pages)
        if size < LEAST_BYTES or share <= ELSEWHERE:
            continue
        where = max(pages, key=pages.__getitem__)
        even = max(pages.values()) < 0.75 * size  # spread on purpose, or by threads on all nodes
        if even and len([s for s in facts.run_by_node.values() if s > 0.1 * sum(facts.run_by_node.values())]) > 1:
            continue
        there = ", ".join(f"node {n} {b / size:.0%}" for n, b in sorted(pages.items()) if b)
        ran = sum(facts.run_by_node.values())
        on = ", ".join(f"node {n} {s / ran:.0%}" for n, s in sorted(facts.run_by_node.items()) if s > 0.005 * ran)
        said = (
            f"{what} ({size >> 20} MiB) is on {there}, its CPU time on {on}: {share:.0%} of accesses leave their node"
        )
        change = f"run it on node {where} (numactl --cpunodebind={where}), or place its memory where it runs"
        if cause == "page cache residue":
            change = f"run it on node {where}, or drop the file from the page cache and read it again where it is used"
        gain = expected_gain(facts.run_by_node, pages, latency_ns)
        found.append(Finding(cause=cause, evidence=said, change=change, gain=gain, node=where, bytes=pages[where]))
    return found
