# SPDX-License-Identifier: Apache-2.0
"""Stride: how much of each fetched line and page is used, and which strides are poison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from numabench.experiments import base
from numabench.machine import Machine
from numabench.series import Axis, Case, Options, Series, Table
from numabench.units import format_bytes

STANDARD = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 4160, 2 << 20, (2 << 20) + 64)
STRIDES = {
    "quick": (64, 256, 4096, 4160),
    "standard": STANDARD,
    # Powers of two meet in few sets of a cache: each beside one that is a line longer.
    "full": tuple(sorted({*STANDARD, *(stride + 64 for stride in STANDARD if stride >= 128 and stride % 128 == 0)})),
}


class Stride:
    """One thread, independent 8-byte accesses at a fixed distance, prefetchers at work."""

    name = "stride"
    question = "What does one access cost when the next one is so far away, and what is left of the bandwidth?"
    families: tuple[str, ...] = ("stride",)
    standard = True

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Never."""
        return None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Local and, from the first initiator, the farthest target; base and huge pages; each with all strides."""
        found = base.pairs(machine, options)
        usable = [(i, j) for i, j, why in found if not why]
        local = [(i, j, why) for i, j, why in found if i == j][:1]
        far = [p for p in usable if local and p[0] == local[0][0] and p[1] != p[0]]
        worst = max(far, key=lambda p: machine.distance(*p) or 0) if far else None
        for i, j, why in [*local, *([(*worst, "")] if worst else [])]:
            cpus = base.team(machine, options, i)[:1]
            size, suspect = (0, False) if why else base.size_for(machine, options, j, cpus, base.GIB)
            for kind in (options.pages,) if options.pages else ("base", "thp"):
                for kernel in options.kernels or ("stride_read",):
                    for stride in STRIDES[options.profile]:
                        yield Case(
                            experiment=self.name,
                            kernel=kernel,
                            unit="ns",
                            better="low",
                            initiator=i,
                            target=j,
                            cpus=cpus,
                            touch_cpus=() if why else base.touchers(machine, j),
                            pages=kind,
                            tier=options.tier,
                            bytes=size,
                            params={"stride": stride},
                            cache_suspect=suspect,
                            share=f"{i}-{j}-{kind}",
                            unavailable=why,
                        )

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """Strides down, pages and targets across; the ratio is to one line per access."""
        heads = list(dict.fromkeys((s.case.target, s.case.pages, s.case.kernel) for s in series))
        strides = list(dict.fromkeys(int(s.case.params["stride"]) for s in series))
        at = {((s.case.target, s.case.pages, s.case.kernel), int(s.case.params["stride"])): s for s in series}
        kernels = {kernel for _, _, kernel in heads}
        columns = tuple(f"node {j}, {kind}" + (f", {kernel}" if len(kernels) > 1 else "") for j, kind, kernel in heads)
        rows = tuple(
            (format_bytes(d), tuple(base.cell(at.get((head, d)), at.get((head, 64))) for head in heads))
            for d in strides
        )
        return [
            Table(
                experiment=self.name,
                title="Strided access, ns each (one thread, independent)",
                unit="ns",
                better="low",
                corner="stride",
                columns=columns,
                rows=rows,
                axis=Axis(title="stride, bytes", values=tuple(strides), along="rows"),
                meaning=(
                    "A line is 64 B: at smaller strides an access costs a share of a line, at larger ones all of it.",
                ),
            )
        ]
