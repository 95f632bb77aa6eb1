# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in the lab. None of these is ever a reason to skip a test."""

from __future__ import annotations

import os
import shutil

# Debian package that provides each program the lab calls.
PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "depmod": "kmod",
    "gcc": "gcc",
    "setpriv": "util-linux",
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg": "dpkg",
}


class LabError(RuntimeError):
    """The lab could not do what was asked."""


class MissingTool(LabError):
    """A program of the host that the lab needs is not installed."""


class BootError(LabError):
    """The machine ended without running the command to its end.

    `console` holds the kernel's messages, `stdout` and `stderr` what the command had written.
    """

    def __init__(self, message: str, console: str = "", stdout: str = "", stderr: str = "") -> None:
        tail = "\n".join(console.splitlines()[-15:])
        super().__init__(f"{message}\n{tail}" if tail else message)
        self.console = console
        self.stdout = stdout
        self.stderr = stderr


class TimeLimit(BootError):
    """The machine was killed because its time limit ran out."""


class Stuck(BootError):
    """The machine was killed because its kernel said that a CPU stood still: the emulator's or the host's doing."""


def find_tools(*names: str) -> dict[str, str]:
    """Paths of the named programs.

    Raises MissingTool with the one command that installs all those that are missing.
    """
    # The administrator's folders are searched too: depmod is there, and a user's PATH may lack them.
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    found = {name: shutil.which(name, path=path) for name in names}
    missing = [name for name, where in found.items() if where is None]
    if missing:
        packages = " ".join(sorted({PACKAGES[name] for name in missing}))
        raise MissingTool(f"{', '.join(missing)} not found: apt-get install {packages}")
    return {name: where for name, where in found.items() if where is not None}
