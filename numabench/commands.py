# SPDX-License-Identifier: Apache-2.0
"""Any commands as fresh processes, in blocks of random order: how long they took, what they used, what they said.

A block is one process per arm, side by side in time; what lives as long as a process (addresses, placement, luck with
huge pages) is drawn anew for each (Kalibera and Jones 2013; Mytkowicz et al. 2009). A block is the unit of inference.
"""

from __future__ import annotations

import math
import os
import random
import re
import resource
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, Literal

import msgspec

from numabench import _core
from numabench.disturbance import Watch
from numabench.environment import SETTINGS, snapshot
from numabench.errors import NumabenchError, Unsupported, UsageError
from numabench.machine import Machine
from numabench.units import format_bytes, format_seconds

Better = Literal["low", "high"]
_FIXED: dict[str, tuple[str, str]] = {  # the figures that every run has: field of Run, unit
    "wall": ("wall_s", "s"),
    "user": ("user_s", "s"),
    "memory": ("peak_bytes", "B"),
}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_MOST_OUTPUT = 1 << 24  # bytes of a command's output that are searched, from its end


class CommandFailed(NumabenchError):
    """A command ended with an error, ran too long, or did not print what was looked for."""


class RanTooLong(CommandFailed):
    """A command was ended because its time was up."""


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run something: the words of a command, what is added to its environment, the CPUs it may use."""

    name: str
    command: tuple[str, ...]
    variables: dict[str, str] = {}
    cpus: tuple[int, ...] = ()  # empty: as numabench itself
    before: Callable[[], None] | None = None  # called here before it is started; no part of its time
    prepare: Callable[[], None] | None = None  # called in the new process before the command takes it over
    attend: Callable[[int], None] | None = None  # called here with the process's number while the command runs


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """The figure that arms are compared by: ``wall``, ``user``, ``memory``, or a number in a command's output."""

    name: str
    unit: str
    better: Better
    pattern: str = ""

    @classmethod
    def parse(cls, text: str, better: Better | None = None) -> Metric:
        """Read ``wall``, ``user``, ``memory`` or a regular expression. Raises UsageError."""
        if text in _FIXED:
            return cls(name=text, unit=_FIXED[text][1], better=better or "low")
        try:
            re.compile(text)
        except re.error as error:
            raise UsageError(f"--metric {text!r}: wall, user, memory or a regular expression; {error}") from None
        if better is None:
            raise UsageError(f"--metric {text!r}: say with --better whether low or high is better")
        return cls(name=text, unit="", better=better, pattern=text)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One process: what it took and how it went. ``value`` is the metric's figure."""

    arm: str
    block: int  # from 0; -1: a warm-up
    position: int  # in the whole series, from 0
    wall_s: float
    user_s: float
    system_s: float
    peak_bytes: int
    value: float
    core_hz: float = 0.0  # of this CPU just before
    same: str = ""  # what must be alike in all runs, as printed
    flags: tuple[str, ...] = ()  # what disturbed it


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """One run of every arm, by name, and the settings of the system that differ from those before the first block."""

    number: int
    runs: dict[str, Run]
    changed: dict[str, tuple[Any, Any]] = {}


class Runner:
    """Runs arms and reads the metric. Ctrl-C and errors take the command's whole process group down with them."""

    def __init__(
        self,
        metric: Metric,
        *,
        machine: Machine | None = None,
        timeout_s: float = 600.0,
        same: str = "",
        allowed: Sequence[int] = (0,),
    ) -> None:
        """``same``: regular expression whose match must be alike in all runs; ``allowed``: exit codes that are fine."""
        self.metric = metric
        self.machine = machine or Machine.load()
        self.timeout_s = timeout_s
        self._same = same
        self._allowed = frozenset(allowed)
        self._position = 0
        self._clock = _core.Clock()
        self._settings = self.settings()

    def settings(self) -> dict[str, Any]:
        """The settings of the system that can change a figure, as they are now."""
        seen = snapshot(self.machine)
        return {name: seen[name] for name in SETTINGS}

    def blocks(self, arms: Sequence[Arm], most: int, seed: int = 0, warm: bool = True) -> Iterator[Block]:
        """Up to ``most`` blocks, the order random, every second block the reverse of the one before.

        Two arms thus run as ABBA or BAAB, and a steady drift cancels. ``warm`` runs every arm once before, so that no
        arm pays for files that are read for the first time. Raises CommandFailed, and UsageError for a command that
        does not exist.
        """
        draw = random.Random(seed)  # noqa: S311 - an order, no secret
        if warm:
            for arm in arms:
                self.run(arm, -1)
        order: list[Arm] = []
        for number in range(most):
            order = order[::-1] if number % 2 else draw.sample(list(arms), len(arms))
            runs = {arm.name: self.run(arm, number) for arm in order}
            now = self.settings()
            changed = {key: (old, now[key]) for key, old in self._settings.items() if now[key] != old}
            yield Block(number=number, runs=runs, changed=changed)

    def run(self, arm: Arm, block: int = 0, during: Callable[[int], None] | None = None) -> Run:
        """One fresh process to its end; ``during`` is given its number first. Raises CommandFailed and UsageError."""
        if arm.before:
            arm.before()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            watch = Watch(arm.cpus or self.machine.allowed_cpus)
            hz = self._clock.core_hz()
            floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            watch.start()
            began = time.monotonic_ns()
            with _held_back() as arrived:
                process = self._start(arm, out, err)
            status, used, ended = self._wait(process, arm, arrived, during)
            seen = watch.stop()
            text = _tail(out), _tail(err)
        if status not in self._allowed:
            last = next((line for part in (text[1], text[0]) for line in reversed(part.splitlines()) if line), "")
            how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
            raise CommandFailed(
                f"{arm.name} ended with {how}: {' '.join(arm.command)}{f' ({last[:200]})' * bool(last)}"
            )
        if self.metric.name == "memory" and used.ru_maxrss <= floor:
            # The kernel counts what the process was before it became the command: a copy of this one.
            raise Unsupported(
                f"--metric memory: {arm.name} needs less than numabench itself ({format_bytes(floor << 10)}), "
                "and the system does not tell so small peaks apart"
            )
        self._position += 1
        found = {
            "wall_s": (ended - began) * 1e-9,
            "user_s": used.ru_utime,
            "system_s": used.ru_stime,
            "peak_bytes": used.ru_maxrss << 10,
        }
        value = (
            _number(self.metric.pattern, text, arm)
            if self.metric.pattern
            else float(found[_FIXED[self.metric.name][0]])
        )
        if not (value > 0 and math.isfinite(value)):
            raise CommandFailed(f"{arm.name}: --metric {self.metric.name} is {value:g}; only positive figures compare")
        return msgspec.convert(
            found
            | {
                "arm": arm.name,
                "block": block,
                "position": self._position - 1,
                "value": value,
                "core_hz": hz,
                "same": _match(self._same, text, arm) if self._same else "",
                "flags": seen.flags,
            },
            Run,
        )

    def _start(self, arm: Arm, out: IO[bytes], err: IO[bytes]) -> subprocess.Popen[bytes]:
        def become() -> None:
            if arm.cpus:
                os.sched_setaffinity(0, arm.cpus)
            if arm.prepare:
                arm.prepare()

        try:
            return subprocess.Popen(
                arm.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **arm.variables},
                start_new_session=True,
                preexec_fn=become if arm.cpus or arm.prepare else None,  # noqa: PLW1509 - no other thread lives here
            )
        except OSError as error:
            raise UsageError(f"{arm.name}: cannot run {arm.command[0]}: {error.strerror}") from error
        except subprocess.SubprocessError as error:
            raise CommandFailed(f"{arm.name}: cannot prepare {arm.command[0]} on CPUs {list(arm.cpus)}") from error

    def _wait(
        self, process: subprocess.Popen[bytes], arm: Arm, arrived: list[int], during: Callable[[int], None] | None
    ) -> tuple[int, resource.struct_rusage, int]:
        """Exit status (negative: signal), resources, and the moment of the end."""
        pid = process.pid
        try:
            for signum in arrived:
                signal.raise_signal(signum)
            for call in filter(None, (arm.attend, during)):
                call(pid)
            if not _ends(pid, self.timeout_s):
                raise RanTooLong(f"{arm.name} ran longer than {format_seconds(self.timeout_s)} (--timeout)")
            ended = time.monotonic_ns()
            _, status, used = os.wait4(pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, used, ended
        finally:
            if process.returncode is None:
                with suppress(OSError):
                    os.killpg(pid, signal.SIGKILL)
                process.wait()


@contextmanager
def _held_back() -> Iterator[list[int]]:
    """Keep SIGINT and SIGTERM until a process is known well enough to be ended; those that came are listed."""
    arrived: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield arrived
        return
    earlier = {s: signal.signal(s, lambda signum, _: arrived.append(signum)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield arrived
    finally:
        for signum, handler in earlier.items():
            signal.signal(signum, handler)


def _ends(pid: int, seconds: float) -> bool:
    """Wait for the end of a child, at most so long; without limit where the system has no file for a process."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(seconds * 1e3))
    finally:
        os.close(fd)


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _MOST_OUTPUT))
    return file.read().decode(errors="replace")


def _match(pattern: str, texts: Sequence[str], arm: Arm) -> str:
    """The last match of a pattern in what a command printed, its first group if it has one. Raises CommandFailed."""
    for text in texts:
        found = list(re.finditer(pattern, text, re.M))
        if found:
            return found[-1][1 if found[-1].re.groups else 0] or ""
    raise CommandFailed(f"{arm.name} printed nothing that matches {pattern!r}")


def _number(pattern: str, texts: Sequence[str], arm: Arm) -> float:
    said = _match(pattern, texts, arm)
    numbers = _NUMBER.findall(said)
    if len(numbers) != 1:
        raise CommandFailed(f"{arm.name}: {pattern!r} matches {said[:60]!r}, which is not one number; use a group")
    return float(numbers[0])
