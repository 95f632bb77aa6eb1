# SPDX-License-Identifier: Apache-2.0
"""Pages: is the page size the problem?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from msgspec.structs import replace

from numabench import kernels
from numabench.experiments import base
from numabench.experiments.policy import ROW_BYTES
from numabench.machine import Machine
from numabench.memory import HUGE_BYTES
from numabench.series import Case, Cell, Options, Series, Table

# One thread chases in random order over everything, so that nearly every load needs a translation of its own.
KERNELS = {
    "chase": "dependent load in random order",
    "gather": "random rows",
    "read": "decode: weights stream",
    "triad": "triad",
}
STRIDE = 256
Rows = tuple[int, int]  # bytes of a row (0: no rows), and whether some are popular
LOOKUPS = f"lookups: random rows of {ROW_BYTES} bytes"
ROWS = {
    (base.LINE, 0): "random lines",
    (ROW_BYTES, 0): LOOKUPS,
    (ROW_BYTES, 1): f"{LOOKUPS}, few of them popular (Zipf)",
}


class Pages:
    """The same kernels on base pages, transparent huge pages and reserved pages of 2 MiB and 1 GiB."""

    name = "pages"
    question = "What does the page size cost or give: dependent loads, random lines, streams?"
    families: tuple[str, ...] = ("chase", "stream", "gather")
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Never: base pages are always there."""
        return None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Kernels x page kinds on the own node and on the farthest."""
        known = kernels.tier(options.tier).kernels
        pairs = base.local_and_far(machine, options)
        for pair in [pairs[0], *pairs[1:][-1:]]:
            for kernel in options.kernels or [name for name in KERNELS if name in known]:
                for row in ROWS if known[kernel].family == "gather" else ((0, 0),):
                    for kind in (options.pages,) if options.pages else ("base", "thp", "2M", "1G"):
                        yield self._case(machine, options, pair, kernel, kind, row)

    def _case(
        self, machine: Machine, options: Options, pair: tuple[int, int, str], kernel: str, kind: str, row: Rows
    ) -> Case:
        chase = kernels.tier(options.tier).kernels[kernel].family == "chase"
        cpus = base.team(machine, options, pair[0])
        case = base.point(
            self.name,
            machine,
            options,
            pair if pair[2] else (*pair[:2], self._missing(machine, pair[1], kind)),
            kernel,
            cpus=cpus[:1] if chase else cpus,
            least=base.GIB,
            unit="ns" if chase else "GB/s",
            pages=kind,
        )
        size = case.bytes // base.GIB * base.GIB if kind == "1G" and case.bytes > base.GIB else case.bytes
        params: dict[str, int | float | str] = {"stride": STRIDE, "window": size} if chase else {}
        params |= {name: value for name, value in zip(("row", "zipf"), row, strict=True) if value}
        return replace(case, params=params, bytes=size)

    def _missing(self, machine: Machine, node: int, kind: str) -> str:
        """Why no page of this kind can be had on the node; empty when some are reserved, or none need to be."""
        size = HUGE_BYTES.get(kind)
        if size is None or machine.node(node).huge_pages.get(size):
            return ""
        path = f"/sys/devices/system/node/node{node}/hugepages/hugepages-{size >> 10}kB/nr_hugepages"
        return f"no {kind} pages are reserved on node {node}; get some: echo N > {path} (as root)"

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """One table per kernel: page kinds down, targets across, ratio to base pages; and how fast memory came."""
        tables = []
        for kernel, row in dict.fromkeys((s.case.kernel, _rows(s.case)) for s in series):
            mine = [s for s in series if (s.case.kernel, _rows(s.case)) == (kernel, row)]
            name = ROWS.get(row) or KERNELS.get(kernel, kernel)
            targets = list(dict.fromkeys(s.case.target for s in mine))
            at = {(s.case.pages, s.case.target): s for s in mine}
            kinds = list(dict.fromkeys(s.case.pages for s in mine))
            words = []
            for kind in kinds:
                one, plain = at.get((kind, targets[0])), at.get(("base", targets[0]))
                ratio = base.paired(one, plain) if one and plain and kind != "base" else None
                if ratio:
                    words.append(f"{name}: {kind} is {base.in_words(ratio)} of base pages.")
            tables.append(
                Table(
                    experiment=self.name,
                    title=f"{name[:1].upper()}{name[1:]} by page kind, {mine[0].case.unit}",
                    unit=mine[0].case.unit,
                    better=mine[0].case.better,
                    corner="pages",
                    columns=(*(f"node {j}" for j in targets), "filling GB/s"),
                    rows=tuple(
                        (
                            kind,
                            (
                                *(base.cell(at.get((kind, j)), at.get(("base", j))) for j in targets),
                                self._filling(at.get((kind, targets[0]))),
                            ),
                        )
                        for kind in kinds
                    ),
                    meaning=tuple(words),
                )
            )
        return tables

    def _filling(self, series: Series | None) -> Cell:
        """How fast fresh pages were faulted in and written."""
        rates = [s.extras["fill_gb_per_s"] for s in series.samples if "fill_gb_per_s" in s.extras] if series else []
        return Cell(value=median(rates)) if rates else Cell(unavailable="not measured")


def _rows(case: Case) -> Rows:
    return int(case.params.get("row", 0)), int(case.params.get("zipf", 0))
