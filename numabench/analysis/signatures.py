# SPDX-License-Identifier: Apache-2.0
"""What a misconfiguration looks like: patterns of observations as data, and how well they match.

Directions and patterns are coded, magnitudes are not: published ones are few. Sources are named in docs/validation.md.
To add a signature: a row. To add an observation: a name here, and what makes it in `numabench.validation.causes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

OBSERVATIONS: dict[str, str] = {
    "one node's bandwidth low": "read of own memory is low on one node, its like are not",
    "all bandwidth low": "read of own memory is low on all nodes alike",
    "remote bandwidth low": "read over every link between packages is low, of own memory not",
    "link bandwidth low": "read over one link is low, own memory of both ends is not",
    "one node's latency high": "latency to one node's memory is high, to the others not",
    "link latency high": "latency over one link is high, to own memory of both ends not",
    "all latency high": "latency is high everywhere",
    "one package slow": "all that one package's CPUs do is slow",
    "flat matrix": "remote memory is as near as own memory",
    "one thread slow": "what one thread reads is low, all threads together are not",
    "rounds differ": "figures differ from round to round",
    "nothing fetched ahead": "a load of the next line takes about as long as one at random",
    "slowed for heat": "the thermal counters of a package rose meanwhile",
    "caches slow": "a load within L1 or L2 takes longer than it should",
    "core to core slow": "handing a line to another core of the node takes longer than it should, everywhere",
    "figures fall": "figures get worse over the run",
    "figures rise": "figures get better over the run",
    "modules uneven": "the modules cannot be dealt out evenly to the channels that have any",
    "others at work": "other work wanted CPUs or memory meanwhile",
    "time stolen": "the hypervisor took CPU time",
    "quota stopped threads": "the cgroup's CPU quota stopped threads",
    "node's memory low": "one node has less memory than the others or than specified",
    "memory low": "all nodes have less memory than specified",
    "a node without memory": "a node with CPUs has no memory",
    "too many nodes": "more nodes than specified, or than others of the model",
    "too few nodes": "fewer nodes than specified, than others of the model, or than packages",
    "memory rate low": "configured rate of the modules below the rated or specified one",
    "channels low": "fewer memory channels with a module than specified",
    "governor saves power": "the frequency governor is not performance",
    "huge pages off": "transparent huge pages are never",
    "threads per core differ": "SMT is not as specified",
    "balancing on": "automatic NUMA balancing is on",
    "virtual": "this is a virtual machine",
    "one node shown": "only one node is shown",
    "memory errors": "the memory controllers corrected errors meanwhile",
    "restricted": "a cpuset or mask hides CPUs or nodes",
}


class Signature(NamedTuple):
    """A cause: observations that show it with their weights (one of ``key`` must be there), and that speak against."""

    cause: str
    key: tuple[str, ...]
    shows: dict[str, float]
    against: tuple[str, ...]
    check: str  # what would tell it from the others
    remedy: str


SIGNATURES: tuple[Signature, ...] = (
    Signature(
        "memory channel missing",
        ("one node's bandwidth low", "channels low", "node's memory low"),
        {"one node's bandwidth low": 2, "node's memory low": 2, "channels low": 2},
        ("all bandwidth low", "one package slow", "link bandwidth low", "one node's latency high", "link latency high"),
        "MemTotal of the node and the module list (dmidecode -t memory): a module or channel is not there; idle "
        "latency and one thread's bandwidth hardly move",
        "reseat or replace the module; look at the firmware's memory training log",
    ),
    Signature(
        "memory rate downgraded",
        ("all bandwidth low", "memory rate low"),
        {"all bandwidth low": 2, "memory rate low": 3, "all latency high": 0.5},
        ("one node's bandwidth low", "channels low"),
        "configured against rated MT/s of the modules: all nodes lose the same share; a comparison with equals shows "
        "nothing when all machines are alike",
        "firmware: memory frequency; two modules a channel lower the rate",
    ),
    Signature(
        "half of the memory channels",
        ("all bandwidth low", "channels low"),
        {"all bandwidth low": 2, "channels low": 3, "memory low": 1.5},
        ("one node's bandwidth low", "memory rate low"),
        "modules per channel: all nodes lose about the share of the channels that are empty",
        "populate the channels evenly",
    ),
    Signature(
        "node interleaving on",
        ("flat matrix", "too few nodes"),
        {"flat matrix": 2, "too few nodes": 2},
        ("virtual",),
        "fewer nodes than packages, or remote as near as local: pages of every node lie on all packages",
        "firmware: node interleaving off, NPS1 instead of NPS0",
    ),
    Signature(
        "wrong NPS or sub-NUMA mode",
        ("too many nodes", "too few nodes"),
        {"too many nodes": 3, "too few nodes": 1.5, "one node's bandwidth low": 0.5},
        ("flat matrix", "virtual"),
        "node count against packages: bandwidth per node is a share, the machine's sum is as before",
        "firmware: NPS or SNC",
    ),
    Signature(
        "socket link narrow or down",
        ("link bandwidth low", "remote bandwidth low", "link latency high"),
        {"link bandwidth low": 3, "remote bandwidth low": 3, "link latency high": 2},
        ("one node's bandwidth low", "one package slow", "all bandwidth low"),
        "bandwidth between packages against that of own memory, each direction apart: own memory is sound",
        "firmware: link width and speed (xGMI, UPI); reseat the package",
    ),
    Signature(
        "one package throttled",
        ("one package slow", "slowed for heat"),
        {
            "one package slow": 3,
            "slowed for heat": 3,
            "figures fall": 1.5,
            "one node's bandwidth low": 0.5,
            "one node's latency high": 0.5,
        },
        ("others at work", "node's memory low"),
        "throttle counters of that package (/sys/devices/system/cpu/cpu*/thermal_throttle), and cycles per load and "
        "GEMM over a minute: they fall with its clock, the other's do not",
        "power cap, cooling, thermal paste",
    ),
    Signature(
        "memory of one node slow",
        ("one node's latency high",),
        {"one node's latency high": 2, "one node's bandwidth low": 1},
        ("one package slow",),
        "every initiator sees that node's memory slow, its own CPUs are sound elsewhere",
        "module list of that node; firmware: memory training, mirroring, patrol scrub",
    ),
    Signature(
        "hardware prefetcher off",
        ("one thread slow", "nothing fetched ahead"),
        {"one thread slow": 2, "nothing fetched ahead": 2},
        ("all bandwidth low", "caches slow"),
        "one thread's sequential read falls and a sequential chase rises to a random one; a random chase and the "
        "bandwidth of all threads hardly move",
        "firmware or MSR: hardware prefetchers on",
    ),
    Signature(
        "SMT not as specified",
        ("threads per core differ",),
        {"threads per core differ": 3},
        (),
        "threads per core; memory figures do not move",
        "firmware, or /sys/devices/system/cpu/smt/control",
    ),
    Signature(
        "power-saving governor",
        ("governor saves power", "caches slow"),
        {
            "governor saves power": 2,
            "caches slow": 2,
            "all latency high": 1,
            "core to core slow": 1,
            "rounds differ": 1,
            "figures rise": 1,
        },
        ("figures fall",),
        "cache latency in ns rises, in cycles not; first rounds are slower than later ones",
        "cpupower frequency-set -g performance",
    ),
    Signature(
        "deep sleep states",
        ("core to core slow",),
        {"core to core slow": 2, "figures rise": 0.5},
        ("caches slow", "all latency high", "link latency high"),
        "cpuidle: cores that wait fall asleep; saturated bandwidth and latency under load are sound",
        "cpupower idle-set -D 10, or a firmware profile for latency",
    ),
    Signature(
        "uneven number of modules",
        ("modules uneven",),
        {"modules uneven": 2, "one node's bandwidth low": 1},
        ("all bandwidth low",),
        "modules per channel (dmidecode -t memory): memory beyond the even part is interleaved over fewer channels, so "
        "that figures depend on the address",
        "populate every channel alike",
    ),
    Signature(
        "transparent huge pages off",
        ("huge pages off",),
        {"huge pages off": 2, "all latency high": 1.5},
        (),
        "a chase over base pages is as slow as the one over huge pages asked for",
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
    ),
    Signature(
        "memory on one package only",
        ("a node without memory",),
        {"a node without memory": 3},
        (),
        "MemTotal of each node",
        "populate the memory of every package",
    ),
    Signature(
        "throttled by a quota",
        ("quota stopped threads",),
        {"quota stopped threads": 3, "rounds differ": 0.5},
        (),
        "nr_throttled of the cgroup during the run",
        "run without a CPU quota (cpuset instead of cpu.max)",
    ),
    Signature(
        "noisy neighbour",
        ("others at work", "time stolen", "rounds differ"),
        {"others at work": 2, "time stolen": 3, "rounds differ": 1},
        ("governor saves power",),
        "all figures, another set each round; facts are sound; load, pressure, steal",
        "measure on an idle machine, or an exclusive job",
    ),
    Signature(
        "topology hidden by the virtual machine",
        ("one node shown", "flat matrix"),
        {"one node shown": 1, "virtual": 2, "flat matrix": 1},
        ("too many nodes",),
        "hypervisor flag, one thread per core, one node or a flat matrix",
        "ask the provider for virtual NUMA; figures are true but of an unknown place",
    ),
    Signature(
        "automatic NUMA balancing",
        ("balancing on",),
        {"balancing on": 1, "rounds differ": 1.5},
        (),
        "numa_hint_faults in vmstat; the best round is sound",
        "sysctl kernel.numa_balancing=0",
    ),
    Signature(
        "memory errors",
        ("memory errors",),
        {"memory errors": 3, "rounds differ": 0.5},
        (),
        "EDAC counters by module; latency has a tail",
        "replace the module that EDAC names",
    ),
    Signature(
        "restricted by a cpuset",
        ("restricted",),
        {"restricted": 3},
        (),
        "Cpus_allowed_list and Mems_allowed_list against what is online",
        "an exclusive job with all CPUs and memory",
    ),
)


def match(seen: Mapping[str, str], most: int = 2) -> list[tuple[Signature, float, tuple[str, ...]]]:
    """The best signatures for observations ({name: evidence in words}): (signature, score, evidence).

    The score is the weight seen, less 1.5 for each observation against; below 1 a cause is not worth naming.
    """
    found = []
    for one in SIGNATURES:
        if not any(key in seen for key in one.key):
            continue
        weight = sum(points for name, points in one.shows.items() if name in seen)
        score = weight - 1.5 * sum(name in seen for name in one.against)
        if score >= 1:
            found.append((one, score, tuple(seen[name] for name in one.shows if name in seen)))
    return sorted(found, key=lambda item: (-item[1], item[0].cause))[:most]
