# SPDX-License-Identifier: Apache-2.0
"""What every family needs: rivals that take turns with us, and the ratio that comes out."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from statistics import median
from typing import NamedTuple, Protocol

import click
import msgspec

from numabench.analysis import stats
from numabench.backend import Hardware
from numabench.machine import Machine
from numabench.series import Case

Figure = Callable[[], float]


class Duel(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison: ``share`` is ours over the rival's so that above 1 is better for us."""

    name: str
    who: str
    """Which of ours was best."""
    rival: str
    unit: str
    ours: float
    theirs: float
    share: float
    ci: tuple[float, float] | None
    spread: tuple[float, float]
    """Coefficients of variation over the rounds: ours, theirs."""
    n: int


class Missing(NamedTuple):
    """A rival that is not here, and how to get it."""

    rival: str
    remedy: str


class Ring(NamedTuple):
    """Where duels take place: us, how often, and what the user says of where programs are."""

    hardware: Hardware
    machine: Machine
    rounds: int
    programs: dict[str, str]  # rival: name or path
    wanted: re.Pattern[str] = re.compile("")

    def program(self, rival: str, remedy: str) -> str | Missing:
        """Where the rival is, or how to get it."""
        return shutil.which(self.programs.get(rival, rival)) or Missing(rival, remedy)

    def wants(self, name: str) -> bool:
        """Whether the user asked for the comparison of that name."""
        return self.wanted.search(name) is not None

    def ours(self, case: Case) -> Figure:
        """Our figure for a case, taken anew at each call."""
        numbers = iter(range(10**6))

        def take() -> float:
            number = next(numbers)
            return self.hardware.measure([case], number, number, number)[0].value

        return take

    def case(self, kernel: str, cpus: tuple[int, ...], pages: str, tier: str, size: int, **more: object) -> Case:
        """A case on the node of the first CPU; ``size`` is bytes of all arrays together."""
        node = self.machine.cpu(cpus[0]).node
        fields = {"unit": "", "better": "high", **more}
        return Case(
            experiment="peers",
            kernel=kernel,
            initiator=node,
            target=node,
            cpus=cpus,
            touch_cpus=cpus,
            pages=pages,
            tier=tier,
            bytes=size,
            **fields,  # type: ignore[arg-type]
        )

    def duel(
        self, name: str, unit: str, ours: dict[str, Figure], theirs: dict[str, Figure], lower: bool
    ) -> Duel | Missing:
        """Everyone in turn, ``rounds`` times; the best of each side by median, compared round by round.

        A rival that fails costs this comparison and no other.
        """
        try:
            taken = self._rounds({**ours, **theirs})
        except click.ClickException as error:
            return Missing(f"{', '.join(theirs)} for {name}", error.message)
        best = min if lower else max
        we, they = (best(side, key=lambda who: median(taken[who])) for side in (ours, theirs))
        return self._compare(name, unit, taken, we, they, lower)

    def each(self, name: str, unit: str, ours: dict[str, Figure], theirs: dict[str, Figure], lower: bool) -> list[Duel]:
        """The same rounds, but every rival has a row of its own."""
        taken = self._rounds({**ours, **theirs})
        best = min if lower else max
        we = best(ours, key=lambda who: median(taken[who]))
        return [self._compare(name, unit, taken, we, they, lower) for they in theirs]

    def _rounds(self, all_of_them: dict[str, Figure]) -> dict[str, list[float]]:
        taken: dict[str, list[float]] = {who: [] for who in all_of_them}
        for number in range(self.rounds):
            order = list(all_of_them.items())
            for who, take in order if number % 2 else reversed(order):
                taken[who].append(take())
        return taken

    def _compare(self, name: str, unit: str, taken: dict[str, list[float]], we: str, they: str, lower: bool) -> Duel:
        share = stats.ratio(taken[they], taken[we]) if lower else stats.ratio(taken[we], taken[they])
        return Duel(
            name=name,
            who=we,
            rival=they,
            unit=unit,
            ours=median(taken[we]),
            theirs=median(taken[they]),
            share=share.value,
            ci=share.ci,
            spread=(stats.variation(taken[we]), stats.variation(taken[they])),
            n=self.rounds,
        )


class Family(Protocol):
    """A module of this package."""

    def duels(self, ring: Ring) -> Iterator[Duel | Missing]:
        """Its comparisons one after another, and the rivals that are not here."""


def command(words: list[str], pattern: str, env: dict[str, str] | None = None) -> float:
    """The last figure that a program prints in a pattern. Raises ClickException when there is none."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})})
    found = re.findall(pattern, done.stdout + done.stderr)
    if done.returncode or not found:
        said = (done.stderr or done.stdout).strip()[-200:]
        raise click.ClickException(f"{' '.join(words)} gave no figure (exit {done.returncode}): {said}")
    return float(found[-1])
