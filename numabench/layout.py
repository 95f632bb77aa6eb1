# SPDX-License-Identifier: Apache-2.0
"""How a machine is divided between instances: which CPUs and which memory each of them gets. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from numabench.errors import UsageError
from numabench.machine import Machine
from numabench.units import plural

Goal = Literal["one-per-node", "split", "whole"]
Ids = tuple[int, ...]


class Slot(NamedTuple):
    """What one instance gets: CPUs, one per core, and the nodes that hold its memory."""

    cpus: Ids
    nodes: Ids


class Layout(NamedTuple):
    """A division of the machine. ``reserved`` are CPUs left to the front end."""

    goal: Goal
    slots: tuple[Slot, ...]
    reserved: Ids = ()


def cores(machine: Machine, node: int) -> Ids:
    """Allowed CPUs of a node, one per core, cores of one L3 beside each other."""
    cpus = machine.cpus_of(node)
    return tuple(sorted(cpus, key=lambda c: (machine.cpu(c).l3 if machine.cpu(c).l3 is not None else -1, c)))


def memory_of(machine: Machine, node: int) -> int:
    """The node whose memory serves this node's CPUs: itself, or the nearest that has any for this process."""
    targets = machine.targets()
    if node in targets or not targets:
        return node
    # Memory beside the CPUs is nearer than memory on a device, whatever the table of distances leaves out.
    return min(targets, key=lambda t: (machine.distance(node, t) or 255, not machine.node(t).cpus, t))


def per_node(machine: Machine, reserve: int = 0) -> Layout:
    """One instance per node that has CPUs. Raises UsageError when ``reserve`` leaves a node without cores."""
    slots: list[Slot] = []
    kept: list[int] = []
    for node in machine.initiators():
        cpus = cores(machine, node)
        if reserve >= len(cpus):
            raise UsageError(f"--reserve {reserve}: node {node} has {plural(len(cpus), 'core')}")
        keep = len(cpus) - reserve
        slots.append(Slot(cpus[:keep], (memory_of(machine, node),)))
        kept.extend(cpus[keep:])
    return Layout("one-per-node", tuple(slots), tuple(kept))


def split(machine: Machine, threads: int, reserve: int = 0, most: int | None = None) -> Layout:
    """Instances of ``threads`` cores, none across nodes. Raises UsageError when a node has too few cores."""
    base = per_node(machine, reserve)
    slots: list[Slot] = []
    spare: list[int] = []
    for slot in base.slots:
        for at in range(0, len(slot.cpus) - threads + 1, threads):
            slots.append(Slot(slot.cpus[at : at + threads], slot.nodes))
        spare.extend(slot.cpus[len(slot.cpus) // threads * threads :])
    if not slots:
        largest = max((len(slot.cpus) for slot in base.slots), default=0)
        raise UsageError(
            f"{plural(threads, 'thread')} per instance: the largest node has {plural(largest, 'core')} left"
        )
    return Layout("split", tuple(slots[:most]), (*base.reserved, *spare))


def whole(machine: Machine, reserve: int = 0) -> Layout:
    """One instance over all nodes, its memory interleaved."""
    base = per_node(machine, reserve)
    cpus = tuple(cpu for slot in base.slots for cpu in slot.cpus)
    nodes = tuple(dict.fromkeys(node for slot in base.slots for node in slot.nodes))
    return Layout("whole", (Slot(cpus, nodes),), base.reserved)


def divide(machine: Machine, instances: int, threads: int) -> Layout:
    """``instances`` of ``threads`` cores each, within nodes where they fit, else over all nodes.

    Instances go round the nodes, so that few of them do not share one. Raises UsageError when they do not fit.
    """
    total = whole(machine).slots[0]
    asked = f"{plural(instances, 'instance')} of {plural(threads, 'thread')}"
    if instances == 1 and threads == len(total.cpus):
        return whole(machine) if len(machine.initiators()) > 1 else per_node(machine)
    per = per_node(machine)
    if threads > max(len(slot.cpus) for slot in per.slots):
        if instances * threads > len(total.cpus):
            raise UsageError(f"{asked}: this machine has {plural(len(total.cpus), 'core')}")
        return Layout(
            "whole", tuple(Slot(total.cpus[i * threads : (i + 1) * threads], total.nodes) for i in range(instances))
        )
    found = split(machine, threads).slots
    if instances > len(found):
        raise UsageError(f"{asked}: only {len(found)} fit into the nodes")
    by_node: dict[Ids, list[Slot]] = {}
    for slot in found:
        by_node.setdefault(slot.nodes, []).append(slot)
    rounds = [slots[at] for at in range(len(found)) for slots in by_node.values() if at < len(slots)]
    goal: Goal = "one-per-node" if threads == len(per.slots[0].cpus) else "split"
    return Layout(goal, tuple(rounds[:instances]))


def disjoint(slots: Sequence[Slot]) -> bool:
    """Whether no CPU belongs to two instances."""
    cpus = [cpu for slot in slots for cpu in slot.cpus]
    return len(set(cpus)) == len(cpus)
