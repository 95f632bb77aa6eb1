# SPDX-License-Identifier: Apache-2.0
"""Bandwidth: what all cores of node i draw from memory of node j."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from numabench.experiments import base
from numabench.machine import Machine
from numabench.series import Case, Options, Series, Table

THREAD_BYTES = 100 * base.MIB
ALSO_LOCAL = ("copy", "triad", "write_nt", "triad_nt")


class Bandwidth:
    """STREAM-like kernels in a common window, private arrays per thread, one thread per core."""

    name = "bandwidth"
    question = "How many GB/s do the cores of node i draw from memory of node j?"
    families: tuple[str, ...] = ("stream",)
    standard = True

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Never: one node still has its own bandwidth."""
        return None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Read over every pair; copy, triad and non-temporal stores on the first local pair."""
        kernels = options.kernels or ("read",)
        for i, j, why in base.chosen(machine, options):
            cpus = base.team(machine, options, i)
            size, suspect = (0, False) if why else base.size_for(machine, options, j, cpus, THREAD_BYTES * len(cpus))
            more = () if options.kernels or i != j or i != machine.initiators()[0] else ALSO_LOCAL
            for kernel in (*kernels, *more):
                yield Case(
                    experiment=self.name,
                    kernel=kernel,
                    unit="GB/s",
                    better="high",
                    initiator=i,
                    target=j,
                    cpus=cpus,
                    touch_cpus=() if why else base.touchers(machine, j),
                    pages=options.pages or "thp",
                    tier=options.tier,
                    bytes=size,
                    cache_suspect=suspect,
                    share=f"{i}-{j}",
                    unavailable=why,
                )

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """One matrix for the first kernel; the others as a list against it."""
        kernel = series[0].case.kernel
        main = [s for s in series if s.case.kernel == kernel]
        threads = max((len(s.case.cpus) for s in main), default=0)
        title = f"{kernel.capitalize()} bandwidth, GB/s, {threads} thread{'s' * (threads != 1)} per node"
        words = (*base.penalty(main, f"{kernel.capitalize()} bandwidth"), *base.differing(main, machine))
        table = base.matrix(self.name, title, main, machine, words)
        tables = [table] if table else []
        others = {s.case.kernel: [s] for s in series if s.case.kernel != kernel}
        if others:
            tables.append(
                base.rows_table(
                    self.name,
                    "Bandwidth by kernel, GB/s as STREAM counts",
                    "local",
                    {kernel: [main[0]]} | others,
                    ("GB/s",),
                    dict.fromkeys(others, main[0]),
                )
            )
        return tables
