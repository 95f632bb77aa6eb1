# SPDX-License-Identifier: Apache-2.0
"""Divide: how to split a machine between instances of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from numabench import layout, presets
from numabench.analysis import scaling, tails
from numabench.errors import UsageError
from numabench.experiments import base, serving
from numabench.layout import Slot
from numabench.machine import Machine
from numabench.series import Case, Options, Series, Table

PRESET = "llm-decode"
RANKS = "ranks"  # the instances are parts of one model
MOST = {"quick": 6, "standard": 24, "full": 48}


class Divide:
    """Instances as real processes, bound or not, weights of their own or shared; the best is measured once more."""

    name = "divide"
    question = "How do I split this machine: how many instances of how many threads, bound how?"
    families: tuple[str, ...] = ()
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """On a single core there is nothing to divide."""
        return "one core: nothing to divide" if len(serving.everything(machine)[0].cpus) < 2 else None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """The default first, then sizes of instances x bindings, most telling ones first."""
        here = serving.cut(machine, options)
        arms = list(_arms(here))[: MOST[options.profile]]
        copies = max(len(slots) for slots, _, _ in arms)
        try:
            model = serving.model_for(here, options, PRESET, copies)
        except UsageError as error:
            yield Case(experiment=self.name, kernel=PRESET, unit="steps/s", better="high", unavailable=str(error))
            return
        count = serving.REQUESTS[options.profile] if options.profile != "quick" else 0
        for slots, binding, weights in arms:
            extra: serving.Params = {"weights": weights} if weights not in ("", RANKS) else {}
            shape = model
            if weights == RANKS:
                shape = serving.part_of(model, len(slots))
                extra["ranks"] = len(slots)
            if len(slots) == 1 or weights == RANKS:
                extra["predict"] = 1
            if options.p99_s:
                extra["p99_ms"] = options.p99_s * 1e3
            if count:
                extra |= {"requests": count, "share": 0.7}
            yield serving.case(self.name, options, shape, slots, binding, params=extra)

    def again(self, series: Sequence[Series], machine: Machine, options: Options) -> list[Case]:
        """The best, the best within the bound and the default once more: the best of many looks better than it is."""
        usable = [s for s in series if s.usable]
        default = _default(usable)
        best = max(usable, key=lambda s: s.estimate or 0, default=None)
        within = _within(usable)
        wanted = [s for s in (best, within) if s is not None and s is not default]
        if default is None or not (wanted or within):
            return []
        cases = [serving.with_params(s.case, confirm=1) for s in (default, *wanted)]
        return [case for i, case in enumerate(cases) if case not in cases[:i]]

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """Divisions by throughput and step time, the front, the best against the default, predicted step times."""
        first = [s for s in series if not s.case.params.get("confirm")]
        confirmed = [s for s in series if s.case.params.get("confirm")]
        if not first:
            return []
        default = _default(first)
        words = [serving.scaled(series), *_verdict(first, default, confirmed)]
        words += [text for s in first if (text := serving.explained(s))]
        tables = [serving.table(self.name, "Divisions, closed loop", first, default, words)]
        if confirmed:
            tables.append(serving.table(self.name, "The best, measured again", confirmed, confirmed[0], ()))
        return tables


def _arms(machine: Machine) -> Iterator[tuple[tuple[Slot, ...], str, str]]:
    """(slots, binding, weights, RANKS or "") of every division, the default and the extremes first."""
    whole = serving.everything(machine)
    yield whole, "none", ""
    yield whole, "cores", ""
    fitting = [layout.split(machine, threads).slots for threads in sizes(machine)]
    for slots in fitting:
        if len(slots) > 1 or len(slots[0].cpus) != len(whole[0].cpus):
            yield slots, "cores", ""
    for slots in fitting:
        if len(slots) > 1:
            yield slots, "none", ""
            yield slots, "node", ""
            yield slots, "cores", "shared"
    for slots in fitting:
        if len(slots) in presets.SHARDS[1:] and len(slots) * len(slots[0].cpus) == len(whole[0].cpus):
            yield slots, "cores", RANKS
            break
    for slots in fitting:
        if len(slots) > 1:
            yield slots[:1], "cores", ""
    yield (*whole, *whole), "none", ""  # twice as many threads as cores, named so in the table


def sizes(machine: Machine) -> list[int]:
    """Threads of an instance worth trying: a node, half and a quarter of it, an L3 and half of it; largest first."""
    node = max(len(slot.cpus) for slot in layout.per_node(machine).slots)
    allowed = frozenset(machine.allowed_cpus)
    l3 = min((len(machine.one_cpu_per_core(allowed.intersection(d))) for d in machine.l3_domains()), default=0)
    found = {n for n in (node, node // 2, node // 4, l3, l3 // 2) if 1 <= n <= node}
    return sorted(found, reverse=True)


def _default(series: Sequence[Series]) -> Series | None:
    return next((s for s in series if s.case.params["binding"] == "none"), None)


def _bound_ns(series: Sequence[Series]) -> float | None:
    """What p99 may be, if the run was asked for a bound."""
    asked = [float(s.case.params["p99_ms"]) for s in series if "p99_ms" in s.case.params]
    return asked[0] * 1e6 if asked else None


def _within(usable: Sequence[Series]) -> Series | None:
    """The division of most throughput whose p99 is proven to keep the bound."""
    bound = _bound_ns(usable)
    kept = [s for s in usable if serving.keeps(s, bound)] if bound else []
    return max(kept, key=lambda s: s.estimate or 0, default=None)


def _verdict(first: Sequence[Series], default: Series | None, confirmed: Sequence[Series]) -> list[str]:
    usable = [s for s in first if s.usable]
    if default is None or not default.usable or len(usable) < 2:
        return ["The divisions could not be compared with the default."]
    words = [_front(usable)]
    best = max(usable, key=lambda s: s.estimate or 0)
    if best is default:
        words.append(f"Nothing measured beats the default ({serving.name_of(default.case)}).")
    else:
        words.append(_gain(best, default, confirmed))
    words.extend(_bounded(usable, default, confirmed))
    words.extend(_overhead(usable))
    return words


def _front(usable: Sequence[Series]) -> str:
    """The divisions that no other beats: in p99 where every one of them has enough steps for it."""
    p99 = [serving.p99(s).value for s in usable]
    enough = all(p99)
    costs = p99 if enough else [serving.middle(s, "p50_ns") for s in usable]
    front = scaling.pareto([(s.estimate or 0.0, cost or 0.0) for s, cost in zip(usable, costs, strict=True)])
    names = ", ".join(serving.name_of(usable[i].case) for i in front)
    what = "p99 step time" if enough else "median step time (some have too few steps for p99)"
    return f"Nothing beats these in both throughput and {what}: {names}."


def _gain(best: Series, default: Series, confirmed: Sequence[Series]) -> str:
    """Throughput of a division against the default's, from fresh passes where both had some."""
    fresh, against = _again_of(best, confirmed), _again_of(default, confirmed)
    again = fresh is not None and against is not None
    ratio = base.paired(fresh, against) if fresh is not None and against is not None else base.paired(best, default)
    how = "measured again" if again else "not measured again: the best of many looks better than it is"
    told = base.in_words(ratio) if ratio else "an unknown part"
    return (
        f"{serving.name_of(best.case)} does {told} of the default's throughput "
        f"({serving.name_of(default.case)}) ({how})."
    )


def _again_of(one: Series, confirmed: Sequence[Series]) -> Series | None:
    case = serving.with_params(one.case, confirm=1)
    return next((s for s in confirmed if s.case == case and s.usable), None)


def _bounded(usable: Sequence[Series], default: Series, confirmed: Sequence[Series]) -> list[str]:
    """What the bound on p99 leaves, and whether it was kept on fresh runs."""
    bound = _bound_ns(usable)
    if bound is None:
        return []
    head, within = f"p99 of a step <= {bound / 1e6:g} ms", _within(usable)
    if within is None:
        steps = min(sum(n for n, _ in serving.runs(s)) for s in usable)
        lack = f"; the fewest steps of a division are {steps}, a proof needs {tails.needed_for_bound(0.99)}"
        shown = [s for s in usable if serving.p99(s).value is not None]
        nearest = min(shown, key=lambda s: serving.p99(s).value or 0.0, default=None)
        near = f"; the lowest is {_p99_of(nearest)}" if nearest is not None else ""
        return [f"{head}: no division is proven to keep it{near}{lack}."]
    words = [f"{head} (99 % sure): the best is {_p99_of(within)}, {within.estimate or 0:.4g} steps/s."]
    fresh = _again_of(within, confirmed)
    if fresh is None:
        return [*words, "The bound was not checked on fresh runs."]
    kept = {True: "kept", False: "NOT kept", None: "neither proven nor refuted"}[serving.keeps(fresh, bound)]
    words.append(f"On fresh runs the bound is {kept}: {_p99_of(fresh)}, {fresh.estimate or 0:.4g} steps/s.")
    if within is not default:
        words.append(_gain(within, default, confirmed))
    return words


def _p99_of(one: Series) -> str:
    return f"{serving.name_of(one.case)} with p99 {serving.quantile_cell(serving.p99(one)).text} ms"


def _overhead(usable: Sequence[Series]) -> list[str]:
    """Whether more processes help at all: the best pinned division into several against the best pinned one of one."""
    alike = [s for s in usable if s.case.params.get("weights") != "shared" and not s.case.params.get("ranks")]
    pinned = [s for s in alike if s.case.params["binding"] == "cores"]
    total = max((len(s.case.cpus) for s in pinned), default=0)
    one = [s for s in pinned if s.case.params["instances"] == 1 and len(s.case.cpus) == total]
    many = [s for s in pinned if int(s.case.params["instances"]) > 1 and len(s.case.cpus) == total]
    if not one or not many:
        return []
    best = max(many, key=lambda s: s.estimate or 0)
    ratio = base.paired(best, one[0])
    if ratio is None or ratio.ci is None:
        return []
    verdict = "More processes than one are neither shown to help nor to harm"
    if ratio.ci[0] > 1:
        verdict = "Several processes help"
    elif ratio.ci[1] < 1:
        verdict = "More processes only add overhead"
    return [f"{verdict}: {serving.name_of(best.case)} does {base.in_words(ratio)} of one."]
