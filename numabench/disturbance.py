# SPDX-License-Identifier: Apache-2.0
"""What others did to this process and its CPUs between two moments: counters read before and after, never changed."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable

import msgspec

from numabench.environment import Tree, cgroup_dirs

SIBLING_SHARE = 0.05  # of a sibling's time, from which on it takes part of the core
_NODES_ALLOWED = re.compile(rb"^Mems_allowed_list:\s*(\S+)", re.M)
_VMSTAT = re.compile(rb"^(numa_pages_migrated|pgmigrate_success|thp_collapse_alloc|pgdemote_\w+) (\d+)$", re.M)
WAKE_NS = 300_000  # no core takes longer to wake up from its deepest sleep; a thread that waits longer waits for others


def moves(tid: int) -> tuple[float, float] | None:
    """How often a thread was moved to another CPU so far, and ms that it ran; None where the system does not tell.

    From /proc/PID/task/TID/sched (the kernel's CONFIG_SCHED_DEBUG).
    """
    lines = (Tree().text(f"proc/self/task/{tid}/sched") or "").splitlines()
    found = {name.strip(): value for name, _, value in (line.partition(":") for line in lines)}
    try:
        return float(found["se.nr_migrations"]), float(found["se.sum_exec_runtime"])
    except (KeyError, ValueError):
        return None


def threads() -> set[int]:
    """The threads of this process."""
    return {int(name) for name in os.listdir("/proc/self/task")}


class Disturbance(msgspec.Struct, frozen=True):
    """What happened to the system between two moments. None: this system does not tell."""

    seconds: float
    steal_share: float | None = None  # of the CPU time of the CPUs watched
    throttled_count: int | None = None
    throttled_us: int | None = None
    cpu_pressure_us: int | None = None  # some task waited for a CPU
    own_wait_us: int | None = None  # so much of it may be this process's own threads, as they were woken
    memory_pressure_us: int | None = None
    moved: dict[str, int] = {}  # counters of /proc/vmstat that rose: system-wide, so hints only
    sibling_share: float | None = None  # of the time of the watched CPUs' idle siblings that others used, the busiest's
    nodes_allowed: tuple[str, str] | None = None  # before and after, when the cpuset's nodes changed

    @property
    def flags(self) -> tuple[str, ...]:
        """Trust flags that follow: stolen, throttled, contended, sibling_busy, migration_suspected."""
        limit = 0.01
        others_us = (self.cpu_pressure_us or 0) - (self.own_wait_us or 0)
        pressure = max(others_us, self.memory_pressure_us or 0)
        found = {
            "throttled": bool(self.throttled_count),
            "stolen": (self.steal_share or 0.0) > limit,
            "contended": self.seconds > 0 and pressure * 1e-6 / self.seconds > limit,
            "sibling_busy": (self.sibling_share or 0.0) > SIBLING_SHARE,
            "migration_suspected": bool(self.moved or self.nodes_allowed),
        }
        return tuple(name for name, on in found.items() if on)


class Watch:
    """Counters of disturbance over one interval, for the CPUs used. Missing files are None, never an error.

    ``siblings`` are CPUs of the same cores that should idle meanwhile.
    """

    def __init__(
        self,
        cpus: Iterable[int],
        root: str | os.PathLike[str] = "/",
        pid: int | None = None,
        siblings: Iterable[int] = (),
    ) -> None:
        self._tree = Tree(root)
        self._cpus = {b"cpu%d" % cpu for cpu in cpus}
        self._siblings = {b"cpu%d" % cpu for cpu in siblings}
        self._status, self._tasks = (f"proc/{pid or 'self'}/{name}" for name in ("status", "task"))
        version, dirs = cgroup_dirs(self._tree, "cpu", str(pid or "self"))
        self._stats = [f"{path}/cpu.stat" for path in dirs]
        # Version 2 counts microseconds under another name than version 1 counts nanoseconds.
        self._unit = re.compile(rb"throttled_usec (\d+)" if version == 2 else rb"throttled_time (\d+)")
        self._per_us = 1 if version == 2 else 1000
        self._before: tuple[float, dict[str, int], dict[str, int], str] | None = None

    def _read(self) -> tuple[float, dict[str, int], dict[str, int], str]:
        found: dict[str, int] = {}
        lines = (self._tree.raw("proc/stat") or b"").partition(b"\nintr")[0].splitlines()
        split = (line.split() for line in lines)
        known = [words for words in split if len(words) > 8 and all(word.isdigit() for word in words[1:9])]
        for row in (row for row in known if row[0] in self._siblings):
            found[f"idle {row[0].decode()}"] = int(row[4]) + int(row[5])
            found[f"all {row[0].decode()}"] = sum(map(int, row[1:9]))
        rows = [row for row in known if row[0] in self._cpus]
        if rows:
            found["ticks"] = sum(sum(map(int, row[1:9])) for row in rows)
            found["steal"] = sum(int(row[8]) for row in rows)
        for path in self._stats:
            text = self._tree.raw(path) or b""
            count, us = re.search(rb"nr_throttled (\d+)", text), self._unit.search(text)
            if count and us:
                found["throttled"] = found.get("throttled", 0) + int(count[1])
                found["throttled_us"] = found.get("throttled_us", 0) + int(us[1]) // self._per_us
        for name in ("cpu", "memory"):
            some = re.search(rb"some .*total=(\d+)", self._tree.raw(f"proc/pressure/{name}") or b"")
            if some:
                found[name] = int(some[1])
        moved = {n.decode(): int(v) for n, v in _VMSTAT.findall(self._tree.raw("proc/vmstat") or b"")}
        nodes = _NODES_ALLOWED.search(self._tree.raw(self._status) or b"")
        for tid in self._tree.names(self._tasks):
            waited = (self._tree.raw(f"{self._tasks}/{tid}/schedstat") or b"").split()
            if len(waited) == 3 and all(word.isdigit() for word in waited):
                found[f"wait {tid}"], found[f"runs {tid}"] = int(waited[1]), int(waited[2])
        return time.monotonic(), found, moved, nodes[1].decode() if nodes else ""

    def start(self) -> None:
        """Begin an interval; an earlier one that was not stopped is forgotten."""
        self._before = self._read()

    def stop(self) -> Disturbance:
        """End the interval and tell what happened in it. Raises ValueError without a start."""
        if self._before is None:
            raise ValueError("the watch was not started")
        (then, old, was, nodes), (now, new, moved, nodes_now) = self._before, self._read()
        self._before = None
        rise = {name: new[name] - old[name] for name in new if name in old}
        ticks = rise.get("ticks", 0)  # of 10 ms: a short interval may contain none
        # One tick more or less is no use to speak of.
        spans = [(rise.get(f"all {cpu.decode()}", 0), rise.get(f"idle {cpu.decode()}", 0)) for cpu in self._siblings]
        # One that wakes the others and one of them: what a team waits at the same time is pressure once.
        tids = [name.removeprefix("runs ") for name in new if name.startswith("runs ")]
        rose = [[new[f"{what} {tid}"] - old.get(f"{what} {tid}", 0) for what in ("wait", "runs")] for tid in tids]
        waits = sorted(min(wait, runs * WAKE_NS) for wait, runs in rose)
        busy = [max(span - idle - 1, 0) / span for span, idle in spans if span > 0]
        return Disturbance(
            seconds=now - then,
            steal_share=rise["steal"] / ticks if ticks > 0 else None,
            throttled_count=rise.get("throttled"),
            throttled_us=rise.get("throttled_us"),
            cpu_pressure_us=rise.get("cpu"),
            own_wait_us=sum(waits[-2:]) // 1000 if waits else None,
            memory_pressure_us=rise.get("memory"),
            moved={name: moved[name] - was[name] for name in moved if moved[name] > was.get(name, moved[name])},
            sibling_share=max(busy, default=None),
            nodes_allowed=(nodes, nodes_now) if nodes and nodes_now and nodes != nodes_now else None,
        )
