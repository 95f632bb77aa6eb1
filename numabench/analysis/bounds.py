# SPDX-License-Identifier: Apache-2.0
"""What bounds a program that nothing is wrong with: what it reached over what the machine was measured to reach. Pure.

Steps 3 to 7 of the decision tree in docs/diagnose.md. A bound is no fault; a step that could not be judged is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from numabench.analysis.diagnosis import FIRST, LOCAL, REMOTE, Counter, Facts, busy, findings
from numabench.units import plural

# Starting values, as those of numabench.analysis.diagnosis; shares of a ceiling or of the time.
FULL, COMPUTING, BLOCKED, WAITING, WALKING = 0.85, 0.70, 0.20, 0.70, 0.20
SLOW = 1.0  # instructions a cycle; a core that does more does not wait for its loads
PART = 0.1  # of the traffic: a smaller part bounds nothing
AT_WORK = 0.9  # threads that run or could, on average: with fewer a program waits for something outside
LINE_BYTES = 64
LINES, PREFETCHED = "lines from memory", "lines prefetched from memory"
FLOPS = "flops of any precision"
# By precision and lanes: one count of an instruction is so many flops (a fused multiply-add is counted twice).
FLOPS_OF = {
    f"{kind} by {n}": (kind, n) for kind, lanes in (("f64", (1, 2, 4, 8)), ("f32", (1, 4, 8, 16))) for n in lanes
}
BoundCause = Literal["bandwidth", "remote bandwidth", "compute", "synchronisation", "latency", "TLB", "unexplained"]
Scaled = Literal["faster", "as fast", "slower", "undecided", "not tried"]


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    """What a record measured, for as many cores as it was measured with."""

    gb_per_s: dict[tuple[int, int], dict[int, float]] = {}  # read, (initiator, target): cores
    gflop_per_s: dict[str, dict[int, float]] = {}  # f32, f64: cores
    idle_ns: dict[tuple[int, int], float] = {}  # of a dependent load
    walk_ns: float | None = None  # what a load takes longer in base pages than in huge ones, all in random order


class Halved(msgspec.Struct, frozen=True, kw_only=True):
    """The command with half of its threads on half of its CPUs, over the command as it is."""

    outcome: Scaled
    threads: int = 0
    half: int = 0
    reason: str = ""
    ratio: float | None = None  # of the wall times
    ci: tuple[float, float] | None = None  # none: seen once


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """What a program runs against. ``share`` of its ceiling, or of its time; ``gain`` at most, old time over new."""

    cause: BoundCause
    evidence: str
    change: str
    share: float | None = None
    gain: float | None = None
    proven: bool = False  # by an intervention; else by its figures alone


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds found, the figures they were judged by, and what could not be judged and what that would take."""

    bounds: tuple[Bound, ...] = ()
    figures: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()


class _Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the tree: what it found, its figure, or what it lacked."""

    bound: Bound | None = None
    figure: str = ""
    counts: str = ""  # of these there are none
    runs: str = ""  # of numabench that the record does not hold
    other: str = ""

    @property
    def lacking(self) -> bool:
        """Whether it could not be judged."""
        return bool(self.counts or self.runs or self.other)


def at(curve: Mapping[int, float], cores: float, by_core: bool = False) -> float | None:
    """Ceiling for so many cores, between the two measured ones around it.

    Beyond the most it is that of the most, below the fewest None; with ``by_core`` in proportion in both.
    """
    if not curve:
        return None
    known = sorted(curve)
    if not known[0] <= cores <= known[-1]:
        end = known[0] if cores < known[0] else known[-1]
        return curve[end] * cores / end if by_core else curve[end] if end == known[-1] and cores > end else None
    low, high = max(n for n in known if n <= cores), min(n for n in known if n >= cores)
    part = (cores - low) / (high - low) if high > low else 0.0
    return curve[low] + part * (curve[high] - curve[low])


def traffic(facts: Facts) -> dict[tuple[int, int], float]:
    """Share of the accesses by (initiator, target) if every CPU second touches every page alike."""
    pages: dict[int, int] = {}
    for where in (facts.anonymous, *facts.files.values()):
        for node, count in where.items():
            pages[node] = pages.get(node, 0) + count
    time, size = sum(facts.run_by_node.values()), sum(pages.values())
    if not time or not size:
        return {}
    return {(i, j): s / time * b / size for i, s in facts.run_by_node.items() for j, b in pages.items() if s and b}


def _seen(counters: Sequence[Counter]) -> dict[str, float]:
    """Counters that counted something: none of an event is as likely one that this CPU does not have."""
    return {c.name: c.value for c in counters if c.value}


def memory_rate(facts: Facts) -> float | None:
    """GB/s that came from memory: what the maker's events count, else the loads that missed the last cache."""
    seen = _seen(facts.counters)
    lines = seen.get(LINES, 0.0) + seen.get(PREFETCHED, 0.0) if LINES in seen else seen.get("LLC-load-misses")
    return lines * LINE_BYTES * 1e-9 / facts.seconds if lines and facts.seconds else None


def flop_rates(facts: Facts) -> dict[str, float]:
    """GFLOP/s by precision; under "" where the CPU does not tell them apart; empty where none are counted."""
    rates: dict[str, float] = {}
    for name, value in _seen(facts.counters).items():
        if name in FLOPS_OF or name == FLOPS:
            kind, lanes = FLOPS_OF.get(name, ("", 1))
            rates[kind] = rates.get(kind, 0.0) + value * lanes * 1e-9 / facts.seconds
    return rates


def judge(facts: Facts, ceilings: Ceilings, halved: Halved | None = None) -> Judgement:
    """All bounds of a program; "unexplained" only where every step could be judged and none applies.

    Nothing is judged while its CPUs are contended, as the tree has it.
    """
    if any(f.cause in FIRST for f in findings(facts)):
        return Judgement(unseen=("its bounds: the CPUs are contended, and that comes first",))
    steps = {
        "memory bandwidth": _bandwidth(facts, ceilings),
        "arithmetic": _compute(facts, ceilings),
        "waiting for each other": _synchronisation(facts, halved),
        "latency": _latency(facts, ceilings),
        "the TLB": _tlb(facts, ceilings),
    }
    bounds = [step.bound for step in steps.values() if step.bound]
    figures = [step.figure for step in steps.values() if step.figure]
    lacking = {name: step for name, step in steps.items() if step.lacking}
    shared = _shared(halved)
    if not bounds and (shared or not lacking):
        bounds.append(
            shared
            or Bound(
                cause="unexplained",
                evidence="it reaches none of the ceilings: " + "; ".join(figures),
                change="a profiler (perf record) tells which instructions take the time; placement will not help",
            )
        )
    return Judgement(bounds=tuple(bounds), figures=tuple(figures), unseen=tuple(_unseen(lacking)))


def _unseen(lacking: Mapping[str, _Step]) -> Iterator[str]:
    """What could not be judged and what that takes: one line for all counts, one for all that a record lacks."""
    counts = [f"{name} ({step.counts})" for name, step in lacking.items() if step.counts]
    if counts:
        yield f"whether it is bound by {', '.join(counts)}: not counted here; bare metal does, or a VM with a PMU"
    runs = " ".join(dict.fromkeys(word for step in lacking.values() for word in step.runs.split()))
    if runs:
        names = ", ".join(name for name, step in lacking.items() if step.runs)
        yield f"its ceilings ({names}): --record FILE.json with numabench run {runs}"
    yield from (f"whether it is bound by {name}: needs {step.other}" for name, step in lacking.items() if step.other)


def _bandwidth(facts: Facts, ceilings: Ceilings) -> _Step:
    """Step 3: at 85 % of what as many cores read from there, it is as fast as that memory."""
    rate, shares = memory_rate(facts), traffic(facts)
    lacks = _Step(
        counts="" if rate else "lines from memory",
        runs="" if ceilings.gb_per_s else "bandwidth scaling",
        other="" if shares else "its pages by node",
    )
    if lacks.lacking or not rate:
        return lacks
    found: list[tuple[float, int, int, int, float]] = []
    for (i, j), part in shares.items():
        cores = max(1, round(facts.run_by_node[i] / facts.seconds))
        most = at(ceilings.gb_per_s.get((i, j), {}), cores)
        if part >= PART and most:
            found.append((rate * part / most, i, j, cores, most))
        elif part >= PART:
            return _Step(
                other=f"the bandwidth from node {i} to {j} with {plural(cores, 'core')} (numabench run scaling)"
            )
    full, i, j, team, limit = max(found)
    said = (
        f"{rate * shares[i, j]:.3g} GB/s from memory of node {j}, {full:.0%} of the {limit:.3g} GB/s "
        f"that {plural(team, 'core')} of node {i} read from it"
    )
    if full < FULL:
        return _Step(figure=said)
    near = at(ceilings.gb_per_s.get((i, i), {}), team)
    if i != j:
        gain = max(1.0, near / limit) if near else None
        change = f"its pages on node {i}, where it runs, or run it on node {j}"
        return _Step(
            figure=said, bound=Bound(cause="remote bandwidth", evidence=said, change=change, share=full, gain=gain)
        )
    change = "fewer bytes for the same work (blocking, smaller types), or more nodes; more threads will not help"
    return _Step(figure=said, bound=Bound(cause="bandwidth", evidence=said, change=change, share=full))


def _compute(facts: Facts, ceilings: Ceilings) -> _Step:
    """Step 4: at 70 % of the measured peak of its precisions, each with its part of the time."""
    rates = flop_rates(facts)
    lacks = _Step(counts="" if rates else "flops", runs="" if ceilings.gflop_per_s else "gemm scaling")
    if lacks.lacking:
        return lacks
    cores = max(1, round(sum(facts.run_by_node.values()) / facts.seconds))
    peaks = {kind: at(curve, cores, by_core=True) or 0.0 for kind, curve in ceilings.gflop_per_s.items()}
    share = 0.0
    for kind, rate in rates.items():
        peak = peaks.get(kind) if kind else max(peaks.values())  # one that is not told apart: the higher one
        if not peak:
            return _Step(other=f"the peak of {kind} (numabench run gemm)")
        share += rate / peak
    kinds = ", ".join(f"{rate:.3g} GFLOP/s{' ' + kind if kind else ''}" for kind, rate in rates.items())
    said = f"{kinds}, {share:.0%} of the measured peak of {plural(cores, 'core')}"
    if share < COMPUTING:
        return _Step(figure=said)
    change = "fewer operations or a smaller type; where its pages are does not matter"
    return _Step(figure=said, bound=Bound(cause="compute", evidence=said, change=change, share=share))


def blocked_share(facts: Facts) -> float | None:
    """Share of the looks at busy threads that found them asleep until another thread wakes them; None: not told."""
    told = [t.blocked for t in busy(facts) if t.blocked is not None]
    return sum(told) / len(told) if told else None


def _synchronisation(facts: Facts, halved: Halved | None) -> _Step:
    """Step 5: a fifth of the time asleep for another thread, or the proof: it is faster with half of its threads."""
    threads = busy(facts)
    if len(threads) < 2:
        return _Step()
    share = blocked_share(facts)
    tried = halved is not None and halved.outcome != "not tried"
    if share is None and not tried:
        return _Step(other="to see what its threads sleep for (/proc/PID/task/TID/wchan, as its user), or -- CMD")
    said = [f"its busy threads sleep {share:.0%} of the time for one another or for work"] * (share is not None)
    if halved is not None and halved.ratio is not None:
        ci = f" [{halved.ci[0]:.3f}, {halved.ci[1]:.3f}]" if halved.ci else ""
        said.append(
            f"with {plural(halved.half, 'thread')} instead of {halved.threads} it takes {halved.ratio:.3f}x{ci} the "
            f"time{'' if halved.ci else ' (seen once)'}"
        )
    figure = "; ".join(said)
    if halved is not None and halved.outcome == "faster" and halved.ratio:
        change = f"{plural(halved.half, 'thread')}, such as OMP_NUM_THREADS={halved.half}; or fewer barriers and locks"
        gain = 1 / halved.ratio
        return _Step(
            figure=figure,
            bound=Bound(cause="synchronisation", evidence=figure, change=change, share=share, gain=gain, proven=True),
        )
    at_work = sum(t.run_s + (t.wait_s or 0.0) for t in threads) >= AT_WORK * facts.seconds
    if share is None or share <= BLOCKED or not at_work:
        return _Step(figure=figure)
    change = "work in equal parts, fewer barriers and locks, or fewer threads"
    return _Step(figure=figure, bound=Bound(cause="synchronisation", evidence=figure, change=change, share=share))


def _latency(facts: Facts, ceilings: Ceilings) -> _Step:
    """Step 6: misses in flight by Little's law (1961), rate x latency; about one at any time, and a core that waits."""
    seen, shares = _seen(facts.counters), traffic(facts)
    misses = (
        seen[LOCAL] + seen.get(REMOTE, 0.0) if LOCAL in seen else seen.get("node-loads", seen.get("LLC-load-misses"))
    )
    counted = misses is not None and "instructions" in seen and "cycles" in seen
    lacks = _Step(
        counts="" if counted else "loads from memory, cycles, instructions",
        runs="" if ceilings.idle_ns else "latency",
        other="" if shares else "its pages by node",
    )
    if lacks.lacking or misses is None:
        return lacks
    if any(pair not in ceilings.idle_ns for pair, part in shares.items() if part >= PART):
        return _Step(other="the latency of every pair of nodes that it uses (numabench run latency)")
    known = {pair: part for pair, part in shares.items() if pair in ceilings.idle_ns}
    took_ns = sum(ceilings.idle_ns[pair] * part for pair, part in known.items()) / sum(known.values())
    in_flight = misses * took_ns * 1e-9 / sum(facts.run_by_node.values())
    pace = seen["instructions"] / seen["cycles"]
    said = f"{in_flight:.2f} loads from memory in flight (of {took_ns:.0f} ns), {pace:.2f} instructions a cycle"
    if in_flight < WAITING or pace >= SLOW:
        return _Step(figure=said)
    change = "more loads in flight (independent chains, prefetches), data laid out in the order of use, nearer pages"
    return _Step(figure=said, bound=Bound(cause="latency", evidence=said, change=change, share=min(1.0, in_flight)))


def _tlb(facts: Facts, ceilings: Ceilings) -> _Step:
    """Step 6 for translations: misses of the TLB times what one was measured to cost, over the CPU time."""
    misses = _seen(facts.counters).get("dTLB-load-misses")
    if misses is None or ceilings.walk_ns is None:
        return _Step(counts="dTLB misses" if misses is None else "", runs="pages" if ceilings.walk_ns is None else "")
    share = misses * ceilings.walk_ns * 1e-9 / sum(facts.run_by_node.values())
    said = f"misses of the TLB, {ceilings.walk_ns:.0f} ns each, come to {share:.0%} of its CPU time"
    if share <= WALKING:
        return _Step(figure=said)
    gain = 1 / (1 - min(share, 0.9))
    change = "huge pages: GLIBC_TUNABLES=glibc.malloc.hugetlb=1, or madvise(MADV_HUGEPAGE)"
    return _Step(figure=said, bound=Bound(cause="TLB", evidence=said, change=change, share=min(1.0, share), gain=gain))


def _shared(halved: Halved | None) -> Bound | None:
    """What half of the threads being as fast says where nothing could be counted."""
    if halved is None or halved.outcome != "as fast" or halved.ratio is None or halved.ci is None:
        return None
    said = (
        f"with {plural(halved.half, 'thread')} instead of {halved.threads} it takes {halved.ratio:.3f}x "
        f"[{halved.ci[0]:.3f}, {halved.ci[1]:.3f}] the time: memory, a lock, or a part that one thread does alone"
    )
    return Bound(
        cause="unexplained",
        evidence=said,
        change=f"{plural(halved.half, 'thread')} {'does' if halved.half == 1 else 'do'} as well",
        proven=True,
    )
