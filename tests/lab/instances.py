# SPDX-License-Identifier: Apache-2.0
"""Runs in a machine of two nodes: instances near, far and unbound, their closed loops taking turns; a record of it.

Usage: python -m tests.lab.instances OUT.json
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

import msgspec

from numabench import layout, presets, record, session
from numabench.experiments import serving
from numabench.instance.drive import Fleet
from numabench.jobs import instance
from numabench.machine import Machine
from numabench.measure import summary
from numabench.series import Case, Evidence, Options, Sample

ROUNDS, SECONDS = 6, 0.7
MODELS = {
    "llm-decode": presets.make("llm-decode", layers=1, shard=64, ctx=64),
    "cached": presets.make("cached", l2_bytes=1 << 16),
}


def arms(machine: Machine) -> list[Case]:
    """Each model on each node beside its memory, on the other's memory, and as one process over all."""
    options, found = Options(profile="quick", pages="base"), []
    near = layout.split(machine, 1).slots
    far = tuple(slot._replace(nodes=other.nodes) for slot, other in zip(near, reversed(near), strict=True))
    for name, model in MODELS.items():
        polite: serving.Params = {"wait": "polite"}
        found.append(serving.case("divide", options, model, near, "cores", params=polite))
        found.append(serving.case("divide", options, model, far, "cores", params=polite | {"far": 1}))
        if name == "llm-decode":
            found.append(serving.case("divide", options, model, serving.everything(machine), "none", params=polite))
    return found


def main() -> None:
    machine = Machine.load()
    cases = arms(machine)
    values: list[list[float]] = [[] for _ in cases]
    with ExitStack() as stack:
        fleets = [stack.enter_context(Fleet(instance.places(case, machine))) for case in cases]
        for fleet in fleets:
            fleet.closed(0.1)
        for _ in range(ROUNDS):
            for fleet, value in zip(fleets, values, strict=True):
                value.append(fleet.closed(SECONDS).per_second)
        proofs = [fleet.prove() for fleet in fleets]
        sums = [fleet.answers[0]["checksum"] for fleet in fleets]
    series = []
    for case, value, proof, checksum in zip(cases, values, proofs, sums, strict=True):
        seen: dict[int, int] = {}
        for one in proof:
            for node, pages in one["placement_seen"].items():
                seen[int(node)] = seen.get(int(node), 0) + pages
        wrong = sum(one["pages_misplaced"] + one["pages_absent"] for one in proof)
        evidence = Evidence(
            proof=proof[0]["proof"], placement_seen=seen, pages_misplaced=wrong, checksum=checksum, cpus_asked=case.cpus
        )
        samples = [
            Sample(number=n, position=n, value=rate, windows=(rate,), evidence=evidence) for n, rate in enumerate(value)
        ]
        series.append(summary(case, samples, "", Options(profile="quick")))
    made = {"options": msgspec.to_builtins(Options(profile="quick"))}
    record.save(session.build(machine, {}, made, series, record.now(), 1.0), sys.argv[1])


if __name__ == "__main__":
    main()
