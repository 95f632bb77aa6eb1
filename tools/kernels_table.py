# SPDX-License-Identifier: Apache-2.0
"""Writes docs/kernels.md from the catalogue; with --check only says whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from numabench.kernels import tiers

PAGE = Path(__file__).parents[1] / "docs" / "kernels.md"
HEAD = """# Kernels

Made from the catalogue by `make fix`; do not edit. Bytes and operations are per element, or per line, row or message
where the kernel moves those; write-allocate is what the caches read before an ordinary store, reported apart and
never counted as bandwidth. Multiplications count their operations only: their traffic follows from the shape
(docs/method.md). Every kernel exists in every tier: scalar, avx2 (x86-64-v3), avx512 (x86-64-v4); scalar and neon on
aarch64.

| kernel | family | does | arrays | element bytes | read | written | write-allocate | operations | NT |
|---|---|---|--:|--:|--:|--:|--:|--:|---|
"""


def page() -> str:
    """The whole page, from the lowest tier, whose kernels have no variants."""
    first = next(iter(tiers().values()))
    rows = [
        f"| `{k.name}` | {k.family} | {k.brief} | {k.arrays} | {k.element_bytes} | {k.bytes_read} | {k.bytes_written} "
        f"| {k.bytes_allocated} | {k.flops} | {'yes' if k.nt else ''} |\n"
        for k in first.kernels.values()
    ]
    return HEAD + "".join(rows)


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        sys.exit(f"{PAGE} is not what the catalogue says: make fix")
