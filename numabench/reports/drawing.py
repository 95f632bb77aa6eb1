# SPDX-License-Identifier: Apache-2.0
"""The machine as a drawing: nodes in their packages, links coloured by what they cost."""

from __future__ import annotations

import math
from typing import NamedTuple

from numabench.experiments.base import paired
from numabench.machine import Machine, Node
from numabench.record import Record
from numabench.reports.words import LEAST_SPAN
from numabench.series import Series
from numabench.units import format_bytes, format_numbers

# From no penalty to the worst one; visible on white and on black.
RAMP = ((42, 157, 143), (222, 180, 60), (217, 90, 44))
LABELLED, DETAILED = 4, 8  # up to so many nodes links have labels, boxes have details


class Box(NamedTuple):
    """A node: its upper left corner, and what is written in it."""

    x: float
    y: float
    name: str
    lines: tuple[str, ...]
    cpu_less: bool
    said: str


class Link(NamedTuple):
    """A pair of nodes and the worse direction's ratio to local."""

    x1: float
    y1: float
    x2: float
    y2: float
    colour: str
    label: str
    said: str
    measured: bool


class Drawing(NamedTuple):
    """Everything that the template needs, in user units of the SVG."""

    width: int
    height: int
    box_width: int
    box_height: int
    boxes: list[Box]
    links: list[Link]
    legend: str
    steps: list[str]  # colours from best to worst


def colour(share: float) -> str:
    """The ramp at ``share`` (0 to 1)."""
    at = min(max(share, 0.0), 1.0) * (len(RAMP) - 1)
    low = min(int(at), len(RAMP) - 2)
    mixed = [a + (b - a) * (at - low) for a, b in zip(RAMP[low], RAMP[low + 1], strict=True)]
    return f"rgb({', '.join(str(round(part)) for part in mixed)})"


def penalties(record: Record) -> dict[tuple[int, int], float]:
    """Latency from node i to memory of node j over the local one, for every pair that was measured."""
    at: dict[tuple[int | None, int | None], Series] = {}
    for series in record.series:
        if series.case.experiment == "latency" and series.usable:
            at.setdefault((series.case.initiator, series.case.target), series)
    found = {}
    for (i, j), series in at.items():
        ratio = paired(series, at[i, i]) if i != j and (i, i) in at else None
        if ratio and i is not None and j is not None:
            found[i, j] = ratio.value
    return found


def _alike(record: Record) -> dict[tuple[int, int], tuple[int, int]]:
    """Pairs of nodes that were not measured, and the ones that stand for them."""
    pairs = record.plan.get("represented", {}).get("latency", {})
    both = [(pair.split("-"), like.split("-")) for pair, like in pairs.items()]
    return {(int(i), int(j)): (int(a), int(b)) for (i, j), (a, b) in both}


def _sizes(count: int) -> tuple[int, int, int, int, int, int]:
    """Width and height of the drawing, of a box, and the radii of the ellipse that boxes stand on."""
    if count == 1:
        return 640, 150, 300, 110, 0, 0
    if count == 2:
        return 540, 150, 190, 110, 160, 0
    if count <= LABELLED:
        return 640, 380, 170, 96, 205, 130
    if count <= DETAILED:
        return 720, 560, 132, 74, 270, 225
    return 760, 720, 74, 40, 325, 325


def draw(record: Record) -> Drawing:
    """Lay nodes out on an ellipse, those of a package beside each other, and colour the links between them."""
    machine = record.machine
    ratios = penalties(record)
    slit, alike = (
        not ratios,
        {(i, j): like for (i, j), like in _alike(record).items() if like in ratios and (j, i) not in ratios},
    )
    ratios |= {pair: ratios[like] for pair, like in alike.items()}
    if slit:
        ratios = {
            (i, j): distance / 10
            for i in machine.distances.nodes
            for j in machine.distances.nodes
            if i != j and (distance := machine.distance(i, j)) is not None
        }
    nodes = sorted(machine.nodes, key=lambda node: (_package(machine, node), node.id))
    width, height, box_width, box_height, rx, ry = _sizes(len(nodes))
    place = {}
    for n, node in enumerate(nodes):
        angle = math.pi + 2 * math.pi * (n - (0 if len(nodes) <= 2 else 0.5)) / max(len(nodes), 1)
        place[node.id] = (width / 2 + rx * math.cos(angle), height / 2 + ry * math.sin(angle))
    worst = max(1 + LEAST_SPAN, *ratios.values()) if ratios else 1 + LEAST_SPAN
    links = []
    for i, j in sorted({(min(pair), max(pair)) for pair in ratios}):
        both = [ratios[pair] for pair in ((i, j), (j, i)) if pair in ratios]
        if i not in place or j not in place:
            continue
        share = (max(both) - 1) / (worst - 1)
        said = f"node {i} to node {j}: " + " and back ".join(f"{ratio:.2f}x" for ratio in both)
        like = alike.get((i, j))
        said += f" (not measured: the system calls it like {like[0]} to {like[1]})" if like else ""
        label = f"{max(both):.2f}x" if len(nodes) <= LABELLED else ""
        links.append((share, Link(*place[i], *place[j], colour(share), label, said, not like)))
    boxes = [
        Box(
            place[node.id][0] - box_width / 2,
            place[node.id][1] - box_height / 2,
            f"node {node.id}",
            _lines(machine, node, len(nodes)),
            not node.cpus,
            f"node {node.id}: CPUs {format_numbers(node.cpus) or 'none'}, {format_bytes(node.memory_bytes)}",
        )
        for node in nodes
    ]
    what = "distance as the firmware claims it, over 10" if slit else "latency over local"
    what += " (dashed: not measured, like one that was)" if alike else ""
    legend = f"{what}: 1.00x to {worst:.2f}x" if ratios else ""
    ordered = [link for _, link in sorted(links, key=lambda item: item[0])]
    return Drawing(
        width,
        height,
        box_width,
        box_height,
        boxes,
        ordered,
        legend,
        [colour(n / 8) for n in range(9)] if ratios else [],
    )


def _package(machine: Machine, node: Node) -> int:
    """The package that a node belongs to; CPU-less ones stand beside their nearest."""
    near = node.cpus or node.local_cpus
    package = machine.cpu(near[0]).package if near else None
    return -1 if package is None else package


def _lines(machine: Machine, node: Node, count: int) -> tuple[str, ...]:
    cpus = f"CPUs {format_numbers(node.cpus)}" if node.cpus else "no CPUs"
    if count > DETAILED:
        return (cpus if len(cpus) < 13 else f"{len(node.cpus)} CPUs",)
    lines = [cpus if len(cpus) < 24 else f"{len(node.cpus)} CPUs", format_bytes(node.memory_bytes)]
    caches = sorted({(c.level, c.bytes) for c in machine.caches if set(c.cpus) & set(node.cpus) and c.level > 1})
    if caches and count <= LABELLED:
        lines.append(" · ".join(f"L{level} {format_bytes(size)}" for level, size in caches))
    near = [device.name for device in machine.devices if node.id in device.nodes and device.kind != "dma"]
    if near and count <= LABELLED:
        lines.append(", ".join(near[:3]) + (" …" if len(near) > 3 else ""))
    return tuple(lines)
