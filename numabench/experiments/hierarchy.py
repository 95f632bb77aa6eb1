# SPDX-License-Identifier: Apache-2.0
"""Hierarchy: where the caches end, and what each level costs."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from msgspec.structs import replace

from numabench.analysis import stats
from numabench.analysis.levels import Level, levels
from numabench.experiments import base
from numabench.machine import Machine
from numabench.series import Axis, Case, Cell, Options, Series, Table
from numabench.units import format_bytes, format_value

SMALLEST = 4096
STEPS = {"quick": 2, "standard": 4, "full": 4}  # points an octave near the ends of caches; else one
NEAR = 0.8  # octaves around an end
MOST = 0.75  # of the points of a curve must be sound for its levels to be told
# Loads in flight of the dense chase: others in a cache evict the less of a ring the oftener its lines are read.
DENSE = 12
SPARSE_STRIDE = 256  # beyond four times the caches, as latency has it; below one line after the other, so that all fill
TITLES = {"chase": "Dependent load, ns", "chase, dense": f"Load of {DENSE} chains side by side, ns"}
Key = tuple[int, int, str, str]  # CPU, target, page kind, kernel


class Hierarchy:
    """One thread per kind of core: chase in random order and read loop, over working sets from 4 KiB into memory."""

    name = "hierarchy"
    question = "Where do the caches end, and what do they and memory cost?"
    families: tuple[str, ...] = ("chase", "stream")
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Never."""
        return None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Each kind of core (kind, cache sizes) on its own node; the first also on the farthest, beyond caches."""
        pairs = base.pairs(machine, options)
        firsts: dict[tuple[Any, ...], tuple[int, int]] = {}
        for i, j, why in pairs:
            for cpu in base.team(machine, options, i) if i == j and not why else ():
                firsts.setdefault((machine.cpu(cpu).kind, *self._ends(machine, cpu)), (cpu, i))
        if not firsts:
            yield from (base.point(self.name, machine, options, p, "chase", cpus=(0,)) for p in pairs[:1])
        kinds = (options.pages,) if options.pages else ("thp", "base")
        kernels = options.kernels or ("chase", "read")
        for number, (cpu, node) in enumerate(firsts.values()):
            targets = [node] + ([p[1] for p in base.local_and_far(machine, options)[1:]][-1:] if not number else [])
            for target in targets:
                for kind in kinds if target == node and not number else kinds[:1]:
                    for kernel in kernels if kind == kinds[0] else [k for k in kernels if k == "chase"]:
                        yield from self._curve(machine, options, cpu, node, target, kernel, kind)
                        if kernel == "chase" and kind == kinds[0] and target == node:
                            yield from self._curve(machine, options, cpu, node, target, kernel, kind, DENSE)

    def _curve(
        self,
        machine: Machine,
        options: Options,
        cpu: int,
        node: int,
        target: int,
        kernel: str,
        kind: str,
        chains: int = 1,
        sizes: Collection[int] = (),
    ) -> Iterator[Case]:
        ends = self._ends(machine, cpu)
        whole = base.point(self.name, machine, options, (node, target, ""), kernel, cpus=(cpu,), least=base.GIB)
        least = 2 * ends[-1] if target != node else 0
        for size in sizes or self._sizes(ends, whole.bytes, STEPS[options.profile], least):
            stride = SPARSE_STRIDE if size > 4 * ends[-1] else base.LINE
            yield base.point(
                self.name,
                machine,
                options,
                (node, target, ""),
                kernel,
                cpus=(cpu,),
                unit="ns" if kernel == "chase" else "GB/s",
                job="curve",
                bytes=size,
                pages=kind,
                cache_suspect=False,
                params={"cpu": cpu, "size": size}
                | ({"stride": stride, "window": size} if kernel == "chase" else {})
                | ({"chains": chains} if chains > 1 else {}),
                share=f"{cpu}-{target}-{kind}",
            )

    def _ends(self, machine: Machine, cpu: int) -> tuple[int, ...]:
        """Sizes of the caches that this CPU reaches, smallest first; one page if none is known."""
        found = {c.level: c.bytes for c in machine.caches if cpu in c.cpus and c.type != "instruction"}
        return tuple(found[level] for level in sorted(found)) or (SMALLEST,)

    def _sizes(self, ends: Sequence[int], largest: int, steps: int, least: int) -> list[int]:
        """Powers of two, ``steps`` points an octave near the ends, and the ends themselves."""
        sizes = {1 << k for k in range(SMALLEST.bit_length() - 1, largest.bit_length())} | {largest, *ends}
        for end in ends:
            sizes |= _around(end, steps)
        return sorted(size for size in sizes if max(SMALLEST, least) <= size <= largest)

    def again(self, series: Sequence[Series], machine: Machine, options: Options) -> Iterator[Case]:
        """Points around an end that was found where the system names none."""
        for (cpu, j, kind, kernel), found in self._curves(series).items():
            known = _trusted(found)
            if kernel != "chase, dense" or not known:
                continue
            ends, done = self._ends(machine, cpu), {s.case.bytes for s in found}
            seen = [level.bytes for level in _levels(known) if level.bytes]
            new = [end for end in seen if all(abs(math.log2(end / other)) > NEAR for other in ends)]
            sizes = sorted({size for end in new for size in _around(end, STEPS[options.profile])} - done)
            options, node = replace(options, tier=found[0].case.tier), found[0].case.initiator or 0
            for chains in (1, DENSE) if sizes else ():
                yield from self._curve(machine, options, cpu, node, j, "chase", kind, chains, sizes)

    def _curves(self, series: Sequence[Series]) -> dict[Key, list[Series]]:
        """Points in the order of size."""
        curves: dict[Key, list[Series]] = {}
        for s in sorted(series, key=lambda s: s.case.bytes):
            curves.setdefault(_key(s), []).append(s)
        return {key: curves[key] for key in dict.fromkeys(map(_key, series))}

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """What was found against what the system says, then the curves."""
        curves = self._curves(series)
        usable = {key: known for key, found in curves.items() if (known := _trusted(found))}
        tables = [
            self._found(key[0], usable[key], usable.get((*key[:3], "chase, dense"), usable[key]), machine)
            for key in self._first(curves)
            if key in usable
        ]
        for kernel in dict.fromkeys(key[3] for key in curves):
            mine = {key: found for key, found in curves.items() if key[3] == kernel}
            sizes = sorted({s.case.bytes for found in mine.values() for s in found})
            at = {key: {s.case.bytes: s for s in found} for key, found in mine.items()}
            first = next(iter(mine.values()))[0].case
            tables.append(
                Table(
                    experiment=self.name,
                    title=TITLES.get(kernel, f"{kernel.capitalize()} by one thread, GB/s"),
                    unit=first.unit,
                    better=first.better,
                    corner="working set",
                    columns=tuple(f"CPU {cpu}, node {j}, {kind}" for cpu, j, kind, _ in mine),
                    rows=tuple(
                        (format_bytes(size), tuple(base.cell(at[key].get(size)) for key in mine)) for size in sizes
                    ),
                    axis=Axis(title="working set, bytes", values=tuple(sizes), along="rows"),
                    meaning=(*_untold(mine), *self._tlb(mine)) if kernel == "chase" else (),
                )
            )
        return tables

    def _first(self, curves: dict[Key, list[Series]]) -> list[Key]:
        """The first chase of each CPU: on its own node."""
        found: dict[int, Key] = {}
        for key in curves:
            if key[3] == "chase":
                found.setdefault(key[0], key)
        return list(found.values())

    def _found(self, cpu: int, single: Sequence[Series], dense: Sequence[Series], machine: Machine) -> Table:
        """Ends from the dense chase, least of the passes: others only take from a cache. Costs from the single one."""
        sizes = [s.case.bytes for s in dense]
        reported = {c.level: c.bytes for c in machine.caches if cpu in c.cpus and c.type != "instruction"}
        passes, whole = _by_pass(dense), _levels(dense)
        each = [found for found in (levels(sizes, values) for values in passes) if len(found) == len(whole)]
        costs = list(_costs([s.case.bytes for s in single], _by_pass(single), whole))
        rows, words = [], []
        for at, (level, cost) in enumerate(zip(whole, costs, strict=True)):
            name = f"L{at + 1}" if level.bytes else "memory"
            edge = stats.median_interval([found[at].bytes or 0.0 for found in each]) if level.bytes else None
            says = reported.get(at + 1) if level.bytes else None
            span = f" [{format_bytes(edge[0])}, {format_bytes(edge[1])}]" if edge else ""
            rows.append(
                (
                    name,
                    (
                        Cell(value=median(cost), ci=stats.median_interval(cost)),
                        Cell(text=format_bytes(level.bytes) + span if level.bytes else "-"),
                        Cell(text=format_bytes(says) if says else "-"),
                    ),
                )
            )
            if level.bytes and says:
                words.append(self._against(name, cpu, level.bytes, span, says))
        if len(whole) - 1 != len(reported):
            words.append(
                f"CPU {cpu}: the data show {len(whole) - 1} caches, the system names {len(reported)}: "
                "two may cost about the same, or one is not there."
            )
        times = median(costs[-1]) / median(costs[0])
        words.append(f"CPU {cpu}: memory costs {format_value(times)} times the first level.")
        return Table(
            experiment=self.name,
            title=f"Levels found from CPU {cpu}, ns per dependent load",
            unit="ns",
            better="low",
            corner="",
            columns=("ns", "ends at", "system says"),
            rows=tuple(rows),
            meaning=tuple(words),
        )

    def _against(self, name: str, cpu: int, found: float, span: str, says: int) -> str:
        start = f"CPU {cpu}: {name} ends at {format_bytes(found)}{span}"
        if 2**-0.25 <= found / says <= 2**0.25:
            return f"{start}; the system says {format_bytes(says)}, which agrees within a step (a quarter octave)."
        if found < says:
            return (
                f"{start}, not at the {format_bytes(says)} that the system says: "
                "others use the rest, or a hypervisor names the whole and grants a part."
            )
        return f"{start}, beyond the {format_bytes(says)} that the system says."

    def _tlb(self, curves: dict[tuple[int, int, str, str], list[Series]]) -> tuple[str, ...]:
        """The cost of base pages where the working set is largest."""
        words = []
        for (cpu, j, kind, kernel), found in curves.items():
            twin = curves.get((cpu, j, "thp", kernel))
            if kind != "base" or not twin:
                continue
            ratio = base.paired(found[-1], twin[-1])
            if ratio:
                words.append(
                    f"In {format_bytes(found[-1].case.bytes)} of base pages a load in random order takes "
                    f"{base.in_words(ratio)} of the time in huge ones: that is the TLB's part."
                )
        return tuple(words)


def _key(series: Series) -> Key:
    case = series.case
    kernel = f"{case.kernel}, dense" if "chains" in case.params else case.kernel
    return case.cpus[0], case.target or 0, case.pages, kernel


def _around(end: float, steps: int) -> set[int]:
    """Whole pages, ``steps`` an octave."""
    far = int(NEAR * steps)
    return {round(end * 2 ** (k / steps) / 4096) * 4096 for k in range(-far, far + 1)}


def _levels(curve: Sequence[Series]) -> list[Level]:
    """By the least of each point's passes."""
    return levels([s.case.bytes for s in curve], [min(x.value for x in s.samples) for s in curve])


def _trusted(curve: Sequence[Series]) -> list[Series]:
    """Points to find levels by: all but a few that are not to be trusted, no two of them side by side; else none."""
    gaps = any(not a.usable and not b.usable for a, b in pairwise(curve))
    known = [s for s in curve if s.usable]
    return [] if gaps or len(known) < MOST * len(curve) else known


def _untold(curves: dict[Key, list[Series]]) -> Iterator[str]:
    """Where no levels are told, and why."""
    for (cpu, j, kind, _), found in curves.items():
        if not _trusted(found):
            lost = sum(not s.usable for s in found)
            yield (
                f"CPU {cpu}, node {j}, {kind}: no ends of caches are told, as {lost} of {len(found)} points are not to "
                "be trusted."
            )


def _by_pass(curve: Sequence[Series]) -> list[list[float]]:
    """The values of each pass that all points have."""
    numbers = sorted(set.intersection(*({x.number for x in s.samples} for s in curve)))
    return [[next(x.value for x in s.samples if x.number == n) for s in curve] for n in numbers]


def _costs(sizes: Sequence[int], passes: Sequence[Sequence[float]], whole: Sequence[Level]) -> Iterator[list[float]]:
    """Of each level and pass a low value of the sizes well inside it: what others take of a cache only adds."""
    start = 0.0
    for level in whole:
        end = level.bytes or sizes[-1] * 2
        low, high = (start * 2, end / 2) if level.bytes else (max(start * 2, sizes[-1] / 2), end)
        inside = [at for at, size in enumerate(sizes) if low <= size <= high]
        inside = inside or [min(range(len(sizes)), key=lambda at: abs(sizes[at] - (start * end) ** 0.5))]
        yield [sorted(values[at] for at in inside)[(len(inside) - 1) // 4] for values in passes]
        start = end
