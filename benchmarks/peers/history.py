# SPDX-License-Identifier: Apache-2.0
"""Runs that are kept, so that a later one shows what has become worse."""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.peers.duels import Duel

SCHEMA = 1


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run on one machine."""

    schema: int = SCHEMA
    taken: str
    machine: str
    duels: tuple[Duel, ...]
    missing: tuple[str, ...]
    """Rivals that were not there."""

    def save(self, folder: Path) -> Path:
        """Write it into a folder under a name that sorts by time; the path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"peers-{self.taken.replace(':', '').replace('+0000', 'Z')}.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))
        return path


def last(folder: Path, machine: str) -> Report | None:
    """The latest run in a folder on a machine of that description that this version can read."""
    for path in sorted(folder.glob("peers-*.json"), reverse=True):
        try:
            found = msgspec.json.decode(path.read_bytes(), type=Report)
        except msgspec.DecodeError:
            continue
        if found.schema == SCHEMA and found.machine == machine:
            return found
    return None


def worse(before: Report, now: Report) -> list[str]:
    """Comparisons whose whole interval lies below that of the earlier run against the same rival."""
    then = {(one.name, one.rival): one.ci for one in before.duels}
    return [
        f"{one.name} against {one.rival}, {one.share:.3f}x"
        for one in now.duels
        if one.ci and (old := then.get((one.name, one.rival))) and one.ci[1] < old[0]
    ]
