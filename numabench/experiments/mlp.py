# SPDX-License-Identifier: Apache-2.0
"""Memory-level parallelism: how many loads a core keeps on the way, and what they draw together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from msgspec.structs import replace

from numabench.analysis import stats
from numabench.experiments import base
from numabench.experiments.latency import STRIDE, WINDOW_PAGES
from numabench.machine import Machine
from numabench.series import Axis, Case, Cell, Marks, Options, Series, Table
from numabench.units import format_value

CHAINS = {"quick": (1, 2, 4, 8, 16, 32), "standard": (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32)}


class Mlp:
    """One thread chases on 1 to 32 rings at once that share no line: latency with more and more company of its own."""

    name = "mlp"
    question = "How many loads does one core keep on the way, near and far, and what do they draw?"
    families: tuple[str, ...] = ("chase",)
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Never."""
        return None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Local, one target of each other class, memory without CPUs; each with all numbers of chains."""
        found = [*base.local_and_far(machine, options), *base.nearest_to_bare(machine, options)]
        for pair in dict.fromkeys(found):
            cpus = base.team(machine, options, pair[0])[:1]
            whole = base.point(
                self.name, machine, options, pair, "chase", cpus=cpus or (0,), least=base.GIB, unit="ns",
                share=f"{pair[0]}-{pair[1]}",
            )  # fmt: skip
            if not pair[2]:
                size, suspect = base.size_for(machine, options, pair[1], cpus, base.GIB, STRIDE)
                whole = replace(whole, bytes=size, cache_suspect=suspect)
            for chains in CHAINS.get(options.profile, CHAINS["standard"]):
                params = {"stride": STRIDE, "window": WINDOW_PAGES * 4096, "chains": chains}
                yield replace(whole, params=params)

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """A column a pair: ns a load; the knee, and how many loads are on the way."""
        pairs = list(dict.fromkeys((s.case.initiator, s.case.target) for s in series))
        counts = list(dict.fromkeys(int(s.case.params["chains"]) for s in series))
        at = {((s.case.initiator, s.case.target), int(s.case.params["chains"])): s for s in series}
        columns = tuple(f"CPUs of {i}, node {j}" for i, j in pairs)
        found = [
            _knee(name, [at.get((pair, n)) for n in counts], counts) for name, pair in zip(columns, pairs, strict=True)
        ]
        axis = Axis(title="chains", values=tuple(counts), along="rows")
        return [
            Table(
                experiment=self.name,
                corner="chains",
                columns=columns,
                title="Loads side by side, GB/s of lines that one core draws",
                unit="GB/s",
                better="high",
                rows=tuple((str(n), tuple(_rate(at.get((pair, n))) for pair in pairs)) for n in counts),
                axis=axis,
                meaning=tuple(words for words, _ in found if words),
                marks=tuple(marks for _, marks in found if marks),
            ),
            Table(
                experiment=self.name,
                corner="chains",
                columns=columns,
                title="Loads side by side, ns each",
                unit="ns",
                better="low",
                rows=tuple(
                    (str(n), tuple(base.cell(at.get((pair, n)), at.get((pair, 1))) for pair in pairs)) for n in counts
                ),
                axis=axis,
            ),
        ]


def _rate(series: Series | None) -> Cell:
    """A line for each load."""
    if series is None or series.estimate is None:
        return base.cell(series)
    ci = (base.LINE / series.ci[1], base.LINE / series.ci[0]) if series.ci else None
    return Cell(value=base.LINE / series.estimate, ci=ci, flags=series.flags)


def _knee(name: str, found: Sequence[Series | None], counts: Sequence[int]) -> tuple[str, Marks | None]:
    """The fewest chains that draw 95 % of the most, and how many loads that is at the latency of one (Little's law)."""
    known = [s for s in found if s and s.usable]
    if len(known) < len(counts) or len(counts) < 3:
        return "", None
    by_pass = [{x.number: base.LINE / x.value for x in s.samples} for s in known]
    rates = [[rates[n] for rates in by_pass] for n in sorted(set.intersection(*map(set, by_pass)))]
    if not rates:
        return "", None
    knee = stats.knee_interval(counts, rates)
    span = f" [{knee.ci[0]}, {knee.ci[1]}]" if knee.ci else " (too few passes for an interval)"
    on_the_way = [max(row) / row[0] for row in rates]
    ci = stats.median_interval(on_the_way)
    sure = f" [{format_value(ci[0])}, {format_value(ci[1])}]" if ci else ""
    words = (
        f"{name}: 95 % of the most is reached with {knee.value}{span} chains; a core keeps "
        f"{format_value(median(on_the_way))}{sure} loads on the way."
    )
    return words, Marks(curve=name, knee=knee.value, knee_ci=knee.ci)
