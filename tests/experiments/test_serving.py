# SPDX-License-Identifier: Apache-2.0
"""load, neighbour, frontend, story: plans that fit, and what they say of figures that are known."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from numabench.experiments import ALL, find
from numabench.experiments.story import STEPS
from numabench.jobs import instance
from numabench.jobs.instance import model_of
from numabench.machine import Machine
from numabench.measure import groups, summary
from numabench.series import Case, Evidence, Options, Sample, Series
from tests.fakes import two_nodes
from tests.machine import facts

NAMES = ("load", "neighbour", "frontend", "story")
MACHINES = ("32amd64-4s2n4c-cgroup2", "16em64t-4s2c2t-offlines", "20em64t-hybrid-1p6c2t+2ca4co1t")


def plan(name: str, machine: Machine, profile: str = "standard") -> list[Case]:
    return list(find(name).plan(machine, Options(profile=profile)))  # type: ignore[arg-type]


def taken(
    cases: list[Case], value: Callable[[Case], float], extras: Callable[[Case], dict[str, float]] | None = None
) -> list[Series]:
    draw, found = random.Random(5), []
    for case in cases:
        samples = [
            Sample(
                number=n,
                position=n,
                value=value(case) * (1 + draw.gauss(0, 0.004)),
                windows=(value(case),),
                evidence=Evidence(proof="move_pages", checksum="same"),
                extras={"p50_ns": 1e6} | (extras(case) if extras else {}),
            )
            for n in range(8)
        ]
        found.append(summary(case, [] if case.unavailable else samples, "", Options(profile="quick")))
    return found


def said(name: str, series: list[Series], machine: Machine) -> str:
    return " ".join(line for table in find(name).summarise(series, machine) for line in table.meaning)


def test_whole_requests_are_prompts_and_batches() -> None:
    machine = facts.machine(MACHINES[0])
    cases = [case for case in plan("load", machine) if case.params.get("tail") and case.params["instances"] == 1]
    assert [case.params["preset"] for case in cases] == ["llm-decode", "encoder", "recsys"]
    assert [case.params.get("steps", 1) for case in cases] == [16, 1, 1]
    words = said("load", taken(cases, lambda case: 2e8), machine)
    for what in ("128 prompt rows and 16 steps", "one encoder batch", "one recsys batch"):
        assert re.search(rf"requests of {what} at 70 % of the peak: median (199|200|201) ms", words), words


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("capture", MACHINES)
def test_plans_fit(name: str, capture: str) -> None:
    machine = facts.machine(capture)
    assert find(name).unavailable(machine, Options()) is None
    for profile in ("quick", "standard"):
        cases = plan(name, machine, profile)
        assert cases
        assert len({case.label for case in cases}) == len(cases)
        for case in (case for case in cases if not case.unavailable):
            for place in instance.places(case, machine):
                assert set(place.affinity) <= set(machine.allowed_cpus)
                assert set(place.spec.nodes) <= set(machine.targets())
            if case.params.get("aggressor"):
                hog = {int(c) for c in str(case.params["aggressor_cpus"]).split(",")}
                assert hog <= set(machine.allowed_cpus)
                if name == "neighbour":
                    assert hog.isdisjoint(case.cpus)


@pytest.mark.parametrize("name", NAMES)
def test_one_core_is_said(name: str) -> None:
    machine = two_nodes().restrict(cpus=[0], nodes=[0])
    assert find(name).unavailable(machine, Options())
    assert name in {experiment.name for experiment in ALL}


def test_load_keeps_a_core_for_the_generator_and_shares_processes() -> None:
    machine = facts.machine(MACHINES[0])
    cases = plan("load", machine)
    for case in cases:
        free = instance.free_cpu(machine, case.cpus)
        assert free is not None
        assert machine.cpu(free).core not in {machine.cpu(c).core for c in case.cpus}
    assert len(groups(cases)) < len(cases)


def test_load_shows_what_the_closed_loop_hides() -> None:
    machine = two_nodes()
    cases = plan("load", machine)
    series = taken(
        cases,
        lambda c: 900e6 if c.params.get("stall_s") else 20e6,
        lambda c: {"stalled_closed_p95_ns": 2e6, "stalled_closed_requests": 200.0, "open_per_s": 10.0},
    )
    words = said("load", series, machine)
    assert "closed loop of 200 requests says p95 2.0 ms" in words
    assert "900" in words or "89" in words or "90" in words
    (table,) = find("load").summarise(series, machine)
    assert len(table.rows) == 7


def test_neighbour_names_who_hurts() -> None:
    machine = two_nodes()
    cases = plan("neighbour", machine)
    assert {case.params["where"] for case in cases if case.params} >= {"other node"}

    def value(case: Case) -> float:
        hurt = case.params.get("on") and case.params["aggressor"] == "hog-write"
        return 60.0 if hurt else 100.0

    words = said("neighbour", taken(cases, value), machine)
    assert "0.60x" in words
    assert "writes" in words
    assert "computes" not in words
    assert "could detect" in said("neighbour", taken(cases, lambda c: 100.0), machine)


def test_neighbour_tells_latency_at_one_rate_and_what_apart_costs() -> None:
    """p99 trebles beside a writer that shares the cores, and only there; the whole node would do twice as much."""
    machine = facts.machine(MACHINES[0])
    cases = plan("neighbour", machine, "quick")
    series = []
    for one in taken(cases, lambda c: 100.0 * len(c.cpus)):
        p = one.case.params
        hurt = p.get("on") and p["aggressor"] == "hog-write" and "unbound" in str(p["where"])
        tail = tuple(sorted((1e6 + i * 1e3 for i in range(60)), reverse=True))
        samples = tuple(
            replace(
                sample,
                tail=tuple(x * (3 if hurt else 1) for x in tail),
                tail_of=60,
                extras={"open_requests": 60.0, "open_p50_ns": 2e6 if hurt else 1e6},
            )
            for sample in one.samples
        )
        series.append(replace(one, samples=samples))
    words = said("neighbour", series, machine)
    assert words.count("at a fixed rate") == 1
    assert (
        "median latency 2.00x [2.00, 2.00], p99 3.00x [3.00, 3.00] while a neighbour (same cores, unbound) writes"
        in words
    )
    assert "Keeping apart costs llm-decode" in words
    asked = {c.params.get("requests") for c in cases if c.params.get("aggressor")}
    assert asked == {60}
    for case in (c for c in cases if c.params.get("aggressor")):
        hog = instance.hog_cpus(case)
        assert instance.free_cpu(machine, (*case.cpus, *hog)) is not None


def test_story_measures_the_best_division_again() -> None:
    machine = facts.machine(MACHINES[0])
    cases = plan("story", machine)
    assert any(str(case.params["step"]).startswith("size ") for case in cases)
    series = taken(cases, lambda c: 150.0 if str(c.params.get("step")).startswith("size ") else 100.0)
    again = find("story").again(series, machine, Options())  # type: ignore[attr-defined]
    assert [case.params["step"] for case in again] == ["fresh last", "fresh best", "fresh start"]
    series += taken(again, lambda c: 130.0 if "best" in str(c.params["step"]) else 100.0)
    words = said("story", series, machine)
    assert "With the best division" in words
    assert "1.30x" in words
    assert "The same against the same: 1.00x" in words
    level = taken(cases, lambda c: 100.0 if str(c.params["step"]) in ("thp", "naive") else 90.0)
    assert find("story").again(level, machine, Options()) == []  # type: ignore[attr-defined]


def test_frontend_finds_how_many_to_leave() -> None:
    machine = facts.machine(MACHINES[0])
    cases = plan("frontend", machine)

    def value(case: Case) -> float:
        left = int(case.params["left"])
        busy = 50.0 if case.params["on"] and left == 0 else 0.0
        return 100.0 - 4 * left - busy

    words = said("frontend", taken(cases, value), machine)
    assert "leaving 1 core gives 1.9" in words
    same = said("frontend", taken(cases, lambda c: 100.0), machine)
    assert same.count("leaving cores brings no throughput that these passes could detect") == 4
    assert {(c.params["where"], c.params["duty"]) for c in cases} == {
        (where, duty) for where in ("own node", "other node") for duty in (0, 50, 100)
    }


def test_story_is_one_change_a_step() -> None:
    machine = facts.machine(MACHINES[1])
    cases = [case for case in plan("story", machine) if not case.unavailable]
    names = [name for name, _, _ in STEPS]
    steps = [case for case in cases if case.params["step"] in names]
    assert steps[1].params | {"arm": 0, "step": "naive"} == steps[0].params
    steps.pop(1)
    assert next(case.params["step"] for case in steps) == "naive"
    for before, after in itertools.pairwise(steps):
        ignored = {"arm", "step", "nodes"}
        changed = {
            key
            for key in (set(before.params) | set(after.params)) - ignored
            if before.params.get(key) != after.params.get(key)
        }
        if before.pages != after.pages:
            changed.add("pages")
        allowed = {"instances", "threads", "weights", "loader", "binding", "pages"}
        assert changed
        assert changed <= allowed
        assert {before.params["preset"], before.params["layers"]} == {after.params["preset"], after.params["layers"]}
    assert len(steps) <= len(STEPS)


def test_story_multiplies_and_checks_the_work() -> None:
    machine = two_nodes()
    cases = plan("story", machine)
    at = {
        "naive": 100.0,
        "cores": 100.0,
        "pinned": 110.0,
        "workers": 130.0,
        "nodes": 260.0,
        "parts": 260.0,
        "thp": 300.0,
    }
    series = taken(cases, lambda c: at.get(str(c.params["step"]), 290.0))
    words = said("story", series, machine)
    assert "3.00x" in words or "2.99x" in words or "3.01x" in words
    assert "same to the bit" in words
    odd = [s for s in series if s.samples]
    other = replace(odd[0].samples[0], evidence=Evidence(checksum="other"))
    broken = replace(odd[0], samples=(other, *odd[0].samples[1:]))
    assert "Outputs differ" in said("story", [broken, *odd[1:]], machine)


def test_scaling_says_why_growth_stopped_and_whether_the_last_step_helped() -> None:
    """Reads stop at 80 GB/s; decode stops where its bytes meet that bandwidth; instances only crowd each other."""
    machine = facts.machine("128arm-2pa2n8cluster4co")
    cases = [c for c in plan("scaling", machine, "full") if c.kernel in ("read", "llm-decode") and not c.unavailable]
    size = next(model_of(c).bytes_per_step for c in cases if c.kernel == "llm-decode")

    def value(case: Case) -> float:
        if case.kernel == "read":
            return min(9.0 * len(case.cpus), 80.0)
        if case.params["by"] == "threads":
            return min(9.0 * int(case.params["threads"]), 80.0) * 1e9 / size
        count = int(case.params["instances"])
        return 100.0 * count / (1 + 0.1 * (count - 1) + 0.02 * count * (count - 1))

    series = taken(cases, value)
    words = [line for table in find("scaling").summarise(series, machine) for line in table.meaning]
    decode = [w for w in words if w.startswith("llm-decode, by threads")]
    assert any("ceiling fits best" in w and "stopped at: bandwidth" in w for w in decode)
    assert any("no detectable difference" in w for w in decode)
    instances = [w for w in words if w.startswith("llm-decode, by instances")]
    assert any(": overhead" in w for w in instances)
    assert any("usl fits best" in w for w in instances)


def test_scaling_runs_models_in_the_full_profile_only() -> None:
    for profile in ("quick", "standard"):
        assert all(case.job != "instance" for case in plan("scaling", two_nodes(), profile))
    cases = [case for case in plan("scaling", two_nodes(), "full") if case.job == "instance"]
    assert {case.params["by"] for case in cases} == {"threads", "instances", "parts", "crowded"}
    for case in (case for case in cases if case.params["by"] == "parts"):
        assert int(case.params["instances"]) * int(case.params["threads"]) == 2
    assert len({case.label for case in cases}) == len(cases)
