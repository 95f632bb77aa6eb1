# SPDX-License-Identifier: Apache-2.0
"""The command that turns a record into lines to paste."""

from __future__ import annotations

import shutil
import subprocess

import click
import msgspec

from numabench import launchers
from numabench import record as records
from numabench.errors import NumabenchError, UsageError
from numabench.launchers import Recommendation
from numabench.launchers.choose import choose, here
from numabench.machine import Machine
from numabench.memory import REMEDY_MBIND, allocate
from numabench.units import parse_seconds


@click.command()
@click.argument("file", required=False)
@click.option("--for", "tool", metavar="TOOL", default="numactl", help="Such as vllm, llama.cpp, openvino, slurm.")
@click.option("--list", "listed", is_flag=True, help="The tools there are.")
@click.option("--goal", type=click.Choice(["one-per-node", "split", "whole"]), help="Instead of the best measured.")
@click.option(
    "--reserve", type=click.IntRange(0), metavar="N", default=0, help="Cores of each instance left to the front end."
)
@click.option("--p99", "bound", metavar="TIME", help="Only divisions whose p99 step was measured below this.")
@click.option("--command", default="CMD", help="The command to start, for tools that start any.")
@click.option("--model", default="MODEL", help="The model's name or file.")
@click.option("--port", type=click.IntRange(1, 65000), metavar="N", default=8000, help="Of the first instance.")
@click.option("--script", is_flag=True, help="A launch script, or the tool's configuration, on stdout.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def recommend(
    file: str | None,
    tool: str,
    listed: bool,
    goal: str | None,
    reserve: int,
    bound: str | None,
    command: str,
    model: str,
    port: int,
    script: bool,
    as_json: bool,
) -> None:
    """Exact flags for a tool, from what was measured.

    Example: numabench recommend here.json --for llama.cpp --model model.gguf
    """
    if listed:
        click.echo("\n".join(f"{name:12} {data['title']}" for name, data in launchers.tools().items()))
        return
    if script and as_json:
        raise UsageError("--json and --script both want stdout: give one of them")
    if file is None:
        raise UsageError("recommend needs a record: numabench run divide -o here.json makes one")
    name, found = launchers.find(tool), records.load(file)
    now = Machine.load()
    same = (now.cpu_model, now.cpus, now.nodes) == (found.machine.cpu_model, found.machine.cpus, found.machine.nodes)
    machine, cut = here(found, now.allowed_cpus if same else None, now.allowed_nodes if same else None)
    made = choose(found, machine, goal, reserve, parse_seconds(bound) * 1e9 if bound else None)  # type: ignore[arg-type]
    refused = _refused(machine) if same else ""
    said = tuple(line for line in (*made.why, cut, refused) if line)
    result = launchers.recommend(
        name,
        msgspec.structs.replace(made, why=said),
        machine,
        binds=not refused,
        command=command,
        model=model,
        port=port,
    )
    if not result.main:
        raise UsageError(f"--for {tool}: there is no line for {made.layout.goal}; --goal takes another division")
    if as_json:
        data = msgspec.to_builtins(result) | {"slots": launchers.slots_of(made.layout)}
        click.echo(msgspec.json.format(msgspec.json.encode(data), indent=1).decode())
    elif script:
        click.echo(launchers.script(result), nl=False)
    else:
        _show(result)


def _refused(machine: Machine) -> str:
    """Why memory cannot be bound where the command will run; empty when it can."""
    for node in machine.targets():
        if shutil.which("numactl"):
            done = subprocess.run(["numactl", "-m", str(node), "true"], capture_output=True, text=True, check=False)
            error = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[0] if done.returncode else ""
        else:
            try:
                allocate(4096, node, machine=machine).close()
                error = ""
            except NumabenchError as refusal:
                error = str(refusal)
        if error:
            return f"Memory cannot be bound here ({error}): CPUs only, memory by first touch. Remedy: {REMEDY_MBIND}."
    return ""


def _show(result: Recommendation) -> None:
    click.echo(f"{result.title}: {result.instances} instance(s), {result.goal}")
    for reason in result.why:
        click.echo(f"  {reason}")
    click.echo()
    for line in result.main:
        click.echo(line.text)
    mark = "  (unverified)" if any(line.unverified for line in result.main) else ""
    click.echo(f"\n  gain: {result.main[0].gain}; {', '.join(dict.fromkeys(x.status for x in result.main))}{mark}")
    for line in result.extra:
        mark = " (unverified)" if line.unverified else f" ({line.status})"
        click.echo(f"\nOr, {line.about}{mark}:\n{line.text}")
    if result.notes:
        click.echo("\nMind")
    for note in result.notes:
        click.echo(f"  {note}")
    for answer in result.probes.values():
        click.echo(f"  asked here - {answer}")
    click.echo("\nAfter launch")
    for check in result.checks:
        click.echo(f"  {check}")
