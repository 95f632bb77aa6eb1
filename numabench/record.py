# SPDX-License-Identifier: Apache-2.0
"""The record of a run: versioned JSON, written whole or not at all, and the journal that survives a kill."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from numabench.errors import RecordError
from numabench.machine import Machine
from numabench.series import Case, Sample, Series
from numabench.units import format_bytes

SCHEMA = 1
KIND = "numabench-record"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one run found, enough to recompute every statistic."""

    schema: int = SCHEMA
    kind: str = KIND
    numabench: str
    created: str  # ISO 8601, UTC
    duration_s: float
    machine: Machine
    environment: dict[str, Any]
    capabilities: dict[str, Any]
    plan: dict[str, Any]
    series: tuple[Series, ...]


class _Head(msgspec.Struct):
    schema: Any = None
    kind: Any = None


class _Entry(msgspec.Struct):
    """One line of a journal."""

    experiment: str
    label: str
    sample: Sample


def _flat(series: Series) -> dict[str, Any]:
    """A series as the file shows it: what people look for beside the data that statistics are made of."""
    data: dict[str, Any] = msgspec.to_builtins(series, str_keys=True)
    last = data["samples"][-1]["evidence"] if data["samples"] else {}
    return {
        "experiment": series.case.experiment,
        "label": series.case.label,
        "unit": series.case.unit,
        **data,
        "n": len(series.samples),
        "verdict": series.trust,
        "evidence": last,
    }


def dumps(record: Record, pretty: bool = True) -> bytes:
    """The record as JSON (RFC 8259: infinities and NaN become null)."""
    data: dict[str, Any] = msgspec.to_builtins(record, str_keys=True)
    data["series"] = [_flat(series) for series in record.series]
    text = msgspec.json.encode(data)
    return msgspec.json.format(text, indent=1) + b"\n" if pretty else text


def save(record: Record, path: str | os.PathLike[str]) -> None:
    """Write by a temporary file and a rename. Raises RecordError naming the file and the free space."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(dumps(record))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _cannot_write(target, error) from error


def _cannot_write(target: Path, error: OSError) -> RecordError:
    try:
        free = f"; {format_bytes(shutil.disk_usage(target.parent).free)} are free there"
    except OSError:
        free = ""
    return RecordError(f"cannot write {target}: {error.strerror}{free}", error.errno or 0)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise RecordError now rather than after the measurement if the folder does not take files."""
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise RecordError(f"cannot write {path}: folder {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise RecordError(f"cannot write {path}: folder {folder} is not writable")


def load(path: str | os.PathLike[str]) -> Record:
    """Read a record. Raises RecordError for an unreadable, truncated, foreign or newer file."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}", error.errno or 0) from error
    return loads(text, str(path))


def loads(text: bytes, name: str) -> Record:
    """Read a record from memory; ``name`` is for messages."""
    try:
        head = msgspec.json.decode(text, type=_Head)
    except msgspec.ValidationError:
        raise RecordError(f"{name} is JSON, but not a numabench record") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{name} is truncated or not JSON ({error})") from None
    if head.kind != KIND or not isinstance(head.schema, int):
        raise RecordError(f"{name} is JSON, but not a numabench record")
    if head.schema != SCHEMA:
        raise RecordError(f"{name} has schema {head.schema}; this version reads schema {SCHEMA}")
    try:
        return msgspec.json.decode(text, type=Record)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RecordError(f"{name} is a damaged record: {error}") from None


def now() -> str:
    """The time as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def default_name() -> str:
    """``numabench-HOST-YYYYmmddTHHMMSS.json``."""
    return f"numabench-{os.uname().nodename.split('.')[0]}-{datetime.now().strftime('%Y%m%dT%H%M%S')}.json"


class Journal:
    """Append-only file of finished samples, so that a killed process loses at most the one in flight."""

    def __init__(self, path: Path, plan: dict[str, Any]) -> None:
        self.path = path
        try:
            self.file = open(path, "ab")  # noqa: SIM115 - closed by close()
            if self.file.tell() == 0:
                self._line({"kind": KIND + "-journal", "schema": SCHEMA, "plan": plan})
        except OSError as error:
            raise _cannot_write(path, error) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()

    def _line(self, data: object) -> None:
        self.file.write(msgspec.json.encode(msgspec.to_builtins(data, str_keys=True)) + b"\n")
        self.file.flush()

    def add(self, case: Case, sample: Sample) -> None:
        """Append one finished sample. Raises RecordError when the disk is full."""
        try:
            self._line(_Entry(case.experiment, case.label, sample))
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    @staticmethod
    def read(path: Path) -> tuple[dict[str, Any], dict[tuple[str, str], tuple[Sample, ...]]]:
        """The plan and the samples of a journal; a last line cut short is left out. Raises RecordError."""
        try:
            lines = path.read_bytes().split(b"\n")
            head = msgspec.json.decode(lines[0], type=dict[str, Any])
        except OSError as error:
            raise RecordError(f"cannot read {path}: {error.strerror}", error.errno or 0) from error
        except msgspec.DecodeError:
            head = {}
        if head.get("kind") != KIND + "-journal" or head.get("schema") != SCHEMA:
            raise RecordError(f"{path} is not a journal of this version")
        found: dict[tuple[str, str], tuple[Sample, ...]] = {}
        for at, line in enumerate(lines[1:], start=2):
            try:
                entry = msgspec.json.decode(line, type=_Entry)
            except msgspec.DecodeError as error:
                if at >= len(lines):
                    break  # the line in flight when the process was killed
                raise RecordError(f"{path}: line {at} is damaged: {error}") from None
            key = (entry.experiment, entry.label)
            found[key] = (*found.get(key, ()), entry.sample)
        return head.get("plan", {}), found
