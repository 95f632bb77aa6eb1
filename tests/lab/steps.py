# SPDX-License-Identifier: Apache-2.0
"""Several commands in one boot of a machine, and what came of each."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .machines import Machine
from .vm import boot


@dataclass(frozen=True)
class Step:
    """Exit status (negative: the signal) and output of one command."""

    status: int
    out: str
    err: str


def run_steps(
    machine: Machine, steps: Mapping[str, Sequence[str]], scratch: Path, timeout: float = 300.0
) -> dict[str, Step]:
    """Run the steps in one interpreter of the machine (see inside.py); files they leave in $LAB_SCRATCH stay.

    Raises BootError, TimeLimit; AssertionError when the interpreter itself failed.
    """
    (scratch / "steps.json").write_text(json.dumps({name: list(argv) for name, argv in steps.items()}))
    command = [sys.executable, "-B", "-m", "tests.lab.inside"]
    result = boot(machine, command, timeout=timeout, scratch=scratch, environment={"NUMABENCH_DEBUG": "1"})
    assert (result.status, result.stderr) == (0, ""), result
    (scratch / "times").write_text(f"{result.stdout}whole: {result.seconds:.0f} s\n")
    return {
        name: Step(
            int((scratch / f"{name}.status").read_text()),
            *((scratch / f"{name}.{end}").read_text(errors="replace") for end in ("out", "err")),
        )
        for name in steps
    }
