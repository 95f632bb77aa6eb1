# SPDX-License-Identifier: Apache-2.0
"""Instances as real processes: one pass starts them afresh, runs a closed loop, then arrivals, and proves the pages."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any, NamedTuple

from numabench import _core, kernels, layout, presets
from numabench.analysis import tails
from numabench.disturbance import Disturbance, Watch
from numabench.errors import NumabenchError
from numabench.instance.drive import Fleet, Place, Run
from numabench.instance.exchange import exchange_bytes
from numabench.instance.spec import Spec
from numabench.jobs.base import Bench
from numabench.machine import Machine
from numabench.series import Case, Evidence, Options, Sample

WINDOW_S = {"quick": 0.8, "standard": 2.0, "full": 5.0}
WARM_S = {"quick": 0.5, "standard": 1.0, "full": 3.0}
WINDOWS = 4
SHARES = (0.5, 0.95, 0.99)
TAIL = 256  # longest requests of a pass that are kept, for percentiles over passes
HOG_MARGIN_S = 0.2  # a neighbour works on so long after the last arrival
PROBES = 5  # halvings of the search for the highest rate
FAR_S, FIXED_STEPS = 60.0, 5


def seconds(group: Sequence[Case], options: Options) -> float:
    """Forecast of one pass: start, load, warm up, windows, arrivals at their rates."""
    arrivals = sum(10.0 for case in group if int(case.params.get("requests", 0)))
    return 1.0 + WARM_S[options.profile] + len(group) * WINDOW_S[options.profile] + arrivals


def model_of(case: Case) -> presets.Model:
    """The model that a case's params describe."""
    p = case.params
    made = presets.make(
        str(p["preset"]),
        batch=int(p["batch"]),
        dtype=str(p["dtype"]),
        layers=int(p["layers"]),
        ctx=int(p.get("ctx", 2048)),
        shard=int(p.get("shard", 1)),
        l2_bytes=int(p.get("l2_bytes", 1 << 20)),
    )
    return presets.with_prefill(made, int(p["prompt"])) if p.get("prompt") else made


def places(case: Case, machine: Machine, fd: int = 0, exchange: int = 0) -> list[Place]:
    """One process per instance: its CPUs in the order of the case, the nodes of its memory, how it is bound.

    ``exchange``: where the instances, ranks of one model, add up.
    """
    p = case.params
    model, threads = model_of(case), int(p["threads"])
    nodes = [tuple(int(n) for n in part.split(",")) for part in str(p["nodes"]).split("|")]
    found = []
    for i in range(int(p["instances"])):
        cpus = case.cpus[i * threads : (i + 1) * threads]
        mine, affinity = nodes[i % len(nodes)], cpus
        weights = str(p.get("weights", "private"))
        if p["binding"] == "none":
            cpus, affinity = (_core.ANY_CPU,) * threads, machine.allowed_cpus
        elif p["binding"] == "node":
            own = {machine.cpu(cpu).node for cpu in cpus}
            affinity = tuple(c for c in machine.allowed_cpus if machine.cpu(c).node in own)
            cpus = (_core.ANY_CPU,) * threads
        spec = Spec(
            model=model,
            cpus=cpus,
            nodes=mine,
            weights="interleave" if weights == "private" and len(mine) > 1 else weights,
            loader=str(p.get("loader", "workers")),
            wait=str(p.get("wait", "spin")),
            pages=case.pages,
            tier=case.tier,
            fd=fd,
            writes=i == 0,
            rank=i if exchange else 0,
            ranks=int(p["instances"]) if exchange else 1,
            exchange=exchange,
        )
        found.append(Place(spec, affinity))
    return found


def free_cpu(machine: Machine, used: Sequence[int]) -> int | None:
    """A CPU for the generator: on a core of its own, on a node that the instances use last; None without one."""
    busy = {sibling for cpu in used for sibling in machine.siblings(cpu)}
    left = [cpu for cpu in machine.allowed_cpus if cpu not in busy]
    return left[-1] if left else None


class _Taken(NamedTuple):
    """What one case of a pass ran."""

    closed: Run
    opened: Run | None
    more: dict[str, float]


def samples(bench: Bench, group: Sequence[Case], number: int, position: int, seed: int) -> list[Sample]:
    """One pass: fresh processes, and every case of the group on them. Raises NumabenchError.

    Cases with a neighbour (``aggressor``, at work when ``on``, for ``duty`` percent of the time) have a closed loop
    each; all others share one.
    """
    first, profile = group[0], bench.options.profile
    with ExitStack() as stack:
        fleet = stack.enter_context(Fleet(places(first, bench.machine, *_shared(stack, first))))
        hog = next(
            (stack.enter_context(Fleet([_hog(c, bench.machine)])) for c in group if c.params.get("aggressor")), None
        )
        steady = fleet.warm(WARM_S[profile])
        watch = Watch(first.cpus)
        watch.start()
        # Without a neighbour: what all cases share, or the rate that arrivals are told from in all of them.
        alone = fleet.closed(WINDOW_S[profile], int(first.params.get("steps", 1)))
        shared, peak = None if hog else alone, alone.per_second
        taken = [_take(case, fleet, hog, shared, peak, bench, seed) for case in group]
        extras = _predicted(first, fleet, taken[0].closed) if first.params.get("predict") else {}
        proofs, changes = fleet.prove(), watch.stop()
        return [
            _sample(case, fleet, one, proofs, changes, steady, extras, number, position + i)
            for i, (case, one) in enumerate(zip(group, taken, strict=True))
        ]


@contextmanager
def fixed(bench: Bench, case: Case, seed: int) -> Iterator[Callable[[], object]]:
    """A call that serves the same few steps on every instance each time it is made."""
    with ExitStack() as stack:
        fleet = stack.enter_context(Fleet(places(case, bench.machine, *_shared(stack, case))))

        def few() -> Run:
            fleet.begin(FAR_S, most=FIXED_STEPS)
            return fleet.finish()

        yield few


def _shared(stack: ExitStack, case: Case) -> tuple[int, int]:
    """Memfds for weights that all instances of a case share and for sums of its ranks; 0 where there are none."""
    found, model = [0, 0], model_of(case)
    if case.params.get("weights") == "shared":
        found[0] = _memfd(stack, "weights", model.weight_bytes + (64 << 20) + len(case.cpus) * (4 << 20))
    if case.params.get("ranks"):
        size = exchange_bytes(model, int(case.params["instances"]), int(case.params["threads"]))
        found[1] = _memfd(stack, "exchange", size)
    return found[0], found[1]


def _memfd(stack: ExitStack, what: str, size: int) -> int:
    fd = os.memfd_create(f"numabench-{what}")
    stack.callback(os.close, fd)
    os.ftruncate(fd, size)
    return fd


def _hog(case: Case, machine: Machine) -> Place:
    """The neighbour of a case: a model or a stream on CPUs of its own, or roaming over the node; memory beside them."""
    cpus = tuple(int(c) for c in str(case.params["aggressor_cpus"]).split(","))
    preset = str(case.params["aggressor"])
    model = model_of(case) if preset == case.params["preset"] else presets.make(preset)
    node = machine.cpu(cpus[0]).node
    nodes = (layout.memory_of(machine, node if node is not None else machine.targets()[0]),)
    affinity = cpus
    if case.params["binding"] != "cores":
        cpus, affinity = (_core.ANY_CPU,) * len(cpus), places(case, machine)[0].affinity
    return Place(Spec(model=model, cpus=cpus, nodes=nodes, wait="polite", tier=case.tier), affinity)


@contextmanager
def _at_work(case: Case, hog: Fleet | None, seconds: float, more: dict[str, float], name: str) -> Iterator[None]:
    """The neighbour works, if the case wants it, from before until after; what it did goes into ``more``."""
    if hog is None or not case.params.get("on"):
        yield
        return
    used, began = hog.cpu_s(), time.monotonic()
    hog.begin(seconds, duty=int(case.params.get("duty", 0)))
    yield
    more[f"aggressor_{name}_per_s"] = hog.finish().per_second
    more[f"aggressor_{name}_share"] = (hog.cpu_s() - used) / (time.monotonic() - began) / len(hog_cpus(case))


def hog_cpus(case: Case) -> tuple[int, ...]:
    """CPUs of the neighbour, none without one."""
    return tuple(int(c) for c in str(case.params.get("aggressor_cpus", "")).split(",") if c)


def _take(
    case: Case, fleet: Fleet, hog: Fleet | None, shared: Run | None, peak: float, bench: Bench, seed: int
) -> _Taken:
    """The closed loop, unless it is shared, and what the case asks for beside it."""
    p, window, steps = case.params, WINDOW_S[bench.options.profile], int(case.params.get("steps", 1))
    more: dict[str, float] = {}
    closed = shared
    if closed is None:
        with _at_work(case, hog, window, more, "closed"):
            closed = fleet.closed(window, steps)
    if p.get("stall_s"):
        held = fleet.closed(max(window, 3 * float(p["stall_s"])), steps, stall=(5, float(p["stall_s"])))
        more["stalled_closed_requests"] = float(len(held.services))
        for share in SHARES:
            q = tails.quantile(held.services, share)
            if q.value is not None:
                more[f"stalled_closed_p{share * 100:.0f}_ns"] = q.value
    if p.get("bound_steps") or p.get("bound_ms"):
        more |= _highest(case, fleet, closed, bench.machine, seed)
    return _Taken(closed, _arrivals(case, fleet, hog, peak, bench.machine, seed, more), more)


def _highest(case: Case, fleet: Fleet, closed: Run, machine: Machine, seed: int) -> dict[str, float]:
    """The greatest Poisson rate at which p99 is proven to stay below the bound, by halving (as MLPerf Server).

    The bound is given (``bound_ms``), or so many times the closed loop's median service time (``bound_steps``). Raises
    NumabenchError when no rate keeps it.
    """
    p, cpu = case.params, free_cpu(machine, case.cpus)
    steps, count = int(p.get("steps", 1)), int(p["requests"])
    bound = float(p.get("bound_ms", 0)) * 1e6 or float(p["bound_steps"]) * median(closed.services)
    peak = closed.per_second

    def probe(rate: float) -> bool | None:
        run = fleet.opened(tails.arrivals(rate, count, seed), cpu, steps)
        return None if tails.late(run.late, run.services) else tails.holds(run.latencies, bound)

    best, tried = tails.highest_rate(probe, 0.1 * peak, 0.98 * peak, PROBES)
    if best is None:
        raise NumabenchError(
            f"no rate tried from {0.1 * peak:.1f}/s on is proven to keep p99 below {bound / 1e6:.1f} ms"
        )
    return {"highest_per_s": best, "bound_ns": bound, "probes": float(len(tried)), "peak_per_s": peak}


def _arrivals(
    case: Case, fleet: Fleet, hog: Fleet | None, peak: float, machine: Machine, seed: int, more: dict[str, float]
) -> Run | None:
    """Requests at a share of the closed loop's own rate, or None where the case asks for none."""
    p = case.params
    count, share = int(p.get("requests", 0)), float(p.get("share", 0.7))
    cpu = free_cpu(machine, (*case.cpus, *hog_cpus(case)))
    if not count or case.unit == "requests/s":
        return None
    if cpu is None:
        if case.unit == "ns":
            raise NumabenchError("latency not valid: generator shares cores")
        return None
    if not peak:
        raise NumabenchError("no request was served in the closed loop")
    stall = (count // 4, float(p["stall_s"])) if p.get("stall_s") else None
    times = tails.arrivals(peak * share, count, seed, str(p.get("arrivals", "poisson")))
    with _at_work(case, hog, times[-1] / 1e9 + HOG_MARGIN_S, more, "open"):
        return fleet.opened(times, cpu, int(p.get("steps", 1)), stall)


def _predicted(case: Case, fleet: Fleet, closed: Run) -> dict[str, float]:
    """What the ceilings, measured now on the same pages, say a step should take."""
    model, found = model_of(case), fleet.ceilings()
    made = presets.predict(model, found, int(case.params["threads"]), median(closed.services))
    return {
        "predicted_ns": made.predicted_ns,
        "measured_over_predicted": made.ratio,
        "dominant": float(presets.PARTS.index(made.dominant)),
        "read_gb_per_s": found.read_gb_per_s,
        "barrier_ns": found.barrier_ns,
        **({"allreduce_share": made.allreduce_share} if made.allreduce_share else {}),
        "gflop_per_s": max(found.gflop_per_s.values()),
    }


def _sample(
    case: Case,
    fleet: Fleet,
    taken: _Taken,
    proofs: list[dict[str, Any]],
    changes: Disturbance,
    steady: bool,
    extras: dict[str, float],
    number: int,
    position: int,
) -> Sample:
    closed, run = taken.closed, taken.opened
    extras = extras | _figures(fleet, closed, run) | taken.more
    windows = tuple(closed.rates(WINDOWS))
    value, kept = closed.per_second, closed.services
    if case.params.get("tail") == "open":
        kept = run.latencies if run is not None else []
    if case.unit == "ns":
        assert run is not None
        windows = tuple(run.latencies)
        tail = tails.quantile(windows, float(case.params.get("quantile", 0.99)))
        if tail.value is None:
            raise NumabenchError(tail.text())
        value = tail.value
    elif case.unit == "requests/s":
        value = extras["highest_per_s"]
        windows = (value,)
    seen = _evidence(case, fleet, proofs, [closed] + ([run] if run else []), changes)
    flags = _flags(case, fleet, seen, proofs, changes, steady, run)
    return Sample(
        number=number, position=position, value=value, windows=windows, evidence=seen, flags=flags, extras=extras,
        tail=tuple(sorted(kept, reverse=True)[:TAIL]), tail_of=len(kept),
    )  # fmt: skip


def _figures(fleet: Fleet, closed: Run, run: Run | None) -> dict[str, float]:
    """Percentiles where the sample carries them; nothing where it does not."""
    found = {
        "steps_per_s": closed.per_second,
        "requests": float(len(closed.services)),
        "ram_bytes": float(sum(a["ram_bytes"] for a in fleet.answers)),
        "load_s": max(a["load_s"] for a in fleet.answers),
    }
    for share in SHARES:
        q = tails.quantile(closed.services, share)
        if q.value is not None:
            found[f"p{share * 100:.0f}_ns"] = q.value
    if run is not None and run.latencies:
        waiting = [r.start - r.scheduled for r in run.requests if r.done]
        found |= {"open_requests": float(len(run.latencies)), "open_wait_p50_ns": float(median(waiting))}
        found["late_p99_ns"] = sorted(run.late)[int(0.99 * (len(run.late) - 1))]
        found["open_per_s"] = len(run.latencies) / run.window_ns * 1e9
        for share in SHARES:
            q, s = tails.quantile(run.latencies, share), tails.quantile(run.services, share)
            if q.value is not None and q.ci is not None and s.value is not None:
                found[f"open_p{share * 100:.0f}_ns"] = q.value
                found[f"open_p{share * 100:.0f}_low_ns"], found[f"open_p{share * 100:.0f}_high_ns"] = q.ci
                found[f"open_service_p{share * 100:.0f}_ns"] = s.value
    return found


def _evidence(
    case: Case, fleet: Fleet, proofs: list[dict[str, Any]], runs: list[Run], changes: Disturbance
) -> Evidence:
    seen: dict[int, int] = {}
    for proof in proofs:
        for node, pages in proof["placement_seen"].items():
            seen[int(node)] = seen.get(int(node), 0) + pages
    nodes = sorted({int(n) for n in str(case.params["nodes"]).replace("|", ",").split(",")})
    answers = [answer for run in runs for answer in run.answers]
    sums = {name: sum(proof[name] for proof in proofs) for name in ("pages_checked", "pages_misplaced", "pages_absent")}
    return Evidence(
        placement_requested=dict.fromkeys(nodes, 1 / len(nodes)),
        placement_seen=seen,
        placement_how=proofs[0]["placement_how"],
        proof=proofs[0]["proof"],
        **sums,
        page_step_bytes=proofs[0]["page_step_bytes"],
        page_kind_asked=case.pages,
        page_kind_seen=proofs[0]["page_kind_seen"],
        page_kind_share=min(proof["page_kind_share"] for proof in proofs),
        page_tables="target",
        migrated=sum(proof["migrated"] for proof in proofs),
        cpus_asked=case.cpus,
        cpus_seen=tuple(sorted({cpu for answer in answers for cpu in answer["cpus_seen"]})),
        tier=kernels.tiers_seen(answer["tier"] for answer in answers),
        clock="monotonic",
        switches=sum(answer["switches"] for answer in answers),
        faults=sum(answer["faults"] for answer in answers),
        steal_share=changes.steal_share or 0.0,
        throttled_us=changes.throttled_us or 0,
        checksum=fleet.answers[0]["checksum"],
    )


def _flags(
    case: Case,
    fleet: Fleet,
    seen: Evidence,
    proofs: list[dict[str, Any]],
    changes: Disturbance,
    steady: bool,
    run: Run | None,
) -> tuple[str, ...]:
    """Names of the checks that this sample fails. Where nothing was bound, nothing can be off its place."""
    roams = case.params["binding"] == "none"
    checks = {
        "misplaced": seen.pages_misplaced > 0 and not roams,
        "not_resident": seen.pages_absent > 0,
        "migrated": seen.migrated > 0 and not roams,
        "wrong_tier": kernels.wrong_tier(case.tier, seen.tier),
        "unpinned": case.params["binding"] == "cores" and not all(a["pinned"] for r in [run] if r for a in r.answers),
        "bad_result": len({a["checksum"] for a in fleet.answers}) > 1 or len({p["outputs"] for p in proofs}) > 1,
        "generator_late": run is not None and tails.late(run.late, run.services),
        "unverified_placement": seen.proof == "none",
        "page_kind_mixed": case.pages == "thp" and seen.page_kind_share < 0.99,
        "not_steady": not steady,
        "oversubscribed": len(set(case.cpus)) < len(case.cpus),
    }
    others = [name for name in changes.flags if name != "migration_suspected" or seen.proof != "move_pages"]
    return (*(name for name, raised in checks.items() if raised), *others)
