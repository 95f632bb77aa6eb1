# SPDX-License-Identifier: Apache-2.0
"""Sizes, times and rates as people write and read them."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from numabench.errors import UsageError

_BINARY = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SECONDS = {"ms": 1e-3, "s": 1.0, "": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


def parse_bytes(text: str | int) -> int:
    """Read a size such as ``1GiB``, ``256M`` (binary), ``1GB`` (decimal) or ``4096``; bytes.

    Raises UsageError for anything else, for zero and for negative sizes.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(ib|b|)\s*", str(text).lower())
    value = 0
    if match:
        table = _DECIMAL if match[3] == "b" and match[2] else _BINARY
        value = int(Fraction(match[1]) * table[match[2]])
    if not 0 < value < 1 << 60:
        raise UsageError(
            f"size {text!r}: a positive number with an optional unit is allowed, such as 4096, 64KiB, 1GiB"
        )
    return value


def format_bytes(value: float) -> str:
    """Print a size in the largest binary unit that keeps it at least 1: ``256 MiB``, ``1.5 GiB``."""
    size, unit = float(value), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if size == int(size) or size >= 100 else f"{size:.1f} {unit}"


def parse_seconds(text: str | float) -> float:
    """Read a duration such as ``60s``, ``90``, ``500ms``, ``2min``; seconds. Raises UsageError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|)\s*", str(text).lower())
    value = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 0 < value < 1e7:
        raise UsageError(f"duration {text!r}: a positive time is allowed, such as 60s, 2min, 500ms")
    return value


def format_seconds(value: float) -> str:
    """Print a duration: ``0.8 s``, ``19 s``, ``2 min 5 s``."""
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"


def parse_share(text: str, what: str) -> float:
    """Read a share such as ``1%``, ``0.5 %`` or ``0.01``, between 0 and 1. Raises UsageError naming ``what``."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", text)
    value = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < value < 1:
        raise UsageError(f"{what} {text!r}: a share between 0 and 1 is allowed, such as 1% or 0.01")
    return value


def parse_ratio(text: str) -> tuple[int, int]:
    """Read reads to writes such as ``5:1``, in lowest terms. Raises UsageError."""
    match = re.fullmatch(r"\s*(\d{1,3})\s*:\s*(\d{1,3})\s*", text)
    reads, writes = (int(match[1]), int(match[2])) if match else (0, 0)
    if not reads + writes:
        raise UsageError(f"--ratio {text!r}: reads to writes are wanted, such as 5:1 or 0:1")
    common = math.gcd(reads, writes)
    return reads // common, writes // common


def parse_numbers(text: str, what: str) -> tuple[int, ...]:
    """Read a list of non-negative numbers and ranges such as ``0-7,16,18``. Raises UsageError naming ``what``."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        last = int(match[2] or match[1]) if match else -1
        if not match or last < int(match[1]):
            raise UsageError(f"{what} {text!r}: numbers and ranges are allowed, such as 0 or 0-7,16")
        numbers.extend(range(int(match[1]), last + 1))
    return tuple(dict.fromkeys(numbers))


def format_numbers(numbers: tuple[int, ...] | list[int]) -> str:
    """Print numbers as ranges: ``0-7,16``."""
    parts: list[str] = []
    ordered = sorted(set(numbers))
    start = 0
    for i, number in enumerate(ordered):
        if i + 1 == len(ordered) or ordered[i + 1] != number + 1:
            first = ordered[start]
            parts.append(str(first) if first == number else f"{first}-{number}")
            start = i + 1
    return ",".join(parts)


def plural(count: int, noun: str) -> str:
    """Print a number of things: ``1 thread``, ``2 threads``, ``3 passes``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith('s') else 's'}"


def format_count(value: float) -> str:
    """Print a count in three figures and a decimal unit: ``812``, ``12.3 k``, ``4.56 G``."""
    for unit in ("", " k", " M", " G", " T"):
        if abs(value) < 999.5 or unit == " T":
            break
        value /= 1000
    return f"{value:.{max(0, 2 - len(str(int(abs(value)))) + 1)}f}{unit}" if unit else f"{value:.0f}"


def format_value(value: float, half_width: float | None = None) -> str:
    """Print a figure with as many digits as its interval's half-width supports (three figures without one)."""
    if value == 0:
        return "0"
    digits = 0
    reference = half_width or abs(value) / 1000
    while digits < 6 and 10**-digits > max(reference, abs(value) * 1e-4):
        digits += 1
    return f"{value:.{digits}f}"
