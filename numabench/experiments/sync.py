# SPDX-License-Identifier: Apache-2.0
"""Sync: what a barrier and an all-reduce cost inside a cache, a node, and across nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from msgspec.structs import replace

from numabench.experiments import base
from numabench.jobs.sync import bytes_needed
from numabench.machine import Machine
from numabench.series import Case, Options, Series, Table
from numabench.units import format_bytes, format_value

SIZES = {"quick": (8 << 10, 512 << 10), "standard": (8 << 10, 64 << 10, 512 << 10, 4 << 20)}
BARRIERS, REDUCES, APART, CROWDED = 1000, 100, 200, 20  # rounds a sample; crowded teams lose a time slice a round
SPREADS = {"quick": (10_000,), "standard": (1_000, 10_000, 100_000)}  # ns by which parts come late, by chance
# One step of a decoder: per layer so many barriers and all-reduces, of one token's activations, and so many layers.
STEP_BARRIERS, STEP_REDUCES, STEP_BYTES, LAYERS = 5, 2, 8 << 10, 32
PIPES = ", processes with pipes"


class Sync:
    """Teams of growing span meet at barriers, spinning or sleeping; ranks add up vectors, by memory or pipes."""

    name = "sync"
    question = "What do a barrier and an all-reduce cost inside an L3, a node, across nodes?"
    families: tuple[str, ...] = ("sync",)
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """With a single CPU there is nobody to wait for."""
        return None if len(self._spans(machine, options)) else "needs two cores"

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Spans x spin and futex, the node crowded once; all-reduce of two ranks and of each span."""
        spans = self._spans(machine, options)
        kernels = options.kernels or ("barrier", "allreduce_f32")
        if "barrier" in kernels:
            for name, cpus in spans.items():
                for wait in ("spin", "futex"):
                    yield self._case(machine, options, name, cpus, "barrier", BARRIERS, wait)
            name, cpus = list(spans.items())[-1]
            for spread in SPREADS.get(options.profile, SPREADS["standard"]):
                for wait in ("spin", "futex"):
                    case = self._case(machine, options, name, cpus, "barrier", APART, wait)
                    yield replace(case, params=case.params | {"spread": spread})
            name, cpus = next(iter(spans.items()))
            crowded = cpus + cpus[: max(len(cpus) // 2, 1)]
            for wait in ("spin", "futex") if options.profile != "quick" else ():
                yield self._case(machine, options, f"{name}, crowded", crowded, "barrier", CROWDED, wait)
        if "allreduce_f32" in kernels:
            for name, cpus in self._ranks(machine, options).items():
                for size in SIZES.get(options.profile, SIZES["standard"]):
                    yield self._case(machine, options, name, cpus, "allreduce_f32", REDUCES, "spin", size)
                    whole = self._case(machine, options, name + PIPES, cpus, "allreduce_f32", REDUCES, "read", size)
                    yield replace(whole, target=None, bytes=2 * size, job="pipes")

    def _spans(self, machine: Machine, options: Options) -> dict[str, tuple[int, ...]]:
        """Teams of one thread a core: the first L3, the first node, two nodes of each class, all nodes."""
        nodes = list(dict.fromkeys(i for i, _, why in base.pairs(machine, options) if not why))
        own = {i: base.team(machine, options, i) for i in nodes}
        found: dict[str, tuple[int, ...]] = {}
        if not nodes:
            return found
        first = own[nodes[0]]
        found["one L3"] = tuple(c for c in first if machine.cpu(c).l3 == machine.cpu(first[0]).l3)
        found["one node"] = first
        for _, j, _ in base.local_and_far(machine, options)[1:]:
            if own.get(j):
                found[f"nodes {nodes[0]} and {j}"] = first + own[j]
        found["all nodes"] = tuple(c for i in nodes for c in own[i])
        unique: dict[tuple[int, ...], str] = {}
        for name, cpus in found.items():
            if len(cpus) > 1:
                unique.setdefault(cpus, name)
        return {name: cpus for cpus, name in unique.items()}

    def _ranks(self, machine: Machine, options: Options) -> dict[str, tuple[int, ...]]:
        """Two ranks, side by side on the first node and on one node each, for each class."""
        spans = self._spans(machine, options)
        nodes = list(dict.fromkeys(i for i, _, why in base.pairs(machine, options) if not why))
        first = base.team(machine, options, nodes[0]) if nodes else ()
        found = {"2 ranks on a node": first[:2]} if len(first) > 1 else {}
        for name, cpus in spans.items():
            if name.startswith("nodes "):
                other = next(c for c in cpus if machine.cpu(c).node != machine.cpu(cpus[0]).node)
                found[f"2 ranks, {name}"] = (cpus[0], other)
        if not found and spans:
            cpus = next(iter(spans.values()))
            found["2 ranks"] = (cpus[0], cpus[-1])
        return found

    def _case(
        self,
        machine: Machine,
        options: Options,
        span: str,
        cpus: tuple[int, ...],
        kernel: str,
        rounds: int,
        wait: str,
        size: int = 0,
    ) -> Case:
        home = machine.cpu(cpus[0]).node
        params: dict[str, int | float | str] = {"span": span, "wait": wait, "rounds": rounds}
        return Case(
            experiment=self.name,
            kernel=kernel,
            unit="us",
            better="low",
            target=home if home in machine.targets() else machine.targets()[0],
            cpus=cpus,
            pages="base",
            tier=options.tier,
            bytes=bytes_needed(len(cpus), size),
            params=params | ({"size": size} if size else {}),
        )

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """Barriers by span with median and tail; all-reduces by size; the share of a decoder's step."""
        tables = []
        barriers = [s for s in series if s.case.kernel == "barrier" and "spread" not in s.case.params]
        if barriers:
            rows = []
            for s in barriers:
                name = f"{s.case.params['span']}, {len(s.case.cpus)} threads, {s.case.params['wait']}"
                tail = base.extras(s, "p99_us").get("", [])
                rows.append((name, (base.cell(s), base.values_cell(tail))))
            tables.append(
                Table(
                    experiment=self.name,
                    title="Barrier, us",
                    unit="us",
                    better="low",
                    corner="",
                    columns=("mean", "p99 of rounds"),
                    rows=tuple(rows),
                    meaning=tuple(self._words(barriers, series)),
                )
            )
        tables += self._apart([s for s in series if "spread" in s.case.params])
        reduces = [s for s in series if s.case.kernel != "barrier"]
        if reduces:
            names = list(dict.fromkeys(str(s.case.params["span"]) for s in reduces))
            sizes = sorted({int(s.case.params["size"]) for s in reduces})
            at = {(str(s.case.params["span"]), int(s.case.params["size"])): s for s in reduces}
            first = {size: at.get((names[0], size)) for size in sizes}
            tables.append(
                Table(
                    experiment=self.name,
                    title="All-reduce, us; in shared memory unless said",
                    unit="us",
                    better="low",
                    corner="",
                    columns=tuple(format_bytes(size) for size in sizes),
                    rows=tuple((name, tuple(base.cell(at.get((name, z)), first[z]) for z in sizes)) for name in names),
                    meaning=(*self._by_pipes(at), "Each result was compared with the sum of the inputs."),
                )
            )
        return tables

    def _apart(self, series: Sequence[Series]) -> Iterator[Table]:
        """What is left of a barrier for parts that do not arrive together."""
        if not series:
            return
        rows = []
        for s in series:
            late = format_value(float(s.case.params["spread"]) / 1e3)
            name = f"{s.case.params['span']}, up to {late} us late, {s.case.params['wait']}"
            rows.append((name, (base.cell(s), base.values_cell(base.extras(s, "p99_us").get("", [])))))
        yield Table(
            experiment=self.name,
            title="Barrier of parts that come late by chance, us from the last arrival to the last exit",
            unit="us",
            better="low",
            corner="",
            columns=("median", "p99 of rounds"),
            rows=tuple(rows),
        )

    def _by_pipes(self, at: dict[tuple[str, int], Series]) -> Iterator[str]:
        """What it costs that two ranks share no memory."""
        for (name, size), s in at.items():
            twin = at.get((name.removesuffix(PIPES), size))
            ratio = base.paired(s, twin) if twin and twin is not s else None
            if ratio:
                yield (
                    f"{name.removesuffix(PIPES)}, {format_bytes(size)}: through pipes between processes it takes "
                    f"{base.in_words(ratio)} of shared memory."
                )

    def _words(self, barriers: Sequence[Series], series: Sequence[Series]) -> Iterator[str]:
        at = {(str(s.case.params["span"]), str(s.case.params["wait"])): s for s in barriers if s.usable}
        for (span, wait), s in at.items():
            spin = at.get((span, "spin"))
            ratio = base.paired(s, spin) if spin and wait == "futex" else None
            back = base.paired(spin, s) if spin and ratio else None
            if ratio and back and ratio.value < 1:
                yield f"{span}: spinning in the barrier takes {base.in_words(back)} of sleeping."
            elif ratio:
                yield f"{span}: sleeping in the barrier takes {base.in_words(ratio)} of spinning."
        shared = [s for s in series if s.case.params.get("size") == STEP_BYTES and s.usable and s.case.job != "pipes"]
        reduce = {str(s.case.params["span"]): s for s in shared}
        spans = [s for s in barriers if s.case.params["wait"] == "spin" and "crowded" not in str(s.case.params["span"])]
        known = [s for s in spans if s.usable]
        if known and reduce:
            wide, (name, far) = known[-1], list(reduce.items())[-1]
            each = [
                (STEP_BARRIERS * a.value + STEP_REDUCES * b.value) * LAYERS
                for a in wide.samples
                for b in far.samples
                if a.number == b.number
            ]
            if each:
                yield (
                    f"A decoder of {LAYERS} layers spends {format_value(median(each))} us a token in "
                    f"{STEP_BARRIERS * LAYERS} barriers ({wide.case.params['span']}) and {STEP_REDUCES * LAYERS} "
                    f"all-reduces of {format_bytes(STEP_BYTES)} ({name})."
                )
