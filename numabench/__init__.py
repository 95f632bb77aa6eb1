# SPDX-License-Identifier: Apache-2.0
"""What memory distance costs on this machine, measured with proof.

``with numabench.allocate("1GiB", node=1, pages="2M") as buffer: ...`` and ``numabench.run("latency")`` do what the
command line does; everything is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numabench.machine import Machine as Machine
    from numabench.memory import allocate as allocate
    from numabench.record import Record

_WHERE = {
    "Machine": "machine",
    "allocate": "memory",
    "Options": "series",
    "NumabenchError": "errors",
    "load": "record",
}
__all__ = ["Machine", "allocate", "run"]


def run(*experiments: str, **options: Any) -> Record:
    """Measure the named experiments (none: all) and return the record; options as series.Options has them.

    Raises NumabenchError and its kinds as the command line reports them.
    """
    from numabench import session
    from numabench.series import Options

    return session.run(experiments, Options(**options))


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("numabench")
    if name not in _WHERE:
        raise AttributeError(f"module 'numabench' has no attribute {name!r}")
    return getattr(importlib.import_module(f"numabench.{_WHERE[name]}"), name)
