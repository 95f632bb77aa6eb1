# SPDX-License-Identifier: Apache-2.0
"""The result of validating one machine: one JSON document from which every other output is made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import msgspec

from numabench import record
from numabench.analysis.verdict import Verdict
from numabench.errors import RecordError

SCHEMA = 1
KIND = "numabench-validation"
Reason = Literal[
    "",
    "BELOW_SPEC",
    "ABOVE_SPEC",
    "FACT_MISMATCH",
    "WRONG_SPEC",
    "ASYMMETRIC",
    "NOISE",
    "MODE",
    "UNCONFIRMED",
    "BELOW_BASELINE",
    "BETTER_THAN_BASELINE",
    "OUTLIER",
    "DRIFT",
    "UNSTABLE",
    "BUSY",
    "RESTRICTED",
    "NO_DATA",
    "NOT_TOLD",
    "INVALID",
    "ENVIRONMENT",
    "ECC",
    "THROTTLED",
    "UNEVEN",
    "EXPIRED",
]
Layer = Literal["preflight", "facts", "spec", "symmetry", "baseline", "stability", "environment"]


class Fact(msgspec.Struct, frozen=True):
    """A value and where it is from. ``unavailable``: this system does not tell, which is not the value 0."""

    value: Any
    source: Literal["sysfs", "dmi", "edac", "procfs", "unavailable"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One verdict: on what, the figure, the limit it was held against, the distance to it as a share."""

    layer: Layer
    name: str  # metric or fact
    instance: str = ""  # node0, node0->node1, or empty
    verdict: Verdict
    reason: Reason = ""
    value: float | str | None = None
    unit: str = ""
    limit: str = ""
    margin: float | None = None
    rounds: tuple[float, ...] = ()
    text: str = ""

    @property
    def label(self) -> str:
        """``bw.read.local[node1]``."""
        return f"{self.name}[{self.instance}]" if self.instance else self.name


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """A probable cause by pattern: never certain, always with what speaks for it and what would tell it apart."""

    name: str
    score: float
    evidence: tuple[str, ...]
    check: str
    remedy: str


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one visit to one machine."""

    schema: int = SCHEMA
    kind: str = KIND
    host: str
    machine_id: str = ""  # hash of the system's machine id; empty: not told
    job: dict[str, str] = {}  # launcher and job identity
    command: str = ""  # the command line that judged it
    numabench: str
    created: str  # ISO 8601, UTC: when the figures were taken
    against: str  # what the machine was held against
    cohort: str  # key: machines of one key may be compared
    cohort_of: dict[str, str]  # what the key is made of
    machine: str
    facts: dict[str, Fact]
    values: dict[str, dict[str, tuple[float, ...]]]
    missing: dict[str, str]
    checks: tuple[Check, ...]
    causes: tuple[Cause, ...] = ()
    verdict: Verdict
    reason: str


def save(result: Result | Any, path: str | os.PathLike[str]) -> None:
    """Write as JSON. Raises RecordError as :func:`numabench.record.write` does."""
    record.write(path, dumps(result))


def dumps(result: Any) -> bytes:
    """As JSON, indented."""
    return msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"


_decoder = msgspec.json.Decoder(Result)


def load(path: str | os.PathLike[str]) -> Result:
    """Read a result. Raises RecordError for an unreadable, truncated or foreign file."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}", error.errno or 0) from error
    return loads(text, str(path))


def loads(text: bytes, name: str) -> Result:
    """Read a result from memory; ``name`` is for messages. Raises RecordError."""
    try:
        found = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"{name} is no validation result: {error}") from None
    if found.kind != KIND or found.schema != SCHEMA:
        raise RecordError(f"{name} is no validation result of schema {SCHEMA}")
    return found
