# SPDX-License-Identifier: Apache-2.0
"""Policy: one instance spans nodes; where should its weights live?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product

from numabench.errors import UsageError
from numabench.experiments import base
from numabench.jobs.policy import COPIES, WEIGHTS
from numabench.machine import Machine
from numabench.series import Case, Cell, Options, Series, Table
from numabench.units import format_bytes, format_numbers

ONE_NODE = ("main", "workers")
# A decoder streams its weights, every thread its slice; a recommender looks up rows all over its tables.
KERNELS = {"read": "Weights of one instance", "gather": "Tables of one instance"}
ROW_BYTES = 512  # 128 numbers of 4 bytes, as in DLRM


class Policy:
    """A team over several nodes streams weights, every thread its own slice, or looks up rows anywhere in tables."""

    name = "policy"
    question = "One instance spans nodes: where should its weights live?"
    families: tuple[str, ...] = ("stream", "gather")
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Never: who touches first can be asked on one node too."""
        return None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """All nodes together and two of each class, by every policy; quick: all nodes and streams only."""
        if not set(options.kernels) <= KERNELS.keys():
            raise UsageError(f"--kernel {', '.join(options.kernels)}: policy measures {' and '.join(KERNELS)}")
        chosen = options.kernels or tuple(KERNELS)[: 1 if options.profile == "quick" else None]
        usable = {(i, j) for i, j, why in base.pairs(machine, options) if not why}
        nodes = tuple(dict.fromkeys(i for i, j in usable if i == j))
        nodes = tuple(sorted(nodes))
        if not nodes:
            yield from (base.point(self.name, machine, options, p, "read") for p in base.pairs(machine, options)[:1])
            return
        spans = [nodes]
        if options.profile != "quick":
            for _, j, _ in base.local_and_far(machine, options)[1:]:
                pair = (nodes[0], j)
                spans += [pair] if j in nodes and pair != nodes else []
        for kernel, span in product(chosen, spans):
            cpus = tuple(cpu for node in span for cpu in base.team(machine, options, node))
            sizes = [base.size_for(machine, options, node, cpus, 100 * base.MIB * len(cpus)) for node in span]
            for how in WEIGHTS:
                yield Case(
                    experiment=self.name,
                    kernel=kernel,
                    unit="GB/s",
                    better="high",
                    cpus=cpus,
                    targets=span,
                    pages=options.pages or "thp",
                    tier=options.tier,
                    bytes=min(size for size, _ in sizes),
                    cache_suspect=any(suspect for _, suspect in sizes),
                    params={"weights": how, "span": format_numbers(span)}
                    | ({"row": ROW_BYTES} if kernel == "gather" else {}),
                    job="policy",
                    unavailable=self._missing(machine, span, how),
                )

    def _missing(self, machine: Machine, span: tuple[int, ...], how: str) -> str:
        """Why a policy cannot be had; weighted interleaving came with Linux 6.9 (kernel doc numa_memory_policy)."""
        if len(span) == 1 and how not in ONE_NODE:
            return "one node"
        release = re.search(r"(\d+)\.(\d+)", machine.kernel)
        old = release and (int(release[1]), int(release[2])) < (6, 9)
        return f"weighted interleaving needs Linux 6.9, this is {machine.kernel}" if old and how == "weighted" else ""

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """One table per kind of data and span: policies down; the ratio is to what a naive program does."""
        tables = []
        for kernel, span in dict.fromkeys((s.case.kernel, str(s.case.params["span"])) for s in series):
            mine = [s for s in series if (s.case.kernel, s.case.params["span"]) == (kernel, span)]
            naive = next((s for s in mine if s.case.params["weights"] == "main"), mine[0])
            tables.append(
                Table(
                    experiment=self.name,
                    title=f"{KERNELS[kernel]} over node{'s' * (',' in span or '-' in span)} {span}, GB/s read",
                    unit="GB/s",
                    better="high",
                    corner="weights",
                    columns=("GB/s", "pages by node", "memory"),
                    rows=tuple(
                        (
                            WEIGHTS[str(s.case.params["weights"])],
                            (base.cell(s, naive), self._where(s), self._memory(s)),
                        )
                        for s in mine
                    ),
                    meaning=tuple(self._words(span, mine, naive)),
                )
            )
        return tables

    def _where(self, s: Series) -> Cell:
        """Shares of the pages by node, as they were found after the last window."""
        seen = s.samples[-1].evidence.placement_seen if s.samples else {}
        total = sum(seen.values())
        text = ", ".join(f"{node}: {pages / total:.0%}" for node, pages in sorted(seen.items()))
        return Cell(text=text) if total else Cell(unavailable=s.unavailable or "the system does not tell")

    def _memory(self, s: Series) -> Cell:
        copies = len(s.case.targets) if s.case.params["weights"] in COPIES else 1
        return Cell(text=format_bytes(s.case.bytes * copies))

    def _words(self, span: str, mine: Sequence[Series], naive: Series) -> Iterator[str]:
        usable = [s for s in mine if s.usable and s is not naive]
        apart = next((s for s in usable if s.case.params["weights"] == "apart"), None)
        known = [s for s in usable if s is not apart]
        best = max(known, key=lambda s: s.estimate or 0, default=None)
        ratio = base.paired(best, naive) if best else None
        if best and ratio:
            how = WEIGHTS[str(best.case.params["weights"])]
            what = KERNELS[best.case.kernel].split()[0].lower()
            yield f"Over {span}, best: {how}, {base.in_words(ratio)} of {what} that the main thread touched first."
        ratio = base.paired(apart, best or naive) if apart and (best or naive).usable else None
        if apart and ratio:
            yield (
                f"One instance per node reads {base.in_words(ratio)} of the best that one instance over {span} does, "
                "before what its threads wait for each other across nodes (see sync)."
            )
        copies = next((s for s in known if s.case.params["weights"] == "replicate"), None)
        spread = next((s for s in known if s.case.params["weights"] == "interleave"), None)
        ratio = base.paired(copies, spread) if copies and spread else None
        if copies and ratio:
            times = len(copies.case.targets)
            yield f"A copy on every node gives {base.in_words(ratio)} of interleaving, for {times}x the memory."
