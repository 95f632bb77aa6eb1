# SPDX-License-Identifier: Apache-2.0
"""Instances as processes: started together, driven by a closed loop or by arrivals, proven, and ended."""

from __future__ import annotations

import json
import mmap
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from numabench import _core
from numabench.analysis import tails
from numabench.errors import NumabenchError
from numabench.instance.spec import Spec
from numabench.machine import INITIAL_AFFINITY
from numabench.presets import Ceilings

CAPACITY = 1 << 15  # requests of one run
LEAD_NS = 30_000_000  # from the order to the common start
LOAD_S, ANSWER_S, END_S = 300.0, 60.0, 0.5
CHUNK_NS = 300_000_000  # so often Ctrl-C is looked at while the generator sends


class Place(NamedTuple):
    """One instance and the CPUs its process may use; none: as the parent."""

    spec: Spec
    affinity: tuple[int, ...] = ()


class Run(NamedTuple):
    """What one run served. Times are ns from its start; ``late`` is how much later than planned requests were sent."""

    requests: list[_core.Request]
    window_ns: float
    steps: int
    answers: list[dict[str, Any]]
    late: list[float]

    @property
    def latencies(self) -> list[float]:
        """From the scheduled arrival to completion, in the order of arrival."""
        return [float(r.done - r.scheduled) for r in self.requests if r.done]

    @property
    def services(self) -> list[float]:
        """From the start of service to completion."""
        return [float(r.done - r.start) for r in self.requests if r.done]

    @property
    def per_second(self) -> float:
        """Requests per second in the window; one that its end cuts counts in proportion."""
        return self.rates(1)[0]

    def rates(self, parts: int) -> list[float]:
        """Requests per second in each of so many equal parts of the window."""
        size = self.window_ns / parts
        done = [0.0] * parts
        for r in self.requests:
            for i in range(int(r.start // size), parts) if r.done else ():
                if r.done <= i * size:
                    break
                done[i] += (min(r.done, (i + 1) * size) - max(r.start, i * size)) / (r.done - r.start)
        return [count / size * 1e9 for count in done]


class Fleet:
    """Processes that have loaded their model. A context manager; ``answers`` are their reports on loading.

    Raises NumabenchError when one of them cannot start, dies, or does not answer in time.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self.children: list[subprocess.Popen[str]] = []
        self.window_s = 0.0
        size = _core.Board.bytes(CAPACITY)
        self.fd = os.memfd_create("numabench-board")
        os.ftruncate(self.fd, size)
        self.memory = mmap.mmap(self.fd, size)
        self.board = _core.Board(self.memory, clear=CAPACITY)
        try:
            for place in places:
                self._start(place)
                if place.spec.fd:  # a shared mapping is filled by the first before the next one looks at it
                    self._answer(len(self.children) - 1, LOAD_S, keep=True)
            self.answers = [self._answer(i, LOAD_S) for i in range(len(places))]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start(self, place: Place) -> None:
        fds = [self.fd, *(fd for fd in (place.spec.fd, place.spec.exchange) if fd)]
        child = subprocess.Popen(
            [sys.executable, "-m", "numabench.instance.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=fds,
            bufsize=1,
        )
        self.children.append(child)
        order = {
            "spec": msgspec.to_builtins(place.spec),
            "affinity": sorted(place.affinity or INITIAL_AFFINITY),
            "board": self.fd,
        }
        self._tell(len(self.children) - 1, order)

    def _tell(self, i: int, order: dict[str, Any]) -> None:
        stdin = self.children[i].stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(order) + "\n")
            stdin.flush()
        except OSError:
            self._answer(i, 0.0)  # says why it is gone

    def _answer(self, i: int, seconds: float, keep: bool = False) -> dict[str, Any]:
        child = self.children[i]
        assert child.stdout is not None
        kept = getattr(child, "kept", None)
        if kept is not None:
            child.kept = None  # type: ignore[attr-defined]
            return dict(kept)
        if not select.select([child.stdout], [], [], seconds)[0]:
            raise NumabenchError(f"instance {i} did not answer within {seconds:.0f} s")
        line = child.stdout.readline()
        if not line:
            child.kill()
            said = (child.stderr.read() if child.stderr else "").strip().splitlines()
            raise NumabenchError(f"instance {i} ended ({child.wait()}): {said[-1] if said else 'it said nothing'}")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise NumabenchError(f"instance {i}: {found['error']}")
        if keep:
            child.kept = found  # type: ignore[attr-defined]
        return found

    def _all(self, order: dict[str, Any], seconds: float = ANSWER_S) -> list[dict[str, Any]]:
        for i in range(len(self.children)):
            self._tell(i, order)
        return [self._answer(i, seconds) for i in range(len(self.children))]

    # ---- runs ----------------------------------------------------------------------------------------------------

    def begin(
        self, seconds: float, steps: int = 1, stall: tuple[int, float] | None = None, most: int = 0, duty: int = 0
    ) -> None:
        """Start a closed loop: every instance does one request after the other for so long, at most ``most``.

        ``duty``: percent of the time at work, asleep for the rest after each request (0: all of it).
        """
        self.board.close()
        self.board = _core.Board(self.memory, clear=CAPACITY)
        self.window_s = seconds
        origin = _core.monotonic_ns() + LEAD_NS
        for i in range(len(self.children)):
            order = self._order(i, origin, origin + int(seconds * 1e9), steps, stall)
            self._tell(i, order | ({"most": most} if most else {}) | ({"duty": duty} if duty else {}))

    def finish(self) -> Run:
        """Wait for the end of what was begun."""
        answers = [self._answer(i, self.window_s + ANSWER_S) for i in range(len(self.children))]
        return Run(self.board.requests(), self.window_s * 1e9, sum(a["steps"] for a in answers), answers, [])

    def closed(self, seconds: float, steps: int = 1, stall: tuple[int, float] | None = None) -> Run:
        """A closed loop from begin to end: capacity and service time, no latency."""
        self.begin(seconds, steps, stall)
        return self.finish()

    def opened(
        self, times: Sequence[int], cpu: int | None, steps: int = 1, stall: tuple[int, float] | None = None
    ) -> Run:
        """Requests at their times whether or not earlier ones are done, sent from ``cpu`` (None: wherever)."""
        self.board.close()
        self.board = _core.Board(self.memory, clear=len(times))
        self.board.schedule(times)
        origin = _core.monotonic_ns() + LEAD_NS
        for i in range(len(self.children)):
            self._tell(i, self._order(i, origin, 0, steps, stall))
        before = os.sched_getaffinity(0)
        try:
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})
            at = 0
            while at < len(times):
                to = at + 1
                while to < len(times) and times[to] - times[at] < CHUNK_NS:
                    to += 1
                self.board.send(at, to, origin)
                at = to
        finally:
            os.sched_setaffinity(0, before)
            self.board.end()
        answers = [self._answer(i, times[-1] / 1e9 + ANSWER_S) for i in range(len(self.children))]
        found = self.board.requests()
        late = [float(r.sent - r.scheduled) for r in found]
        return Run(
            found, float(max((r.done for r in found), default=0)), sum(a["steps"] for a in answers), answers, late
        )

    @staticmethod
    def _order(i: int, origin: int, until: int, steps: int, stall: tuple[int, float] | None) -> dict[str, Any]:
        order: dict[str, Any] = {"do": "serve", "origin": origin, "until": until, "steps": steps, "server": i}
        if stall:
            order |= {"stall_at": stall[0], "stall_ns": int(stall[1] * 1e9)}
        return order

    def cpu_s(self) -> float:
        """CPU time that the processes have used so far, seconds."""
        ticks = 0
        for child in self.children:
            with open(f"/proc/{child.pid}/stat") as file:
                ticks += sum(int(word) for word in file.read().rsplit(")", 1)[1].split()[11:13])  # utime, stime
        return ticks / os.sysconf("SC_CLK_TCK")

    def ceilings(self) -> Ceilings:
        """Of the first instance: measured by its own threads on its own pages, all instances at the same time."""
        return msgspec.convert(self._all({"do": "ceilings"})[0], Ceilings)

    def prove(self) -> list[dict[str, Any]]:
        """Where everybody's pages are now."""
        return self._all({"do": "prove"})

    def warm(self, limit_s: float) -> bool:
        """Serve until ten windows of service times have settled, at most so long."""
        end = time.monotonic() + limit_s
        seen: list[float] = []
        while time.monotonic() < end:
            run = self.closed(min(limit_s / 4, 0.5))
            seen.extend(run.services)
            if len(seen) >= 20 and tails.settled(seen):
                return True
        return False

    def close(self) -> None:
        """End all processes. Closing twice is allowed."""
        for child in self.children:
            if child.stdin:
                with suppress(OSError):
                    child.stdin.close()
        end = time.monotonic() + END_S  # for all of them together, so that Ctrl-C takes no longer with many
        for child in self.children:
            try:
                child.wait(max(end - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            for pipe in (child.stdout, child.stderr):
                if pipe:
                    pipe.close()
        self.children.clear()
        self.board.close()
        if not self.memory.closed:
            self.memory.close()
            os.close(self.fd)
