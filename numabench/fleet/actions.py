# SPDX-License-Identifier: Apache-2.0
"""What to do with machines that failed, and that passed again: commands, and the guards before anybody runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from numabench.errors import UsageError
from numabench.fleet import slurm
from numabench.fleet.judge import KIND, SCHEMA, Report

OURS = "numabench:"
LEAST, SHARE = 3, 0.01  # of a class: more at once looks like a mistake of ours


def load(path: str) -> Report:
    """A report of `fleet collect`. Raises UsageError."""
    try:
        found = msgspec.json.decode(Path(path).read_bytes(), type=Report)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is no report of fleet collect: {error}") from None
    if found.kind != KIND or found.schema != SCHEMA:
        raise UsageError(f"{path} is no report of fleet collect of schema {SCHEMA}")
    return found


def drains(report: Report) -> list[tuple[str, list[str]]]:
    """(host, command) of each machine that failed."""
    failed = [host for host in report.hosts if host.verdict == "FAIL"]
    commands = slurm.drains([(host.host, host.reason) for host in failed])
    return [(host.host, words) for host, words in zip(failed, commands, strict=True)]


def resumes(report: Report) -> list[tuple[str, list[str]]]:
    """(host, command) of each machine that failed once and has passed twice in a row since."""
    return list(zip(report.cleared, slurm.resumes(report.cleared), strict=True))


def guard(report: Report) -> None:
    """Raise UsageError when more machines of a class failed than max(3, 1 %)."""
    for cohort in {host.cohort for host in report.hosts}:
        mine = [host for host in report.hosts if host.cohort == cohort]
        failed = sum(host.verdict == "FAIL" for host in mine)
        most = max(LEAST, int(SHARE * len(mine)))
        if failed > most:
            raise UsageError(
                f"--apply: {failed} of {len(mine)} machines of class {cohort} would be drained, at most {most} are; "
                "look at the class first, or run the printed commands yourself"
            )


def reasons(hosts: Sequence[str]) -> dict[str, str]:
    """{host: the reason that stands on it now, empty without one}."""
    return {host: slurm.reason_of(host) for host in hosts}
