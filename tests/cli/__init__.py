# SPDX-License-Identifier: Apache-2.0
"""What the tests of the command line share."""

from __future__ import annotations

import subprocess


def fails_in_one_line(done: subprocess.CompletedProcess[str], code: int, said: str) -> None:
    """The exit code, and one line on stderr that has ``said``, and nothing else."""
    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout
