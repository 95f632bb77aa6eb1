# SPDX-License-Identifier: Apache-2.0
"""The placements of any command, tried on itself: a short look at all, then the most promising against it as it is."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean, median, stdev

import msgspec

from numabench import layout
from numabench.analysis import stats
from numabench.commands import Arm, Block, Metric, Runner
from numabench.machine import Machine
from numabench.units import format_numbers

AS_IS = "as it is"
SCREEN_BLOCKS, TOP = 3, 3
LEVEL = 0.05


class Placing(msgspec.Struct, frozen=True, kw_only=True):
    """One way to start the command: variables and the words before it."""

    name: str
    variables: dict[str, str] = {}
    before: tuple[str, ...] = ()

    def arm(self, command: Sequence[str]) -> Arm:
        """As the runner takes it."""
        return Arm(name=self.name, command=(*self.before, *command), variables=self.variables)

    def line(self, command: Sequence[str]) -> str:
        """What a person pastes: exactly what was run."""
        words = [f"{key}={shlex.quote(value)}" for key, value in self.variables.items()]
        return " ".join([*words, shlex.join([*self.before, *command])])


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A placing measured again beside the command as it is; ``gain`` above 1 is better, whatever the metric's sense."""

    name: str
    line: str
    value: float
    gain: float
    ci: tuple[float, float] | None
    p: float  # after Holm's correction for the placings measured again
    verdict: str


def placings(machine: Machine, numactl: bool = True) -> list[Placing]:
    """What is worth trying on this machine, the command as it is first. Without numactl, CPUs only."""
    found = [Placing(name=AS_IS)]
    whole = layout.whole(machine).slots[0]
    nodes = layout.per_node(machine).slots
    every, several = whole.cpus, len(nodes) > 1
    pinned = {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}

    def add(name: str, cpus: Sequence[int], memory: str = "", **variables: str) -> None:
        listed = format_numbers(list(cpus))
        before = ("numactl", "-C", listed, memory) if numactl and memory else ("taskset", "-c", listed)
        threads = {"OMP_NUM_THREADS": str(len(cpus))}
        found.append(Placing(name=name, variables=threads | variables, before=before))

    add("one thread per core", every)
    add("one thread per core, pinned", every, **pinned)
    add("waiting threads sleep", every, OMP_WAIT_POLICY="passive", **pinned)
    if several:
        for slot in nodes[:4]:
            node = slot.nodes[0]
            add(f"node {node}", slot.cpus, f"--membind={node}", **pinned)
        add("all nodes, interleaved", every, "--interleave=" + format_numbers(list(whole.nodes)), **pinned)
        spread = {"OMP_PROC_BIND": "spread", "OMP_PLACES": "cores"}
        add("all nodes, spread", every, **spread)
    first = nodes[0].cpus
    memory = f"--membind={nodes[0].nodes[0]}" if several else ""
    l3 = [cpu for cpu in first if machine.cpu(cpu).l3 == machine.cpu(first[0]).l3 is not None]
    if 1 < len(l3) < len(first):
        add("one L3", l3, memory, **pinned)
    if len(first) >= 4:
        add("half a node", first[: len(first) // 2], memory, **pinned)
    if len(every) > 1:
        add("one core", first[:1], memory, **pinned)
    return found


def tune(
    command: Sequence[str],
    runner: Runner,
    ways: Sequence[Placing],
    blocks: int,
    seed: int = 0,
    tell: Callable[[int, int], None] | None = None,
) -> tuple[list[Result], dict[str, float]]:
    """The most promising placings measured again with their gain, best first, and the medians of the first look.

    Raises CommandFailed and UsageError (see ``Runner``).
    """
    arms = {way.name: way.arm(command) for way in ways}
    total = SCREEN_BLOCKS * len(ways) + blocks * (min(TOP, len(ways) - 1) + 1)
    seen = list(_told(runner.blocks(list(arms.values()), SCREEN_BLOCKS, seed), len(ways), 0, total, tell))
    first = {name: median(block.runs[name].value for block in seen) for name in arms}
    sign = 1 if runner.metric.better == "high" else -1
    rivals = sorted((name for name in arms if name != AS_IS), key=lambda name: -sign * first[name])[:TOP]
    again = [arms[AS_IS], *(arms[name] for name in rivals)]
    done = SCREEN_BLOCKS * len(ways)
    found = list(_told(runner.blocks(again, blocks, seed + 1, warm=False), len(again), done, total, tell))
    return judge(found, [way for way in ways if way.name in rivals], command, runner.metric), first


def _told(
    blocks: Iterator[Block], size: int, done: int, total: int, tell: Callable[[int, int], None] | None
) -> Iterator[Block]:
    for block in blocks:
        done += size
        if tell:
            tell(done, total)
        yield block


def judge(blocks: Sequence[Block], ways: Sequence[Placing], command: Sequence[str], metric: Metric) -> list[Result]:
    """Gains over the command as it is from paired blocks, with Holm's correction (Holm 1979), best first."""
    base = [block.runs[AS_IS].value for block in blocks]
    rows = []
    for way in ways:
        mine = [block.runs[way.name].value for block in blocks]
        pair = (mine, base) if metric.better == "high" else (base, mine)
        rows.append((way, median(mine), stats.ratio(*pair), _p(*pair)))
    rows.sort(key=lambda row: row[3])
    worst, results = 0.0, []
    for rank, (way, value, ratio, p) in enumerate(rows):
        worst = max(worst, min(1.0, p * (len(rows) - rank)))
        results.append(
            Result(
                name=way.name,
                line=way.line(command),
                value=value,
                gain=ratio.value,
                ci=ratio.ci,
                p=worst,
                verdict=_verdict(ratio, worst),
            )
        )
    return sorted(results, key=lambda result: -result.gain)


def _p(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of a mean log-ratio of 1 (paired t)."""
    logs = [math.log(x / y) for x, y in zip(a, b, strict=True)]
    if len(logs) < 2:
        return 1.0
    error = stdev(logs) / math.sqrt(len(logs))
    return 2 * stats.student_cdf(-abs(fmean(logs)) / error, len(logs) - 1) if error else float(not any(logs))


def _verdict(ratio: stats.Ratio, p: float) -> str:
    if ratio.ci is None:
        return f"too few blocks for an interval ({stats.LEAST_PASSES} are needed)"
    if p < LEVEL and ratio.ci[0] > 1:
        return "better"
    if p < LEVEL and ratio.ci[1] < 1:
        return "worse"
    return f"no detectable change (one of {ratio.mde * 100:.1f} % would show)"
