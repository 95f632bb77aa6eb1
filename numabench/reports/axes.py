# SPDX-License-Identifier: Apache-2.0
"""What all figures share: sizes, colours, and the lines of their axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Spec = dict[str, Any]
# Distinguishable with colour-blind eyes, on white and on black (after Okabe and Ito, 2008).
COLOURS = ("#0077bb", "#ee7733", "#009988", "#cc3377", "#8866cc", "#998800", "#33aadd", "#bb5544")
WIDTH, HEIGHT, SMALL = 440, 240, 195
WIDE_LABELS = {"labelLimit": 225, "minExtent": 235}  # the reader's font may be wider than the one that was measured
MOST_TICKS = 8
MOST_DECADES = 3
IN_BINARY = " : ".join(
    [
        *(
            f"datum.value >= {1 << s} ? format(datum.value / {1 << s}, '.3~g') + ' {u}'"
            for s, u in ((30, "GiB"), (20, "MiB"), (10, "KiB"))
        ),
        "datum.value + ' B'",
    ]
)
LEGEND = {"symbolType": "stroke", "symbolOpacity": 1, "symbolStrokeWidth": 3}


def ticks(known: Sequence[float], binary: bool) -> list[float]:
    """At most about eight: powers of two for bytes, else some of the values themselves."""
    if not binary:
        return list(known[:: max(len(known) // MOST_TICKS, 1)])
    first, last = math.ceil(math.log2(known[0])), math.floor(math.log2(known[-1]))
    return [2.0**power for power in range(first, last + 1, max(round((last - first) / MOST_TICKS), 1))]


def logarithmic(low: float, high: float) -> Spec:
    """A scale from ``low`` to ``high`` with few lines: 1, 2 and 5 of a decade, or 1 alone over many decades."""
    steps = (1, 2, 5) if high < low * 10**MOST_DECADES else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [step * 10.0**power for power in powers for step in steps]
    return {"scale": {"type": "log", "domain": [low, high], "nice": False}, "axis": {"values": values, "format": "~g"}}
