# SPDX-License-Identifier: Apache-2.0
"""Roofline: at how many rows weights stop being a matter of memory, near and far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from msgspec.structs import replace

from numabench import gemm, kernels
from numabench.errors import UsageError
from numabench.experiments import base
from numabench.machine import Machine
from numabench.series import Axis, Case, Cell, Options, Series, Table
from numabench.units import format_value, plural

# Rows that meet the weights at once: the batch of a decode, the prompt of a prefill. Few of them have a kernel of their
# own, which reads each weight once (gemv); beyond, blocks of weights are packed (gemm).
ROWS = {"quick": (1, 4, 16, 64, 256), "standard": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)}
FEW, DEPTH = 32, 4096  # rows of gemv at most; depth of Llama-3.1-8B's layers
SMALL = 0.05  # a remote penalty below which placement no longer matters
SLOW = 0.3  # of the peak, below which a multiplication looks insensitive to memory for the wrong reason
READ, PEAK = "read", "peak"


class Roofline:
    """All cores of a node multiply so many rows by weights that no cache holds; beside it what they read and compute.

    The roof is the lesser of the peak and what the reads allow: 2 M operations for each weight that arrives (Williams,
    Waterman and Patterson, CACM 52(4), 2009).
    """

    name = "roofline"
    question = "At how many rows do weights stop being a matter of memory, and up to which does distance cost?"
    families: tuple[str, ...] = ("gemv",)
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Never."""
        return None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Local, one target of each other class, memory without CPUs; each by rows, with its reads; the peak once."""
        found = dict.fromkeys([*base.local_and_far(machine, options), *base.nearest_to_bare(machine, options)])
        for kernel in options.kernels or ("gemv_f32",):
            kind = kernel.partition("_")[2]
            item = kernels.kernel(kernel, options.tier).sizes[1]
            for number, pair in enumerate(found):
                cpus = base.team(machine, options, pair[0])
                reads = base.point(
                    self.name, machine, options, pair, READ, least=100 * base.MIB * len(cpus), params={"for": kind}
                )
                yield reads
                if not number:
                    yield replace(
                        reads, kernel=f"{PEAK}_{kind}", unit="GFLOP/s", bytes=2 * base.MIB, cache_suspect=False
                    )
                columns = max(reads.bytes // (DEPTH * item), 1)
                if not pair[2] and columns < gemm.UNIT * len(cpus):
                    raise UsageError(f"--size: weights {DEPTH} deep for {plural(len(cpus), 'thread')} need more")
                yield from self._by_rows(options, reads, kernel, kind, columns)

    def _by_rows(self, options: Options, like: Case, kernel: str, kind: str, columns: int) -> Iterator[Case]:
        for rows in ROWS.get(options.profile, ROWS["standard"]):
            few = rows <= FEW
            name = kernel if few else f"gemm_{kind}"
            layout = {} if few else {"layout": "nt", "whole": 1}
            yield replace(
                like,
                kernel=name,
                unit="GFLOP/s",
                bytes=gemm.bytes_needed(rows, columns, DEPTH, kernels.kernel(name, options.tier).sizes),
                params={"m": rows, "n": columns, "k": DEPTH, "for": kind, **layout},
            )

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """A table per type: rows down, pairs across, with the share of the roof."""
        return [
            self._table(kind, [s for s in series if s.case.params.get("for") == kind])
            for kind in dict.fromkeys(str(s.case.params.get("for")) for s in series)
        ]

    def _table(self, kind: str, found: Sequence[Series]) -> Table:
        pairs = list(dict.fromkeys((s.case.initiator, s.case.target) for s in found))
        reads = {(s.case.initiator, s.case.target): s for s in found if s.case.kernel == READ}
        peak = next((s for s in found if s.case.kernel.startswith(PEAK)), None)
        at = {((s.case.initiator, s.case.target), int(s.case.params["m"])): s for s in found if "m" in s.case.params}
        rows = list(dict.fromkeys(m for _, m in at))
        heads = [f"CPUs of {i}, node {j}" for i, j in pairs]
        item = next((kernels.kernel(s.case.kernel, s.case.tier).sizes[1] for s in at.values()), 4)
        lines = []
        for m in rows:
            cells: list[Cell] = []
            for pair in pairs:
                one = at.get((pair, m))
                share = _of_roof(one, reads.get(pair), peak, m, item)
                cells += [
                    base.cell(one, at.get((pairs[0], m))),
                    Cell(text=f"{share:.0%}") if share else Cell(unavailable="not all of it was measured"),
                ]
            lines.append((str(m), tuple(cells)))
        return Table(
            experiment=self.name,
            title=f"Rows times weights that no cache holds, {kind}, GFLOP/s",
            unit="GFLOP/s",
            better="high",
            corner="rows",
            columns=tuple(column for head in heads for column in (head, "of the roof")),
            rows=tuple(lines),
            meaning=(
                *self._roof(heads, pairs, reads, peak, item),
                *(
                    words
                    for pair, head in zip(pairs[1:], heads[1:], strict=True)
                    for words in _far(at, pairs[0], pair, head, rows)
                ),
                *_slow(at.get((pairs[0], rows[-1])) if rows else None, peak, rows),
            ),
            axis=None if len(rows) < 2 else Axis(title="rows", values=tuple(rows), along="rows"),
        )

    def _roof(
        self,
        heads: Sequence[str],
        pairs: Sequence[tuple[int | None, int | None]],
        reads: dict[tuple[int | None, int | None], Series],
        peak: Series | None,
        item: int,
    ) -> Iterator[str]:
        """Where reads and peak meet."""
        for head, pair in zip(heads, pairs, strict=True):
            one = reads.get(pair)
            if one and one.usable and one.estimate and peak and peak.usable and peak.estimate:
                ridge = peak.estimate / one.estimate * item / 2
                yield (
                    f"{head}: {format_value(one.estimate)} GB/s and {format_value(peak.estimate)} GFLOP/s meet at "
                    f"{format_value(ridge)} rows: below a quarter of that memory decides, above four times the cores."
                )


def _of_roof(one: Series | None, read: Series | None, peak: Series | None, rows: int, item: int) -> float | None:
    """Share of the roof, by passes that all three have."""
    if not (one and read and peak and one.usable and read.usable and peak.usable):
        return None
    read_at, peak_at = ({s.number: s.value for s in series.samples} for series in (read, peak))
    common = [s for s in one.samples if s.number in read_at and s.number in peak_at]
    shares = [s.value / min(peak_at[s.number], read_at[s.number] * 2 * rows / item) for s in common]
    return median(shares) if shares else None


def _far(
    at: dict[tuple[tuple[int | None, int | None], int], Series],
    near: tuple[int | None, int | None],
    far: tuple[int | None, int | None],
    head: str,
    rows: Sequence[int],
) -> Iterator[str]:
    """What distance costs at one row, and from how many rows on it costs next to nothing."""
    ratios = {}
    for m in rows:
        a, b = at.get((far, m)), at.get((near, m))
        ratio = base.paired(a, b) if a and b else None
        if ratio:
            ratios[m] = ratio
    if not ratios:
        return
    least = min(ratios)
    yield f"{head}: at {plural(least, 'row')} {base.in_words(ratios[least])} of near weights."
    free = [m for m in ratios if all(ratios[n].value >= 1 - SMALL for n in ratios if n >= m)]
    yield (
        f"{head}: from {plural(min(free), 'row')} on distance costs less than {SMALL:.0%}."
        if free
        else f"{head}: at no number of rows tried distance costs less than {SMALL:.0%}."
    )


def _slow(one: Series | None, peak: Series | None, rows: Sequence[int]) -> Iterator[str]:
    """A multiplication so far below the peak tells nothing about memory."""
    if one and one.usable and one.estimate and peak and peak.usable and peak.estimate:
        share = one.estimate / peak.estimate
        if share < SLOW:
            yield f"At {rows[-1]} rows only {share:.0%} of the peak is reached: so it cares little for memory anyway."
