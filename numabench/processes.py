# SPDX-License-Identifier: Apache-2.0
"""A process and its children as /proc shows them over some seconds; what cannot be read is named, never guessed."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import NamedTuple

from numabench import counters
from numabench.analysis.diagnosis import Facts, Thread
from numabench.disturbance import Watch
from numabench.environment import Tree
from numabench.machine import Machine

STEP_S = 0.05
_MAPS_S, _MAPS_COST = 0.2, 20  # maps are read so often, and seldom enough to take less than a twentieth of a CPU
_ENTER_EVERY = 20  # steps
_MOST = 0.9  # of the pages
LEAST_FILE = 1 << 20  # bytes of a mapped file that is worth a word
_TICK = os.sysconf("SC_CLK_TCK")
_PAGES = re.compile(r" N(\d+)=(\d+)")
_ESCAPED = re.compile(r"\\([0-7]{3})")  # blanks in a path
_BALANCING = re.compile(r"^(numa_(?:hint_faults|hint_faults_local|pages_migrated|pte_updates)) (\d+)$", re.M)


def _character(octal: re.Match[str]) -> str:
    return chr(int(octal[1], 8))


class _Seen:
    """First and last reading of a thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cpus: dict[int, int] = {}
        self.first: dict[str, int] | None = None
        self.last: dict[str, int] = {}
        self.moves = 0
        self.looks = self.blocked = 0  # at it; of these asleep in a futex
        self.at = -1

    def rise(self, key: str) -> int | None:
        """How much a counter rose; None when it was not told."""
        return self.last[key] - self.first[key] if self.first and key in self.first and key in self.last else None


class _Look(NamedTuple):
    """Pages at one moment: CPU seconds in user space until then; bytes by node of every file, "" for its own."""

    user_s: float
    pages: dict[str, dict[int, int]]

    def bytes(self, what: str | None = None) -> int:
        """Of a file, or of all."""
        return sum(sum(pages.values()) for name, pages in self.pages.items() if what in (None, name))


class Observer:
    """Watches ``pid`` and all its descendants from its making on."""

    def __init__(self, pid: int, machine: Machine, root: str = "/", counting: counters.Counters | None = None) -> None:
        """``counting``: counters that count it already."""
        self.pid, self._machine, self._tree = pid, machine, Tree(root)
        self._threads: dict[int, _Seen] = {}
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
        self._sleep_told = False
        self._maps_due = self._began + 2 * STEP_S
        self._looks: list[_Look] = []
        self._counting = counting

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
        if time.monotonic() >= self._maps_due:
            self._maps()
        if self._steps in (2, 8) or self._steps % _ENTER_EVERY == 0:
            self._enter()
            self._allowed = self._affinity() or self._allowed
        self._steps += 1
        self._ended = time.monotonic()
        return True

    def on(self, node: int) -> int:
        """Bytes on a node, its own and of mapped files, as of now."""
        self._maps()
        return sum(pages.get(node, 0) for pages in self._looks[-1].pages.values()) if self._looks else 0

    def watch(self, seconds: float, tell: Callable[[float], None] | None = None) -> None:
        """Look every 50 ms for so long, or until the process is gone."""
        if self._counting is None:
            self._counting = counters.Counters(counters.events())
            for pid in self.pids():  # what they start later is counted with them
                for tid in self._tree.names(f"proc/{pid}/task"):
                    self._counting.add(int(tid))
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.step():
            if tell:
                tell(end - time.monotonic())
            time.sleep(STEP_S)

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
        now = {
            "user": int(words[11]),
            "ticks": int(words[11]) + int(words[12]),
            "minor": int(words[7]),
            "major": int(words[9]),
        }
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
        seen.looks += 1
        if words[0] == "S":
            place = self._tree.text(f"{path}/wchan")  # the kernel's function it sleeps in; 0 where that is not told
            self._sleep_told |= place not in (None, "", "0")
            seen.blocked += "futex" in (place or "")
        seen.moves += seen.at not in (-1, cpu)
        seen.at, seen.last = cpu, now
        return True

    def _maps(self) -> None:
        began = time.monotonic()
        found: dict[str, dict[int, int]] = {"": {}}
        for pid in self.pids():
            text = self._tree.text(f"proc/{pid}/numa_maps")
            self._maps_seen |= bool(text)
            for line in (text or "").splitlines():
                kb = re.search(r"kernelpagesize_kB=(\d+)", line)
                path = re.search(r" file=(\S+)", line)
                name = _ESCAPED.sub(_character, path[1]) if path and " anon=" not in line else ""
                where = found.setdefault(name, {})
                for node, count in _PAGES.findall(line):
                    where[int(node)] = where.get(int(node), 0) + int(count) * int(kb[1] if kb else 4) * 1024
        look = _Look(self._user_s(), found)
        if look.bytes():
            self._looks.append(look)
        now = time.monotonic()
        self._maps_due = now + max(_MAPS_S, _MAPS_COST * (now - began))

    def _user_s(self) -> float:
        return sum(seen.rise("user") or 0 for seen in self._threads.values()) / _TICK

    def _chosen(self) -> _Look:
        """The look at the most pages in the second half of its CPU time: not while it starts, and not while it ends."""
        late = [look for look in self._looks if look.user_s >= self._user_s() / 2] or self._looks[-1:]
        return max(late, key=_Look.bytes, default=_Look(0.0, {"": {}}))

    def _since(self, what: str, most: int) -> float:
        """User seconds since the last look at which not nine tenths of so many bytes were there."""
        before = 0.0
        for look in self._looks:
            if look.bytes(what) >= _MOST * most:
                break
            before = look.user_s
        return self._user_s() - before

    def facts(self) -> Facts:
        """What was seen since the making; ends the counting."""
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
                    blocked=seen.blocked / seen.looks if self._sleep_told and seen.looks else None,
                )
            )
            looks = sum(seen.cpus.values())
            for cpu, count in seen.cpus.items():
                node = self._node.get(cpu, 0)
                by_node[node] = by_node.get(node, 0.0) + run * count / looks
        counted = self._counting.read() if self._counting else ()
        if self._counting:
            self._counting.close()
        pages_seen = self._chosen().pages
        anonymous = pages_seen[""]
        files = {path: pages for path, pages in pages_seen.items() if path and sum(pages.values()) >= LEAST_FILE}
        balancing = {k: v - self._balancing.get(k, v) for k, v in self._counters().items()}
        pressures = (change.cpu_pressure_us, change.memory_pressure_us)
        cpu_pressure, memory_pressure = (None if us is None else min(1.0, us * 1e-6 / seconds) for us in pressures)
        throttled = change.throttled_us
        return Facts(
            seconds=seconds,
            threads=tuple(threads),
            allowed=self._allowed,
            run_by_node=by_node,
            user_s=self._user_s(),
            since_s={what: self._since(what, sum(pages.values())) for what, pages in {"": anonymous, **files}.items()},
            anonymous=anonymous,
            files=files,
            throttled_share=None if throttled is None else min(1.0, throttled * 1e-6 / seconds),
            steal_share=change.steal_share,
            faults=sum(seen.rise("minor") or 0 for seen in self._threads.values()),
            major_faults=sum(seen.rise("major") or 0 for seen in self._threads.values()),
            cpu_pressure_share=cpu_pressure,
            memory_pressure_share=memory_pressure,
            balancing={k: v for k, v in balancing.items() if v > 0},
            counters=counted,
            unseen=(*self._unseen(change.throttled_us is None), *counters.unseen(counted)),
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
        return said
