# SPDX-License-Identifier: Apache-2.0
"""The layers of a validation, each a pure function from facts and figures to checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from statistics import median
from typing import Any

from numabench.analysis import matrix
from numabench.analysis.verdict import Limits, Verdict, best, judge, rounds, spread
from numabench.units import format_value
from numabench.validation import metrics
from numabench.validation.baseline import Baseline
from numabench.validation.outcome import Check, Fact, Reason
from numabench.validation.spec import CheckSpec, Spec, Wanted

# What a scope makes of the figures of all instances.
PICK: dict[str, Callable[[list[float]], float]] = {
    "min": min,
    "max": max,
    "median": median,
    "least_over_greatest": lambda figures: min(figures) / max(figures),
}
UNSTABLE = 0.05  # of the rounds' spread
# Of a core's share over another's of its node at the same time: an EPYC 7A53 whose source could not explain it had
# 0.61 to 0.66, and 0.95 and more one at a time.
UNEVEN = 0.7


def match(spec: Spec, facts: Mapping[str, Fact]) -> list[Check]:
    """INCONCLUSIVE when the specification is for another machine; nothing otherwise."""
    found = []
    for name, wanted in spec.match.items():
        check = _fact("facts", name, _wanted(wanted), facts[name])
        if check.verdict != "PASS":
            found.append(
                Check(
                    layer="facts",
                    name=name,
                    verdict="INCONCLUSIVE",
                    reason="WRONG_SPEC",
                    value=check.value,
                    limit=check.limit,
                    text=f"the specification {spec.name!r} is for another machine",
                )
            )
    return found


def _wanted(value: Any) -> Wanted:
    return Wanted(**value) if isinstance(value, dict) else Wanted(any_of=[value])


def facts_against(spec: Spec, facts: Mapping[str, Fact]) -> list[Check]:
    """One check a fact; SKIP where the system does not tell, which is never a pass."""
    mine = len(spec.facts)
    return [
        _fact("facts" if at < mine else "environment", name, wanted, facts[name])
        for at, (name, wanted) in enumerate(spec.wanted())
    ]


def _fact(layer: Any, name: str, wanted: Wanted, fact: Fact) -> Check:
    limit = f"{wanted.ref} +- {wanted.tol * 100:g} %" if wanted.ref is not None else _words(wanted.any_of or [])
    if fact.source == "unavailable":
        text = "this system does not tell"
        return Check(layer=layer, name=name, verdict="SKIP", reason="NOT_TOLD", limit=limit, text=text)
    values = fact.value if isinstance(fact.value, list) and wanted.ref is not None else [fact.value]
    if wanted.ref is not None:
        good = all(isinstance(v, int | float) and abs(v - wanted.ref) <= wanted.tol * abs(wanted.ref) for v in values)
        good = good and bool(values)
    else:
        good = any(_same(fact.value, option) for option in wanted.any_of or [])
    bad: Verdict = "WARN" if wanted.severity == "warn" else "FAIL"
    reason: Reason = "" if good else "ENVIRONMENT" if layer == "environment" else "FACT_MISMATCH"
    return Check(
        layer=layer,
        name=name,
        verdict="PASS" if good else bad,
        reason=reason,
        value=_words([fact.value]),
        limit=limit,
        text="" if good else f"from {fact.source}",
    )


def _same(value: Any, option: Any) -> bool:
    if isinstance(value, str) and isinstance(option, str):
        return fnmatchcase(value, option)
    return bool(value == option) or _words([value]) == _words([option])  # 0 and "0" are one to who writes it


def _words(values: Sequence[Any]) -> str:
    return " or ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in values)


def metrics_against(checks: Iterable[CheckSpec], values: metrics.Values, missing: Mapping[str, str]) -> list[Check]:
    """The bounds of a specification; a required figure that is not there is INCONCLUSIVE, never a pass."""
    return [check for one in checks for check in _bounds(one, values, missing)]


def _bounds(one: CheckSpec, values: metrics.Values, missing: Mapping[str, str]) -> list[Check]:
    found = values.get(one.metric, {})
    if one.instance:
        found = {name: figures for name, figures in found.items() if name == one.instance}
    absent = {
        label: why
        for label, why in missing.items()
        if label.startswith(f"{one.metric}[") and (not one.instance or label == f"{one.metric}[{one.instance}]")
    }
    checks = []
    if not found or absent:
        verdict: Verdict = "INCONCLUSIVE" if one.required else "SKIP"
        reasons = absent or {f"{one.metric}[{one.instance}]" if one.instance else one.metric: "not measured"}
        for label, why in reasons.items():
            name, _, at = label.partition("[")
            checks.append(
                Check(layer="spec", name=name, instance=at.rstrip("]"), verdict=verdict, reason="NO_DATA", text=why)
            )
    row = one.row()
    wanted = list(found.items())
    if one.scope != "each" and found:
        pick = PICK[one.scope]
        count = min(map(len, found.values()))
        wanted = [(one.scope, tuple(pick([v[r] for v in found.values()]) for r in range(count)))]
    for name, figures in wanted:
        checks.append(against("spec", row, name, figures, one.limits(), one.severity))
    return checks


def against(
    layer: Any, row: metrics.Metric, name: str, figures: tuple[float, ...], limits: Limits, severity: str = "fail"
) -> Check:
    """One metric against bounds."""
    judged = judge(figures, row.better, limits)
    verdict = "WARN" if judged.verdict == "FAIL" and severity == "warn" else judged.verdict
    below: Reason = "BELOW_BASELINE" if layer == "baseline" else "BELOW_SPEC" if row.better == "high" else "ABOVE_SPEC"
    good_side = limits.warn_high if row.better == "high" else limits.warn_low
    if layer == "baseline" and good_side and (judged.middle > good_side) == (row.better == "high"):
        below = "BETTER_THAN_BASELINE"
    parts = [
        f"{word} {sign} {format_value(bound)}"
        for word, sign, bound in (
            ("fail", "<", limits.fail_low),
            ("warn", "<", limits.warn_low),
            ("fail", ">", limits.fail_high),
            ("warn", ">", limits.warn_high),
        )
        if bound is not None
    ]
    return Check(
        layer=layer,
        name=row.name,
        instance=name,
        verdict=verdict,
        reason="" if verdict == "PASS" else "NO_DATA" if verdict == "INCONCLUSIVE" else below,
        value=judged.value if verdict != "INCONCLUSIVE" else None,
        unit=row.unit,
        limit=", ".join(parts),
        margin=judged.margin,
        rounds=figures,
    )


def baseline_against(
    baseline: Baseline,
    cohort: str,
    of: Mapping[str, str],
    values: metrics.Values,
    created: str,
    facts: Mapping[str, Fact],
) -> list[Check]:
    """A machine against good ones of its class; another class is INCONCLUSIVE. ``created``: when figures were taken."""
    if cohort != baseline.cohort:
        good = baseline.cohort_of
        other = [name for name in {**good, **of} if of.get(name) != good.get(name)]
        text = "; ".join(f"{k} {of.get(k, 'not told')!r}, baseline {good.get(k, 'not told')!r}" for k in other)
        return [
            Check(layer="baseline", name="class of machine", verdict="INCONCLUSIVE", reason="WRONG_SPEC", text=text)
        ]
    checks = []
    if created > baseline.expires:
        text = f"it held until {baseline.expires[:10]}: make one of machines that are known to be good now"
        checks.append(Check(layer="baseline", name="age of the baseline", verdict="WARN", reason="EXPIRED", text=text))
    checks += _beside(baseline, facts)
    for name, cells in baseline.cells.items():
        for at, cell in cells.items():
            row = metrics.metric(name)
            figures = values.get(name, {}).get(at)
            if figures:
                checks.append(against("baseline", row, at, figures, cell.limits(row.better)))
            else:
                checks.append(
                    Check(
                        layer="baseline",
                        name=name,
                        instance=at,
                        verdict="INCONCLUSIVE",
                        reason="NO_DATA",
                        text="in the baseline, not in this record",
                    )
                )
    return checks


def _beside(baseline: Baseline, facts: Mapping[str, Fact]) -> list[Check]:
    """A warning for what no good machine has, though it makes no other class."""
    text = "not that of the good machines: of the same class all the same, but figures may differ by it"
    return [
        Check(
            layer="baseline",
            name=name,
            verdict="WARN",
            reason="FACT_MISMATCH",
            value=str(facts[name].value),
            limit=_words(seen),
            text=text,
        )
        for name, seen in baseline.beside.items()
        if seen and facts[name].value and str(facts[name].value) not in seen
    ]


def stability(values: metrics.Values) -> list[Check]:
    """Rounds that differ by more than 5 %: faults that come and go, which the best round would hide."""
    checks = []
    for name, cells in values.items():
        row = metrics.BY_NAME[name]
        for at, figures in cells.items():
            if not row.ratio and spread(figures) > UNSTABLE:
                checks.append(
                    Check(
                        layer="stability",
                        name=name,
                        instance=at,
                        verdict="WARN",
                        reason="UNSTABLE",
                        value=best(figures, row.better),
                        unit=row.unit,
                        limit=f"rounds within {UNSTABLE * 100:g} %",
                        rounds=figures,
                        text=f"rounds differ by {spread(figures) * 100:.1f} %",
                    )
                )
    return checks


def together(shares: Mapping[str, tuple[float, ...]]) -> list[Check]:
    """Cores of one node whose shares are unlike when all are at work, in every round: one, or its way, is slow."""
    return [
        Check(
            layer="stability",
            name="cores together",
            instance=at,
            verdict="WARN",
            reason="UNEVEN",
            value=best(figures, "high"),
            unit="ratio",
            limit=f"{UNEVEN:g} and more",
            rounds=figures,
            text=f"with all cores of the node at work one gets {best(figures, 'high'):.2f} of what another gets",
        )
        for at, figures in shares.items()
        if best(figures, "high") < UNEVEN
    ]


def symmetry(
    family: str,
    cells: Mapping[matrix.Pair, matrix.Cell],
    again: Mapping[matrix.Pair, Sequence[float]] | None = None,
    limits: tuple[float, float] = (matrix.WARN, matrix.FAIL),
    severity: str = "fail",
) -> tuple[list[Check], list[matrix.Fault]]:
    """One matrix against itself: a check per fault, noise and mode included, or one that says what held."""
    better = metrics.BY_NAME[f"{family}.local"].better
    unit = metrics.BY_NAME[f"{family}.local"].unit
    warn, fail = limits
    compared = matrix.compared(cells, better)
    if not compared:
        text = "no two cells that should be alike: nothing to hold this machine against"
        return [Check(layer="symmetry", name=family, verdict="SKIP", reason="NO_DATA", text=text)], []
    odd = matrix.oddities(cells, better, again, warn)
    # A busy round cannot fail a machine: what its best round does not show is no fault that stays.
    both = {
        pair: [rounds(values) for values in (cell.values, (again or {}).get(pair)) if values]
        for pair, cell in cells.items()
    }
    finest = {pair: cells[pair]._replace(values=(best(sum(found, ()), better),)) for pair, found in both.items()}
    at_best = matrix.deviations(finest, better)
    found = matrix.faults(odd, list(cells))
    checks = []
    for fault in found:
        worst = fault.worst
        slower = worst.deviation > 0
        verdict: Verdict = "SUSPECT"
        reason: Reason = "UNCONFIRMED"
        said = ""
        if worst.kind == "persistent":
            stays = max(at_best.get(cell.pair, 0.0) for cell in fault.cells)
            severe = abs(worst.deviation) > fail and slower and severity == "fail" and stays > fail
            verdict, reason = ("FAIL" if severe else "WARN"), "ASYMMETRIC"
            if slower and stays <= fail < worst.deviation:
                said = f"; in its best round {_size(stays)}: it comes and goes, or others were at work"
        text = f"{fault.name} {_size(worst.deviation)} than its like{said}"
        checks.append(_odd(family, unit, worst, cells, verdict, reason, text))
    for one in odd:
        if one.kind == "noise":
            text = "measured again at once, the cell fits: noise"
            checks.append(_odd(family, unit, one, cells, "WARN", "NOISE", text))
        elif one.kind == "mode asymmetry":
            text = "the same in every package, or both ways of the pair: the mode's"
            checks.append(_odd(family, unit, one, cells, "PASS", "MODE", text))
    if not found:
        text = f"{len(compared)} of {len(cells)} cells could be compared, and fit within {warn * 100:g} %"
        checks.append(Check(layer="symmetry", name=family, verdict="PASS", text=text))
    return checks, found


def _size(deviation: float) -> str:
    return f"{abs(deviation) * 100:.1f} % {'worse' if deviation > 0 else 'better'}"


def _odd(
    family: str,
    unit: str,
    one: matrix.Oddity,
    cells: Mapping[matrix.Pair, matrix.Cell],
    verdict: Verdict,
    reason: Reason,
    text: str,
) -> Check:
    return Check(
        layer="symmetry",
        name=family,
        instance=metrics.instance(one.pair),
        verdict=verdict,
        reason=reason,
        value=median(cells[one.pair].values),
        unit=unit,
        limit=f"{format_value(one.reference)} {unit} in its class",
        margin=-one.deviation,
        text=f"{text}; {one.kind}, confidence {one.confidence:.3f}",
    )
