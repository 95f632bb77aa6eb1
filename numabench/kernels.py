# SPDX-License-Identifier: Apache-2.0
"""The catalogue: which kernels exist, in which tier, and what they move and compute per element."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from numabench import _core
from numabench.errors import Unsupported, UsageError

MEASURED = "measured"


class Tier(NamedTuple):
    """One instruction-set level: its kernels, and whether this CPU runs it."""

    name: str
    level: str
    usable: bool
    kernels: dict[str, _core.Kernel]


@cache
def tiers() -> dict[str, Tier]:
    """All tiers built in, slowest first."""
    return {name: Tier(name, level, usable, {k.name: k for k in found}) for name, level, usable, found in _core.tiers()}


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean x, y?`` or the list of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"


def tier(name: str = "best") -> Tier:
    """The tier of that name; ``best`` is NUMABENCH_TIER if set, else the highest this CPU runs. So is ``measured`` as
    long as nothing has been measured.

    Raises UsageError for an unknown name, Unsupported for one that this CPU cannot run.
    """
    if name in ("", "best", MEASURED):
        name = os.environ.get("NUMABENCH_TIER", "")
    if name in ("", "best"):
        return [found for found in tiers().values() if found.usable][-1]
    if name not in tiers():
        raise UsageError(f"tier {name!r}: {nearest(name, tiers())}")
    found = tiers()[name]
    if not found.usable:
        raise Unsupported(f"tier {name}: this CPU does not run {found.level}")
    return found


def kernel(name: str, tier_name: str = "best") -> _core.Kernel:
    """The kernel of that name in that tier. Raises UsageError with the nearest names."""
    found = tier(tier_name).kernels
    if name not in found:
        raise UsageError(f"kernel {name!r}: {nearest(name, found)}")
    return found[name]


def tiers_seen(said: Iterable[str]) -> str:
    """As which the functions that ran were compiled, by the word of each (nmb.h: nmb_ran); joined by + if several."""
    names = {name for word in said for name in word.split("+")}
    return "+".join(name for name in _core.TIERS if name in names)


def wrong_tier(asked: str, seen: str) -> bool:
    """Whether anything else ran than the tier asked for. Only what the system itself does has none and says nothing."""
    return seen not in ("", tier(asked).name)


def app_bytes(found: _core.Kernel) -> int:
    """Bytes read and written per element, as STREAM counts them."""
    return found.bytes_read + found.bytes_written


def bus_most(found: _core.Kernel) -> float:
    """Bytes on the bus at full write-allocate over those of the application; without any they are the same."""
    return 1 + found.bytes_allocated / app_bytes(found) if app_bytes(found) else 1.0
