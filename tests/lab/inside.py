# SPDX-License-Identifier: Apache-2.0
"""Runs in a machine: several commands from one interpreter, which imports once what takes an emulator seconds.

Usage: python -m tests.lab.inside, with steps.json in $LAB_SCRATCH: name of a step to its command, which is numabench,
pytest or python with arguments. Each step is a forked process; it leaves NAME.out, NAME.err and NAME.status there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def _command(argv: list[str]) -> int:
    """Be the command; the caller is a child that ends with what this returns."""
    sys.argv = argv
    if argv[0] == "pytest":
        import pytest

        return int(pytest.main([*argv[1:], "-p", "no:cacheprovider"]))
    if argv[0] == "python":
        import runpy

        sys.argv = argv[1:]
        runpy.run_path(argv[1], run_name="__main__")
        return 0
    from numabench.cli import main

    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _step(name: str, argv: list[str], scratch: Path) -> None:
    start = time.monotonic()
    child = os.fork()
    if not child:
        status = 99
        try:
            for stream, end in ((1, "out"), (2, "err")):
                os.dup2(os.open(scratch / f"{name}.{end}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), stream)
            status = _command(argv)
        finally:
            if sys.exc_info()[0]:
                sys.excepthook(*sys.exc_info())
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    (scratch / f"{name}.status").write_text(f"{status}\n")
    print(f"{name}: status {status}, {time.monotonic() - start:.0f} s", flush=True)


def main() -> None:
    """All steps, in their order, whatever becomes of one."""
    import numpy  # noqa: F401 - for the steps

    import numabench.cli.run
    import numabench.session  # noqa: F401

    scratch = Path(os.environ["LAB_SCRATCH"])
    for name, argv in json.loads((scratch / "steps.json").read_text()).items():
        _step(name, argv, scratch)


if __name__ == "__main__":
    main()
