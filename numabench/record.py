# SPDX-License-Identifier: Apache-2.0
"""The record of a run: versioned JSON, written whole or not at all, and the journal that survives a kill."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
from contextlib import suppress
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
JOURNAL = KIND + "-journal"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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


class _JournalHead(msgspec.Struct):
    """The first line of a journal."""

    kind: str
    schema: int
    plan: dict[str, Any]


class _Entry(msgspec.Struct):
    """Every other line of a journal."""

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


def _check_finite(data: object, where: str) -> None:
    """JSON has no infinities and no NaN, and a figure that became null could not be read back. Raises RecordError."""
    if isinstance(data, float) and not math.isfinite(data):
        raise RecordError(f"{where} is {data}, which a record cannot hold")
    if isinstance(data, dict):
        for key, value in data.items():
            _check_finite(value, f"{where}.{key}")
    elif isinstance(data, list | tuple):
        for at, value in enumerate(data):
            _check_finite(value, f"{where}[{at}]")


def dumps(record: Record, pretty: bool = True) -> bytes:
    """The record as JSON (RFC 8259). Raises RecordError for a figure that is not finite.

    Facts of the environment that are not finite become null: not known.
    """
    data: dict[str, Any] = msgspec.to_builtins(record, str_keys=True)
    data["series"] = [_flat(series) for series in record.series]
    for series in data["series"]:
        _check_finite(series, f"{series['experiment']} {series['label']}")
    _check_finite(record.duration_s, "duration_s")
    text = msgspec.json.encode(data)
    return msgspec.json.format(text, indent=1) + b"\n" if pretty else text


def save(record: Record, path: str | os.PathLike[str]) -> None:
    """Write the record as JSON. Raises RecordError as :func:`write` does."""
    write(path, dumps(record))


def write(path: str | os.PathLike[str], content: bytes) -> None:
    """By a temporary file and a rename: a file of that name is whole at any moment, also after a crash.

    A pipe or a device is written to as it is. Raises RecordError naming the file and the free space.
    """
    target = Path(path)
    plain = not target.exists() or target.is_file()
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(temporary if plain else target, "wb") as file:
            file.write(content)
            if plain:
                file.flush()
                os.fsync(file.fileno())
        if plain:
            os.replace(temporary, target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _cannot_write(target: Path, error: OSError) -> RecordError:
    free = ""
    if error.errno in _FULL:
        with suppress(OSError):
            free = f"; {format_bytes(shutil.disk_usage(target.absolute().parent).free)} are free there"
    return RecordError(f"cannot write {target}: {error.strerror}{free}", error.errno or 0)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise RecordError now rather than after the measurement if the folder does not take files."""
    folder = Path(path).absolute().parent
    if not os.path.isdir(folder):
        raise RecordError(f"cannot write {path}: folder {folder} does not exist, or may not be looked into")
    if os.path.isdir(path):
        raise RecordError(f"cannot write {path}: it is a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
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
    except (msgspec.ValidationError, RecursionError):
        raise RecordError(f"{name} is JSON, but not a numabench record") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if _head(text.split(b"\n", 1)[0]):
            raise RecordError(
                f"{name} is the journal of an unfinished run; numabench run --resume goes on with it"
            ) from None
        raise RecordError(f"{name} is truncated or not JSON ({error})") from None
    if head.kind != KIND or type(head.schema) is not int:
        raise RecordError(f"{name} is JSON, but not a numabench record")
    if head.schema != SCHEMA:
        raise RecordError(f"{name} has schema {head.schema}; this version of numabench reads schema {SCHEMA}")
    try:
        return msgspec.json.decode(text, type=Record)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RecordError(f"{name} is a damaged record: {error}") from None


def now() -> str:
    """The time as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def default_name(host: str | None = None) -> str:
    """``numabench-HOST-YYYYmmddTHHMMSS.json``; of this host when none is named."""
    short = re.sub(r"[^A-Za-z0-9_-]", "_", (host or os.uname().nodename).split(".")[0])
    return f"numabench-{short}-{datetime.now().strftime('%Y%m%dT%H%M%S')}.json"


class Journal:
    """Append-only file of finished samples, so that a killed process loses at most the one in flight.

    A line cut short by a kill is taken off before going on. Raises RecordError for a file that is something else, and
    when the file cannot be written.
    """

    def __init__(self, path: Path, plan: dict[str, Any]) -> None:
        self.path = path
        try:
            # Unbuffered: a line is in the system's hands when add() returns, and none is left over for close().
            self.file = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise _cannot_write(path, error) from error
        try:
            self._begin(plan)
        except BaseException:
            self.file.close()
            raise

    def _begin(self, plan: dict[str, Any]) -> None:
        header = msgspec.json.encode({"kind": JOURNAL, "schema": SCHEMA, "plan": plan})
        self.file.seek(0)
        text = self.file.readall() or b""
        whole = text.rfind(b"\n") + 1
        started = text.startswith(header[: header.index(b",")]) or header.startswith(text)
        if not (_head(text[: text.index(b"\n")]) if whole else started):
            raise RecordError(f"{self.path} is not a journal of this version; it is left as it is")
        if whole < len(text):
            self.file.truncate(whole)
            if whole and _entry(text[whole:]):
                self._line(text[whole:])  # only the end of the line was missing
        if not whole:
            self._line(header)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()

    def _line(self, text: bytes) -> None:
        """Append one line, whole or not at all."""
        end = self.file.seek(0, os.SEEK_END)
        left = memoryview(text + b"\n")
        try:
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            with suppress(OSError):
                self.file.truncate(end)
            raise _cannot_write(self.path, error) from error

    def add(self, case: Case, sample: Sample) -> None:
        """Append one finished sample. Raises RecordError when the disk is full or a figure is not finite."""
        data = msgspec.to_builtins(_Entry(case.experiment, case.label, sample), str_keys=True)
        _check_finite(data["sample"], f"{case.experiment} {case.label}")
        self._line(msgspec.json.encode(data))

    @staticmethod
    def read(path: Path) -> tuple[dict[str, Any], dict[tuple[str, str], tuple[Sample, ...]]]:
        """The plan and the samples of a journal; a last line cut short is left out. Raises RecordError."""
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise RecordError(f"cannot read {path}: {error.strerror}", error.errno or 0) from error
        head = _head(lines[0])
        if head is None:
            raise RecordError(f"{path} is not a journal of this version")
        found: dict[tuple[str, str], tuple[Sample, ...]] = {}
        for at, line in enumerate(lines[1:], start=2):
            entry = _entry(line)
            if entry:
                key = (entry.experiment, entry.label)
                found[key] = (*found.get(key, ()), entry.sample)
            elif at < len(lines):  # else the line in flight when the process was killed
                raise RecordError(f"{path}: line {at} is damaged")
        return head.plan, found


def _head(line: bytes) -> _JournalHead | None:
    """The first line of a journal of this version, or None."""
    try:
        head = msgspec.json.decode(line, type=_JournalHead)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return head if head.kind == JOURNAL and head.schema == SCHEMA else None


def _entry(line: bytes) -> _Entry | None:
    """Another line, or None when it is cut or damaged."""
    try:
        return msgspec.json.decode(line, type=_Entry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
