# SPDX-License-Identifier: Apache-2.0
"""A record to a result: all layers in their order, causes, one verdict. Pure; `measured_again` alone measures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from numabench.analysis import matrix
from numabench.analysis.verdict import WORST_FIRST, Verdict, overall
from numabench.record import Record
from numabench.series import Series
from numabench.validation import causes, details, layers, metrics, preflight
from numabench.validation.baseline import Baseline
from numabench.validation.facts import cohort, facts, theoretical_gb_per_s
from numabench.validation.outcome import Check, Result
from numabench.validation.spec import Spec, Symmetry

Again = Mapping[str, Mapping[matrix.Pair, Sequence[float]]]  # family: pair: passes of the second measurement
EXPERIMENTS = ("latency", "bandwidth", "prefetch")  # and those that a specification or baseline asks for


def validate(
    record: Record,
    *,
    host: str = "",
    spec: Spec | None = None,
    baseline: Baseline | None = None,
    again: Again | None = None,
    machine_id: str = "",
    job: Mapping[str, str] | None = None,
    command: str = "",
) -> Result:
    """Hold a record against a specification, a baseline, and itself. The same input gives the same bytes."""
    known = facts(record)
    theoretical = theoretical_gb_per_s(known)
    values, missing = metrics.extract(record.series, record.machine, theoretical)
    measured = [series for series in record.series if series.samples]
    checks = preflight.preflight(known, metrics.flagged(measured), len(measured))
    checks += preflight.caches(details.no_cache(measured, record.machine))
    key, of = cohort(record, known)
    faults: dict[str, list[matrix.Fault]] = {}
    wrong = layers.match(spec, known) if spec else []
    checks += wrong
    if spec and not wrong:
        checks += layers.facts_against(spec, known)
        checks += layers.metrics_against(spec.check, values, missing)
    if baseline:
        checks += layers.baseline_against(baseline, key, of, values, record.created, known)
    if not wrong:
        special: dict[str, Symmetry] = {one.metric: one for one in (spec.symmetry if spec else [])}
        for family, (experiment, kernel) in metrics.MATRICES.items():
            cells = metrics.cells(record.machine, metrics.of(record.series, experiment, kernel))
            one = special.get(family)
            limits = (float(one.warn), float(one.fail)) if one else (matrix.WARN, matrix.FAIL)
            if cells:
                found, faults[family] = layers.symmetry(
                    family, cells, (again or {}).get(family), limits, one.severity if one else "fail"
                )
                checks += found
            else:
                why = next((w for label, w in missing.items() if label.startswith(family)), "not measured")
                checks.append(Check(layer="symmetry", name=family, verdict="INCONCLUSIVE", reason="NO_DATA", text=why))
    checks += layers.together(metrics.shares(measured))
    checks += layers.stability(values)
    if not measured:
        checks.append(
            Check(layer="preflight", name="measured", verdict="INCONCLUSIVE", reason="NO_DATA", text="no figure at all")
        )
    doubted = preflight.doubted(checks, metrics.hindered(measured, record.machine))
    checks = sorted(doubted, key=lambda check: WORST_FIRST.index(check.verdict))
    verdict = _verdict(checks, bool(spec or baseline))
    seen = causes.observed(known, checks, faults, values)
    return Result(
        host=host or record.environment.get("host") or "unknown",
        machine_id=machine_id,
        job=dict(job or {}),
        command=command,
        numabench=record.numabench,
        created=record.created,
        against=_against(spec, baseline),
        cohort=key,
        cohort_of=of,
        machine=record.machine.describe(),
        facts=known,
        values=values,
        missing=missing,
        checks=tuple(checks),
        causes=causes.causes(seen) if verdict != "PASS" else (),
        verdict=verdict,
        reason=_reason(checks, verdict),
    )


def _verdict(checks: Sequence[Check], held: bool) -> Verdict:
    """The worst check; but with nothing to be held against (one node, no specification) there is no verdict."""
    found = overall(check.verdict for check in checks)
    judging = [c for c in checks if c.layer in ("facts", "spec", "baseline", "symmetry") and c.verdict != "SKIP"]
    if found in ("PASS", "WARN") and not judging and not held:
        return "INCONCLUSIVE"
    return found


def _against(spec: Spec | None, baseline: Baseline | None) -> str:
    parts = [f"specification {spec.name}"] if spec else []
    parts += [f"baseline of {baseline.n} machine{'s' * (baseline.n != 1)} {baseline.cohort}"] if baseline else []
    return " and ".join(parts) or "itself"


def _reason(checks: Sequence[Check], verdict: str) -> str:
    """The worst check in a line; for a verdict without one, what was missing."""
    first = next((check for check in checks if check.verdict == verdict), None)
    if first is None:
        return "nothing to hold this machine against: a specification or a baseline is needed"
    if verdict == "PASS":
        return f"{sum(check.verdict == 'PASS' for check in checks)} checks passed"
    said = first.text or (f"{first.value:.4g} {first.unit}" if isinstance(first.value, float) else str(first.value))
    if first.text and isinstance(first.value, str):
        said = f"{first.value} {first.text}"
    limit = f" ({first.limit})" if first.limit else ""
    return f"{first.reason} {first.label}: {said}{limit}"


def suspects(record: Record) -> dict[str, list[matrix.Pair]]:
    """{family: pairs to be measured again}: odd cells with all of their class, so that both are of one moment."""
    found = {}
    for family, (experiment, kernel) in metrics.MATRICES.items():
        cells = metrics.cells(record.machine, metrics.of(record.series, experiment, kernel))
        better = metrics.BY_NAME[f"{family}.local"].better
        odd = {one.pair for one in matrix.oddities(cells, better) if one.kind == "unconfirmed"}
        if odd:
            links = {cells[pair].link for pair in odd}
            found[family] = [pair for pair, cell in cells.items() if cell.link in links]
    return found


def second(series: Sequence[Series]) -> dict[str, dict[matrix.Pair, tuple[float, ...]]]:
    """The passes of a second measurement by family and pair."""
    return {
        family: {pair: tuple(metrics.sound(one).values()) for pair, one in metrics.of(series, *where).items()}
        for family, where in metrics.MATRICES.items()
    }


def machine_id() -> str:
    """A hash of the system's machine id, which itself is not to be given away; empty where there is none."""
    try:
        return hashlib.sha256(b"numabench" + Path("/etc/machine-id").read_bytes().strip()).hexdigest()[:16]
    except OSError:
        return ""


def local_rank() -> int:
    """Which of a parallel job's processes on this host this is, as Open MPI, MPICH, Slurm tell it; 0: first."""
    for name in ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"):
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return 0


def host() -> str:
    """The node as its scheduler calls it, else its host name; Linux says (none) where none was ever set."""
    for name in ("SLURMD_NODENAME", "KUBERNETES_NODE_NAME"):
        if os.environ.get(name):
            return os.environ[name]
    name = os.uname().nodename
    return name if name and name != "(none)" else "unknown"
