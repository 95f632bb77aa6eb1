# SPDX-License-Identifier: Apache-2.0
"""Counters of the CPU and of the kernel for a process that runs, by perf_event_open(2), where they may be opened.

Generic events first; where a CPU has none for loads from its own and from another node, the raw ones of its maker, as
perf's own tables have them (linux, tools/perf/pmu-events/arch). Names are not trusted: each is tried by opening it.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

from numabench import _core
from numabench.analysis.bounds import FLOPS, FLOPS_OF, LINES, PREFETCHED
from numabench.analysis.diagnosis import LOCAL, REMOTE, Counter
from numabench.environment import Tree
from numabench.errors import NumabenchError

HARDWARE, SOFTWARE, CACHE, RAW = 0, 1, 3, 4  # perf_type_id
_LL, _DTLB, _NODE = 2, 3, 6  # perf_hw_cache_id
_MISS = 1 << 16  # perf_hw_cache_op_result_id
_MEANT = {
    errno.ENOENT: "perf_event_open: ENOENT, this machine shows none",
    errno.EACCES: "perf_event_open: EACCES; for its user sysctl kernel.perf_event_paranoid=1, for all CAP_PERFMON",
    errno.EPERM: "perf_event_open: EPERM; sysctl kernel.perf_event_paranoid=1, or CAP_PERFMON",
}
_FP_MASKS = (0x01, 0x04, 0x10, 0x40, 0x02, 0x08, 0x20, 0x80)
SPARE = 64  # descriptors left to the rest of the program


class Event(NamedTuple):
    """A name as perf has it, what perf_event_open wants for it, and whether it happens in the kernel."""

    name: str
    type: int
    config: int
    kernel: bool = False


EVENTS = (
    Event("task-clock", SOFTWARE, 1),
    Event("page-faults", SOFTWARE, 2),
    Event("context-switches", SOFTWARE, 3, kernel=True),
    Event("cpu-migrations", SOFTWARE, 4, kernel=True),
    Event("cycles", HARDWARE, 0),
    Event("instructions", HARDWARE, 1),
    Event("LLC-load-misses", CACHE, _LL | _MISS),
    Event("dTLB-load-misses", CACHE, _DTLB | _MISS),
    Event("node-loads", CACHE, _NODE),
    Event("node-load-misses", CACHE, _NODE | _MISS),
)
_OF_THE_KERNEL = frozenset(event.name for event in EVENTS if event.type == SOFTWARE)
# config is event | mask << 8. Intel: mem_load_l3_miss_retired.{local,remote}_dram; longest_lat_cache.miss, with its
# prefetches but for those into the last cache; fp_arith_inst_retired.{scalar,128b,256b,512b}_{double,single}, masks in
# the order of FLOPS_OF. AMD from Zen 3 on: ls_dmnd_fills_from_sys and ls_any_fills_from_sys, memory near and far;
# l2_pf_miss_l2_l3 of the prefetchers of the second cache alone, whose lines are no fills from memory when they are
# used; fp_ret_sse_avx_ops.all, which does not tell precisions apart. An event that a CPU lacks may open and count 0.
_RAW = {
    "GenuineIntel": (
        Event(LOCAL, RAW, 0x01D3),
        Event(REMOTE, RAW, 0x02D3),
        Event(LINES, RAW, 0x412E),
        *(Event(name, RAW, mask << 8 | 0xC7) for name, mask in zip(FLOPS_OF, _FP_MASKS, strict=True)),
    ),
    "AuthenticAMD": (
        Event(LOCAL, RAW, 0x0843),
        Event(REMOTE, RAW, 0x4043),
        Event(LINES, RAW, 0x4844),
        Event(PREFETCHED, RAW, 0x1F72),
        Event(FLOPS, RAW, 0x0F03),
    ),
}


def events() -> tuple[Event, ...]:
    """All that is worth a try on this CPU."""
    cpuinfo = Tree("/").text("proc/cpuinfo") or ""
    vendor = re.search(r"^vendor_id\s*:\s*(\w+)", cpuinfo, re.M)
    return EVENTS + _RAW.get(vendor[1] if vendor else "", ())


def unseen(counted: Iterable[Counter]) -> list[str]:
    """What a diagnosis has to do without, and why."""
    missing = [c for c in counted if c.value is None]
    reason = next((c.reason for c in missing if c.name == "cycles"), "")
    if reason:
        missing = [c for c in missing if c.name in _OF_THE_KERNEL]
    names: dict[str, list[str]] = {}
    for counter in missing:
        names.setdefault(counter.reason, []).append(counter.name)
    said = [f"{', '.join(those)} ({why})" for why, those in names.items()]
    return [f"what bounds it: cycles, cache and TLB misses, loads by node ({reason})"] * bool(reason) + said


class Counters:
    """Counts for threads, and for all that they start later, from :meth:`add` to :meth:`close`."""

    def __init__(
        self, wanted: Iterable[Event], opened: Callable[[int, int, int, bool, bool], int] = _core.open_counter
    ) -> None:
        self._open = opened
        self._fds: dict[Event, list[int]] = {event: [] for event in wanted}
        self._refused: dict[Event, str] = {}
        self._room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE

    def add(self, tid: int, from_exec: bool = False) -> None:
        """Open every event for a thread; one that is refused once is not tried again.

        ``from_exec``: not of the thread, but of the processes that it starts, each from its exec on.
        """
        for event, fds in self._fds.items():
            if event in self._refused:
                continue
            try:
                if sum(map(len, self._fds.values())) >= self._room:
                    raise NumabenchError("too many threads for the open files allowed (ulimit -n)")
                fds.append(self._open(tid, event.type, event.config, event.kernel, from_exec))
            except NumabenchError as error:
                if os.path.isdir(f"/proc/{tid}"):  # else it has ended meanwhile
                    self._refused[event] = _MEANT.get(error.errno, "perf_event_open: {}").format(error)

    def read(self) -> tuple[Counter, ...]:
        """Sums over all threads, scaled where a counter had to be shared; None and the reason where there is no sum."""
        return tuple(self._sum(event) for event in self._fds)

    def _sum(self, event: Event) -> Counter:
        if event in self._refused:
            return Counter(name=event.name, reason=self._refused[event])
        total, on, counted = 0.0, 0, 0
        for fd in self._fds[event]:
            value, enabled, running = struct.unpack("QQQ", os.read(fd, 24))
            on, counted = on + enabled, counted + running
            if running:
                total += value * enabled / running
        if not counted:
            why = "no thread of it ran" if not on else "all counters of the CPU were taken"
            return Counter(name=event.name, reason=why)
        return Counter(name=event.name, value=total, counted=counted / on)

    def close(self) -> None:
        """Stop counting. May be called twice."""
        for fds in self._fds.values():
            while fds:
                os.close(fds.pop())
