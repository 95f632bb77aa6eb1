# SPDX-License-Identifier: Apache-2.0
"""The metrics that verdicts are about: name, unit, direction, and where a record holds them. To add one: a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from numabench.analysis import screen
from numabench.analysis.matrix import Cell, Pair
from numabench.analysis.verdict import Better, rounds
from numabench.kernels import nearest
from numabench.machine import Machine
from numabench.series import FATAL, HINDERED, Series
from numabench.validation import details

Values = dict[str, dict[str, tuple[float, ...]]]  # metric: instance: one figure a round

DOUBTS = (*sorted(HINDERED), "cache_suspect")


class Metric(NamedTuple):
    """One row. ``cells``: local pairs or remote pairs; a ``ratio`` is to the same initiator's local figure.

    Without a kernel its figures come from `numabench.validation.details`.
    """

    name: str
    unit: str
    better: Better
    about: str
    experiment: str = ""
    kernel: str = ""
    cells: Literal["local", "remote"] = "local"
    ratio: bool = False


def _family(prefix: str, unit: str, better: Better, about: str, experiment: str, kernel: str) -> tuple[Metric, ...]:
    return (
        Metric(f"{prefix}.local", unit, better, f"{about}, own node", experiment, kernel),
        Metric(f"{prefix}.remote", unit, better, f"{about}, another node", experiment, kernel, "remote"),
        Metric(
            f"{prefix}.remote_over_local",
            "ratio",
            better,
            f"{about}, another node over own node, in the same pass",
            experiment,
            kernel,
            "remote",
            True,
        ),
    )


REGISTRY: tuple[Metric, ...] = (
    *_family("latency", "ns", "low", "one dependent load", "latency", "chase"),
    *_family("bw.read", "GB/s", "high", "read by all cores of a node", "bandwidth", "read"),
    Metric("bw.copy.local", "GB/s", "high", "STREAM copy, own node", "bandwidth", "copy"),
    Metric("bw.triad.local", "GB/s", "high", "STREAM triad, own node", "bandwidth", "triad"),
    Metric("bw.write_nt.local", "GB/s", "high", "non-temporal stores, own node", "bandwidth", "write_nt"),
    Metric("bw.triad_nt.local", "GB/s", "high", "triad with non-temporal stores, own node", "bandwidth", "triad_nt"),
    Metric("bw.read.over_theoretical", "ratio", "high", "read of own node over channels x configured rate x 8 bytes"),
    Metric("bw.read.over_firmware", "ratio", "high", "read over what the firmware claims of the pair (ACPI HMAT)"),
    Metric("bw.one_thread.local", "GB/s", "high", "read by one thread, own node", "prefetch"),
    Metric("latency.sequential", "ns", "low", "one dependent load of the next line, own node", "prefetch"),
    Metric(
        "latency.sequential_over_random",
        "ratio",
        "low",
        "that over one at random, in the same pass: near 1 without prefetchers",
        "prefetch",
        ratio=True,
    ),
    *(Metric(f"latency.l{n}", "ns", "low", f"one dependent load within L{n}", "hierarchy") for n in (1, 2, 3)),
    *(Metric(f"bw.l{n}", "GB/s", "high", f"read by one thread within L{n}", "hierarchy") for n in (1, 2, 3)),
    Metric("c2c.local", "ns", "low", "a line between two cores of a node, one way", "c2c"),
    Metric("c2c.remote", "ns", "low", "a line between nodes, at home with the first", "c2c"),
    Metric("c2c.remote_other_home", "ns", "low", "a line between nodes, at home with the other", "c2c"),
)
BY_NAME: dict[str, Metric] = {metric.name: metric for metric in REGISTRY}
MATRICES: dict[str, tuple[str, str]] = {"latency": ("latency", "chase"), "bw.read": ("bandwidth", "read")}


def metric(name: str) -> Metric:
    """The metric of that name. Raises UsageError with the nearest names."""
    from numabench.errors import UsageError

    if name not in BY_NAME:
        raise UsageError(f"metric {name!r}: {nearest(name, list(BY_NAME))}")
    return BY_NAME[name]


def instance(pair: Pair) -> str:
    """``node0`` for the own node, ``node0->node1`` for another."""
    return f"node{pair[0]}" if pair[0] == pair[1] else f"node{pair[0]}->node{pair[1]}"


def sound(series: Series) -> dict[int, float]:
    """{pass: figure} of the passes without a fatal flag; empty when fewer than half are sound."""
    return screen.passes(series.samples)


def of(series: Iterable[Series], experiment: str, kernel: str) -> dict[Pair, Series]:
    """{(initiator, target): series} of one kernel, with the page kind and parameters that come first."""
    found: dict[Pair, Series] = {}
    first: tuple[str, Mapping[str, object]] | None = None
    for one in series:
        case = one.case
        if case.experiment != experiment or case.kernel != kernel or case.initiator is None or case.target is None:
            continue
        first = first or (case.pages, case.params)
        if (case.pages, case.params) == first:
            found.setdefault((case.initiator, case.target), one)
    return found


def extract(
    series: Sequence[Series], machine: Machine, theoretical: Mapping[int, float] | None = None
) -> tuple[Values, dict[str, str]]:
    """The metrics of a record, and {metric[instance]: why there is none} for cells without a usable figure.

    ``theoretical`` is GB/s per node from the memory's channels and rate, where known.
    """
    values: Values = {}
    missing: dict[str, str] = {}
    for row in REGISTRY:
        if not row.kernel:
            continue
        found = of(series, row.experiment, row.kernel)
        for pair, one in found.items():
            if (pair[0] == pair[1]) != (row.cells == "local"):
                continue
            mine, name = sound(one), instance(pair)
            if row.ratio:
                home = found.get((pair[0], pair[0]))
                own = sound(home) if home else {}
                mine = {number: value / own[number] for number, value in mine.items() if number in own}
            if mine:
                values.setdefault(row.name, {})[name] = rounds(list(mine.values()))
            else:
                missing[f"{row.name}[{name}]"] = _why(one)
    _add_details(values, missing, series, machine)
    for node, limit in (theoretical or {}).items():
        read = values.get("bw.read.local", {}).get(f"node{node}")
        if read and limit > 0:
            share = tuple(value / limit for value in read)
            values.setdefault("bw.read.over_theoretical", {})[f"node{node}"] = share
    for pair, limit in _claimed(machine).items():
        where = "bw.read.local" if pair[0] == pair[1] else "bw.read.remote"
        if read := values.get(where, {}).get(instance(pair)):
            share = tuple(value / limit for value in read)
            values.setdefault("bw.read.over_firmware", {})[instance(pair)] = share
    return values, missing


def _claimed(machine: Machine) -> dict[Pair, float]:
    """{pair: GB/s} that the firmware claims; the kernel tells only those of a memory's nearest CPUs."""
    found: dict[Pair, float] = {}
    for name in ("bandwidth", "read_bandwidth"):
        for one in machine.memory_attributes:
            if one.name == name and one.unit == "MB/s" and one.value > 0:
                near = [node.id for node in machine.nodes if node.cpus and set(node.cpus) <= set(one.initiator_cpus)]
                found |= {(node, one.target): one.value / 1000 for node in near}
    return found


def _why(one: Series) -> str:
    return one.unavailable or "untrusted: " + "; ".join(FATAL[flag] for flag in one.flags if flag in FATAL)


def _add_details(values: Values, missing: dict[str, str], series: Sequence[Series], machine: Machine) -> None:
    found: dict[tuple[str, str], list[Series]] = {}
    for metric, at, one in details.details(series, machine):
        found.setdefault((metric, at), []).append(one)
    random = {at: sound(one) for at, one in _random(series).items()}
    for (metric, at), members in found.items():
        mine = details.by_pass([sound(one) for one in members])
        if not mine:
            missing[f"{metric}[{at}]"] = _why(members[0])
            continue
        values.setdefault(metric, {})[at] = rounds(list(mine.values()))
        share = {number: value / random[at][number] for number, value in mine.items() if number in random.get(at, {})}
        if metric == "latency.sequential" and share:
            values.setdefault(f"{metric}_over_random", {})[at] = rounds(list(share.values()))


def shares(series: Iterable[Series]) -> dict[str, tuple[float, ...]]:
    """{node: least share of a core over the greatest, round by round}, all its cores at work on its memory."""
    found = {}
    for pair, one in of(series, "bandwidth", "read").items():
        good = sound(one)
        mine = [s.extras["fairness"] for s in one.samples if s.number in good and s.extras.get("fairness", 0) > 0]
        if pair[0] == pair[1] and mine:
            found[instance(pair)] = rounds(mine)
    return found


def flagged(series: Sequence[Series]) -> dict[str, int]:
    """{flag: series that carry it} for what others did to the machine meanwhile, and for buffers that caches hold."""
    return {flag: count for flag in DOUBTS if (count := sum(flag in one.flags for one in series))}


def hindered(series: Sequence[Series], machine: Machine) -> dict[tuple[str, str], tuple[str, ...]]:
    """{(metric, instance): which of the series it is made of say that others had a part in them}; the others left out.

    A ratio is made of both its sides, whichever of them was disturbed.
    """
    named = {
        figure: tuple(f"{one.case.experiment} {one.case.label}" for one in made if HINDERED & set(one.flags))
        for figure, made in sources(series, machine).items()
    }
    return {figure: names for figure, names in named.items() if names}


def sources(series: Sequence[Series], machine: Machine) -> dict[tuple[str, str], list[Series]]:
    """{(metric, instance): all series that its figure is made of}."""
    made: dict[tuple[str, str], list[Series]] = {}
    for row in REGISTRY:
        found = of(series, row.experiment, row.kernel) if row.kernel else {}
        for pair, one in found.items():
            if (pair[0] == pair[1]) == (row.cells == "local"):
                home = found.get((pair[0], pair[0])) if row.ratio else None
                made[row.name, instance(pair)] = [one, home] if home else [one]
    for name, at, one in details.details(series, machine):
        made.setdefault((name, at), []).append(one)
    for at, one in _random(series).items():
        if own := made.get(("latency.sequential", at)):
            made["latency.sequential_over_random", at] = [*own, one]
    for (name, at), read in list(made.items()):
        if name in ("bw.read.local", "bw.read.remote"):
            made["bw.read.over_firmware", at] = read
        if name == "bw.read.local":
            made["bw.read.over_theoretical", at] = read
    return made


def _random(series: Iterable[Series]) -> dict[str, Series]:
    """{instance: the walk at random beside which its sequential one is held}."""
    return {
        f"node{one.case.initiator}": one
        for one in series
        if one.case.experiment == "prefetch" and one.case.params.get("walk") == "random"
    }


def cells(machine: Machine, series: Mapping[Pair, Series]) -> dict[Pair, Cell]:
    """Matrix cells with their link class and places, for `numabench.analysis.matrix`."""
    return screen.cells(machine, {pair: tuple(sound(one).values()) for pair, one in series.items()})
