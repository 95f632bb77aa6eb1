# SPDX-License-Identifier: Apache-2.0
"""A process and its children as /proc shows them over some seconds; what cannot be read is named, never guessed."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable

from numabench import _core
from numabench.analysis.diagnosis import Facts, Thread
from numabench.environment import Tree, Watch
from numabench.errors import NumabenchError
from numabench.machine import Machine

STEP_S = 0.05
_MAPS_EVERY = 20  # steps: reading the maps of a large process takes long
_INSTRUCTIONS = (0, 1)  # PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS
_TICK = os.sysconf("SC_CLK_TCK")
_PAGES = re.compile(r" N(\d+)=(\d+)")
_BALANCING = re.compile(r"^(numa_(?:hint_faults|hint_faults_local|pages_migrated|pte_updates)) (\d+)$", re.M)


class _Seen:
    """First and last reading of a thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cpus: dict[int, int] = {}
        self.first: dict[str, int] | None = None
        self.last: dict[str, int] = {}
        self.moves = 0
        self.at = -1

    def rise(self, key: str) -> int | None:
        """How much a counter rose; None when it was not told."""
        return self.last[key] - self.first[key] if self.first and key in self.first and key in self.last else None


class Observer:
    """Watches ``pid`` and all its descendants from its making on."""

    def __init__(self, pid: int, machine: Machine, root: str = "/") -> None:
        self.pid, self._machine, self._tree = pid, machine, Tree(root)
        self._threads: dict[int, _Seen] = {}
        self._anonymous: dict[int, int] = {}
        self._files: dict[str, dict[int, int]] = {}
        self._allowed: tuple[int, ...] = machine.allowed_cpus
        self._node = {cpu.id: cpu.node if cpu.node is not None else 0 for cpu in machine.cpus}
        self._steps = 0
        self._began = time.monotonic()
        self._ended = self._began
        self._group: str | None = None
        self._groups = Watch(machine.allowed_cpus, root, pid)
        self._groups.start()
        self._enter()
        self._balancing = self._counters()
        self._faults: dict[int, tuple[int, int]] = {}
        self._maps_seen = False
        self._maps_took = 0.0

    def _counters(self) -> dict[str, int]:
        return {name: int(value) for name, value in _BALANCING.findall(self._tree.text("proc/vmstat") or "")}

    def _enter(self) -> None:
        """Count throttling anew when the process has gone to another cgroup."""
        group = self._tree.text(f"proc/{self.pid}/cgroup")
        if group and group != self._group:
            self._group, self._groups = group, Watch(self._machine.allowed_cpus, self._tree.root, self.pid)
            self._groups.start()

    def pids(self) -> list[int]:
        """The process and its descendants that live."""
        found, at = [self.pid], 0
        while at < len(found):
            for tid in self._tree.names(f"proc/{found[at]}/task"):
                text = self._tree.text(f"proc/{found[at]}/task/{tid}/children") or ""
                found += [int(child) for child in text.split()]
            at += 1
        return found

    def step(self) -> bool:
        """Look once; False when the process is gone."""
        alive = False
        for pid in self.pids():
            for tid in self._tree.names(f"proc/{pid}/task"):
                alive |= self._thread(pid, int(tid), new=self._steps > 0)
        if not alive:
            return False
        if self._steps in (2, 8) or self._steps % _MAPS_EVERY == 0:
            self._maps()
            self._enter()
            self._allowed = self._affinity() or self._allowed
        self._steps += 1
        self._ended = time.monotonic()
        return True

    def on(self, node: int) -> int:
        """Bytes on a node, its own and of mapped files, as of now."""
        self._maps()
        return sum(pages.get(node, 0) for pages in (self._anonymous, *self._files.values()))

    def watch(self, seconds: float, tell: Callable[[float], None] | None = None) -> None:
        """Look every 50 ms for so long, or until the process is gone."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.step():
            if tell:
                tell(end - time.monotonic())
            # Seldom enough to take less than a tenth of a CPU from what is watched.
            time.sleep(max(STEP_S, 10 * self._maps_took if self._steps % _MAPS_EVERY == 1 else 0))

    def _affinity(self) -> tuple[int, ...]:
        allowed: set[int] = set()
        for tid in self._threads:
            try:
                allowed |= os.sched_getaffinity(tid)
            except OSError:
                continue
        return tuple(sorted(allowed))

    def _thread(self, pid: int, tid: int, new: bool) -> bool:
        path = f"proc/{pid}/task/{tid}"
        text = self._tree.text(f"{path}/stat")
        if text is None:
            return False
        name, _, rest = text.rpartition(")")
        words = rest.split()
        if words[0] in "ZX":
            return False
        seen = self._threads.setdefault(tid, _Seen(name.partition("(")[2]))
        cpu = int(words[36])
        now = {"ticks": int(words[11]) + int(words[12]), "minor": int(words[7]), "major": int(words[9])}
        schedule = (self._tree.text(f"{path}/schedstat") or "").split()
        if len(schedule) == 3:
            now |= {"run_ns": int(schedule[0]), "wait_ns": int(schedule[1])}
        moved = re.search(r"nr_migrations\s*:\s*(\d+)", self._tree.text(f"{path}/sched") or "")
        if moved:
            now["migrations"] = int(moved[1])
        switched = re.search(r"nonvoluntary_ctxt_switches:\s*(\d+)", self._tree.text(f"{path}/status") or "")
        if switched:
            now["switches"] = int(switched[1])
        if seen.first is None:
            # A thread that was born while it was watched is counted from its birth.
            seen.first = dict.fromkeys(now, 0) if new else now
        elif now["ticks"] > seen.last["ticks"] or now.get("run_ns", 0) > seen.last.get("run_ns", 0):
            seen.cpus[cpu] = seen.cpus.get(cpu, 0) + 1
        seen.moves += seen.at not in (-1, cpu)
        seen.at, seen.last = cpu, now
        return True

    def _maps(self) -> None:
        began = time.monotonic()
        anonymous: dict[int, int] = {}
        files: dict[str, dict[int, int]] = {}
        for pid in self.pids():
            text = self._tree.text(f"proc/{pid}/numa_maps")
            self._maps_seen |= bool(text)
            for line in (text or "").splitlines():
                kb = re.search(r"kernelpagesize_kB=(\d+)", line)
                path = re.search(r" file=(\S+)", line)
                where = files.setdefault(path[1], {}) if path and " anon=" not in line else anonymous
                for node, count in _PAGES.findall(line):
                    where[int(node)] = where.get(int(node), 0) + int(count) * int(kb[1] if kb else 4) * 1024
        if sum(anonymous.values()) + sum(sum(f.values()) for f in files.values()) > 0:
            self._anonymous, self._files = anonymous, files
        self._maps_took = time.monotonic() - began

    def facts(self) -> Facts:
        """What was seen since the making."""
        seconds = max(self._ended - self._began, 1e-3)
        change = self._groups.stop()
        threads: list[Thread] = []
        by_node: dict[int, float] = {}
        for tid, seen in self._threads.items():
            run_ns = seen.rise("run_ns")
            run = run_ns * 1e-9 if run_ns is not None else (seen.rise("ticks") or 0) / _TICK
            wait = seen.rise("wait_ns")
            moved = seen.rise("migrations")
            threads.append(
                Thread(
                    tid=tid,
                    name=seen.name,
                    run_s=run,
                    wait_s=None if wait is None else wait * 1e-9,
                    cpus=seen.cpus,
                    migrations=seen.moves if moved is None else moved,
                    switches=seen.rise("switches"),
                )
            )
            looks = sum(seen.cpus.values())
            for cpu, count in seen.cpus.items():
                node = self._node.get(cpu, 0)
                by_node[node] = by_node.get(node, 0.0) + run * count / looks
        balancing = {k: v - self._balancing.get(k, v) for k, v in self._counters().items()}
        pressure = change.memory_pressure_us
        throttled = change.throttled_us
        return Facts(
            seconds=seconds,
            threads=tuple(threads),
            allowed=self._allowed,
            run_by_node=by_node,
            anonymous=self._anonymous,
            files={path: pages for path, pages in self._files.items() if sum(pages.values()) >= 1 << 20},
            throttled_share=None if throttled is None else min(1.0, throttled * 1e-6 / seconds),
            steal_share=change.steal_share,
            faults=sum(seen.rise("minor") or 0 for seen in self._threads.values()),
            major_faults=sum(seen.rise("major") or 0 for seen in self._threads.values()),
            memory_pressure_share=None if pressure is None else pressure * 1e-6 / seconds,
            balancing={k: v for k, v in balancing.items() if v > 0},
            unseen=tuple(self._unseen(change.throttled_us is None)),
        )

    def _unseen(self, no_group: bool) -> list[str]:
        said = []
        if not self._maps_seen:
            why = self._tree.unread.get(f"/proc/{self.pid}/numa_maps", "it was empty or too short-lived")
            said.append(f"on which nodes its pages are ({why}); run as its user with CAP_SYS_PTRACE, or as root")
        if self._threads and not any("migrations" in seen.last for seen in self._threads.values()):
            said.append("every change of CPU (no /proc/PID/task/TID/sched): only those between two looks are counted")
        if self._threads and not any("wait_ns" in seen.last for seen in self._threads.values()):
            said.append("how long its threads waited for a CPU (no schedstat)")
        if no_group:
            said.append("whether its cgroup was throttled (no cpu.stat of its cgroup, or no quota)")
        if not self._balancing:
            said.append("what automatic NUMA balancing did (no counters in /proc/vmstat)")
        try:
            os.close(_core.open_counter(self.pid, *_INSTRUCTIONS))
            reason = "hardware counters may be opened, but are not read by numabench"
        except NumabenchError as error:
            reason = f"no hardware counters: {error}"
        said.append(f"bytes per second, cache and TLB misses, flops ({reason}): whether memory or compute bounds it")
        return said
