# SPDX-License-Identifier: Apache-2.0
"""A machine's state over its visits: what failed stays failed until it has passed twice in a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

State = Literal["", "PASS", "SUSPECT", "FAIL", "REPAIRED"]
Seen = Literal["fail", "suspect", "pass", "nothing"]


class Change(NamedTuple):
    """When a machine came into a state: the time of the visit that showed it."""

    at: str
    state: State


def changes(visits: Sequence[tuple[str, Seen]]) -> tuple[Change, ...]:
    """The states of a machine in their order, from (time, what was seen) of its visits in theirs.

    A pass after a failure is REPAIRED, the next pass in a row clears it; anything bad in between fails it again.
    A visit that gave no verdict changes nothing.
    """
    state: State = ""
    found: list[Change] = []
    for at, seen in visits:
        new = _next(state, seen)
        if new != state:
            found.append(Change(at, new))
        state = new
    return tuple(found)


def _next(state: State, seen: Seen) -> State:
    if seen == "nothing":
        return state
    if seen == "pass":
        return "REPAIRED" if state == "FAIL" else "PASS"
    return "FAIL" if seen == "fail" or state in ("FAIL", "REPAIRED") else "SUSPECT"
