# SPDX-License-Identifier: Apache-2.0
"""Scaling: how many threads before more is only overhead?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from numabench import gemm
from numabench.analysis import stats
from numabench.errors import UsageError
from numabench.experiments import base
from numabench.machine import Machine
from numabench.series import Axis, Case, Options, Series, Table
from numabench.units import format_numbers

LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
GEMM_N = 1024


class Scaling:
    """Read, triad and gemm with growing teams of one node's cores, on memory of that node and of the farthest."""

    name = "scaling"
    question = "How many threads fill the memory pipe, and how many still speed up a multiplication?"
    families: tuple[str, ...] = ("stream", "gemm")
    standard = True

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Never: one thread is a point as well."""
        return None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Thread ladder x kernels, local; read also on the farthest node. Raises UsageError for too many threads."""
        usable = [(i, j) for i, j, why in base.pairs(machine, options) if not why]
        for i, j in [p for p in usable if p[0] == p[1]][:1]:
            cpus = base.team(machine, options, i)
            over = [t for t in options.threads if t > len(cpus) or t < 1]
            if over:
                raise UsageError(
                    f"--threads {format_numbers(over)}: node {i} has {len(cpus)} cores (CPUs {format_numbers(cpus)})"
                )
            ladder = options.threads or [*(n for n in LADDER if n < len(cpus)), len(cpus)][-12:]
            far = [t for s, t in usable if s == i and t != i]
            worst = [max(far, key=lambda t: machine.distance(i, t) or 0)] if far else []
            for target in (j, *worst):
                kernels = options.kernels or (("read", "triad", "gemm_f64") if target == j else ("read",))
                for kernel in kernels:
                    for count in ladder:
                        yield self._case(machine, options, i, target, kernel, cpus, count)

    def _case(
        self,
        machine: Machine,
        options: Options,
        i: int,
        target: int,
        kernel: str,
        cpus: tuple[int, ...],
        count: int,
    ) -> Case:
        many = kernel.startswith("gemm")
        size, suspect = base.size_for(machine, options, target, cpus, 100 * base.MIB * len(cpus))
        n = gemm.side(options.bytes, 8) if options.bytes else GEMM_N
        params: dict[str, int | float | str] = {"m": n, "n": n, "k": n} if many else {}
        return Case(
            experiment=self.name,
            kernel=kernel,
            unit="GFLOP/s" if many else "GB/s",
            better="high",
            initiator=i,
            target=target,
            cpus=cpus[:count],
            touch_cpus=base.touchers(machine, target),
            pages=options.pages or "thp",
            tier=options.tier,
            bytes=gemm.bytes_needed(n, n, n, 8) if many else size,
            params=params,
            cache_suspect=suspect and not many,
            share=f"{i}-{target}-{'gemm' if many else 'stream'}",
        )

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """Thread counts across, kernels and targets down; the ratio is to one thread."""
        names: dict[str, list[Series]] = {}
        for one in series:
            names.setdefault(f"{one.case.kernel}, node {one.case.target} ({one.case.unit})", []).append(one)
        if not names:
            return []
        counts = list(dict.fromkeys(len(s.case.cpus) for s in series))
        words = []
        for name, found in names.items():
            known = [s for s in found if s.usable]
            by_pass = [{sample.number: sample.value for sample in s.samples} for s in known]
            common = sorted(set.intersection(*map(set, by_pass))) if by_pass else []
            if len(known) > 1 and common:
                knee = stats.knee_interval([len(s.case.cpus) for s in known], [[v[p] for v in by_pass] for p in common])
                span = f" [{knee.ci[0]}, {knee.ci[1]}]" if knee.ci else " (too few passes for an interval)"
                words.append(f"{name}: 95 % of the best measured is reached with {knee.value}{span} threads.")
        rows = {
            name: [next((s for s in found if len(s.case.cpus) == n), found[0]) for n in counts]
            for name, found in names.items()
        }
        first = {name: found[0] for name, found in names.items()}
        columns = [f"{n} thread{'s' * (n != 1)}" for n in counts]
        axis = Axis(title="threads", values=tuple(counts))
        return [base.rows_table(self.name, "Throughput by threads", "", rows, columns, first, tuple(words), axis)]
