# SPDX-License-Identifier: Apache-2.0
"""Prefetch: what the hardware prefetchers hide of a load's latency when lines are visited one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from numabench.experiments import base
from numabench.machine import Machine
from numabench.series import Case, Options, Series, Table

BYTES = 256 * base.MIB
# Random as latency has it: sparse, and within a window that the TLB holds. A window of 0 is the order of addresses.
WALKS: dict[str, dict[str, Any]] = {
    "sequential": {"stride": base.LINE, "window": 0},
    "random": {"stride": 256, "window": 64 * 4096},
}
UNHIDDEN = 0.8  # sequential over random from which prefetchers hide next to nothing


class Prefetch:
    """One thread per node on its own memory: dependent loads in order and at random, and the plain read loop."""

    name = "prefetch"
    question = "How much of a load's latency do the hardware prefetchers hide?"
    families: tuple[str, ...] = ("chase",)
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Never."""
        return None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Both walks and the read loop on each node's own memory, in the same pass on the same buffer."""
        for pair in base.pairs(machine, options):
            i, j, why = pair
            if i != j:
                continue
            cpus = (0,) if why else base.team(machine, options, i)[:1]
            for kernel, walk, params in (
                *(("chase", name, params) for name, params in WALKS.items()),
                ("read", "read", {}),
            ):
                yield base.point(
                    self.name,
                    machine,
                    options,
                    pair,
                    kernel,
                    cpus=cpus,
                    least=BYTES,
                    unit="ns" if kernel == "chase" else "GB/s",
                    job="curve",
                    params={"walk": walk} | params,
                    share=f"{i}-{j}",
                )

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """Nodes down; the ratio is to the random walk."""
        at = {(s.case.initiator, str(s.case.params["walk"])): s for s in series}
        nodes = list(dict.fromkeys(s.case.initiator for s in series))
        words = []
        for node in nodes:
            one, other = at[node, "sequential"], at[node, "random"]
            ratio = base.paired(one, other)
            if ratio:
                words.append(
                    f"On node {node} a load of the next line takes {base.in_words(ratio)} of one at random"
                    + (": no prefetcher is at work." if ratio.value > UNHIDDEN else ", as prefetchers are ahead of it.")
                )
        return [
            base.rows_table(
                self.name,
                "Dependent load by order, ns",
                "",
                {f"node {node}": [at[node, walk] for walk in WALKS] for node in nodes},
                tuple(WALKS),
                {f"node {node}": at[node, "random"] for node in nodes},
                tuple(words) or ("No node's own memory could be measured.",),
            ),
            base.rows_table(
                self.name,
                "Read by one thread, GB/s",
                "",
                {f"node {node}": [at[node, "read"]] for node in nodes},
                ("GB/s",),
            ),
        ]
