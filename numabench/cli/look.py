# SPDX-License-Identifier: Apache-2.0
"""Commands that look and do not measure: topology, doctor, list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from numabench import experiments, kernels
from numabench.cli import EXIT_FAILED
from numabench.machine import Machine
from numabench.series import Options
from numabench.units import format_bytes, format_numbers, plural

if TYPE_CHECKING:
    from numabench.settings import Finding


def _print_json(data: object) -> None:
    text = msgspec.json.encode(msgspec.to_builtins(data, str_keys=True))
    click.echo(msgspec.json.format(text, indent=1).decode())


@click.command()
@click.option("--from", "source", metavar="FILE.xml|DIR", help="Another machine: hwloc XML or a captured Linux tree.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def topology(source: str | None, as_json: bool) -> None:
    """The machine as seen: nodes, CPUs, SMT, caches, distances, memory, huge pages, devices.

    Example: numabench topology --from saved.xml
    """
    machine = Machine.load(source)
    if as_json:
        _print_json(machine)
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=False)
    console.print(machine.describe(), style="bold", highlight=False)
    table = Table(box=None, pad_edge=False, title="Nodes", title_justify="left")
    for head in ("node", "CPUs", "memory", "huge pages", "kind", "allowed"):
        table.add_column(head, justify="right" if head in ("node", "memory") else "left")
    for node in machine.nodes:
        pools = ", ".join(f"{count} x {format_bytes(size)}" for size, count in node.huge_pages.items() if count) or "-"
        table.add_row(
            str(node.id),
            format_numbers(node.cpus) or "none",
            format_bytes(node.memory_bytes),
            pools,
            node.subtype or "-",
            "yes" if node.allowed else "no",
        )
    console.print(table)
    if machine.distances.nodes:
        rows = Table(box=None, pad_edge=False, title="Distances (SLIT)", title_justify="left", min_width=20)
        for head in ("", *(f"node {j}" for j in machine.distances.nodes)):
            rows.add_column(head, justify="right")
        for i, row in zip(machine.distances.nodes, machine.distances.values, strict=True):
            rows.add_row(f"node {i}", *(str(value) for value in row))
        console.print(rows)
    seen: dict[tuple[int, str, int], list[tuple[int, ...]]] = {}
    for cache in machine.caches:
        seen.setdefault((cache.level, cache.type, cache.bytes), []).append(cache.cpus)
    for (level, kind, size), shared in seen.items():
        name = f"L{level}{'di'[kind == 'instruction'] if level == 1 else ''}"
        console.print(
            f"{name}: {len(shared)} x {format_bytes(size)}, shared by {plural(max(map(len, shared)), 'CPU')}",
            highlight=False,
        )
    for device in machine.devices:
        console.print(f"{device.kind} {device.name}: near node {format_numbers(device.nodes)}", highlight=False)
    if machine.offline_cpus:
        console.print(f"offline CPUs: {format_numbers(machine.offline_cpus)}", highlight=False)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def doctor(as_json: bool) -> None:
    """Can this machine or container be measured, what is wrong, the one-line fix for each. Exit 1 on a failure.

    Example: numabench doctor
    """
    from numabench.doctor import findings
    from numabench.environment import snapshot

    machine = Machine.load()
    found = findings(machine, snapshot(machine))
    if as_json:
        _print_json([finding._asdict() for finding in found])
    else:
        _print_findings(found)
    if any(finding.state == "failure" for finding in found):
        raise click.exceptions.Exit(EXIT_FAILED)


def _print_findings(found: list[Finding]) -> None:
    """Worst first; commands of a remedy stay in one piece when the line is long enough for them."""
    import shutil
    import textwrap

    style = {"failure": "red", "warning": "yellow", "note": "cyan", "ok": "green"}
    width = min(shutil.get_terminal_size((80, 24)).columns, 120)
    for finding in sorted(found, key=lambda f: list(style).index(f.state)):
        lines = [f"{finding.name}: {finding.seen}"]
        if finding.state != "ok":
            lines += [f"{name}: {text}" for name, text in zip(("effect", "remedy"), finding[3:5], strict=True) if text]
        for at, line in enumerate(lines):
            start = " " * 9 if at == 0 else " " * 11
            text = textwrap.fill(
                line, width, initial_indent=start, subsequent_indent=" " * 13, break_long_words=False,
                break_on_hyphens=False,
            )  # fmt: skip
            head = click.style(f"{finding.state:9}", fg=style[finding.state], bold=finding.state == "failure")
            click.echo(head + text[9:] if at == 0 else text)
    counts = [f"{sum(f.state == state for f in found)} {state}" for state in style]
    click.echo(f"\n{', '.join(counts)}\nWhere each was read: numabench doctor --json")


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_(as_json: bool) -> None:
    """Experiments, kernels and tiers; what is unavailable here and why.

    Example: numabench list --json
    """
    machine = Machine.load()
    names = [(e.name, e.question, e.unavailable(machine, Options()) or "") for e in experiments.ALL]
    tiers = kernels.tiers()
    best = kernels.tier("best")
    if as_json:
        fields = ("bytes_read", "bytes_written", "bytes_allocated", "flops", "arrays", "element_bytes")
        _print_json(
            {
                "experiments": [{"name": n, "question": q, "unavailable": why} for n, q, why in names],
                "tiers": [{"name": t.name, "level": t.level, "usable": t.usable} for t in tiers.values()],
                "kernels": [
                    {"name": k.name, "family": k.family, "does": k.brief, "variant": k.variant}
                    | {f: getattr(k, f) for f in fields}
                    for k in best.kernels.values()
                ],
            }
        )
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    first = Table("experiment", "question", "unavailable here", box=None, pad_edge=False)
    for row in names:
        first.add_row(*row)
    second = Table("kernel", "family", "does", "bytes/element", "flops", box=None, pad_edge=False)
    for k in best.kernels.values():
        extra = f" (+{k.bytes_allocated} write-allocate)" if k.bytes_allocated else ""
        second.add_row(
            k.name,
            k.family,
            Text(f"{k.brief} ({k.variant})" if k.variant else k.brief),
            f"{k.bytes_read + k.bytes_written}{extra}",
            str(k.flops),
        )
    third = Table("tier", "needs", "here", box=None, pad_edge=False)
    for t in tiers.values():
        third.add_row(t.name, t.level, "best" if t.name == best.name else "yes" if t.usable else "this CPU lacks it")
    for table in (first, second, third):
        console.print(table)
        console.print()
