# SPDX-License-Identifier: Apache-2.0
"""Mixes: how the share of writes changes what a memory gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from numabench import kernels
from numabench.errors import UsageError
from numabench.experiments import base
from numabench.machine import Machine
from numabench.series import Case, Options, Series, Table

# Reads : writes on the bus. Plain kernels write in place, so that no write-allocate adds reads; `write` alone is the
# exception and shows what a write-allocate costs. The random ones take whole lines of 64 bytes.
MIXES = {
    "read": "1R",
    "mix_3_1": "3R:1W",
    "mix_2_1": "2R:1W",
    "update": "1R:1W",
    "write": "1W",
    "mix_3_1_nt": "3R:1W NT",
    "mix_2_1_nt": "2R:1W NT",
    "copy_nt": "1R:1W NT",
    "write_nt": "1W NT",
    "gather": "1R random lines",
    "scatter_update": "1R:1W random lines",
    "scatter": "1W random lines",
    "scatter_nt": "1W NT random lines",
}
LINEAR = {  # what each random one is compared with
    "gather": "read",
    "scatter_update": "update",
    "scatter": "write",
    "scatter_nt": "write_nt",
}


class Mixes:
    """A node's cores, private arrays, one mix after the other, on memory of each kind of distance."""

    name = "mixes"
    question = "How does the ratio of reads to writes change the ceiling, and do non-temporal stores pay?"
    families: tuple[str, ...] = ("stream", "gather", "mix")
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Never."""
        return None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Local, one target of each other class; every mix that the tier has, or reading and the ratios asked for."""
        known = kernels.tier(options.tier).kernels
        if options.ratios:
            yield from self._ratios(machine, options)
            return
        if any(known[name].family == "mix" for name in options.kernels):
            raise UsageError("--kernel mix, mix_nt: which mix says --ratio, such as --ratio 5:1")
        for pair in self._pairs(machine, options):
            for kernel in options.kernels or [name for name in MIXES if name in known]:
                lines = known[kernel].family == "gather"
                yield base.point(
                    self.name,
                    machine,
                    options,
                    pair,
                    kernel,
                    share=f"{pair[0]}-{pair[1]}{'-gather' * lines}",
                    params={"row": base.LINE} if lines else {},
                )

    def _pairs(self, machine: Machine, options: Options) -> list[tuple[int, int, str]]:
        return list(dict.fromkeys((*base.local_and_far(machine, options), *base.nearest_to_bare(machine, options))))

    def _ratios(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Reading for comparison; each ratio with plain stores, which read their lines first, and past the caches."""
        known = kernels.tier(options.tier).kernels
        for pair in self._pairs(machine, options):
            share = f"{pair[0]}-{pair[1]}"
            yield base.point(self.name, machine, options, pair, "read", share=share)
            for reads, writes in options.ratios:
                for kernel in ("mix", "mix_nt"):
                    if kernel not in known or (options.kernels and kernel not in options.kernels):
                        continue
                    i, j, why = pair
                    if kernel == "mix" and reads < writes:
                        why = why or "a plain store reads its line first: at most as many writes as reads"
                    mix: dict[str, int | float | str] = {"reads": reads, "writes": writes}
                    yield base.point(self.name, machine, options, (i, j, why), kernel, share=share, params=mix)

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """Mixes down, targets across; the ratio is to reading. Then what the bus carries."""
        targets = list(dict.fromkeys((s.case.initiator, s.case.target) for s in series))
        names = list(dict.fromkeys(_name(s.case) for s in series))
        at = {(_name(s.case), (s.case.initiator, s.case.target)): s for s in series}
        words: list[str] = []
        for pair in targets:
            words += self._words(pair, [at[name, pair] for name in names if (name, pair) in at])
        rows = tuple(
            (
                MIXES.get(name, name),
                tuple(base.cell(at.get((name, p)), at.get((names[0], p))) for p in targets)
                + tuple(base.bus_cell(at.get((name, p))) for p in targets[:1]),
            )
            for name in names
        )
        return [
            Table(
                experiment=self.name,
                title="Bandwidth by mix, GB/s of the application",
                unit="GB/s",
                better="high",
                corner="on the bus",
                columns=(*(f"CPUs of {i}, node {j}" for i, j in targets), "bus GB/s"),
                rows=rows,
                meaning=tuple(words),
            )
        ]

    def _words(self, pair: tuple[int | None, int | None], found: Sequence[Series]) -> Iterator[str]:
        at = {_name(s.case): s for s in found if s.usable}
        known = [s for name, s in at.items() if name not in LINEAR]
        read = at.get("read")
        if read is None:
            return
        where = f"CPUs of {pair[0]}, node {pair[1]}"
        for word, pick in (("most", max), ("least", min)):
            best = pick(known, key=lambda s: s.estimate or 0)
            ratio = base.paired(best, read)
            if best is not read and ratio:
                name = _name(best.case)
                yield f"{where}: {MIXES.get(name, name)} gives the {word}, {base.in_words(ratio)} of reading."
        for plain, past in (("update", "copy_nt"), ("write", "write_nt")):
            ratio = base.paired(at[past], at[plain]) if {past, plain} <= at.keys() else None
            if ratio:
                yield f"{where}: stores past the caches give {base.in_words(ratio)} of plain ones ({MIXES[plain]})."
        for random, linear in LINEAR.items():
            ratio = base.paired(at[random], at[linear]) if {random, linear} <= at.keys() else None
            if ratio:
                yield f"{where}: {MIXES[random]} give {base.in_words(ratio)} of {MIXES[linear]} in order."


def _name(case: Case) -> str:
    """What tables call a mix: its kernel, or the ratio that was asked for."""
    if "reads" not in case.params:
        return case.kernel
    return f"{case.params['reads']}R:{case.params['writes']}W" + " NT" * (case.kernel == "mix_nt")
