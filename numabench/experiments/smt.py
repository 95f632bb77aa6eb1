# SPDX-License-Identifier: Apache-2.0
"""SMT: one or two threads per core, and whose?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from numabench import gemm, kernels
from numabench.errors import UsageError
from numabench.experiments import base, serving
from numabench.layout import Slot
from numabench.machine import Machine
from numabench.series import Case, Options, Series, Table

GEMM_N = 1024
# What each kernel stands for in inference.
KERNELS = {"read": "decode: weights stream", "gemm_f32": "prefill: multiply", "gather": "lookups: random lines"}
PRESET = "llm-decode"
HOW = {
    "one": "one thread per core",
    "all": "one instance on all threads",
    "siblings": "two instances, each with a thread of every core",
}


class Smt:
    """The same cores of one node with one thread, with all their siblings, and with two instances as siblings."""

    name = "smt"
    question = "Do the second threads of the cores add throughput?"
    families: tuple[str, ...] = ("stream", "gemm", "gather")
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Where no core has a second thread that may be used."""
        shared = [core for core in machine.cores if len(set(core) & set(machine.allowed_cpus)) > 1]
        return None if shared else "one thread per core"

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Kernels x threads per core, on memory of the own node."""
        known = kernels.tier(options.tier).kernels
        pair = base.local_and_far(machine, options)[0]
        one = machine.cpus_of(pair[0])
        two = tuple(c for cpu in one for c in machine.siblings(cpu) if c in machine.allowed_cpus)
        for kernel in options.kernels or [name for name in KERNELS if name in known]:
            family = known[kernel].family
            many = family == "gemm"
            for cpus in (one, two):
                more = {"bytes": gemm.bytes_needed(GEMM_N, GEMM_N, GEMM_N, 8), "cache_suspect": False} if many else {}
                params = {"m": GEMM_N, "n": GEMM_N, "k": GEMM_N} if many else {}
                params |= {"row": base.LINE} if family == "gather" else {}
                yield base.point(
                    self.name,
                    machine,
                    options,
                    pair,
                    kernel,
                    cpus=cpus,
                    unit="GFLOP/s" if many else "GB/s",
                    params=params | {"per_core": len(cpus) // len(one)},
                    **more,
                )
        if not options.kernels and options.profile != "quick" and not pair[2]:
            yield from self._instances(machine, options, pair[0], one, two)

    def _instances(
        self, machine: Machine, options: Options, node: int, one: tuple[int, ...], two: tuple[int, ...]
    ) -> Iterator[Case]:
        """A decoder on one thread per core, on all threads, and two decoders that share every core."""
        second = tuple(cpu for cpu in two if cpu not in one)
        try:
            model = serving.model_for(machine.restrict(cpus=set(two), nodes=(node,)), options, PRESET, 2)
        except UsageError as error:
            yield Case(experiment=self.name, kernel=PRESET, unit="steps/s", better="high", unavailable=str(error))
            return
        for how, teams in (("one", (one,)), ("all", (two,)), ("siblings", (one, second))):
            slots = [Slot(cpus, (node,)) for cpus in teams]
            yield serving.case(self.name, options, model, slots, "cores", params={"threads_are": how})

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """Kernels down, threads per core across; then instances by who has the second threads."""
        instances = [s for s in series if s.case.job == "instance"]
        plain = [s for s in series if s not in instances and s.case.kernel != PRESET]
        return self._kernels(plain) + ([self._shared(instances)] if instances else [])

    def _shared(self, found: Sequence[Series]) -> Table:
        first, *others = found
        words = [
            f"{HOW[str(s.case.params['threads_are'])]}: {base.in_words(ratio)} of the steps of one thread per core."
            for s in others
            if (ratio := base.paired(s, first))
        ]
        return Table(
            experiment=self.name,
            title="Decoders by who has the second threads, steps/s in all",
            unit="steps/s",
            better="high",
            corner="",
            columns=("steps/s", "p99 ms"),
            rows=tuple(
                (
                    HOW[str(s.case.params["threads_are"])],
                    (base.cell(s, first), serving.quantile_cell(serving.p99(s)) if s.usable else base.cell(s)),
                )
                for s in found
            ),
            meaning=(serving.scaled(found), *words),
        )

    def _kernels(self, series: Sequence[Series]) -> list[Table]:
        if not series:
            return []
        rows: dict[str, list[Series]] = {}
        for s in series:
            rows.setdefault(f"{KERNELS.get(s.case.kernel, s.case.kernel)} ({s.case.unit})", []).append(s)
        words = []
        for name, found in rows.items():
            ratio = base.paired(found[-1], found[0]) if len(found) > 1 else None
            if ratio:
                words.append(f"{name}: all threads of the cores give {base.in_words(ratio)} of one per core.")
        counts = [f"{s.case.params['per_core']} per core" for s in next(iter(rows.values()))]
        first = {name: found[0] for name, found in rows.items()}
        return [base.rows_table(self.name, "Threads per core", "", rows, counts, first, tuple(words))]
