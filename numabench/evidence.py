# SPDX-License-Identifier: Apache-2.0
"""What a pass over a case proves and what it does not: facts seen while it ran, and the flags they raise."""

from __future__ import annotations

from numabench import _core, kernels
from numabench.analysis import stats
from numabench.disturbance import Disturbance
from numabench.machine import Machine
from numabench.memory import HUGE_BYTES, Buffer, Proof
from numabench.series import Case, Evidence

CLOCK_OFF = 0.01
SWITCHES, SWITCHES_PER_S = 3, 20  # involuntary, within the windows: more means that others run on these CPUs
CLOCK_SHARE, CLOCK_STEPS = 0.05, 1000  # what reading the clock may take; readings and steps that a window must hold
# A second thread leaves half of a core's width (nmb_core_width): below this share of the most ever seen one was there.
# In one probe of ten, and not in a single one, since an interrupt takes its time from a probe, too.
SHARED_WIDTH, SHARED_SHARE = 0.75, 0.1

# Ratios that must be 1 (series.Evidence.twins), and the flag where one is so much above. Rows of DRAM that stay open
# make 1.04 of ``apart`` at 256 bytes (EPYC of 2024); a prefetcher of neighbours 1.2 at 64 bytes.
TWINS = {
    "half": ("not_plateau", 1.05),
    "apart": ("prefetch_suspect", 1.10),
    "laps": ("chain_learned", 1.03),
}


def evidence(
    case: Case,
    buffers: list[Buffer],
    before: list[Proof],
    after: list[Proof],
    windows: list[list[_core.Stamp]],
    changes: Disturbance,
    clock: _core.Clock,
    call_ns: float | None = None,
) -> dict[str, object]:
    """Fields of Evidence that every family shares, from two proofs and the stamps between them.

    ``call_ns``: what a call of the kernel costs besides its elements (timing.call_ns).
    """
    stamps = [stamp for window in windows for stamp in window]
    hz = [x for stamp in stamps for x in (stamp.core_hz_before, stamp.core_hz_after) if x]
    widths = [x for stamp in stamps for x in (stamp.width_before, stamp.width_after) if x]
    seen: dict[int, int] = {}
    for proof in after:
        for node, pages in proof.seen.items():
            seen[node] = seen.get(node, 0) + pages
    requested: dict[int, float] = {}
    for buffer in buffers:
        for node in buffer.nodes:
            requested[node] = requested.get(node, 0.0) + buffer.bytes / len(buffer.nodes)
    misplaced = sum(
        proof.misplaced(buffer.nodes)
        for buffer, *proofs in zip(buffers, before, after, strict=True)
        for proof in proofs
        if buffer.nodes
    )
    moved = sum(
        new.placement.moved_since(old.placement)
        for old, new in zip(before, after, strict=True)
        if old.placement is not None and new.placement is not None
    )
    worst = min(after, key=lambda proof: proof.kind_share)
    starts = [[stamp.start_ns for stamp in window] for window in windows]
    return {
        "placement_requested": {node: size / sum(requested.values()) for node, size in requested.items()},
        "placement_seen": seen,
        "placement_how": "+".join(dict.fromkeys(buffer.how for buffer in buffers)),
        "proof": after[0].how,
        "pages_checked": sum(proof.pages for proof in after),
        "pages_misplaced": misplaced,
        "pages_absent": sum(proof.absent for proof in after),
        "page_step_bytes": after[0].step_bytes,
        "page_kind_asked": case.pages,
        "page_kind_seen": worst.kind_seen,
        "page_kind_share": min(worst.kind_share, *(proof.kind_share for proof in before)),
        # Pages are touched by the target's nearest CPUs, those of a file by its user.
        "page_tables": "initiator" if buffers[0].how == "first_read" else "target",
        "migrated": moved,
        "cpus_asked": case.cpus,
        "cpus_seen": tuple(sorted({cpu for stamp in stamps for cpu in (stamp.cpu_start, stamp.cpu_end)})),
        "tier": kernels.tiers_seen(stamp.tier for stamp in stamps),
        "variant": kernels.kernel(case.kernel, case.tier).variant,
        "clock": clock.source,
        "clock_share": max((s.calls + 2) * clock.overhead_ns / max(s.end_ns - s.start_ns, 1.0) for s in stamps),
        "call_share": None
        if call_ns is None
        else max(s.calls * call_ns / max(s.end_ns - s.start_ns, 1.0) for s in stamps),
        "core_hz_seen": (min(hz), max(hz)) if hz else (0.0, 0.0),
        "core_width": (min(widths), max(widths)) if widths else (0.0, 0.0),
        "switches": sum(stamp.involuntary_switches for stamp in stamps),
        "faults": sum(stamp.minor_faults for stamp in stamps),
        "voluntary_switches": sum(stamp.voluntary_switches for stamp in stamps),
        "steal_share": changes.steal_share,
        "throttled_us": changes.throttled_us,
        "throttled_count": changes.throttled_count,
        "cpu_pressure_us": changes.cpu_pressure_us,
        "own_wait_us": changes.own_wait_us,
        "memory_pressure_us": changes.memory_pressure_us,
        "sibling_share": changes.sibling_share,
        "nodes_allowed": changes.nodes_allowed,
        "vmstat": changes.moved,
        "skew_ns": max(max(row) - min(row) for row in starts),
    }


def shared(windows: list[list[_core.Stamp]], machine: Machine, widest: dict[int, float]) -> float | None:
    """Of the probes around the windows, the share in which a core gave so little that a second thread worked there.

    ``widest`` is the most by kind of core so far, and grows. Cores that two threads of the run itself use tell nothing.
    None: no probe told anything; 0 for a single one.
    """
    own = {stamp.cpu for window in windows for stamp in window}
    probes = [
        (machine.cpu(stamp.cpu).kind, width)
        for window in windows
        for stamp in window
        if stamp.cpu >= 0 and not own.intersection(set(machine.siblings(stamp.cpu)) - {stamp.cpu})
        for width in (stamp.width_before, stamp.width_after)
        if width
    ]
    for kind, width in probes:
        widest[kind] = max(widest.get(kind, 0.0), width)
    few = sum(width < SHARED_WIDTH * widest[kind] for kind, width in probes)
    return few / len(probes) * (few > 1) if probes else None


def flags(
    case: Case,
    seen: Evidence,
    changes: Disturbance,
    windows: list[list[_core.Stamp]],
    settled: bool,
    machine: Machine,
    clock: _core.Clock,
    balancing: bool = False,
) -> tuple[str, ...]:
    """Names of the checks that this sample fails. ``balancing``: the system moves pages that nobody bound."""
    stamps = [stamp for window in windows for stamp in window]
    span = windows[0][0].end_ns - windows[0][0].start_ns
    low, high = seen.core_hz_seen
    timed_s = sum(max(s.end_ns for s in window) - min(s.start_ns for s in window) for window in windows) / 1e9
    checks = {
        "misplaced": seen.pages_misplaced > 0
        or (seen.placement_timed is not None and seen.placement_timed not in seen.placement_requested),
        "not_resident": seen.pages_absent > 0,
        "migrated": seen.migrated > 0,
        "wrong_tier": kernels.wrong_tier(case.tier, seen.tier),
        "unpinned": any(stamp.cpu_start != stamp.cpu or stamp.cpu_end != stamp.cpu for stamp in stamps),
        "clock_jumped": abs(seen.clock_off) > CLOCK_OFF,
        "impossible_rate": any(impossible(kernels.kernel(case.kernel, case.tier), stamp) for stamp in stamps),
        "unverified_placement": seen.proof == "none",
        "page_kind_mixed": seen.page_kind_share < 0.99,
        "not_steady": not settled,
        "freq_moved": high > low * 1.02 and stats.variation([s.core_hz_before for s in stamps]) > 0.02,
        "cache_suspect": case.cache_suspect,
        # A binding exempts a buffer, and so do huge pages of the pool.
        "balancing_on": balancing and "first_touch" in seen.placement_how and case.pages not in HUGE_BYTES,
        **{flag: seen.twins.get(twin, 1.0) > limit for twin, (flag, limit) in TWINS.items()},
        "timer_coarse": max(seen.clock_share, seen.call_share or 0.0) > CLOCK_SHARE
        or span < CLOCK_STEPS * (clock.overhead_ns + clock.step_ns),
        "skewed": seen.skew_ns > 0.02 * span,
        "sibling_busy": (seen.shared_share or 0.0) > SHARED_SHARE,
        "oversubscribed": len(set(case.cpus)) < len(case.cpus),
        "topology_unproven": machine.topology_unproven and len(case.cpus) > 1,
    }
    if seen.switches > max(SWITCHES, SWITCHES_PER_S * timed_s * len(case.cpus)):
        checks["contended"] = True
    # Pages proven to have stayed need no suspicion.
    others = [name for name in changes.flags if name != "migration_suspected" or seen.proof != "move_pages"]
    return tuple(dict.fromkeys((*(name for name, raised in checks.items() if raised), *others)))


def impossible(kernel: _core.Kernel, stamp: _core.Stamp) -> bool:
    """Whether a thread did more per cycle than any core can; only where the frequency was measured.

    No core has sixteen loads on the way that each wait 3 cycles for their predecessor, or moves 512 bytes in one.
    """
    hz, seconds = max(stamp.core_hz_before, stamp.core_hz_after), (stamp.end_ns - stamp.start_ns) / 1e9
    if not hz or seconds <= 0 or kernel.family not in ("stream", "stride", "blas1", "chase"):
        return False
    each = kernel.bytes_read + kernel.bytes_written
    most = 16 / 3 if kernel.dependent else 512 / each
    return bool(stamp.elements / (seconds * hz) > most)


def prefetch(case: Case, twins: dict[str, float]) -> str:
    """Whether fetching ahead has a part in the figure: by the kind of access, or as the twin shows."""
    if kernels.kernel(case.kernel, case.tier).family in ("stream", "stride", "blas1", "gemm", "gemv"):
        return "sequential"
    if "apart" not in twins:
        return ""
    return "sensitive" if twins["apart"] > TWINS["apart"][1] else "insensitive"
