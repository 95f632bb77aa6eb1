# SPDX-License-Identifier: Apache-2.0
"""What a record says that the machine can do at most: the figures that a diagnosis compares a program with."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from numabench.analysis.bounds import Ceilings
from numabench.errors import UsageError
from numabench.machine import Machine
from numabench.record import Record
from numabench.series import Series
from numabench.units import format_numbers

Slower = Mapping[tuple[int, int], float]
_PRECISIONS = ("f32", "f64")


class Known(NamedTuple):
    """What a record tells a diagnosis; nothing without one."""

    slower: Slower = MappingProxyType({})
    ceilings: Ceilings = Ceilings()

    @classmethod
    def of(cls, record: Record, machine: Machine) -> Known:
        """All of it. Raises UsageError for a record of another kind of machine."""
        pairs = {
            "CPU": (record.machine.cpu_model, machine.cpu_model),
            "nodes": _nodes(record.machine, machine),
        }
        for what, (measured, here) in pairs.items():
            if measured != here:
                raise UsageError(f"--record is of another machine ({what} {measured}, here {here}): measure this one")
        return cls(slower(record), ceilings(record))


def _nodes(*machines: Machine) -> tuple[str, ...]:
    """CPUs of every node, of each machine."""
    return tuple("; ".join(f"{n.id}: {format_numbers(n.cpus)}" for n in machine.nodes) for machine in machines)


def slower(record: Record) -> dict[tuple[int, int], float]:
    """Time of an access by (initiator, target) over one to its own node: by latency or by bandwidth, the larger."""
    found: dict[tuple[int, int], float] = {}
    for name in ("latency", "bandwidth"):
        seen = {pair: value if name == "latency" else 1 / value for pair, value in _matrix(record, name).items()}
        for (i, j), took in seen.items():
            if (i, i) in seen:
                found[i, j] = max(found.get((i, j), 0.0), took / seen[i, i])
    return found


def _matrix(record: Record, name: str) -> dict[tuple[int, int], float]:
    """Figures by (initiator, target) of an experiment's first question; thp pages where there are some."""
    seen: dict[tuple[int, int], float] = {}
    for series in sorted(_usable(record, name), key=lambda s: s.case.pages == "thp"):
        case = series.case
        if case.kernel in ("chase", "read") and case.initiator is not None and case.target is not None:
            seen[case.initiator, case.target] = _figure(series)
    return seen


def _usable(record: Record, *names: str) -> list[Series]:
    return [s for s in record.series if s.case.experiment in names and s.usable and s.estimate]


def _figure(series: Series) -> float:
    return series.estimate or 0.0


def ceilings(record: Record) -> Ceilings:
    """The best figure for each place and number of cores; what was not measured, or not to be trusted, is a hole."""
    reads: dict[tuple[int, int], dict[int, float]] = {}
    peaks: dict[str, dict[int, float]] = {}
    for series in _usable(record, "bandwidth", "scaling", "gemm"):
        case, cores = series.case, len(series.case.cpus)
        kind = next((name for name in _PRECISIONS if case.kernel.endswith(name)), "")
        if case.unit == "GB/s" and case.kernel == "read" and case.initiator is not None and case.target is not None:
            _raise(reads, (case.initiator, case.target), cores, _figure(series))
        elif case.unit == "GFLOP/s" and kind:
            _raise(peaks, kind, cores, _figure(series))
    kinds = {s.case.pages: _figure(s) for s in reversed(_usable(record, "pages")) if s.case.kernel == "chase"}
    walk = kinds["base"] - kinds["thp"] if {"base", "thp"} <= kinds.keys() else None
    return Ceilings(
        gb_per_s=reads,
        gflop_per_s=peaks,
        idle_ns=_matrix(record, "latency"),
        walk_ns=walk if walk is not None and walk > 0 else None,
    )


def _raise(found: dict[Any, dict[int, float]], key: object, cores: int, value: float) -> None:
    curve = found.setdefault(key, {})
    curve[cores] = max(curve.get(cores, 0.0), value)
