# SPDX-License-Identifier: Apache-2.0
"""The lab's machines, as data. A new machine is one definition here and its name in MACHINES.

Nodes with CPUs come first and CPUs are numbered node by node: Linux numbers nodes in that order whatever the
firmware says, so node and CPU numbers mean the same to QEMU, to the plugin and to the guest.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

Matrix = tuple[tuple[int, ...], ...]

# No last-level cache is offered to the guest: what it reports as its largest cache (512 KiB of L2) is then what the
# plugin simulates, and working sets chosen from it stay small enough for an emulator.
MAX_CPU = "max,l3-cache=off"
CACHE_BYTES = 512 << 10


@dataclass(frozen=True)
class Node:
    """One NUMA node: how many CPUs, how much memory; either may be 0."""

    cpus: int
    memory_mib: int = 512


@dataclass(frozen=True)
class Penalties:
    """What the plugin makes a user-space access cost when it misses the simulated cache.

    Rows are initiator nodes, columns target nodes. `cycles` are time stamp counter cycles per miss.
    `bytes_per_s` caps the traffic of each link, 64 bytes a miss, 0 for no cap; None for no caps at all.
    """

    cycles: Matrix
    bytes_per_s: Matrix | None = None
    cache_bytes: int = CACHE_BYTES


@dataclass(frozen=True)
class Machine:
    """A NUMA machine to boot.

    `distances` is the SLIT, None for the kernel's default (10 and 20). `kernel` is added to the kernel's
    command line. `setup` are shell commands run in the guest, each of which must succeed, by the shell that
    then starts the command, so that it can move itself into a cgroup. Raises ValueError when the description
    makes no sense.
    """

    name: str
    nodes: tuple[Node, ...]
    distances: Matrix | None = None
    packages: int = 1
    cpu: str = MAX_CPU
    kernel: tuple[str, ...] = ("numa_balancing=disable",)
    setup: tuple[str, ...] = ()
    penalties: Penalties | None = None

    def __post_init__(self) -> None:
        have = [node.cpus > 0 for node in self.nodes]
        if have != sorted(have, reverse=True):
            raise ValueError(f"{self.name}: nodes with CPUs must come first, as Linux numbers them")
        if self.cpus % self.packages:
            raise ValueError(f"{self.name}: {self.cpus} CPUs do not divide into {self.packages} packages")
        matrices = [self.distances]
        if self.penalties:
            matrices += [self.penalties.cycles, self.penalties.bytes_per_s]
        for matrix in matrices:
            if matrix is not None and {len(matrix), *map(len, matrix)} != {len(self.nodes)}:
                raise ValueError(f"{self.name}: matrices must be {len(self.nodes)} x {len(self.nodes)}")

    @property
    def cpus(self) -> int:
        """Number of CPUs."""
        return sum(node.cpus for node in self.nodes)

    @property
    def memory_mib(self) -> int:
        """Memory of all nodes."""
        return sum(node.memory_mib for node in self.nodes)

    def cpus_of(self, node: int) -> range:
        """OS numbers of a node's CPUs."""
        first = sum(other.cpus for other in self.nodes[:node])
        return range(first, first + self.nodes[node].cpus)

    def node_of(self, cpu: int) -> int:
        """The node of a CPU."""
        return next(node for node in range(len(self.nodes)) if cpu in self.cpus_of(node))

    def slit(self) -> Matrix:
        """Distances as the guest is to see them."""
        size = range(len(self.nodes))
        return self.distances or tuple(tuple(10 if i == j else 20 for j in size) for i in size)

    def penalised(self, cycles: Matrix, bytes_per_s: Matrix | None = None, cache_bytes: int = CACHE_BYTES) -> Machine:
        """The same machine with the given penalties."""
        return dataclasses.replace(self, penalties=Penalties(cycles, bytes_per_s, cache_bytes))


ONE_NODE = Machine("ONE_NODE", (Node(2),))
TWO_NODES = Machine("TWO_NODES", (Node(2), Node(2)), packages=2)
ASYMMETRIC = Machine("ASYMMETRIC", (Node(1), Node(1)), distances=((10, 21), (31, 10)))
FOUR_NODES = Machine(
    "FOUR_NODES",
    (Node(2, 384),) * 4,
    distances=((10, 12, 32, 32), (12, 10, 32, 32), (32, 32, 10, 12), (32, 32, 12, 10)),
    packages=2,
)
CPULESS = Machine(
    "CPULESS",
    (Node(1), Node(1), Node(0, 256)),
    distances=((10, 21, 24), (21, 10, 34), (24, 34, 10)),
)
MEMORYLESS = Machine("MEMORYLESS", (Node(1), Node(1), Node(1, 0)))
SIXTEEN = Machine("SIXTEEN", (Node(1, 128),) * 16)
CPUSET = Machine(
    "CPUSET",
    (Node(2), Node(2)),
    setup=(
        "echo +cpuset > /sys/fs/cgroup/cgroup.subtree_control",
        "mkdir /sys/fs/cgroup/one",
        "echo 1 > /sys/fs/cgroup/one/cpuset.mems",
        "echo 2-3 > /sys/fs/cgroup/one/cpuset.cpus",
        "echo $$ > /sys/fs/cgroup/one/cgroup.procs",
    ),
)
FAKE_NODES = Machine("FAKE_NODES", (Node(2, 1024),), kernel=("numa=fake=4", "numa_balancing=disable"))
OLD_CPU = Machine("OLD_CPU", (Node(1), Node(1)), cpu="Nehalem")
HUGEPAGES = Machine(
    "HUGEPAGES",
    (Node(1), Node(1)),
    setup=("echo 24 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages",),
)
# As eager as it can be made: it looks for pages to move after 10 ms of a task, and every 20 to 100 ms.
BALANCING = Machine(
    "BALANCING",
    (Node(1), Node(1)),
    kernel=("numa_balancing=enable",),
    setup=(
        "mount -t debugfs debugfs /sys/kernel/debug",
        "echo 10 > /sys/kernel/debug/sched/numa_balancing/scan_delay_ms",
        "echo 20 > /sys/kernel/debug/sched/numa_balancing/scan_period_min_ms",
        "echo 100 > /sys/kernel/debug/sched/numa_balancing/scan_period_max_ms",
    ),
)

# Machines whose true latencies and bandwidths are known, since the plugin makes them.
SYMMETRIC = Machine("SYMMETRIC", (Node(1),) * 3, distances=((10, 14, 20), (14, 10, 28), (20, 28, 10))).penalised(
    ((3000, 6000, 9000), (6000, 3000, 12000), (9000, 12000, 3000))
)
KNOWN_LATENCY = dataclasses.replace(
    CPULESS.penalised(((3000, 6000, 12000), (9000, 3000, 7500), (0, 0, 0))), name="KNOWN_LATENCY"
)
SLOW_LINK = dataclasses.replace(
    FOUR_NODES.penalised(
        (
            (3000, 6000, 12000, 12000),
            (6000, 3000, 12000, 24000),
            (12000, 12000, 3000, 6000),
            (12000, 12000, 6000, 3000),
        )
    ),
    name="SLOW_LINK",
)
KNOWN_BANDWIDTH = dataclasses.replace(
    TWO_NODES.penalised(((0, 0), (0, 0)), bytes_per_s=((48_000_000, 24_000_000), (12_000_000, 48_000_000))),
    name="KNOWN_BANDWIDTH",
)

MACHINES = {
    machine.name: machine
    for machine in (
        ONE_NODE,
        TWO_NODES,
        ASYMMETRIC,
        FOUR_NODES,
        CPULESS,
        MEMORYLESS,
        SIXTEEN,
        CPUSET,
        FAKE_NODES,
        OLD_CPU,
        HUGEPAGES,
        BALANCING,
        SYMMETRIC,
        KNOWN_LATENCY,
        SLOW_LINK,
        KNOWN_BANDWIDTH,
    )
}
