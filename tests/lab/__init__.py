# SPDX-License-Identifier: Apache-2.0
"""Described NUMA machines, booted in QEMU under software emulation (see docs/lab.md)."""

from .errors import BootError, LabError, MissingTool, Stuck, TimeLimit
from .machines import MACHINES, Machine, Node, Penalties
from .vm import Result, boot

__all__ = [
    "MACHINES",
    "BootError",
    "LabError",
    "Machine",
    "MissingTool",
    "Node",
    "Penalties",
    "Result",
    "Stuck",
    "TimeLimit",
    "boot",
]
