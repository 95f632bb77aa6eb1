# SPDX-License-Identifier: Apache-2.0
"""A specification in TOML: what a machine must be. Nothing in it is code; an unknown key is an error with its line."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from numabench.analysis.verdict import Limits
from numabench.errors import UsageError
from numabench.kernels import nearest
from numabench.validation import facts, metrics

SCHEMA = 1
Number = int | float
Severity = Literal["fail", "warn"]
Scope = Literal["each", "min", "max", "median", "least_over_greatest"]
_CHOICES = {"scope": get_args(Scope), "severity": get_args(Severity)}


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fact that must be near a reference, or one of several values."""

    ref: Number | None = None
    tol: Number = 0.0  # share of the reference, both ways
    any_of: list[Any] | None = None
    severity: Severity = "fail"


class CheckSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bound of one metric: absolute (``fail``, ``warn``, on the bad side) or as shares of ``ref``."""

    metric: str
    scope: Scope = "each"
    instance: str = ""
    fail: Number | None = None
    warn: Number | None = None
    ref: Number | None = None
    fail_below: Number | None = None
    warn_below: Number | None = None
    fail_above: Number | None = None
    warn_above: Number | None = None
    unit: str = ""
    required: bool = True
    severity: Severity = "fail"
    source: str = ""

    def row(self) -> metrics.Metric:
        """The metric; node over node, which is a ratio of two of its figures, is better when higher."""
        row = metrics.BY_NAME[self.metric]
        return row._replace(unit="ratio", better="high") if self.scope == "least_over_greatest" else row

    def limits(self) -> Limits:
        """Bounds in the metric's unit."""
        high = self.row().better == "high"

        def bound(share: Number | None, sign: int) -> float | None:
            return None if share is None or self.ref is None else self.ref * (1 + sign * share)

        return Limits(
            self.fail if high and self.fail is not None else bound(self.fail_below, -1),
            self.warn if high and self.warn is not None else bound(self.warn_below, -1),
            self.fail if not high and self.fail is not None else bound(self.fail_above, 1),
            self.warn if not high and self.warn is not None else bound(self.warn_above, 1),
        )


class Symmetry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far cells of one class may differ, as shares; instead of the defaults."""

    metric: Literal["latency", "bw.read"]
    warn: Number
    fail: Number
    severity: Severity = "fail"


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. ``match`` decides whether it is for this machine at all."""

    schema: int
    name: str
    match: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    check: list[CheckSpec] = []
    symmetry: list[Symmetry] = []

    def wanted(self) -> list[tuple[str, Wanted]]:
        """All facts asked for, those of the environment as warnings unless they say otherwise."""
        found = []
        for table, severity in ((self.facts, "fail"), (self.environment, "warn")):
            for name, value in table.items():
                if isinstance(value, dict):
                    found.append((name, msgspec.convert({"severity": severity, **value}, Wanted)))
                else:
                    found.append((name, msgspec.convert({"any_of": [value], "severity": severity}, Wanted)))
        return found


def load(path: str | os.PathLike[str]) -> Spec:
    """Read a specification. Raises UsageError that names file, line and key."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"cannot read {path}: {why}") from error
    return loads(text, str(path))


def loads(text: str, name: str) -> Spec:
    """Read a specification from memory."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, _, line = str(error).removesuffix(")").partition(" (at line ")
        if not line:
            raise UsageError(f"{name}: {error}") from None
        number = int(line.split(",")[0])
        said = text.split("\n")[number - 1].strip()
        raise UsageError(f"{name}:{number}: {message}: {said!r}") from None
    except RecursionError:
        raise UsageError(f"{name}: nested too deeply") from None
    where = _Lines(text, name)
    spec: Spec = _convert(data, Spec, where)
    if spec.schema != SCHEMA:
        raise where.error(("schema",), f"schema {spec.schema}: this version of numabench reads schema {SCHEMA}")
    for table in ("match", "facts", "environment"):
        for key, value in data.get(table, {}).items():
            if key not in facts.ABOUT:
                raise where.error((table, key), f"fact {key!r}: {nearest(key, facts.ABOUT)}")
            if isinstance(value, dict):
                _convert(value, Wanted, where, (table, key))
                if value.get("ref") is None and value.get("any_of") is None:
                    raise where.error((table, key), f"{key}: ref or any_of is missing")
    for at, check in enumerate(spec.check):
        _check(check, ("check", at), where)
    for at, one in enumerate(spec.symmetry):
        if not 0 < one.warn <= one.fail < 1:
            raise where.error(("symmetry", at, "warn"), "0 < warn <= fail < 1 is needed")
    return spec


def _check(check: CheckSpec, path: tuple[str | int, ...], where: _Lines) -> None:
    if check.metric not in metrics.BY_NAME:
        known = nearest(check.metric, metrics.BY_NAME)
        raise where.error((*path, "metric"), f"metric {check.metric!r}: {known}")
    row = check.row()
    if check.unit and check.unit != row.unit:
        raise where.error((*path, "unit"), f"unit {check.unit!r}: {check.metric} is in {row.unit}")
    shares = {name: getattr(check, name) for name in ("fail_below", "warn_below", "fail_above", "warn_above")}
    if any(value is not None for value in shares.values()) and check.ref is None:
        raise where.error((*path, next(k for k, v in shares.items() if v is not None)), "ref is missing")
    numbers = {**shares, "fail": check.fail, "warn": check.warn, "ref": check.ref}
    for key, value in numbers.items():
        if value is not None and not 0 <= value < 1e15:
            raise where.error((*path, key), f"{key} {value}: a number of at least 0 is allowed")
    if check.limits() == Limits():
        raise where.error((*path, "metric"), f"no bound for {check.metric}: fail, warn, or ref with fail_below/above")
    low, warn_low, high, warn_high = check.limits()
    if (low is not None and warn_low is not None and warn_low < low) or (
        high is not None and warn_high is not None and warn_high > high
    ):
        raise where.error((*path, "warn"), "warn lies beyond fail")


def _convert(data: Any, kind: Any, where: _Lines, prefix: tuple[str | int, ...] = ()) -> Any:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        steps: list[str | int] = list(prefix)
        for name, number in re.findall(r"\.(\w+)|\[(\d+)\]", path):
            steps.append(int(number) if number else name)
        unknown = re.search(r"unknown field `(.*?)`", message)
        if unknown:
            steps.append(unknown[1])
            fields = _fields(kind, steps[len(prefix) :])
            message = f"unknown key {unknown[1]!r}: {nearest(unknown[1], fields)}"
        lacking = re.search(r"missing required field `(.*?)`", message)
        if lacking:
            message = f"{lacking[1]} is missing"
        choices = _CHOICES.get(str(steps[-1])) if steps else None
        if choices:
            message = f"{message}: {' or '.join(choices)} are allowed"
        raise where.error(tuple(steps), message) from None


def _fields(kind: Any, steps: list[str | int]) -> tuple[str, ...]:
    inner = {"check": CheckSpec, "symmetry": Symmetry}
    return (inner.get(str(steps[0]), kind) if len(steps) > 1 else kind).__struct_fields__  # type: ignore[no-any-return]


class _Lines:
    """Finds the line of a key in TOML text, for messages; tomllib does not tell it."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.at: dict[tuple[str | int, ...], int] = {}
        table: tuple[str | int, ...] = ()
        count: dict[str, int] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            head = re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]\]?", line)
            entry = re.match(r"\s*([\w.\"'-]+)\s*=", line)
            if head:
                parts = tuple(part.strip("\"' ") for part in head[2].split("."))
                if head[1] == "[[":
                    count[head[2]] = count.get(head[2], -1) + 1
                    table = (*parts, count[head[2]])
                else:
                    table = parts
                self.at.setdefault(table, number)
            elif entry:
                key = tuple(part.strip("\"' ") for part in entry[1].split("."))
                self.at.setdefault((*table, *key), number)

    def error(self, path: tuple[str | int, ...], message: str) -> UsageError:
        """An error at the nearest place known: the key, else its table, else the file."""
        line = next((self.at[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.at), None)
        key = ".".join(str(step) for step in path if not isinstance(step, int))
        return UsageError(
            f"{self.name}:{line or 1}: {key}: {message}" if key else f"{self.name}:{line or 1}: {message}"
        )
