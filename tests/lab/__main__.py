# SPDX-License-Identifier: Apache-2.0
"""python -m tests.lab list | shell MACHINE | run MACHINE [--timeout S] -- COMMAND... | all [COMMAND...]"""

from __future__ import annotations

import argparse
import sys

from .errors import LabError
from .machines import MACHINES, Machine
from .vm import boot, interact


def _machine(name: str) -> Machine:
    if name not in MACHINES:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(MACHINES)}")
    return MACHINES[name]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="NUMA machines under emulation.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="the machines")
    shell = verbs.add_parser("shell", help="a shell in a machine")
    shell.add_argument("machine", type=_machine)
    run = verbs.add_parser("run", help="one command in a machine; its exit status is returned")
    run.add_argument("--timeout", type=float, default=300.0, metavar="S", help="seconds, boot included")
    run.add_argument("machine", type=_machine)
    run.add_argument("command", nargs="+")
    every = verbs.add_parser("all", help="one command in every machine, by default one that shows its nodes")
    every.add_argument("--timeout", type=float, default=300.0, metavar="S", help="seconds for each")
    every.add_argument("command", nargs="*", default=["cat", "/sys/devices/system/node/online"])
    return parser


def _list() -> int:
    for machine in MACHINES.values():
        nodes = " ".join(f"{node.cpus}x{node.memory_mib}M" for node in machine.nodes)
        print(f"{machine.name:16} {nodes}{'  penalties' if machine.penalties else ''}")
    return 0


def _all(command: list[str], timeout: float) -> int:
    worst = 0
    for machine in MACHINES.values():
        try:
            result = boot(machine, command, timeout=timeout)
        except LabError as error:
            print(f"{machine.name:16} failed: {error}")
            worst = 1
            continue
        output = (result.stdout + result.stderr).strip()
        print(f"{machine.name:16} status {result.status}  {result.seconds:5.1f} s  {output}")
        worst = max(worst, int(result.status != 0))
    return worst


def main() -> int:
    """Exit status: the command's, 1 for a machine that failed."""
    arguments = _parser().parse_args()
    try:
        if arguments.verb == "list":
            return _list()
        if arguments.verb == "shell":
            interact(arguments.machine)
            return 0
        if arguments.verb == "all":
            return _all(arguments.command, arguments.timeout)
        result = boot(
            arguments.machine,
            arguments.command,
            timeout=arguments.timeout,
            stream=lambda text: print(text, end="", flush=True),
        )
        return result.status
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
