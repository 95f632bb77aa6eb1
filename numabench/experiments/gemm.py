# SPDX-License-Identifier: Apache-2.0
"""GEMM: does it matter for a compute-bound kernel where its matrices lie?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from numabench import _core, gemm
from numabench.experiments import base
from numabench.machine import Machine
from numabench.series import Case, Options, Series, Table

LAYOUTS_AT = 1024  # the size at which the full profile has A and B transposed too
SIZES = {"quick": (1024,), "standard": (1024, 2048), "full": (512, 1024, 2048, 4096)}
ELEMENT = {"gemm_f32": 4, "gemm_f64": 8, "gemm_bf16": 4, "gemm_s8": 4}  # bytes of the largest


class Gemm:
    """Square multiplications by a node's cores on matrices of each node; packing buffers on the thread's own node."""

    name = "gemm"
    question = "What does wrong placement cost a matrix multiplication?"
    families: tuple[str, ...] = ("gemm",)
    standard = True

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Never."""
        return None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Every pair x f32 and f64 x the profile's sizes, or the one that fits in --size; all layouts if full."""
        sizes = [(n, "nn") for n in SIZES[options.profile]]
        if options.profile == "full":
            sizes += [(LAYOUTS_AT, layout) for layout in _core.LAYOUTS[1:]]
        for i, j, why in base.pairs(machine, options):
            cpus = base.team(machine, options, i)
            for kernel in options.kernels or ("gemm_f32", "gemm_f64"):
                element = ELEMENT.get(kernel, 8)
                for n, layout in ((gemm.side(options.bytes, element), "nn"),) if options.bytes else sizes:
                    yield Case(
                        experiment=self.name,
                        kernel=kernel,
                        unit="GFLOP/s",
                        better="high",
                        initiator=i,
                        target=j,
                        cpus=cpus,
                        touch_cpus=() if why else base.touchers(machine, j),
                        pages=options.pages or "thp",
                        tier=options.tier,
                        bytes=gemm.bytes_needed(n, n, n, element),
                        params={"m": n, "n": n, "k": n, **({} if layout == "nn" else {"layout": layout})},
                        unavailable=why,
                    )

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """One matrix per kernel, size and layout."""
        tables = []

        def what(case: Case) -> tuple[str, object, str]:
            layout = case.params.get("layout")
            return case.kernel, case.params["n"], f" {layout}" if layout else ""

        for kernel, n, layout in dict.fromkeys(what(s.case) for s in series):
            found = [s for s in series if what(s.case) == (kernel, n, layout)]
            words = base.penalty(found, f"{kernel} n={n}{layout}") if len({s.case.target for s in found}) > 1 else ()
            table = base.matrix(self.name, f"{kernel} n = {n}{layout}, GFLOP/s", found, machine, words)
            if table:
                tables.append(table)
        return tables
