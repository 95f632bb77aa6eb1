# SPDX-License-Identifier: Apache-2.0
"""Page cache: does the node that first read a file decide the speed of who maps it later?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from numabench.errors import UsageError
from numabench.experiments import base
from numabench.machine import Machine
from numabench.series import Case, Cell, Options, Series, Table

MOST = 2 * base.GIB  # written and read again in every pass


class PageCache:
    """A file is read on one node, mapped and streamed from its own or another; then dropped and read in from there."""

    name = "pagecache"
    question = "Does who read a file first decide how fast others read it?"
    families: tuple[str, ...] = ("stream",)
    standard = False

    def unavailable(self, machine: Machine, options: Options) -> str | None:
        """Pages of a file are of the kind its file system takes."""
        return f"--pages {options.pages}: pages of a file are of no kind to choose" if options.pages else None

    def plan(self, machine: Machine, options: Options) -> Iterator[Case]:
        """First reader and user on each of two nodes, the farthest apart; and a second reading by the user."""
        if options.kernels and options.kernels != ("read",):
            raise UsageError(f"--kernel {', '.join(options.kernels)}: pagecache measures read")
        local, *far = base.local_and_far(machine, options) or [(0, 0, "no node to measure from")]
        if local[2]:
            yield base.point(self.name, machine, options, local, "read", job="pagecache", pages="base")
            return
        home = local[0]
        others = [j for _, j, why in far if not why and machine.cpus_of(j) and base.team(machine, options, j)]
        nodes = (home, *others[-1:])
        for first in nodes:
            for user in nodes:
                yield self._case(machine, options, (first,), user)
        for user in nodes if others else ():
            first = next(node for node in nodes if node != user)
            yield self._case(machine, options, (first, user), user)
        if not others:
            one = len(machine.nodes) == 1
            yield Case(
                experiment=self.name,
                kernel="read",
                unit="GB/s",
                better="high",
                initiator=home,
                pages="base",
                job="pagecache",
                params={"first": "another node"},
                unavailable="one node" if one else "no other node has CPUs that may be used here",
            )

    def _case(self, machine: Machine, options: Options, readers: tuple[int, ...], user: int) -> Case:
        """Read in by a CPU of each of ``readers`` in turn, dropped before each; the last one's node holds it."""
        holds = readers[-1]
        cpus = base.team(machine, options, user)
        size, suspect = base.size_for(machine, options, holds, cpus, 64 * base.MIB)
        size = size if options.bytes else min(size, MOST)
        return Case(
            experiment=self.name,
            kernel="read",
            unit="GB/s",
            better="high",
            initiator=user,
            target=holds,
            cpus=cpus,
            touch_cpus=tuple(machine.one_cpu_per_core(machine.cpus_of(node))[0] for node in readers),
            pages="base",
            tier=options.tier,
            bytes=size,
            cache_suspect=suspect or size < 4 * machine.llc_bytes(cpus),
            params={"first": readers[0], **({"then": "dropped"} if len(readers) > 1 else {})},
            job="pagecache",
        )

    def summarise(self, series: Sequence[Series], machine: Machine) -> list[Table]:
        """Who read it and who uses it, down; the ratio is to a file that the user's own node read first."""
        own = {s.case.initiator: s for s in series if s.case.initiator == s.case.target and not self._again(s)}
        return [
            Table(
                experiment=self.name,
                title="A mapped file by who read it first, GB/s read",
                unit="GB/s",
                better="high",
                corner="file",
                columns=("GB/s", "pages by node", "from disk, GB/s"),
                rows=tuple(
                    (self._name(s), (base.cell(s, own.get(s.case.initiator)), self._where(s), self._disk(s)))
                    for s in series
                ),
                meaning=tuple(self._words(series, own)),
            )
        ]

    def _again(self, s: Series) -> bool:
        return "then" in s.case.params

    def _name(self, s: Series) -> str:
        first = s.case.params["first"]
        text = f"CPUs of {s.case.initiator}, first read {'on node ' if isinstance(first, int) else 'on '}{first}"
        return f"{text}, dropped, read again" if self._again(s) else text

    def _where(self, s: Series) -> Cell:
        seen = s.samples[-1].evidence.placement_seen if s.samples else {}
        total = sum(seen.values())
        text = ", ".join(f"{node}: {pages / total:.0%}" for node, pages in sorted(seen.items()))
        return Cell(text=text) if total else Cell(unavailable=s.unavailable or "the system does not tell")

    def _disk(self, s: Series) -> Cell:
        """How fast the last reader got it in."""
        return base.values_cell(base.extras(s, "fill_gb_per_s").get("", []))

    def _words(self, series: Sequence[Series], own: dict[int | None, Series]) -> Iterator[str]:
        for s in series:
            user, mine = s.case.initiator, own.get(s.case.initiator)
            ratio = base.paired(s, mine) if mine is not None and mine is not s else None
            if ratio and self._again(s):
                yield f"Dropped and read again by node {user}: {base.in_words(ratio)} of one that it read first."
            elif ratio:
                yield (
                    f"CPUs of node {user} read a file that node {s.case.params['first']} read first at "
                    f"{base.in_words(ratio)} of one that their own node did."
                )
        if any(s.case.params.get("first") == "another node" for s in series):
            yield "A file that another node read first cannot be had: " + series[-1].unavailable + "."
