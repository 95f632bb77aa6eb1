# SPDX-License-Identifier: Apache-2.0
"""What bounds a running program: the decision tree over what was seen of it. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from numabench.units import format_bytes, plural

# Starting values, tried on planted causes in the lab.
STOLEN, THROTTLED, WAITING = 0.01, 0.01, 0.10  # shares of the time
BOUNCES_PER_S = 10.0  # of a busy thread
BUSY = 0.05  # of a CPU: below it a thread's place does not matter
ELSEWHERE = 0.25  # share of accesses expected to go to another node
LEAST_BYTES = 16 << 20  # fewer pages are not worth a word
Cause = Literal["throttled", "stolen", "oversubscribed", "contended", "bouncing", "misplaced", "page cache residue"]
# Counters of loads that were served by the own node's memory, and by another's.
LOCAL, REMOTE = "loads from own node", "loads from another node"
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
    blocked: float | None = (
        None  # share of the looks that found it asleep until another thread wakes it; None: not told
    )


class Counter(msgspec.Struct, frozen=True, kw_only=True):
    """Sum of one counter over all threads, or why there is none. ``counted``: share of the time it was counted in."""

    name: str
    value: float | None = None
    counted: float = 0.0
    reason: str = ""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a process and its children. ``unseen`` says what was not, and what it would take."""

    seconds: float
    threads: tuple[Thread, ...]
    allowed: tuple[int, ...]  # CPUs the process may use
    run_by_node: dict[int, float]  # CPU seconds
    anonymous: dict[int, int]  # bytes by node
    files: dict[str, dict[int, int]]  # bytes by node of every mapped file or shared memory
    user_s: float = 0.0  # CPU seconds outside the kernel
    since_s: dict[str, float] = {}  # those since most of the pages of a file ("": of its own) were there
    throttled_share: float | None = None
    steal_share: float | None = None
    faults: int = 0
    major_faults: int = 0
    cpu_pressure_share: float | None = None  # of the whole system, as all pressure (PSI)
    memory_pressure_share: float | None = None
    balancing: dict[str, int] = {}  # counters of automatic NUMA balancing that rose, of the whole system
    counters: tuple[Counter, ...] = ()
    unseen: tuple[str, ...] = ()


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """What near pages are worth: 1 for a program that never waits for memory, at most this for one that always does.

    Only the ``share`` of its time that may wait shrinks (Amdahl 1967): user CPU time, here from its start and from when
    most of the pages were there, which is all that moving them later can change.
    """

    penalty: float  # time of these accesses over that of near ones, by the record
    share: float
    at_most: float  # old time over new
    share_after: float
    at_most_after: float

    @classmethod
    def of(cls, penalty: float, share: float, share_after: float) -> Gain:
        """With both bounds."""
        bounds = [1 / (1 - part + part / penalty) for part in (share, share_after)]
        return cls(penalty=penalty, share=share, at_most=bounds[0], share_after=share_after, at_most_after=bounds[1])

    def waited(self, ratio: float) -> float:
        """Share of the time that waited for these pages, by the time left when that was over (new over old)."""
        return (1 - ratio) / (1 - 1 / self.penalty)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One cause, its evidence, the one change to try. ``gain`` is what the change is worth, where a record tells."""

    cause: Cause
    evidence: str
    change: str
    trusted: bool = True  # False: seen while the CPUs were contended
    gain: Gain | None = None
    node: int | None = None  # the node that the pages are on
    bytes: int = 0  # of these pages
    files: tuple[str, ...] = ()  # whose pages they are, the largest first; empty: its own memory


def busy(facts: Facts) -> list[Thread]:
    """Threads that ran, or could have run, for at least a twentieth of the time."""
    return [t for t in facts.threads if t.run_s + (t.wait_s or 0.0) > BUSY * facts.seconds]


def remote_share(counters: Sequence[Counter]) -> float | None:
    """Share of the loads from memory that went to another node, as counted; None where that was not counted."""
    seen = {c.name: c.value for c in counters if c.value is not None}
    for far, near in ((REMOTE, LOCAL), ("node-load-misses", "node-loads")):
        if far in seen and near in seen:
            # The generic event counts all such loads, the makers' own only the near ones.
            total = seen[near] + (seen[far] if near != "node-loads" else 0.0)
            if total:
                return min(1.0, seen[far] / total)
    return None


def elsewhere(run: Mapping[int, float], pages: Mapping[int, int]) -> float:
    """Share of accesses that leave their node if every CPU second touches every page alike."""
    time, size = sum(run.values()), sum(pages.values())
    if not time or not size:
        return 0.0
    return 1 - sum(run.get(node, 0.0) / time * share / size for node, share in pages.items())


def penalty(
    run: Mapping[int, float], pages: Mapping[int, int], slower: Mapping[tuple[int, int], float]
) -> float | None:
    """Time of the accesses as they are over that of local ones; None where the matrix of such factors has a hole."""
    time, size = sum(run.values()), sum(pages.values())
    now = 0.0
    for i, seconds in run.items():
        for j, share in pages.items():
            weight = seconds / time * share / size if time and size else 0.0
            if weight and (i, j) not in slower:
                return None
            now += weight * slower[i, j] if weight else 0.0
    return now or None


def _gain(facts: Facts, file: str, pages: Mapping[int, int], slower: Mapping[tuple[int, int], float]) -> Gain | None:
    worth = penalty(facts.run_by_node, pages, slower)
    if worth is None:
        return None
    # What waits for a CPU, a disk or the kernel does not shrink; threads are taken to share the work alike.
    time = max(sum(t.run_s for t in facts.threads), facts.seconds)
    user = min(facts.user_s, time)
    return Gain.of(worth, user / time, min(facts.since_s.get(file, user), user) / time)


def findings(facts: Facts, slower: Mapping[tuple[int, int], float] | None = None) -> list[Finding]:
    """Causes found, in the order of the tree; none: healthy, as far as could be seen.

    ``slower``: time of an access by (initiator, target) over that of the initiator's own node, as measured.
    """
    found = [*_cpu(facts), *_bouncing(facts), *_pages(facts, slower or {})]
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
        who, they = ("busy threads", "they") if len(threads) > 1 else ("busy thread", "it")
        share = f"its {who} waited for a CPU {wait / (run + wait):.0%} of the time {they} could run"
        wanted = sum((t.run_s + (t.wait_s or 0.0)) / facts.seconds for t in threads)
        if wanted > 1.1 * len(facts.allowed):  # at once, whatever else the machine does
            said = f"{plural(len(threads), 'busy thread')} on {plural(len(facts.allowed), 'CPU')}; {share}"
            change = f"{plural(len(facts.allowed), 'thread')}, such as OMP_NUM_THREADS={len(facts.allowed)}"
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
    who = f"{len(bouncing)} of {len(rates)} busy threads change{'s' * (len(bouncing) == 1)}"
    who = "its only busy thread changes" if len(rates) == 1 else who
    said = f"{who} CPU, up to {max(bouncing):.0f} times a second"
    return [Finding(cause="bouncing", evidence=said, change="pin the threads (taskset, OMP_PROC_BIND=close)")]


def again(path: str, node: int) -> str:
    """The lines that drop a file from the page cache (as GNU dd's manual has it) and read it on a node."""
    name = shlex.quote(path)
    drop = f"dd of={name} oflag=nocache conv=notrunc,fdatasync count=0"
    return f"{drop}; numactl --cpunodebind={node} cat {name} > /dev/null"


def _pages(facts: Facts, slower: Mapping[tuple[int, int], float]) -> list[Finding]:
    found: list[Finding] = []
    far = {path: pages for path, pages in facts.files.items() if elsewhere(facts.run_by_node, pages) > ELSEWHERE}
    paths = sorted(far, key=lambda path: -sum(far[path].values()))
    residue = {n: sum(far[path].get(n, 0) for path in paths) for n in {n for path in paths for n in far[path]}}
    name = paths[0] if len(paths) == 1 else f"{len(paths)} mapped files, {paths[0]} the largest" if paths else ""
    kinds: list[tuple[Cause, str, dict[int, int]]] = [("misplaced", "its own memory", facts.anonymous)]
    kinds += [("page cache residue", name, residue)]
    for cause, what, pages in kinds:
        size, share = sum(pages.values()), elsewhere(facts.run_by_node, pages)
        if size < LEAST_BYTES or share <= ELSEWHERE:
            continue
        where = max(pages, key=pages.__getitem__)
        even = max(pages.values()) < 0.75 * size  # spread on purpose, or by threads on all nodes
        if even and len([s for s in facts.run_by_node.values() if s > 0.1 * sum(facts.run_by_node.values())]) > 1:
            continue
        there = ", ".join(f"{b / size:.0%} on node {n}" for n, b in sorted(pages.items()) if b)
        ran = sum(facts.run_by_node.values())
        on = ", ".join(f"{s / ran:.0%} on node {n}" for n, s in sorted(facts.run_by_node.items()) if s > 0.005 * ran)
        said = (
            f"{what} ({format_bytes(size)}): {there}; its CPU time: {on}; "
            f"{share:.0%} of its accesses there leave their node"
        )
        change = f"run it on node {where} (numactl --cpunodebind={where}), or place its memory where it runs"
        if cause == "page cache residue":
            runs = max(facts.run_by_node, key=facts.run_by_node.__getitem__)
            each = "drop the file and read it where it is used: " if len(paths) == 1 else "drop each file and read it: "
            change = f"run it on node {where}, or {each}" + again(paths[0], runs)
        files = () if cause == "misplaced" else tuple(paths)
        gain = _gain(facts, files[0] if files else "", pages, slower)
        found.append(
            Finding(cause=cause, evidence=said, change=change, gain=gain, node=where, bytes=pages[where], files=files)
        )
    return found
