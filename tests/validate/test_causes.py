# SPDX-License-Identifier: Apache-2.0
"""Every signature from a synthetic record: a healthy machine, one thing changed, must give that cause and no pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from numabench.analysis.signatures import OBSERVATIONS, SIGNATURES
from numabench.machine import MemoryAttribute
from numabench.record import Record
from numabench.series import Series
from numabench.validation import spec as specs
from numabench.validation.outcome import Check
from numabench.validation.validate import validate

from .reference import record, series, topology

SPEC = specs.loads(
    """
schema = 1
name = "four nodes, two packages"
[facts]
sockets = 2
numa_nodes = 4
smt = "off"
mem_total_gib_per_node = { ref = 64, tol = 0.03 }
memoryless_nodes = { any_of = [[]] }
dimm_channels_per_socket = 8
dimm_configured_mts = 4800
[environment]
governor = "performance"
thp = { any_of = ["always", "madvise"] }
numa_balancing = "0"
[[check]]
metric = "bw.read.local"
ref = 100.0
warn_below = 0.05
fail_below = 0.10
[[check]]
metric = "bw.read.remote"
ref = 50.0
warn_below = 0.05
fail_below = 0.10
[[check]]
metric = "latency.sequential"
fail = 20.0
required = false
[[check]]
metric = "c2c.local"
fail = 80.0
required = false
[[check]]
metric = "latency.local"
ref = 100.0
warn_above = 0.05
fail_above = 0.10
[[check]]
metric = "latency.remote"
ref = 200.0
warn_above = 0.05
fail_above = 0.10
""",
    "x.toml",
)
PAIRS = [(i, j) for i in range(4) for j in range(4)]
Scale = Callable[[str, int, int], float]


def dimms(count: int = 16, configured: int = 4800) -> dict[str, Any]:
    each = {"bank": "", "bytes": 16 << 30, "rated_mts": 4800, "configured_mts": configured}
    return {"dimms": [each | {"locator": f"P{i}"} for i in range(count)]}


def made(
    scale: Scale = lambda *_: 1.0,
    nodes: int = 4,
    memory: tuple[float, ...] = (),
    flags: tuple[str, ...] = (),
    wobble: bool = False,
    restricted: bool = False,
    smt: bool = False,
    more: tuple[Series, ...] = (),
    virtual: bool = False,
    firmware: dict[str, Any] | None = None,
    **environment: Any,
) -> Record:
    machine = topology(2, nodes, memory_gib=memory) if nodes > 1 else topology(1, 1)
    if nodes == 1:  # pages of both packages in one node
        one = topology(2, 2)
        machine = msgspec.structs.replace(machine, packages=one.packages)
    if restricted:
        machine = machine.restrict(cpus=machine.allowed_cpus[:-1])
    if smt:
        machine = msgspec.structs.replace(machine, cores=(tuple(machine.allowed_cpus),))
    machine = msgspec.structs.replace(machine, virtual=virtual)
    found = []
    for i in range(nodes):
        for j in range(nodes):
            if memory and not memory[j]:
                continue
            for family, own, other in (("latency", 100.0, 200.0), ("bw.read", 100.0, 50.0)):
                value = (own if i == j else other) * scale(family, i, j)
                values = [value * (1 + 0.1 * (at // 2) * wobble) for at in range(6)]
                found.append(
                    series(family, (i, j), values if family == "latency" else [2 * value - v for v in values], flags)
                )
    return record(machine, [*found, *more], firmware=firmware or dimms(), **environment)


def bandwidth(factor: float, hit: Callable[[int, int], bool]) -> Scale:
    return lambda family, i, j: factor if family == "bw.read" and hit(i, j) else 1.0


def latency(factor: float, hit: Callable[[int, int], bool]) -> Scale:
    return lambda family, i, j: factor if family == "latency" and hit(i, j) else 1.0


def prefetch(sequential: float) -> tuple[Series, ...]:
    """The two walks and the read loop of node 0; a random load takes 100 ns."""
    walks = {
        "sequential": ("latency", sequential),
        "random": ("latency", 100.0),
        "read": ("bw.read", 2000 / sequential),
    }
    return tuple(
        altered(series(family, (0, 0), [value] * 6), "prefetch", {"walk": walk})
        for walk, (family, value) in walks.items()
    )


def c2c(ns: float) -> tuple[Series, ...]:
    """A line between the two CPUs of node 0."""
    one = series("latency", (0, 0), [ns] * 6, kernel="pingpong_flag")
    return (altered(one, "c2c", {"a": 0, "b": 1}, cpus=(0, 1)),)


def altered(one: Series, experiment: str, params: dict[str, Any], **more: Any) -> Series:
    replace = msgspec.structs.replace
    return replace(one, case=replace(one.case, experiment=experiment, params=params, **more))


UNEVEN = [{"bank": f"P{at % 16}", "locator": f"D{at // 16}"} for at in range(17)]
FAULTS: dict[str, Record] = {
    "memory channel missing": made(
        bandwidth(0.7, lambda i, j: i == j == 1), memory=(64, 56, 64, 64), firmware=dimms(16)
    ),
    "memory rate downgraded": made(bandwidth(0.86, lambda i, j: i == j), firmware=dimms(configured=4000)),
    "half of the memory channels": made(bandwidth(0.54, lambda i, j: i == j), firmware=dimms(8)),
    "node interleaving on": made(nodes=1),
    "wrong NPS or sub-NUMA mode": made(nodes=8),
    "socket link narrow or down": made(bandwidth(0.5, lambda i, j: i // 2 != j // 2)),
    "one package throttled": made(
        lambda f, i, j: 1.0 if i != 3 else 1.2 if f == "latency" else 0.8,
    ),
    "hardware prefetcher off": made(more=prefetch(95.0)),
    "deep sleep states": made(more=c2c(400.0)),
    "uneven number of modules": made(
        firmware={"dimms": [dimms(1)["dimms"][0] | one for one in UNEVEN]}, governor="powersave"
    ),
    "memory of one node slow": made(latency(1.3, lambda i, j: j == 2)),
    "SMT not as specified": made(smt=True),
    "power-saving governor": made(governor="powersave"),
    "transparent huge pages off": made(thp="never"),
    "memory on one package only": made(memory=(64, 64, 64, 0)),
    "throttled by a quota": made(flags=("throttled",)),
    "noisy neighbour": made(flags=("contended",), wobble=True),
    "topology hidden by the virtual machine": made(nodes=1, virtual=True),
    "automatic NUMA balancing": made(numa_balancing="1"),
    "memory errors": made(
        firmware=dimms() | {"memory_errors": {"corrected": 0, "uncorrected": 0}},
        memory_errors_after={"corrected": 40, "uncorrected": 0},
    ),
    "restricted by a cpuset": made(restricted=True),
}


def test_the_healthy_machine_passes() -> None:
    result = validate(made(more=(*prefetch(9.0), *c2c(40.0))), spec=SPEC)
    assert result.verdict == "PASS", result.reason
    assert not result.causes


def test_every_signature_has_a_fault() -> None:
    assert FAULTS.keys() == {signature.cause for signature in SIGNATURES}


@pytest.mark.parametrize("cause", FAULTS)
def test_a_fault_gives_its_cause(cause: str) -> None:
    result = validate(FAULTS[cause], spec=SPEC)
    assert result.verdict != "PASS"
    assert cause in [found.name for found in result.causes], [(c.name, c.score) for c in result.causes]
    assert all(found.evidence for found in result.causes)
    assert len(result.causes) <= 2


def test_a_fault_seen_twice_is_not_laid_on_neighbours_that_disturbed_a_few_cases() -> None:
    sound = made(latency(2.0, lambda i, j: j == 2), wobble=True)
    some = [msgspec.structs.replace(one, flags=("stolen", "contended")) for one in sound.series[:5]]
    found = msgspec.structs.replace(sound, series=(*some, *sound.series[5:]))
    again = {"latency": {(i, j): [(100.0 if i == j else 200.0) * (2.0 if j == 2 else 1)] * 6 for i, j in PAIRS}}
    assert validate(found).causes[0].name == "noisy neighbour"
    result = validate(found, again=again)
    assert result.verdict == "FAIL"
    assert result.causes[0].name == "memory of one node slow"


def disturbed(found: Record, *cases: tuple[str, int, int]) -> Record:
    """The record, with others at work while those of (experiment, initiator, target) were measured."""
    return msgspec.structs.replace(
        found,
        series=tuple(
            msgspec.structs.replace(one, flags=("contended",))
            if (one.case.experiment, one.case.initiator, one.case.target) in cases
            else one
            for one in found.series
        ),
    )


def judged(found: Record, bounds: str, label: str) -> Check:
    """The check of that label against bounds of a specification."""
    spec = specs.loads(f'schema = 1\nname = "x"\n{bounds}', "x.toml")
    (check,) = (c for c in validate(found, spec=spec).checks if (c.layer, c.label) == ("spec", label))
    return check


def test_only_the_figures_that_others_had_a_part_in_are_suspect_at_most() -> None:
    slow = made(lambda family, i, j: 0.5 if family == "bw.read" and i == j == 1 else 1.0)
    bounds = '[[check]]\nmetric = "bw.read.local"\nfail = 90.0\n'
    assert judged(disturbed(slow, ("bandwidth", 0, 0)), bounds, "bw.read.local[node1]").verdict == "FAIL"
    check = judged(disturbed(slow, ("bandwidth", 1, 1)), bounds, "bw.read.local[node1]")
    assert check.verdict == "SUSPECT"
    assert check.text == "while others were at work (bandwidth read-n1-n1-t0-thp-avx512)"


@pytest.mark.parametrize(("slower", "verdict"), [(1.04, "SUSPECT"), (1.3, "FAIL")])
def test_what_misses_a_bound_by_less_than_its_rounds_differ_is_suspect(slower: float, verdict: str) -> None:
    found = made(lambda family, i, j: slower if family == "latency" and i == j == 1 else 1.0)
    series = tuple(
        msgspec.structs.replace(
            one,
            samples=tuple(
                msgspec.structs.replace(sample, value=sample.value * (1.0, 1.1, 1.2)[number % 3])
                for number, sample in enumerate(one.samples)
            ),
        )
        if (one.case.experiment, one.case.initiator, one.case.target) == ("latency", 1, 1)
        else one
        for one in found.series
    )
    bounds = '[[check]]\nmetric = "latency.local"\nfail = 101.0\n'
    check = judged(msgspec.structs.replace(found, series=series), bounds, "latency.local[node1]")
    assert check.verdict == verdict
    assert ("by less than its rounds differ" in check.text) == (verdict == "SUSPECT")


@pytest.mark.parametrize(
    ("busy", "verdict"), [((0, 0), "FAIL"), ((1, 1), "SUSPECT"), ((1, 2), "SUSPECT"), ((2, 1), "FAIL")]
)
def test_a_ratio_is_suspect_by_either_side(busy: tuple[int, int], verdict: str) -> None:
    bounds = '[[check]]\nmetric = "latency.remote_over_local"\nfail = 1.5\n'
    check = judged(disturbed(made(), ("latency", *busy)), bounds, "latency.remote_over_local[node1->node2]")
    assert check.verdict == verdict
    assert ("(latency chase-n{}-n{}-".format(*busy) in check.text) == (verdict == "SUSPECT")


def test_a_share_of_what_the_modules_can_do_is_suspect_with_its_figure() -> None:
    bounds = '[[check]]\nmetric = "bw.read.over_theoretical"\nfail = 0.9\n'
    label = "bw.read.over_theoretical[node1]"
    assert judged(disturbed(made(), ("bandwidth", 0, 0)), bounds, label).verdict == "FAIL"
    assert judged(disturbed(made(), ("bandwidth", 1, 1)), bounds, label).verdict == "SUSPECT"


def test_a_share_of_what_the_firmware_claims_is_suspect_with_its_figure() -> None:
    claimed = [
        MemoryAttribute(
            name="read_bandwidth", unit="MB/s", target=1, initiator_cpus=(node * 2, node * 2 + 1), value=200_000
        )
        for node in (0, 1)
    ]
    found = made()
    found = msgspec.structs.replace(
        found, machine=msgspec.structs.replace(found.machine, memory_attributes=tuple(claimed))
    )
    bounds = '[[check]]\nmetric = "bw.read.over_firmware"\nfail = 0.9\n'
    busy = disturbed(found, ("bandwidth", 0, 1))
    assert judged(busy, bounds, "bw.read.over_firmware[node0->node1]").verdict == "SUSPECT"
    assert judged(busy, bounds, "bw.read.over_firmware[node1]").verdict == "FAIL"


@pytest.mark.parametrize("walk", ["sequential", "random"])
def test_a_walk_over_another_is_suspect_by_either(walk: str) -> None:
    walks = [
        msgspec.structs.replace(one, flags=("stolen",) * (one.case.params["walk"] == walk)) for one in prefetch(95.0)
    ]
    bounds = '[[check]]\nmetric = "latency.sequential_over_random"\nfail = 0.5\n'
    check = judged(made(more=tuple(walks)), bounds, "latency.sequential_over_random[node0]")
    assert check.verdict == "SUSPECT"
    assert f"walk={walk}" in check.text


def test_a_figure_picked_of_all_is_suspect_by_any_and_not_all_are_named() -> None:
    bounds = '[[check]]\nmetric = "latency.remote"\nscope = "max"\nfail = 150.0\n'
    busy = disturbed(made(), *(("latency", 0, j) for j in (1, 2, 3)), ("latency", 1, 0))
    check = judged(busy, bounds, "latency.remote[max]")
    assert check.verdict == "SUSPECT"
    assert check.text.endswith("latency chase-n0-n3-t0-thp-avx512 and 1 more)")
    assert judged(disturbed(made(), ("latency", 1, 1)), bounds, "latency.remote[max]").verdict == "FAIL"


IDLE = "some avg10=0.40 avg60=9.00 avg300=9.00 total=1\nfull avg10=9.00 avg60=9.00 avg300=9.00 total=1"
WAITED = IDLE.replace("0.40", "12.50")


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ({"pressure_cpu": IDLE, "pressure_memory": IDLE, "load": ["0.10", "9", "9"]}, ""),
        ({"pressure_cpu": IDLE, "load": ["9.50", "0", "0"]}, ""),  # of our own last run
        ({"pressure_cpu": WAITED}, "tasks waited for CPUs 12.5 % of the last 10 s before the run: ps "),
        ({"pressure_cpu": IDLE, "pressure_memory": WAITED}, "tasks waited for memory 12.5 % of the last 10 s before"),
        ({"pressure_cpu": None, "load": ["9.50", "0", "0"]}, "9.5 tasks wanted to run on 8 CPUs, mean of a minute"),
        ({"pressure_cpu": None, "load": ["4.00", "9", "9"]}, ""),
        ({"load": None}, ""),
    ],
)
def test_a_machine_that_was_busy_before_the_run_is_told_so(before: dict[str, Any], said: str) -> None:
    result = validate(made(**before), spec=SPEC)
    assert result.verdict == ("WARN" if said else "PASS")
    assert result.checks[0].text.startswith(said)
    assert (result.checks[0].reason == "BUSY") == bool(said)
    slow = made(bandwidth(0.5, lambda i, j: i == j == 1), **before)
    assert validate(slow, spec=SPEC).verdict == "FAIL"


@pytest.mark.parametrize(("after", "verdict"), [(2, "PASS"), (9, "WARN")])
def test_heat_during_the_run_is_told_and_named(after: int, verdict: str) -> None:
    told = dimms() | {"thermal_throttles": {"0": 1, "1": 2}}
    result = validate(made(firmware=told, thermal_throttles_after={"0": 1, "1": after}), spec=SPEC)
    assert result.verdict == verdict
    assert result.facts["thermal_throttles"].value == [0, after - 2]
    if after > 2:
        assert result.causes[0].name == "one package throttled"
        assert result.causes[0].evidence == ("CPUs of package 1 were slowed for heat 7 times",)


def test_signatures_use_known_observations() -> None:
    for signature in SIGNATURES:
        assert {*signature.key, *signature.shows, *signature.against} <= OBSERVATIONS.keys()
        assert set(signature.key) <= signature.shows.keys()
