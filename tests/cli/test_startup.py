# SPDX-License-Identifier: Apache-2.0
"""Importing the package and asking for help cost next to nothing, in ratios taken in turn on this machine."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from numabench.analysis import stats

ROUNDS = 7


def _seconds(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _in_turn(*codes: str) -> list[list[float]]:
    rounds = [[_seconds(code) for code in codes] for _ in range(ROUNDS)]
    return [[each[i] for each in rounds] for i in range(len(codes))]


def test_import_takes_no_longer_than_numpys() -> None:
    ours, allocate, numpy = _in_turn(
        "import numabench", "from numabench import allocate, Machine; Machine.load()", "import numpy"
    )
    assert stats.ratio(ours, numpy).value < 1.3
    assert stats.ratio(allocate, numpy).value < 2.6, "all that a buffer needs, the machine read too"


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['numabench', '--help']; from numabench.cli import main; main()"
    bare, asked = _in_turn("import click", code)
    assert median(asked) < 2 * median(bare)
    heavy = "{'numpy', 'rich', 'numabench._core', 'msgspec'} & set(sys.modules)"
    probe = f"import sys, atexit; atexit.register(lambda: print({heavy}, file=sys.stderr)); {code[12:]}"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set()"
