# SPDX-License-Identifier: Apache-2.0
"""Steps 3 to 7 of the decision tree on facts that are known: each bound, both sides of its threshold, its holes."""

from __future__ import annotations

import msgspec
import pytest

from numabench.analysis import bounds
from numabench.analysis.bounds import FLOPS, FLOPS_OF, LINES, PREFETCHED, Bound, Ceilings, Halved, Judgement, judge
from numabench.analysis.diagnosis import LOCAL, REMOTE, Counter, Facts, Thread

replace = msgspec.structs.replace
MIB = 1 << 20
SECONDS = 10.0
CEILINGS = Ceilings(
    gb_per_s={(0, 0): {1: 10.0, 4: 40.0, 8: 60.0}, (0, 1): {1: 5.0, 4: 20.0, 8: 25.0}},
    gflop_per_s={"f64": {1: 50.0, 4: 200.0}, "f32": {4: 400.0}},
    idle_ns={(0, 0): 100.0, (0, 1): 200.0},
    walk_ns=30.0,
)


def thread(tid: int, blocked: float | None = 0.0, run_s: float = SECONDS) -> Thread:
    return Thread(tid=tid, name="t", run_s=run_s, wait_s=0.0, cpus={tid: 100}, migrations=0, blocked=blocked)


def counted(**values: float) -> tuple[Counter, ...]:
    """Counters by name, with _ for a blank or a dash."""
    names = {"lines": LINES, "prefetched": PREFETCHED, "flops": FLOPS, "local": LOCAL, "remote": REMOTE}
    names |= {"llc": "LLC-load-misses", "dtlb": "dTLB-load-misses"} | {
        name.replace(" ", "_"): name for name in FLOPS_OF
    }
    return tuple(Counter(name=names.get(name, name), value=value, counted=1.0) for name, value in values.items())


# Four threads on node 0 with their pages; little of anything, of all that can be counted.
CALM = Facts(
    seconds=SECONDS,
    threads=tuple(thread(tid) for tid in range(4)),
    allowed=tuple(range(8)),
    run_by_node={0: 4 * SECONDS},
    anonymous={0: 500 * MIB},
    files={},
    counters=counted(lines=1e6, flops=1e9, local=1e6, dtlb=1e6, cycles=1e11, instructions=2e11),
)


def with_counts(facts: Facts, **values: float) -> Facts:
    """The same with some counters of other values."""
    merged = {c.name: c for c in (*facts.counters, *counted(**values))}
    return replace(facts, counters=tuple(merged.values()))


def only(judgement: Judgement) -> Bound:
    (bound,) = judgement.bounds
    return bound


def causes(facts: Facts, ceilings: Ceilings = CEILINGS, halved: Halved | None = None) -> list[str]:
    return [bound.cause for bound in judge(facts, ceilings, halved).bounds]


def test_what_reaches_no_ceiling_is_unexplained_and_its_figures_are_told() -> None:
    found = judge(CALM, CEILINGS)
    assert only(found).cause == "unexplained"
    assert found.unseen == ()
    assert len(found.figures) == 5, found.figures
    assert all(figure in only(found).evidence for figure in found.figures)


@pytest.mark.parametrize(("share", "bound"), [(0.84, False), (0.86, True), (1.1, True)])
def test_bandwidth_is_what_so_many_cores_read_from_there(share: float, bound: bool) -> None:
    lines = share * 40e9 * SECONDS / 64
    facts = with_counts(CALM, lines=lines)
    assert ("bandwidth" in causes(facts)) == bound
    both = with_counts(CALM, lines=lines / 2, prefetched=lines / 2)
    assert ("bandwidth" in causes(both)) == bound, "lines fetched ahead count too"
    loads = replace(CALM, counters=counted(llc=lines, local=1e6, cycles=1e11, instructions=2e11))
    assert ("bandwidth" in causes(loads)) == bound, "misses of the last cache where lines are not counted"
    if bound:
        found = only(judge(facts, CEILINGS))
        assert found.share == pytest.approx(share)
        assert found.gain is None
        assert "4 cores of node 0" in found.evidence


def test_remote_memory_that_is_full_has_a_gain_of_local_over_remote() -> None:
    facts = with_counts(replace(CALM, anonymous={1: 500 * MIB}), lines=0.9 * 20e9 * SECONDS / 64)
    found = only(judge(facts, CEILINGS))
    assert found.cause == "remote bandwidth"
    assert found.gain == pytest.approx(2.0)
    holes = replace(CEILINGS, gb_per_s={(0, 1): {4: 20.0}})
    assert only(judge(facts, holes)).gain is None, "without a local ceiling no gain is promised"


def test_traffic_is_spread_over_the_nodes_of_its_pages() -> None:
    spread = replace(CALM, anonymous={0: 250 * MIB}, files={"/model": {1: 250 * MIB}})
    assert bounds.traffic(spread) == {(0, 0): 0.5, (0, 1): 0.5}
    lines = 38e9 * SECONDS / 64  # 19 GB/s each: 48 % of the near, 95 % of the far ceiling
    assert only(judge(with_counts(spread, lines=lines), CEILINGS)).cause == "remote bandwidth"


def test_a_ceiling_between_two_measured_teams_and_beyond_them() -> None:
    curve = {2: 20.0, 4: 30.0, 8: 32.0}
    assert bounds.at(curve, 2) == 20.0
    assert bounds.at(curve, 3) == pytest.approx(25.0)
    assert bounds.at(curve, 100) == 32.0
    assert bounds.at(curve, 1) is None, "one core may draw more than half of two"
    assert bounds.at(curve, 1, by_core=True) == 10.0
    assert bounds.at(curve, 16, by_core=True) == 64.0
    assert bounds.at({}, 4) is None


@pytest.mark.parametrize(("share", "bound"), [(0.69, False), (0.71, True)])
def test_arithmetic_is_a_share_of_the_peak_of_its_precision(share: float, bound: bool) -> None:
    half = share / 2 * SECONDS
    facts = with_counts(CALM, f64_by_4=half * 200e9 / 4, f32_by_8=half * 400e9 / 8)
    facts = replace(facts, counters=tuple(c for c in facts.counters if c.name != FLOPS))
    assert ("compute" in causes(facts)) == bound
    untold = with_counts(CALM, flops=share * 400e9 * SECONDS)
    assert ("compute" in causes(untold)) == bound, "precisions that are not told apart: the higher peak"
    assert "compute" not in causes(with_counts(CALM, flops=200e9 * SECONDS)), "f64 at its peak may be f32 at half"


def test_the_peak_of_another_precision_stands_for_none() -> None:
    facts = replace(CALM, counters=counted(f64_by_1=1e12))
    found = judge(facts, Ceilings(gflop_per_s={"f32": {4: 400.0}}))
    assert found.bounds == ()
    assert any("the peak of f64" in line for line in found.unseen)


@pytest.mark.parametrize(("share", "bound"), [(0.20, False), (0.21, True)])
def test_threads_that_sleep_for_each_other(share: float, bound: bool) -> None:
    run = (1 - share) * SECONDS
    facts = replace(CALM, threads=tuple(thread(tid, share, run) for tid in range(4)), run_by_node={0: 4 * run})
    assert ("synchronisation" in causes(facts)) == bound
    idle = replace(facts, threads=tuple(thread(tid, 0.9, 1.0) for tid in range(4)), run_by_node={0: 4.0})
    assert "synchronisation" not in causes(idle), "a server without requests waits for none of its threads"


HALF = Halved(outcome="faster", threads=4, half=2, ratio=0.8, ci=(0.75, 0.85))


def test_half_of_the_threads_being_faster_proves_it_even_where_nothing_is_counted() -> None:
    blind = replace(CALM, counters=())
    found = only(judge(blind, Ceilings(), HALF))
    assert (found.cause, found.proven) == ("synchronisation", True)
    assert found.gain == pytest.approx(1.25)
    assert "2 threads" in found.change
    same = only(judge(blind, Ceilings(), replace(HALF, outcome="as fast", ratio=1.01, ci=(0.98, 1.04))))
    assert (same.cause, same.change) == ("unexplained", "2 threads do as well")
    once = judge(blind, Ceilings(), replace(HALF, outcome="slower", ratio=1.9, ci=None))
    assert once.bounds == ()
    assert "1.900x the time (seen once)" in once.figures[0]
    assert judge(blind, Ceilings(), replace(HALF, outcome="undecided")).bounds == ()


def test_one_thread_waits_for_no_other() -> None:
    alone = replace(CALM, threads=(thread(0, 0.9),), run_by_node={0: SECONDS})
    assert "synchronisation" not in causes(alone)
    assert not any("each other" in line for line in judge(alone, CEILINGS).unseen)


@pytest.mark.parametrize(
    ("in_flight", "pace", "bound"), [(0.69, 0.1, False), (0.71, 0.1, True), (3.0, 0.1, True), (3.0, 1.0, False)]
)
def test_latency_is_about_one_load_in_flight_and_a_core_that_waits(in_flight: float, pace: float, bound: bool) -> None:
    loads = in_flight * 4 * SECONDS / 100e-9
    facts = with_counts(CALM, local=loads, instructions=pace * 1e11)
    assert ("latency" in causes(facts)) == bound
    far = with_counts(
        replace(CALM, anonymous={1: MIB}), local=0.25 * loads, remote=0.25 * loads, instructions=pace * 1e11
    )
    assert ("latency" in causes(far)) == bound, "half as many that take twice as long"


@pytest.mark.parametrize(("share", "bound"), [(0.19, False), (0.21, True)])
def test_misses_of_the_tlb_by_what_they_were_measured_to_cost(share: float, bound: bool) -> None:
    facts = with_counts(CALM, dtlb=share * 4 * SECONDS / 30e-9)
    assert ("TLB" in causes(facts)) == bound
    if bound:
        assert only(judge(facts, CEILINGS)).gain == pytest.approx(1 / 0.79)


def test_nothing_is_said_without_counts_and_what_that_takes_is() -> None:
    blind = judge(replace(CALM, counters=()), CEILINGS)
    assert blind.bounds == ()
    (line,) = blind.unseen
    for word in ("memory bandwidth", "arithmetic", "latency", "TLB", "bare metal"):
        assert word in line
    refused = (Counter(name=LINES, reason="EACCES"), Counter(name="cycles", value=0.0, counted=1.0))
    assert judge(replace(CALM, counters=refused), CEILINGS) == blind, "what counts nothing may not exist"


def test_nothing_is_said_without_a_record_and_what_that_takes_is() -> None:
    blind = judge(CALM, Ceilings())
    assert blind.bounds == ()
    (line,) = blind.unseen
    assert "--record FILE.json with numabench run bandwidth scaling gemm latency pages" in line


def test_holes_are_named() -> None:
    few = replace(CEILINGS, gb_per_s={(0, 0): {8: 60.0}}, idle_ns={(1, 1): 90.0})
    found = judge(CALM, few)
    assert found.bounds == ()
    assert any("from node 0 to 0 with 4 cores" in line for line in found.unseen)
    assert any("latency of every pair" in line for line in found.unseen)
    placeless = judge(replace(CALM, anonymous={}), CEILINGS)
    assert any("pages by node" in line for line in placeless.unseen)
    silent = judge(replace(CALM, threads=tuple(thread(tid, None) for tid in range(4))), CEILINGS)
    assert any("wchan" in line for line in silent.unseen)
    assert silent.bounds == (), "unexplained only when all could be judged"


def test_nothing_is_judged_while_the_cpus_are_contended() -> None:
    found = judge(replace(CALM, throttled_share=0.5), CEILINGS, HALF)
    assert (found.bounds, found.figures) == ((), ())
    assert "contended" in found.unseen[0]
