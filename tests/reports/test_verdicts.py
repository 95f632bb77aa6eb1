# SPDX-License-Identifier: Apache-2.0
"""A diagnosis in words: bounds apart from faults."""

from __future__ import annotations

import msgspec

from numabench.analysis.bounds import Bound, Halved
from numabench.analysis.diagnosis import Counter, Facts, Finding, Thread
from numabench.diagnose import Diagnosis
from numabench.reports import verdicts

FACTS = Facts(
    seconds=1.0,
    threads=(),
    allowed=(0,),
    run_by_node={0: 1.0},
    anonymous={0: 1 << 20},
    files={},
    cpu_pressure_share=0.25,
    memory_pressure_share=0.0,
    balancing={"numa_pages_migrated": 7},
    unseen=("something",),
)
FULL = Bound(cause="bandwidth", evidence="38 GB/s, 95% of 40 GB/s", change="fewer bytes", share=0.95, gain=1.5)
SOUND = Diagnosis(
    target="x",
    facts=FACTS,
    findings=(),
    tried=(),
    healthy=True,
    bounds=(FULL,),
    figures=("38 GB/s, 95% of 40 GB/s", "3% of the peak"),
    halved=Halved(outcome="slower", ratio=1.9, threads=4, half=2),
)


def test_a_bound_stands_apart_from_healthy_with_its_figures() -> None:
    lines = verdicts.diagnosis(SOUND)
    assert any(line.startswith("Healthy") for line in lines)
    after = lines[lines.index("What bounds it") :]
    assert after[1:5] == [
        "  bandwidth: 38 GB/s, 95% of 40 GB/s; at most 1.50x to gain",
        "    change: fewer bytes",
        "  3% of the peak",
        "  half of its threads: slower, so its threads help",
    ]
    assert "pressure (PSI), whole system: some task waited for CPU 25%, memory 0% of the time" in lines
    assert "NUMA balancing, whole system: numa_pages_migrated 7" in lines


def test_who_touches_whom_where_its_threads_ran_and_what_balancing_sampled() -> None:
    threads = tuple(
        Thread(tid=n, name="t", run_s=1.0 - n / 2, wait_s=0.1, cpus={0: 3, 4: 1}, migrations=1, blocked=0.25)
        for n in range(2)
    )
    balancing = {"numa_hint_faults": 100, "numa_hint_faults_local": 40}
    facts = msgspec.structs.replace(
        FACTS, threads=threads, anonymous={0: 3 << 20, 1: 1 << 20}, balancing=balancing, run_by_node={0: 1.0, 1: 1.0}
    )
    lines = verdicts.diagnosis(msgspec.structs.replace(SOUND, facts=facts))
    (who,) = [line for line in lines if line.startswith("who touches whom")]
    assert who.endswith(
        "0 touch node 0 38%, CPUs of 0 touch node 1 12%, CPUs of 1 touch node 0 38%, CPUs of 1 touch node 1 12%"
    )
    seen = [line for line in lines if line.startswith("  thread")]
    assert seen[0] == "  thread 0 t: ran 1.00 s, waited 0.10 s, asleep for others 25%, on CPU 0 75%, 4 25%"
    assert len(seen) == 2
    assert any(line.endswith("; 40% of the accesses it sampled were local") for line in lines)
    assert not any("who touches" in line for line in verdicts.diagnosis(SOUND)), "one node touches itself"


def test_while_something_is_in_its_way_bounds_are_not_shown() -> None:
    finding = Finding(cause="throttled", evidence="stopped", change="more")
    lines = verdicts.diagnosis(msgspec.structs.replace(SOUND, findings=(finding,), healthy=False))
    assert "What bounds it" not in lines


def test_flops_are_told_as_one_figure() -> None:
    both = [Counter(name="f64 by 4", value=1e9, counted=1.0), Counter(name="f32 by 8", value=1e9, counted=1.0)]
    (line,) = verdicts.counted(both)
    assert line == "counted: flops 12.0 G"


def test_pages_that_were_not_seen_are_no_zero() -> None:
    unseen = msgspec.structs.replace(FACTS, anonymous={}, files={})
    lines = verdicts.diagnosis(msgspec.structs.replace(SOUND, facts=unseen))
    (node,) = [line for line in lines if line.startswith("node 0")]
    assert node.split() == ["node", "0", "100%", "-", "-"]
