# SPDX-License-Identifier: Apache-2.0
"""A tier is chosen by what was measured, on a fake backend that knows the truth."""

from __future__ import annotations

import pytest

from numabench import kernels, session, tiers
from numabench.backend import Hardware
from numabench.machine import Machine
from numabench.series import Case, Options
from numabench.units import plural
from tests.fakes import Fake, two_nodes

USABLE = [name for name, tier in kernels.tiers().items() if tier.usable]
HIGHEST = USABLE[-1]


def case(kernel: str, better: str = "high", job: str = "") -> Case:
    here = {"cpus": (0,), "tier": HIGHEST, "initiator": 0, "target": 0}
    return Case(experiment="bandwidth", kernel=kernel, unit="", better=better, job=job, **here)  # type: ignore[arg-type]


@pytest.mark.skipif(len(USABLE) < 2, reason="one tier only")
@pytest.mark.parametrize("better", ["high", "low"])
def test_the_fastest_tier_of_each_kernel(better: str) -> None:
    def truth(one: Case) -> float:
        lower_wins = (one.kernel == "read") == (one.tier == USABLE[0])
        return (2.0 if lower_wins else 1.0) if better == "high" else (1.0 if lower_wins else 2.0)

    cases = [case("read", better), case("copy", better), case("read", better)]
    found, told = tiers.choose(cases, Fake(truth=truth), 0)
    assert [one.tier for one in found] == [USABLE[0], HIGHEST, USABLE[0]]
    assert set(told) == {"read, 1 thread", "copy, 1 thread"}
    assert all(set(values) == set(USABLE) for values in told.values())


def test_the_highest_stays_where_none_wins_every_round() -> None:
    backend = Fake(noise=0)
    found, told = tiers.choose([case("read")], backend, 0)
    assert found == [case("read")]
    assert len(backend.calls) == tiers.ROUNDS * len(told["read, 1 thread"])


def test_what_does_not_depend_on_it_is_not_measured() -> None:
    backend = Fake()
    absent = Case(experiment="bandwidth", kernel="", unit="", better="high", unavailable="one node")
    cases = [case("chase", "low"), case("read", job="loaded"), absent]
    assert tiers.choose(cases, backend, 0) == (cases, {})
    assert backend.calls == []


def test_a_run_says_what_it_chose_by() -> None:
    options = Options(profile="quick", passes=3, tier=kernels.MEASURED)
    record = session.run(["bandwidth"], options, machine=two_nodes(), backend=Fake())
    assert set(record.environment["tiers"]) == {
        f"{one.case.kernel}, {plural(len(one.case.cpus), 'thread')}" for one in record.series
    }
    assert {sample.evidence.tier for one in record.series for sample in one.samples} <= set(USABLE)
    record = session.run(["bandwidth"], Options(profile="quick", passes=3), machine=two_nodes(), backend=Fake())
    assert "tiers" not in record.environment


@pytest.mark.parametrize("tier", USABLE)
def test_what_ran_says_its_tier(tier: str) -> None:
    asked = Case(
        experiment="e",
        kernel="read",
        unit="GB/s",
        better="high",
        cpus=Machine.load().allowed_cpus[:1],
        pages="base",
        tier=tier,
        bytes=1 << 20,
    )
    with Hardware(Machine.load(), Options(profile="quick")) as bench:
        (sample,) = bench.measure([asked], 0, 0, 1)
    assert sample.evidence.tier == tier
    assert "wrong_tier" not in sample.flags


def test_what_several_functions_say_is_told_once() -> None:
    assert kernels.tiers_seen(["avx512", "scalar+avx512", "", "scalar"]) == "scalar+avx512"
    assert kernels.tiers_seen([""]) == ""
