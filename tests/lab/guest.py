# SPDX-License-Identifier: Apache-2.0
"""What the tests ask of a running machine: its topology as sysfs tells it, its latencies and rates."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from . import image
from .machines import Machine
from .vm import boot

# One line a fact: key, a tab, value. It is shell, since starting Python takes seconds in a machine.
FACTS = """
fact() { printf '%s\\t%s\\n' "$1" "$2"; }
cd /sys/devices/system/node
for node in node[0-9]*; do
  number=${node#node}
  fact cpus:$number "$(cat $node/cpulist)"
  fact distance:$number "$(cat $node/distance)"
  fact huge:$number "$(cat $node/hugepages/hugepages-2048kB/nr_hugepages)"
done
fact memory "$(cat has_memory)"
fact initiators "$(cat has_cpu)"
fact online "$(cat online)"
fact balancing "$(cat /proc/sys/kernel/numa_balancing)"
fact clock "$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
fact packages "$(cat /sys/devices/system/cpu/cpu*/topology/physical_package_id | sort -u | wc -l)"
fact flags "$(grep -m1 ^flags /proc/cpuinfo)"
fact allowed "$(sed -n 's/^Mems_allowed_list://p' /proc/self/status)"
"""

Cells = dict[tuple[int, int], list[float]]


@dataclass(frozen=True)
class Facts:
    """Topology and settings of a running machine, by node number where they are per node."""

    nodes: list[int]
    with_memory: list[int]
    with_cpus: list[int]
    cpus: dict[int, list[int]]
    distances: tuple[tuple[int, ...], ...]
    huge_pages: dict[int, int]
    allowed: list[int]
    packages: int
    balancing: int
    clock: str
    flags: frozenset[str]


def parse_list(text: str) -> list[int]:
    """The numbers of a kernel list such as 0-3,7."""
    numbers: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def facts(machine: Machine, timeout: float = 120.0) -> Facts:
    """Boot the machine and read its topology. Raises AssertionError when the reading fails in the guest."""
    result = boot(machine, ["sh", "-ec", FACTS], timeout=timeout)
    assert (result.status, result.stderr) == (0, ""), result
    found = dict(line.split("\t", 1) for line in result.stdout.splitlines())
    nodes = parse_list(found["online"])
    return Facts(
        nodes=nodes,
        with_memory=parse_list(found["memory"]),
        with_cpus=parse_list(found["initiators"]),
        cpus={node: parse_list(found[f"cpus:{node}"]) for node in nodes},
        distances=tuple(tuple(map(int, found[f"distance:{node}"].split())) for node in nodes),
        huge_pages={node: int(found[f"huge:{node}"]) for node in nodes},
        allowed=parse_list(found["allowed"]),
        packages=int(found["packages"]),
        balancing=int(found["balancing"]),
        clock=found["clock"],
        flags=frozenset(found["flags"].partition(":")[2].split()),
    )


def probed(machine: Machine, kind: str, *, amount: int, rounds: int, seed: int, kib: int = 4096) -> Cells:
    """Samples of the lab's probe for each initiator and target node: "chase" ns a load, "read" bytes/s, "taken" ns.

    `amount` is loads a sample for chase, ms a sample for read, 0 (loads) or 1 (stores) for taken.
    """
    nodes = range(len(machine.nodes))
    initiators = ":".join(",".join(map(str, machine.cpus_of(i))) for i in nodes if machine.cpus_of(i))
    targets = ":".join(str(j) for j in nodes if machine.nodes[j].memory_mib)
    argv = [
        str(image.probe()),
        kind,
        str(kib << 10),
        str(amount),
        str(rounds),
        str(seed),
        initiators,
        targets,
    ]
    result = boot(machine, argv, timeout=240)
    assert (result.status, result.stderr) == (0, ""), result
    cells: Cells = defaultdict(list)
    for line in result.stdout.splitlines():
        i, j, value = line.split()
        cells[int(i), int(j)].append(float(value))
    return dict(cells)


def merged(
    boots: list[Cells], estimate: Callable[[list[float]], float] = statistics.median
) -> dict[tuple[int, int], float]:
    """One estimate for each cell from all samples of several boots."""
    return {key: estimate([value for cells in boots for value in cells[key]]) for key in boots[0]}


def lower_decile(values: list[float]) -> float:
    """The lower decile: of many samples shorter than a turn of the host's scheduler, these were not interrupted."""
    return statistics.quantiles(values, n=10)[0]


def lower_quartile(values: list[float]) -> float:
    """The lower quartile: what a busy host does to a latency only adds, and may hit half of the samples."""
    return statistics.quantiles(values, n=4)[0]
