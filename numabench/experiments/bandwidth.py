# SPDX-License-Identifier: Apache-2.0
"""Bandwidth: what all cores of node i draw from memory of node j."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from numabench.experiments import base
from numabench.machine import Machine
from numabench.series import Case, Options, Series, Table
from numabench.units import plural

THREAD_BYTES = 100 * base.MIB
ALSO_LOCAL = ("copy", "triad", "write_nt", "triad_nt")


class Bandwidth:
    """STREAM-like kernels in a common window, private arrays per thread, one thread per core."""

    name = "bandwidth"
    question = "How many GB/s do the cores of node i draw from memory of node j?"
    families: tuple[str, ...] = ("stream", "blas1")
    standard = True

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Never: one node still has its own bandwidth."""
        return None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Read over every pair; copy, triad and non-temporal stores on the first local pair."""
        kernels = options.kernels or ("read",)
        for pair in base.chosen(machine, options):
            more = not options.kernels and pair[0] == pair[1] == machine.initiators()[0]
            yield from self._cases(machine, options, pair, (*kernels, *(ALSO_LOCAL if more else ())))

    def again(self, series: Sequence[Series], machine: Machine, options: Options) -> list[Case]:
        """The rest of each class of pairs whose members differ."""
        first = series[0].case
        main, options = [s for s in series if s.case.kernel == first.kernel], replace(options, tier=first.tier)
        pairs = base.opened(main, machine, options)
        return [case for pair in pairs for case in self._cases(machine, options, pair, (first.kernel,))]

    def _cases(
        self, machine: Machine, options: Options, pair: tuple[int, int, str], kernels: Sequence[str]
    ) -> Iterator[Case]:
        cpus = base.team(machine, options, pair[0])
        for kernel in kernels:
            yield base.point(
                self.name,
                machine,
                options,
                pair,
                kernel,
                least=THREAD_BYTES * len(cpus),
                share=f"{pair[0]}-{pair[1]}",
            )

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """One matrix for the first kernel; the others as a list against it."""
        kernel = series[0].case.kernel
        main = [s for s in series if s.case.kernel == kernel]
        threads = max((len(s.case.cpus) for s in main), default=0)
        title = f"{kernel.capitalize()} bandwidth, GB/s, {plural(threads, 'thread')} per node"
        words = (*base.penalty(main, f"{kernel.capitalize()} bandwidth"), *base.odd_cells(main))
        table = base.matrix(self.name, title, main, machine, words)
        tables = [table] if table else []
        others = {s.case.kernel: [s] for s in series if s.case.kernel != kernel}
        if others:
            rows = {kernel: [main[0]]} | others
            title, refer = "Bandwidth by kernel, GB/s as STREAM counts", dict.fromkeys(others, main[0])
            plain = base.rows_table(self.name, title, "local", rows, ("GB/s", "bus GB/s"), refer)
            with_bus = tuple((name, (*cells, base.bus_cell(rows[name][0]))) for name, cells in plain.rows)
            tables.append(replace(plain, rows=with_bus))
        return tables
