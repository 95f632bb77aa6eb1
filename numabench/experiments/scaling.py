# SPDX-License-Identifier: Apache-2.0
"""Scaling: how many threads before more is only overhead?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from msgspec.structs import replace

from numabench import gemm, layout
from numabench.analysis import scaling as curves
from numabench.analysis import stats
from numabench.errors import UsageError
from numabench.experiments import base, serving
from numabench.jobs.instance import model_of
from numabench.layout import Slot
from numabench.machine import Machine
from numabench.series import Axis, Case, Marks, Options, Series, Table
from numabench.units import format_numbers, plural

LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
GEMM_N = 1024
BY = {"threads": "by threads", "instances": "by instances", "parts": "by instances over all cores"}
FIT_STEPS = 32  # of a model drawn into its curve


class Scaling:
    """Read, triad and gemm with growing teams of one node's cores, on memory of that node and of the farthest."""

    name = "scaling"
    question = "How many threads fill the memory pipe, and how many still speed up a multiplication?"
    families: tuple[str, ...] = ("stream", "blas1", "gemm")
    standard = True

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Never: one thread is a point as well."""
        return None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Thread ladder x kernels, local; read also on the farthest node. Raises UsageError for too many threads."""
        usable = [(i, j) for i, j, why in base.pairs(machine, options) if not why]
        for i, j in [p for p in usable if p[0] == p[1]][:1]:
            cpus = base.team(machine, options, i)
            over = [t for t in options.threads if t > len(cpus) or t < 1]
            if over:
                raise UsageError(
                    f"--threads {format_numbers(over)}: node {i} has {plural(len(cpus), 'core')} "
                    f"(CPUs {format_numbers(cpus)})"
                )
            ladder = options.threads or [*(n for n in LADDER if n < len(cpus)), len(cpus)][-12:]
            far = [t for s, t in usable if s == i and t != i]
            worst = [max(far, key=lambda t: machine.distance(i, t) or 0)] if far else []
            for target in (j, *worst):
                kernels = options.kernels or (("read", "triad", "gemm_f64") if target == j else ("read",))
                for kernel in kernels:
                    for count in ladder:
                        yield self._case(machine, options, i, target, kernel, cpus, count)
        if options.profile == "full" and not options.kernels and not options.threads:
            yield from self._serving(machine, options)

    def _case(
        self,
        machine: Machine,
        options: Options,
        i: int,
        target: int,
        kernel: str,
        cpus: tuple[int, ...],
        count: int,
    ) -> Case:
        many = kernel.startswith("gemm")
        size, suspect = base.size_for(machine, options, target, cpus, 100 * base.MIB * len(cpus))
        n = gemm.side(options.bytes, 8) if options.bytes else GEMM_N
        params: dict[str, int | float | str] = {"m": n, "n": n, "k": n} if many else {}
        return Case(
            experiment=self.name,
            kernel=kernel,
            unit="GFLOP/s" if many else "GB/s",
            better="high",
            initiator=i,
            target=target,
            cpus=cpus[:count],
            touch_cpus=base.touchers(machine, target),
            pages=options.pages or "thp",
            tier=options.tier,
            bytes=gemm.bytes_needed(n, n, n, 8) if many else size,
            params=params,
            cache_suspect=suspect and not many,
            share=f"{i}-{target}-{'gemm' if many else 'stream'}",
        )

    def _serving(self, machine: Machine, options: Options) -> Iterator[Case]:
        """Steps of decode and prefill by threads of one instance, by instances of one thread, by parts of all cores."""
        here = serving.cut(machine, options)
        cores = serving.everything(here)[0]
        ladder = [*(n for n in LADDER if n < len(cores.cpus)), len(cores.cpus)][-12:]
        for preset in ("llm-decode", "llm-prefill"):
            try:
                model = serving.model_for(here, options, preset, len(cores.cpus))
            except UsageError as error:
                yield Case(experiment=self.name, kernel=preset, unit="steps/s", better="high", unavailable=str(error))
                continue
            for count in ladder:
                slots: tuple[Slot, ...] = (Slot(cores.cpus[:count], cores.nodes),)
                yield serving.case(self.name, options, model, slots, "cores", params={"by": "threads", "predict": 1})
            for count in ladder:
                slots = layout.divide(here, count, 1).slots
                yield serving.case(self.name, options, model, slots, "cores", params={"by": "instances"})
            for count in ladder:
                threads = len(cores.cpus) // count
                if threads * count == len(cores.cpus) and (parts := _fitting(here, count, threads)):
                    yield serving.case(self.name, options, model, parts, "cores", params={"by": "parts"})
            crowded = layout.divide(here, len(cores.cpus), 1).slots
            for more in {max(len(crowded) // 2, 1), len(crowded)}:
                slots = (*crowded, *crowded[:more])
                yield serving.case(self.name, options, model, slots, "cores", params={"by": "crowded"})

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """Thread counts across, kernels and targets down, the ratio to one thread; then models, likewise."""
        plain = [s for s in series if s.case.job != "instance" and s.case.cpus]
        names: dict[str, list[Series]] = {}
        for one in plain:
            names.setdefault(f"{one.case.kernel}, node {one.case.target} ({one.case.unit})", []).append(one)
        found = (
            [_table("Throughput by threads", "threads", names, lambda s: len(s.case.cpus), machine, {})]
            if names
            else []
        )
        served: dict[str, list[Series]] = {}
        for one in series:
            p = one.case.params
            if one.case.job == "instance" and p.get("by") in BY:
                served.setdefault(f"{one.case.kernel}, {BY[str(p['by'])]}", []).append(one)
        if served:
            limits = _limits(plain, served)
            found.append(_table("Steps/s by threads or by instances", "workers", served, _workers, machine, limits))
        return found


def _workers(series: Series) -> int:
    p = series.case.params
    return int(p["threads"] if p["by"] == "threads" else p["instances"])


def _fitting(machine: Machine, count: int, threads: int) -> tuple[Slot, ...]:
    """So many instances of so many threads; none where they do not fit into the nodes."""
    try:
        return layout.divide(machine, count, threads).slots
    except UsageError:
        return ()


def _barrier_share(last: Series) -> float | None:
    """Share of a step that its barriers take, as measured by the same threads; None where that was not asked for."""
    barrier, step = serving.middle(last, "barrier_ns"), serving.middle(last, "p50_ns")
    return model_of(last.case).barriers * barrier / step if barrier and step else None


def _limits(plain: Sequence[Series], served: dict[str, list[Series]]) -> dict[str, float]:
    """Steps/s that the measured read bandwidth allows a decode curve."""
    reads = [s.estimate for s in plain if s.case.kernel == "read" and s.usable and s.estimate]
    found = {}
    for name, curve in served.items():
        if reads and curve[0].case.kernel == "llm-decode":
            found[name] = max(reads) * 1e9 / model_of(curve[0].case).bytes_per_step
    return found


def _table(
    title: str,
    noun: str,
    names: dict[str, list[Series]],
    count_of: Callable[[Series], int],
    machine: Machine,
    limits: dict[str, float],
) -> Table:
    counts = sorted({count_of(s) for curve in names.values() for s in curve})
    words: list[str] = []
    marks: list[Marks] = []
    for name, curve in names.items():
        said, mark = _words(name, noun, [s for s in curve if s.usable], count_of, machine, limits.get(name))
        words.extend(said)
        marks.extend(mark)
    rows = {
        name: [next((s for s in curve if count_of(s) == n), curve[0]) for n in counts] for name, curve in names.items()
    }
    first = {name: curve[0] for name, curve in names.items()}
    columns = [f"{n} {noun[:-1] if n == 1 else noun}" for n in counts]
    axis = Axis(title=noun, values=tuple(counts))
    return replace(base.rows_table("scaling", title, "", rows, columns, first, tuple(words), axis), marks=tuple(marks))


def _words(
    name: str,
    noun: str,
    known: list[Series],
    count_of: Callable[[Series], int],
    machine: Machine,
    bandwidth: float | None,
) -> tuple[list[str], list[Marks]]:
    """The knee, whether the last step helped, which model fits and why growth stopped; nothing beyond what was run.

    The knee and the model that fits, or the two that cannot be told apart, are marked in the curve as well.
    """
    by_pass = [{sample.number: sample.value for sample in s.samples} for s in known]
    common = sorted(set.intersection(*map(set, by_pass))) if by_pass else []
    if len(known) < 2 or not common:
        return [], []
    counts, figures = [count_of(s) for s in known], [[v[p] for v in by_pass] for p in common]
    knee = stats.knee_interval(counts, figures)
    span = f" [{knee.ci[0]}, {knee.ci[1]}]" if knee.ci else " (too few passes for an interval)"
    words = [f"{name}: 95 % of the best measured is reached with {knee.value}{span} {noun}."]
    gain = base.paired(known[-1], known[-2])
    if gain is not None:
        tails = serving.extra_ratio(known[-1], known[-2], "p99_ns")
        step = curves.last_step(gain, tails)
        told = f": {step}" if step in ("helps", "overhead") else ""
        words.append(f"{name}: from {counts[-2]} to {counts[-1]} throughput is {base.in_words(gain)}{told}.")
    curve = curves.fit(counts, figures)
    if curve is not None and curve.chosen is not None:
        shown = ", ".join(f"{key} {value:.4g}" for key, value in curve.chosen.parameters.items())
        cores = len(machine.one_cpu_per_core(machine.allowed_cpus))
        share = _barrier_share(known[-1]) if known[-1].case.job == "instance" else None
        why = curves.why_stopped(curve, counts, cores, bandwidth, share)
        words.append(f"{name}: {curve.chosen.name} fits best ({shown}); it stopped at: {why}.")
    elif curve is not None:
        words.append(f"{name}: fits are undecided between {curve.fits[0].name} and {curve.fits[1].name}.")
    shape: dict[str, curves.Fit] = (
        {} if curve is None else {fit.name: fit for fit in ((curve.chosen,) if curve.chosen else curve.fits[:2])}
    )
    steps = [counts[0] * (counts[-1] / counts[0]) ** (k / FIT_STEPS) for k in range(FIT_STEPS + 1)]
    fits = {model: tuple((x, curves.predict(found, x)) for x in steps) for model, found in shape.items()}
    return words, [Marks(curve=name, knee=knee.value, knee_ci=knee.ci, fits=fits)]
