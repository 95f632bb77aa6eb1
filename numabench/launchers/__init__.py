# SPDX-License-Identifier: Apache-2.0
"""From a record to what a person types: the placement in the exact words of the tools that start models."""

from __future__ import annotations

import difflib
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterable
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from numabench.errors import UsageError
from numabench.launchers.choose import Choice
from numabench.layout import Layout, Slot
from numabench.machine import Machine
from numabench.units import format_numbers

PROBE_SECONDS = 20
SURE = {"documentation", "source", "tried"}
CHECKS = (
    "for t in /proc/PID/task/*; do grep -H Cpus_allowed_list $t/status; done   # mask of every thread",
    "numastat -p PID                                                           # memory per node, MiB",
    "grep -E 'N[0-9]+=' /proc/PID/numa_maps | head                             # pages of every mapping",
    "numabench diagnose --pid PID                                              # all of it, and overlaps",
    "perf stat -e context-switches,cpu-migrations,page-faults -p PID sleep 10  # what disturbs it",
    "numabench ab --a OLD --b NEW                                              # then prove the gain",
)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line to type. ``instance`` is None for a line that starts all of them; ``gain`` is the user's own figure."""

    text: str
    status: str
    instance: int | None
    gain: str
    about: str = ""

    @property
    def unverified(self) -> bool:
        """Whether nobody has seen the tool accept it."""
        return self.status not in SURE


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything said for one tool. ``main`` lines start the instances; ``extra`` are other ways to the same."""

    tool: str
    title: str
    kind: str  # shell, python, yaml, ini
    goal: str
    instances: int
    why: tuple[str, ...]
    main: tuple[Line, ...]
    extra: tuple[Line, ...]
    notes: tuple[str, ...]
    probes: dict[str, str]
    checks: tuple[str, ...] = CHECKS


@cache
def tools() -> dict[str, dict[str, Any]]:
    """The data of every tool, by name."""
    return tomllib.loads(files(__package__).joinpath("tools.toml").read_text())


def find(name: str) -> str:
    """A tool by its name or another one it goes by. Raises UsageError with the nearest."""
    known = {name: name for name in tools()} | {
        other: name for name, tool in tools().items() for other in tool.get("names", ())
    }
    if name.lower() not in known:
        close = difflib.get_close_matches(name.lower(), known, n=3) or list(tools())
        raise UsageError(f"--for {name}: allowed are {', '.join(close)}")
    return str(known[name.lower()])


def probe(entry: dict[str, str]) -> str:
    """``yes``, ``no``, or ``not here`` when the tool cannot be asked on this machine."""
    try:
        done = subprocess.run(
            shlex.split(entry["run"]), capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "not here"
    if "expect" not in entry:
        return "no" if done.returncode else "yes"
    said = done.stdout + done.stderr
    if done.returncode and "No module named" in said:
        return "not here"
    return "yes" if re.search(entry["expect"], said) else "no"


def recommend(
    tool: str,
    choice: Choice,
    machine: Machine,
    *,
    binds: bool = True,
    command: str = "CMD",
    model: str = "MODEL",
    port: int = 8000,
    ask: Callable[[dict[str, str]], str] = probe,
) -> Recommendation:
    """The lines of one tool for a choice. ``binds`` False: memory policies are refused where it will run."""
    data = tools()[tool]
    probes = {name: ask(entry) for name, entry in data.get("probes", {}).items()}
    fields = _Fields(choice, machine, binds, command, model, port)
    main = [line for entry in data["lines"] for line in _lines(entry, fields, probes, binds)]
    extra = [line for entry in data.get("extra", ()) for line in _lines(entry, fields, probes, binds)]
    first = fields.of(0)
    said = {name: f"{answer}: {data['probes'][name]['since']}" for name, answer in probes.items()}
    for name, answer in probes.items():
        if answer == "not here":
            said[name] += f"; ask where it runs: {data['probes'][name]['run']}"
    return Recommendation(
        tool=tool,
        title=data["title"],
        kind=data["kind"],
        goal=choice.layout.goal,
        instances=len(choice.layout.slots),
        why=choice.why,
        main=tuple(main),
        extra=tuple(extra),
        notes=tuple(note.format_map(first) for note in data.get("notes", ())),
        probes=said,
    )


def _lines(entry: dict[str, Any], fields: _Fields, probes: dict[str, str], binds: bool) -> Iterable[Line]:
    layout = fields.choice.layout
    if layout.goal not in entry["goals"].split() or entry.get("memory", binds) != binds:
        return
    if "probe" in entry and (probes[entry["probe"]] == "yes") == bool(entry.get("not")):
        return
    once = bool(entry.get("once"))
    for i, slot in enumerate(layout.slots[:1] if once else layout.slots):
        if len(slot.cpus) < entry.get("least_threads", 1):
            continue
        yield Line(
            text=entry["text"].format_map(fields.of(i)),
            status=entry["status"],
            instance=None if once else i,
            gain=fields.choice.gain,
            about=entry.get("about", ""),
        )


class _Fields:
    """What the templates may name."""

    def __init__(self, choice: Choice, machine: Machine, binds: bool, command: str, model: str, port: int) -> None:
        self.choice, self.machine, self.binds = choice, machine, binds
        self.command, self.model, self.port = command, model, port

    def of(self, i: int) -> dict[str, object]:
        """The fields of instance ``i``."""
        layout, machine = self.choice.layout, self.machine
        slot = layout.slots[i]
        cpus, nodes = format_numbers(slot.cpus), format_numbers(slot.nodes)
        ranks = _ranks(layout, machine)
        every = sorted(cpu for one in layout.slots for cpu in one.cpus)
        siblings = sum(len(machine.siblings(cpu)) for cpu in slot.cpus)
        memory = sum(machine.node(node).memory_bytes for node in slot.nodes)
        sharing = sum(set(one.nodes) & set(slot.nodes) != set() for one in layout.slots)
        share = max(int(memory * 0.8) // sharing, 1 << 30) >> 30
        how = f"--interleave={nodes}" if len(slot.nodes) > 1 else f"-m {nodes}"
        bind = f"numactl -C {cpus} {how} " if self.binds else f"taskset -c {cpus} "
        return {
            "bind": bind,
            "i": i,
            "port": self.port + i,
            "threads": min(self.choice.decode_threads or len(slot.cpus), len(slot.cpus)),
            "batch_threads": len(slot.cpus),
            "cpus": cpus,
            "first": slot.cpus[0],
            "node": slot.nodes[0],
            "nodes": nodes,
            "lists": "|".join(format_numbers(rank) for rank in ranks),
            "ranks": ",".join(format_numbers(rank) for rank in ranks),
            "ranks_count": len(ranks),
            "comma": ",".join(map(str, slot.cpus)),
            "all_comma": ",".join(map(str, every)),
            "instances": len(layout.slots),
            "ort": ";".join(str(cpu + 1) for cpu in slot.cpus[1:]),
            "spin": "1" if len(layout.slots) == 1 else "0",
            "reserve": max(len(layout.reserved) // max(len(layout.slots), 1), 1),
            "reserved_or_first": format_numbers(layout.reserved or machine.siblings(machine.allowed_cpus[0])),
            "cpus_with_siblings": siblings,
            "slot_memory": f"{share}Gi",
            "kv_gib": max(share // 4, 1),
            "triton_policies": " ".join(
                f"--host-policy=p{k},numa-node={one.nodes[0]} --host-policy=p{k},cpu-cores={format_numbers(one.cpus)}"
                for k, one in enumerate(layout.slots)
            ),
            "triton_groups": " ".join(
                f'instance_group [{{ count: 1 kind: KIND_CPU host_policy: "p{k}" }}]' for k in range(len(layout.slots))
            ),
            "cmd": self.command,
            "cmd_absolute": self.command if self.command.startswith("/") else f"/usr/bin/env {self.command}",
            "model": self.model,
        }


def _ranks(layout: Layout, machine: Machine) -> list[tuple[int, ...]]:
    """CPUs of each rank: an instance's, or for one over several nodes those on each node."""
    found: list[tuple[int, ...]] = []
    for slot in layout.slots:
        by_node: dict[int | None, list[int]] = {}
        for cpu in slot.cpus:
            by_node.setdefault(machine.cpu(cpu).node, []).append(cpu)
        found.extend(tuple(cpus) for cpus in by_node.values())
    return found


def script(found: Recommendation) -> str:
    """A file that starts all instances and waits; for tools that are configured, the configuration."""
    head = [f"{found.title}: {found.instances} instance(s), {found.goal}", *found.why]
    if found.kind != "shell":
        mark = "#"
        body = "\n\n".join(line.text for line in found.main)
        return "\n".join(f"{mark} {line}" for line in head) + f"\n{body}\n"
    lines = ["#!/usr/bin/env bash", *(f"# {line}" for line in head), "set -eu", "pids=()"]
    lines.append('trap \'for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done\' EXIT INT TERM')
    for line in found.main:
        lines.append(f"# measured gain: {line.gain}{'; unverified line' if line.unverified else ''}")
        *before, last = line.text.split("; ")
        lines += [*before, f"{last} & pids+=($!)"]
    lines.append('echo "started: ${pids[*]}" >&2')
    lines += [f"# {check}" for check in found.checks]
    lines.append('for p in "${pids[@]}"; do wait "$p"; done')
    return "\n".join(lines) + "\n"


def slots_of(layout: Layout) -> list[dict[str, str]]:
    """CPUs and nodes of each instance, as lists."""
    return [{"cpus": format_numbers(s.cpus), "nodes": format_numbers(s.nodes)} for s in layout.slots]


__all__ = ["Choice", "Line", "Recommendation", "Slot", "find", "probe", "recommend", "script", "slots_of", "tools"]
