# SPDX-License-Identifier: Apache-2.0
"""A fleet whose faults are known: results of many machines, noise drawn from real repeats, dips, planted defects.

The residuals are those of published repeats (tests/validate/data): the same matrix measured twice on one machine, and
runs of sister machines; they are drawn with replacement, with both signs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from numabench.validation import outcome
from numabench.validation.facts import key as key_of
from numabench.validation.outcome import Result
from numabench.validation.validate import validate
from tests.validate.reference import machines, record, series, topology

SHARE = 0.005  # of the machines, for each kind of defect
DIP_CHANCE, DIP = 0.02, (0.03, 0.15)  # of a metric in a visit: a busy moment as long as the visit
BETWEEN = 0.007  # between machines, of a logarithm


class Defect(NamedTuple):
    """What a kind of defect does to figures by name of metric and instance, to memory, and to facts of the class."""

    name: str
    factors: dict[str, float]
    memory: float = 1.0
    facts: tuple[tuple[str, str], ...] = ()


DEFECTS = (
    Defect("channel 8 %", {"bw.read.local[node1]": 0.92, "bw.copy.local[node1]": 0.92}, 1.0),
    Defect("channel 30 %", {"bw.read.local[node0]": 0.70}, 0.875),
    Defect("link half width", {"bw.read.remote[node0->node1]": 0.5}),
    Defect("link 10 % one way", {"bw.read.remote[node1->node0]": 0.9}),
    Defect("latency 8.7 %", {"latency.local[node0]": 1 / 0.92}),
    Defect("package 12 %", {"bw.read.local[node1]": 0.88, "latency.local[node1]": 1 / 0.88}),
    Defect("another mode", {"latency.local[node0]": 0.95, "bw.read.local[node0]": 0.5}, facts=(("numa_nodes", "4"),)),
    Defect("SMT on", {}, facts=(("smt", "on"),)),
)


def residuals() -> list[float]:
    """Differences of logarithms between repeats of one cell, and halves of those between sister runs."""
    found = []
    for one in machines().values():
        for runs in (one.get("repeats") or {}).values():
            for a, b in zip(*runs[:2], strict=True):
                found += [math.log(x / y) / math.sqrt(2) for x, y in zip(a, b, strict=True) if x and y]
    pair = [machines()[name] for name in ("clx-8269cy-2s-a", "clx-8269cy-2s-b")]
    for key in ("latency_ns", "bandwidth_gb_per_s"):
        for a, b in zip(pair[0][key], pair[1][key], strict=True):
            found += [math.log(x / y) / math.sqrt(2) for x, y in zip(a, b, strict=True)]
    return [sign * value for value in found for sign in (1, -1)]


def template() -> Result:
    """A sound machine of two nodes."""
    cells = [(i, j) for i in range(2) for j in range(2)]
    found = [series("latency", (i, j), [80.0 if i == j else 140.0] * 6) for i, j in cells]
    found += [series("bw.read", (i, j), [180.0 if i == j else 56.0] * 6) for i, j in cells]
    for kernel in ("copy", "triad", "write_nt", "triad_nt"):
        found += [series("bw.read", (i, i), [150.0] * 6, kernel=kernel) for i in range(2)]
    return validate(record(topology(2, 2, "a server CPU"), found), host="h")


class Fleet:
    """Hosts ``h00000``...; ``planted`` says which carry which defect. ``visit`` writes results of some of them."""

    def __init__(self, n: int, seed: int = 1, share: float = SHARE) -> None:
        rng = random.Random(seed)
        self.seed, self.template, self.residuals = seed, template(), residuals()
        self.hosts = [f"h{at:05d}" for at in range(n)]
        per = max(1, round(share * n)) if share else 0
        chosen = rng.sample(self.hosts, per * len(DEFECTS))
        self.planted = {host: DEFECTS[at // per] for at, host in enumerate(chosen)}
        self.labels = [(m, at) for m, cells in self.template.values.items() for at in cells]
        self.own = {host: [rng.gauss(0, BETWEEN) for _ in self.labels] for host in self.hosts}

    def results(self, hosts: list[str], visit: int) -> Iterator[Result]:
        rng = random.Random(self.seed * 1000 + visit)
        for host in hosts:
            defect = self.planted.get(host)
            values: dict[str, dict[str, tuple[float, ...]]] = {}
            for (name, at), own in zip(self.labels, self.own[host], strict=True):
                middle = self.template.values[name][at][0] * (
                    defect.factors.get(f"{name}[{at}]", 1.0) if defect else 1.0
                )
                better = 1 if name.startswith("bw") else -1
                dip = math.log1p(-rng.uniform(*DIP)) if rng.random() < DIP_CHANCE else 0.0
                logs = [own + better * dip + rng.choice(self.residuals) for _ in range(3)]
                values.setdefault(name, {})[at] = tuple(middle * math.exp(x) for x in logs)
            facts = self.template.facts
            if defect and defect.memory != 1.0:
                facts = facts | {"mem_total_gib_per_node": outcome.Fact([64.0 * defect.memory, 64.0], "sysfs")}
            of = self.template.cohort_of | dict(defect.facts if defect else ())
            yield msgspec.structs.replace(
                self.template, host=host, values=values, facts=facts, cohort=key_of(of), cohort_of=of,
                created=f"2026-11-{visit:02d}T12:00:00+00:00",
            )  # fmt: skip

    def visit(self, folder: Path, number: int, hosts: list[str] | None = None) -> None:
        target = folder / f"visit{number}"
        target.mkdir(parents=True, exist_ok=True)
        for result in self.results(self.hosts if hosts is None else hosts, number):
            (target / f"{result.host}.json").write_bytes(outcome.dumps(result))
