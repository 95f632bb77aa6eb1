# SPDX-License-Identifier: Apache-2.0
"""Results of many visits as columns in DuckDB, read as a stream: memory does not grow with the number of machines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numabench.analysis.verdict import best
from numabench.errors import RecordError, Unsupported
from numabench.validation import outcome
from numabench.validation.metrics import BY_NAME
from numabench.validation.outcome import Result

if TYPE_CHECKING:
    import duckdb

BATCH = 500
MEMORY = "512MB"
TABLES = {
    "visit": (
        ("host", "varchar"), ("created", "varchar"), ("cohort", "varchar"), ("model", "varchar"), ("facts", "varchar"),
        ("memory", "varchar"), ("verdict", "varchar"), ("reason", "varchar"), ("path", "varchar"),
    ),
    "figure": (
        ("host", "varchar"), ("created", "varchar"), ("cohort", "varchar"), ("metric", "varchar"),
        ("instance", "varchar"), ("best", "double"), ("rounds", "integer"),
    ),
}  # fmt: skip


def connect(path: str | Path | None = None) -> duckdb.DuckDBPyConnection:
    """An empty store in a file, or in memory. Raises Unsupported when DuckDB is not installed."""
    try:
        import duckdb
    except ImportError:
        raise Unsupported("fleet collect needs DuckDB: pip install 'numabench[fleet]'") from None
    if path is not None:
        Path(path).unlink(missing_ok=True)
    con = duckdb.connect(str(path) if path else ":memory:")
    con.execute(f"set memory_limit = '{MEMORY}'")
    con.execute("set threads = 2")
    for name, columns in TABLES.items():
        con.execute(f"create table {name} ({', '.join(f'{c} {kind}' for c, kind in columns)})")
    return con


def files(folders: Sequence[str | Path]) -> Iterator[Path]:
    """All JSON files below the folders, in the order of their names; unfinished ones begin with a dot."""
    for folder in folders:
        for path in sorted(Path(folder).rglob("*.json")):
            if not path.name.startswith("."):
                yield path


def fill(
    con: duckdb.DuckDBPyConnection,
    paths: Iterator[Path],
    tell: Callable[[int], None] | None = None,
) -> list[tuple[str, str]]:
    """Read results into the store; returns (path, why) of those left out. A file that is of something else is left out
    too, except what a fleet run keeps beside the results.
    """
    rejected: list[tuple[str, str]] = []
    rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in TABLES}
    seen: set[tuple[str, str]] = set()
    for number, path in enumerate(paths, start=1):
        if path.name in ("expect.json", "fleet.json"):
            continue
        try:
            result = outcome.load(path)
            bad = _nonsense(result)
            if bad:
                raise RecordError(bad)
            if (result.host, result.created) in seen:
                raise RecordError(f"a second result of {result.host} at {result.created}")
        except RecordError as error:
            rejected.append((str(path), str(error)))
            continue
        seen.add((result.host, result.created))
        _add(rows, result, path)
        if number % BATCH == 0:
            _flush(con, rows)
            if tell:
                tell(number)
    _flush(con, rows)
    return rejected


def _nonsense(result: Result) -> str:
    """Why a result cannot be one, by its time or its figures; an empty text when it can."""
    try:
        if datetime.fromisoformat(result.created).tzinfo is None:
            raise ValueError
    except ValueError:
        return f"created {result.created!r} of {result.host} is no time with its zone"
    for name, cells in result.values.items():
        for at, figures in cells.items():
            if not figures or not all(0 < figure < 1e15 for figure in figures):
                return f"{name}[{at}] of {result.host} is {figures}"
    return ""


def _add(rows: dict[str, list[tuple[Any, ...]]], result: Result, path: Path) -> None:
    # A machine that had nothing to be held against was not judged yet: its class will do that.
    undecided = result.verdict == "INCONCLUSIVE" and all(c.verdict != "INCONCLUSIVE" for c in result.checks)
    verdict = "PASS" if undecided else result.verdict
    more = [name for name in ("dimm_count", "microcode") if name in result.facts]
    facts = result.cohort_of | {name: str(result.facts[name].value) for name in more}
    memory = result.facts["mem_total_gib_per_node"].value if "mem_total_gib_per_node" in result.facts else None
    model = f"{result.cohort_of.get('cpu_model')} x {result.cohort_of.get('sockets')}"
    rows["visit"].append(
        (
            result.host, result.created, result.cohort, model, json.dumps(facts, sort_keys=True),
            json.dumps(memory), verdict, result.reason, str(path),
        )
    )  # fmt: skip
    for name, cells in result.values.items():
        row = BY_NAME.get(name)
        if row is None or row.ratio:
            continue
        for at, figures in cells.items():
            figure = best(figures, row.better)
            rows["figure"].append((result.host, result.created, result.cohort, name, at, figure, len(figures)))


def _flush(con: duckdb.DuckDBPyConnection, rows: dict[str, list[tuple[Any, ...]]]) -> None:
    import numpy as np

    for name, columns in TABLES.items():
        if not rows[name]:
            continue
        kinds = {"double": np.float64, "integer": np.int32}
        batch = {  # noqa: F841 - DuckDB finds it by its name
            column: np.array(values, dtype=kinds.get(kind, object))
            for (column, kind), values in zip(columns, zip(*rows[name], strict=True), strict=True)
        }
        con.execute(f"insert into {name} select {', '.join(c for c, _ in columns)} from batch")  # noqa: S608
        rows[name].clear()
