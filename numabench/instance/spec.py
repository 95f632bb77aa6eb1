# SPDX-License-Identifier: Apache-2.0
"""What an instance is asked to be. Plain data that goes to its process as JSON."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from numabench.presets import Model, Op

UNIT = 64  # columns of an output that stay together
PAGE, PART = 4096, 2 << 20
GATHER_STEPS = 8  # different rows for so many steps, more than caches keep
SMALL = 1 << 18  # bytes of weights that stay in a private cache
WIDE = 256  # columns: over fewer, packing the inputs counts for more than it does in an operation
MEAN = 0.75  # of the fill; weights are divided by it and by k, so that activations keep their mean
Fields = dict[str, Any]  # arguments of a Work
WEIGHTS = ("private", "interleave", "weighted", "replicate", "shared", "file", "first-touch")


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """One instance. Empty ``cpus`` entries of -1 are threads that roam where the process may run.

    ``weights``: private (bound to ``nodes``), interleave, weighted (over ``nodes``), replicate (each thread's part on
    its own node), shared or file (a mapping of ``fd``), first-touch. ``kv`` likewise, of the first three and
    first-touch. ``loader``: workers (each touches its part) or main (one thread touches all). ``ranks`` instances,
    each with a part of one model, serve it together and add up their outputs in the memory of ``exchange``.
    """

    model: Model
    cpus: tuple[int, ...]
    nodes: tuple[int, ...]
    weights: str = "private"
    kv: str = ""  # as the weights
    loader: str = "workers"
    pages: str = "thp"
    wait: str = "spin"
    tier: str = "best"
    fd: int = 0
    writes: bool = True  # fills a shared mapping; the others find it filled
    rank: int = 0
    ranks: int = 1
    exchange: int = 0  # a memfd of ``exchange_bytes``


def some_columns(column: int, width: int) -> int:
    """How many of so many columns, of so many bytes each, tell the rate of an operation out of the caches."""
    return min(max(SMALL // column // 8 * 8, WIDE), width)


class Slice(NamedTuple):
    """One thread's part of one operation's weights."""

    op: Op
    layer: int
    first: int
    last: int
    offset: int  # in the thread's region
