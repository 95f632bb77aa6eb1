# SPDX-License-Identifier: Apache-2.0
"""Which machines are expected: names, ranges, a file of names, or what a fleet run keeps."""

from __future__ import annotations

import json
import re
from pathlib import Path

from numabench.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
MOST = 1_000_000


def expand(text: str) -> list[str]:
    """Names and ranges such as ``n[1-8,12],login``; zeros in front are kept. Raises UsageError."""
    found: list[str] = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text):
        names = [""]
        for piece in re.findall(r"\[[^\]]*\]|[^\[\]]+", part.strip()):
            choices = _range(piece[1:-1], text) if piece.startswith("[") else [piece]
            if len(names) * len(choices) > MOST:
                raise UsageError(f"hosts {text!r}: more than {MOST} names")
            names = [name + choice for name in names for choice in choices]
        found += names
    bad = text if re.search(r"[\[\]]", re.sub(r"\[[^\[\]]*\]", "", text)) else None
    bad = bad or next((name for name in found if not _NAME.fullmatch(name)), None)
    if bad is not None or not found:
        raise UsageError(f"hosts {bad or text!r}: names and ranges are allowed, such as n[1-8],login1")
    return list(dict.fromkeys(found))


def _range(text: str, whole: str) -> list[str]:
    found: list[str] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not match or last < first or last - first >= MOST:
            raise UsageError(f"hosts {whole!r}: {part!r} is no range")
        found += [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
    return found


def expected(text: str) -> list[str]:
    """From a file (one name or range a line, # for comments, or an expect.json) or the words themselves."""
    path = Path(text)
    try:
        content = path.read_text() if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {text}: {error}") from error
    if content is None:
        if "/" in text or text.endswith((".json", ".txt")):
            raise UsageError(f"--expect {text}: no such file")
        return expand(text)
    if path.suffix == ".json":
        try:
            data = json.loads(content)
            hosts = data["hosts"] if isinstance(data, dict) else data
            return expand(",".join(str(host) for host in hosts))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UsageError(f"{text}: a list of hosts is needed, or an object with hosts") from None
    lines = [line.partition("#")[0].strip() for line in content.splitlines()]
    return expand(",".join(line for line in lines if line))
