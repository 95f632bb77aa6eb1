# SPDX-License-Identifier: Apache-2.0
"""Divide: how to split a machine between instances of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from numabench import layout
from numabench.analysis import scaling
from numabench.errors import UsageError
from numabench.experiments import base, serving
from numabench.layout import Slot
from numabench.machine import Machine
from numabench.series import Case, Options, Series, Table

PRESET = "llm-decode"
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
            extra: serving.Params = {"weights": weights} if weights else {}
            if len(slots) == 1:
                extra["predict"] = 1
            if count:
                extra |= {"requests": count, "share": 0.7}
            yield serving.case(self.name, options, model, slots, binding, params=extra)

    def again(self, series: Sequence[Series], machine: Machine, options: Options) -> list[Case]:
        """The best and the default once more, in passes of their own: the best of many looks better than it is."""
        usable = [s for s in series if s.usable]
        default = next((s for s in usable if s.case.params["binding"] == "none"), None)
        best = max(usable, key=lambda s: s.estimate or 0, default=None)
        if default is None or best is None or best is default:
            return []
        return [serving.with_params(s.case, confirm=1) for s in (default, best)]

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """Divisions by throughput and step time, the front, the best against the default, predicted step times."""
        first = [s for s in series if not s.case.params.get("confirm")]
        confirmed = [s for s in series if s.case.params.get("confirm")]
        if not first:
            return []
        default = next((s for s in first if s.case.params["binding"] == "none"), None)
        words = [serving.scaled(series), *_verdict(first, default, confirmed)]
        words += [text for s in first if (text := serving.explained(s))]
        tables = [serving.table(self.name, "Divisions, closed loop", first, default, words)]
        if confirmed:
            tables.append(serving.table(self.name, "The best, measured again", confirmed, confirmed[0], ()))
        return tables


def _arms(machine: Machine) -> Iterator[tuple[tuple[Slot, ...], str, str]]:
    """(slots, binding, weights or "") of every division, the default and the extremes first."""
    whole = serving.everything(machine)
    yield whole, "none", ""
    yield whole, "cores", ""
    sizes = _sizes(machine)
    fitting = [layout.split(machine, threads).slots for threads in sizes]
    for slots in fitting:
        if len(slots) > 1 or len(slots[0].cpus) != len(whole[0].cpus):
            yield slots, "cores", ""
    for slots in fitting:
        if len(slots) > 1:
            yield slots, "none", ""
            yield slots, "node", ""
            yield slots, "cores", "shared"
    for slots in fitting:
        if len(slots) > 1:
            yield slots[:1], "cores", ""
    yield (*whole, *whole), "none", ""  # twice as many threads as cores, named so in the table


def _sizes(machine: Machine) -> list[int]:
    """Threads of an instance worth trying: a node, half and a quarter of it, an L3 and half of it; largest first."""
    node = max(len(slot.cpus) for slot in layout.per_node(machine).slots)
    allowed = frozenset(machine.allowed_cpus)
    l3 = min((len(machine.one_cpu_per_core(allowed.intersection(d))) for d in machine.l3_domains()), default=0)
    found = {n for n in (node, node // 2, node // 4, l3, l3 // 2) if 1 <= n <= node}
    return sorted(found, reverse=True)


def _verdict(first: Sequence[Series], default: Series | None, confirmed: Sequence[Series]) -> list[str]:
    usable = [s for s in first if s.usable]
    if default is None or not default.usable or len(usable) < 2:
        return ["The divisions could not be compared with the default."]
    front = [(s.estimate or 0.0, serving.middle(s, "p50_ns") or 0.0) for s in usable]
    names = ", ".join(serving.name_of(usable[i].case) for i in scaling.pareto(front))
    words = [f"Nothing beats these in both throughput and step time: {names}."]
    pair = confirmed if len(confirmed) == 2 and all(s.usable for s in confirmed) else None
    best = pair[1] if pair else max(usable, key=lambda s: s.estimate or 0)
    against = pair[0] if pair else default
    ratio = base.paired(best, against)
    if best is against or ratio is None:
        words.append(f"Nothing measured beats the default ({serving.name_of(default.case)}).")
    else:
        again = " (measured again)" if pair else " (not measured again: the best of many looks better than it is)"
        words.append(
            f"{serving.name_of(best.case)} does {base.in_words(ratio)} of the default's throughput "
            f"({serving.name_of(default.case)}){again}."
        )
    words.extend(_overhead(usable))
    return words


def _overhead(usable: Sequence[Series]) -> list[str]:
    """Whether more processes help at all: the best pinned division into several against the best pinned one of one."""
    pinned = [s for s in usable if s.case.params["binding"] == "cores" and s.case.params.get("weights") != "shared"]
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
