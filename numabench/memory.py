# SPDX-License-Identifier: Apache-2.0
"""Buffers on chosen nodes: refused when they cannot fit, touched by chosen CPUs, and proven where they are."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from numabench import _core
from numabench.environment import free_bytes, free_huge_pages, more_huge_pages
from numabench.errors import HugePagesUnavailable, NumabenchError, PlacementError, Unsupported, UsageError
from numabench.machine import Machine
from numabench.units import format_bytes, parse_bytes

HUGE_BYTES = {"2M": 2 << 20, "1G": 1 << 30}
TOUCH_BLOCK = 4 << 20
# What the buffer's own bookkeeping (page tables, ring order) may take on top.
HEADROOM = 1.03
REMEDY_MBIND = "run with --cap-add SYS_NICE, or give the container --cpuset-mems=N"


class Proof(NamedTuple):
    """Where a buffer's pages were at one moment: ``seen`` maps node to pages of ``step_bytes``."""

    how: str  # move_pages, numa_maps, get_mempolicy, none
    pages: int
    seen: dict[int, int]
    absent: int
    step_bytes: int
    kind_share: float  # of the bytes that are of the page kind asked for
    kind_seen: str
    placement: _core.Placement | None

    def misplaced(self, nodes: Sequence[int]) -> int:
        """Pages that are on none of the given nodes."""
        return sum(count for node, count in self.seen.items() if node not in nodes)


_Answer = tuple[str, dict[int, int], int, int, "_core.Placement | None"]


class Buffer:
    """A touched region and what was asked of it. A context manager; ``close`` is idempotent.

    Arrays made in a ``with`` block may outlive it: the memory goes with the last of them.
    """

    def __init__(self, region: _core.Region, nodes: tuple[int, ...], how: str) -> None:
        self.region, self.nodes, self.how = region, nodes, how
        self.filled_s = 0.0  # time that faulting in and writing took

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.region.__exit__(None, None, None)

    @property
    def bytes(self) -> int:
        """Size of the buffer, whole pages."""
        return self.region.bytes

    def close(self) -> None:
        """Give the memory back. Raises BufferError while an array over it lives."""
        self.region.close()

    def as_array(self, dtype: str = "f8") -> Any:
        """One-dimensional numpy array over the buffer."""
        return self.region.as_array(dtype)

    def proof(self) -> Proof:
        """Ask the system where every page is and of which kind: move_pages, numa_maps, get_mempolicy, else nothing.

        numa_maps counts neither absent nor zero pages, and get_mempolicy faults them in: what is missing in smaps
        counts as absent.
        """
        kind, share, missing = self._kind()
        whole = self.region.pages == "thp" and share >= 1.0 and missing == 0
        for rung in (partial(self._by_move_pages, whole), self._by_numa_maps, self._by_get_mempolicy):
            try:
                how, seen, absent, step, placement = rung(missing)
            except NumabenchError:
                continue
            return Proof(how, self.bytes // step, seen, absent, step, share, kind, placement)
        return Proof("none", 0, {}, 0, os.sysconf("SC_PAGESIZE"), share, kind, None)

    def _by_move_pages(self, whole: bool, missing: int | None) -> _Answer:
        del missing
        # Where all is mapped by huge pages one question a huge page tells of all of it, in a hundredth of the time.
        placement = self.region.placement(whole)
        return "move_pages", placement.nodes, placement.not_resident, placement.page_bytes, placement

    def _by_numa_maps(self, missing: int | None) -> _Answer:
        del missing
        by_node, step = self.region.numa_maps()
        seen = {node: size // step for node, size in by_node.items()}
        return "numa_maps", seen, self.bytes // step - sum(seen.values()), step, None

    def _by_get_mempolicy(self, missing: int | None) -> _Answer:
        if missing is None:
            raise Unsupported("/proc/self/smaps does not tell how much is resident")
        placement = _core.ask_policy(self.region)
        return "get_mempolicy", placement.nodes, missing // placement.page_bytes, placement.page_bytes, placement

    def _kind(self) -> tuple[str, float, int | None]:
        """Kind of the pages, the share that is as asked, and the bytes that are absent or the zero page."""
        try:
            smaps = self.region.smaps()
        except NumabenchError:
            return "unknown", 0.0, None
        huge = smaps.anon_huge / max(smaps.rss, 1)
        asked = self.region.pages
        if smaps.kernel_page in HUGE_BYTES.values():
            kind = next(name for name, size in HUGE_BYTES.items() if size == smaps.kernel_page)
            return kind, 1.0 if kind == asked else 0.0, 0
        missing = max(0, self.bytes - smaps.rss)
        if asked == "thp":
            return ("thp" if huge >= 0.99 else "mixed" if huge > 0 else "base"), huge, missing
        if asked == "any":
            return ("thp" if huge >= 0.99 else "mixed" if huge > 0 else "base"), 1.0, missing
        return ("base" if huge == 0 else "mixed"), 1.0 - huge, missing


def allocate(
    size: int | str,
    node: int | Sequence[int] | None = None,
    *,
    pages: str = "base",
    policy: str = "bind",
    machine: Machine | None = None,
    touch: Sequence[int] = (),
    fill: str = "fill_f64",
    seed: int = 1,
) -> Buffer:
    """Allocate ``size`` on a node (or nodes), touch every page from ``touch`` CPUs and return the buffer.

    ``node`` None places pages where they are touched. ``touch`` defaults to the target's nearest CPUs, one per core.
    Values are in [0.5, 1). Raises UsageError (size, page kind), PlacementError (node, free memory, mbind),
    HugePagesUnavailable (with the free pages and how to get more), Unsupported (no way to place here).
    """
    machine = machine or Machine.load()
    wanted = parse_bytes(size)
    nodes = () if node is None else (node,) if isinstance(node, int) else tuple(node)
    if pages not in _core.PAGE_KINDS:
        raise UsageError(f"page kind {pages!r}: allowed are {', '.join(_core.PAGE_KINDS)}")
    _refuse(machine, wanted, nodes, pages, policy)
    cpus = tuple(touch) or machine.one_cpu_per_core(machine.nearest_cpus(nodes[0])) if nodes else tuple(touch)
    region, how = _map(machine, wanted, nodes, pages, policy)
    filled_s = 0.0
    try:
        with _core.Team(cpus or machine.allowed_cpus[:1]) as team:
            started = time.monotonic()
            touch_region(region, team, fill, seed)
            filled_s = time.monotonic() - started
        if pages == "thp" and region.smaps().anon_huge < 0.99 * region.bytes:
            with suppress(PlacementError, Unsupported):  # the proof will show what there is
                region.collapse()
    except BaseException as error:
        region.close()
        if isinstance(error, PlacementError) and error.errno in (errno.EFAULT, errno.ENOMEM):
            raise _exhausted(machine, wanted, nodes, pages) from error
        raise
    buffer = Buffer(region, nodes, how)
    buffer.filled_s = filled_s
    return buffer


def touch_region(region: _core.Region, team: _core.Team, fill: str, seed: int) -> None:
    """Write every line of a region, each thread of the team its own part (whole pages of the kind asked for)."""
    kernel, count = _core.setup_kernel(fill), len(team)
    unit = max(region.page_bytes, 1 << 16)
    units = -(-region.bytes // unit)
    bounds = [min(units * i // count * unit, region.bytes) for i in range(count + 1)]
    bounds[-1] = region.bytes
    works = [
        _core.Work(kernel, a=(region, lo), bytes=hi - lo, seed=seed, loops=1, block=max(TOUCH_BLOCK, unit))
        if hi > lo
        else None
        for lo, hi in pairwise(bounds)
    ]
    team.run(works)


def _refuse(machine: Machine, wanted: int, nodes: tuple[int, ...], pages: str, policy: str) -> None:
    """Say no before anything is allocated."""
    for node in nodes:
        reason = machine.unavailable_reason(node)
        if reason:
            usable = ", ".join(map(str, machine.targets())) or "none"
            raise PlacementError(f"{format_bytes(wanted)} on node {node}: {reason}; nodes with memory here: {usable}")
    if pages in HUGE_BYTES:
        size = HUGE_BYTES[pages]
        free = sum(free_huge_pages(n, size) or 0 for n in (nodes or machine.targets()))
        if free * size < wanted:
            raise _dry(wanted, nodes, pages, free)
        return
    free_here = [free_bytes(node) for node in (nodes or machine.targets())]
    known = [value for value in free_here if value is not None]
    if known and wanted * HEADROOM > sum(known):
        where = f"node {', '.join(map(str, nodes))}" if nodes else "this machine"
        raise PlacementError(
            f"{format_bytes(wanted)} on {where}: only {format_bytes(sum(known))} are free; ask for a smaller --size"
        )
    del policy


def _dry(wanted: int, nodes: tuple[int, ...], pages: str, free: int) -> HugePagesUnavailable:
    size = HUGE_BYTES[pages]
    node = nodes[0] if nodes else 0
    need = -(-wanted // size)
    return HugePagesUnavailable(
        f"{format_bytes(wanted)} in {pages} pages on node {node}: {free} pages are free, {need} are needed; "
        f"get more: {more_huge_pages(node, size, wanted)}"
    )


def _exhausted(machine: Machine, wanted: int, nodes: tuple[int, ...], pages: str) -> PlacementError:
    if pages in HUGE_BYTES:
        return _dry(wanted, nodes, pages, sum(free_huge_pages(n, HUGE_BYTES[pages]) or 0 for n in nodes))
    return PlacementError(f"{format_bytes(wanted)} on nodes {list(nodes)}: the memory ran out while it was touched")


def _map(machine: Machine, wanted: int, nodes: tuple[int, ...], pages: str, policy: str) -> tuple[_core.Region, str]:
    if not nodes:
        return _core.Region(wanted, pages, "local"), "first_touch"
    try:
        return _core.Region(wanted, pages, policy, nodes), policy
    except (PlacementError, Unsupported) as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS):
            raise
        # A container that refuses mbind: threads on the node still place pages by touching them first.
        if len(nodes) != 1 or not machine.cpus_of(nodes[0]):
            raise Unsupported(f"{error}; node {list(nodes)} has no CPU to touch from; {REMEDY_MBIND}") from error
        return _core.Region(wanted, pages, "local"), "first_touch"
