# SPDX-License-Identifier: Apache-2.0
"""One visit to this machine: measure, and measure cells that do not fit again at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from numabench import session
from numabench.backend import Backend, Hardware
from numabench.machine import Machine
from numabench.measure import measure
from numabench.record import Record
from numabench.series import Case, Options, Progress
from numabench.validation import metrics
from numabench.validation.validate import EXPERIMENTS, Again, second, suspects

Tell = Callable[[Progress], None]


def visit(
    options: Options,
    *,
    machine: Machine | None = None,
    backend: Backend | None = None,
    progress: Tell | None = None,
    note: Callable[[str], None] | None = None,
    wanted: Iterable[str] = (),
) -> tuple[Record, Again]:
    """The record of this machine and the second measurement of its odd cells; empty when all fit.

    Metrics ``wanted`` are measured beside those that always are. Raises what `session.run` raises.
    """
    machine = machine or Machine.load()
    more = (metrics.metric(name).experiment for name in wanted)
    names = [name for name in dict.fromkeys((*EXPERIMENTS, *more)) if name]
    record = session.run(names, options, machine=machine, backend=backend, progress=progress)
    odd = suspects(record)
    if not odd:
        return record, {}
    cases = again(record, odd)
    if note:
        note(f"{len(cases)} cells do not fit or are of the class of one that does not: measured again")
    later = _later(options)
    if backend:
        return record, second(measure(cases, backend, later, progress))
    with Hardware(machine, later) as hardware:
        return record, second(measure(cases, hardware, later, progress))


def again(record: Record, odd: dict[str, list[tuple[int, int]]]) -> Sequence[Case]:
    """The cases of the pairs named."""
    return [
        series.case
        for family, pairs in odd.items()
        for pair, series in metrics.of(record.series, *metrics.MATRICES[family]).items()
        if pair in pairs
    ]


def _later(options: Options) -> Options:
    """The same with another seed, so that order and contents are other ones too."""
    import msgspec

    return msgspec.structs.replace(options, seed=options.seed + 1)
