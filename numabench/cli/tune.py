# SPDX-License-Identifier: Apache-2.0
"""The command that tries placements on a user's own command."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Literal

import click
import msgspec

from numabench.cli.prove import check_command
from numabench.commands import Metric, Runner
from numabench.launchers.tune import AS_IS, SCREEN_BLOCKS, TOP, placings
from numabench.launchers.tune import tune as tune_
from numabench.machine import Machine
from numabench.units import format_seconds, format_value, parse_seconds


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--metric", default="wall", metavar="wall|user|memory|REGEX", help="What to rank by; the last match's number."
)
@click.option("--better", type=click.Choice(["low", "high"]), help="Which way the number is better.")
@click.option("--blocks", type=click.IntRange(2, 100), metavar="N", default=10, help="Of the second look.")
@click.option("--timeout", default="10min", metavar="TIME", help="Of one run of the command.")
@click.option("--seed", type=click.IntRange(0), metavar="N", default=0, help="Order of the runs.")
@click.option("--dry-run", is_flag=True, help="Print the placements, run nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.argument("command", nargs=-1, required=True)
def tune(
    metric: str,
    better: Literal["low", "high"] | None,
    blocks: int,
    timeout: str,
    seed: int,
    dry_run: bool,
    as_json: bool,
    command: tuple[str, ...],
) -> None:
    """The placements of any command, tried and ranked; the best as a line to paste.

    Example: numabench tune --metric 'tok/s: (.*)' --better high -- ./serve --once
    """
    check_command("tune", command)
    machine = Machine.load()
    ways = placings(machine, shutil.which("numactl") is not None)
    if dry_run:
        for way in ways:
            click.echo(f"{way.name:28} {way.line(command)}")
        return
    runner = Runner(Metric.parse(metric, better), machine=machine, timeout_s=parse_seconds(timeout))
    began = last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 2 and done < total:
            last = now
            left = format_seconds((now - began) / done * (total - done))
            click.echo(f"{done} of {total} runs, {left} left", err=True)

    results, first = tune_(command, runner, ways, blocks, seed, tell)
    best = next((r for r in results if r.verdict == "better"), None)
    if as_json:
        data = {
            "command": list(command),
            "metric": msgspec.to_builtins(runner.metric),
            "first_look": first,
            "results": msgspec.to_builtins(results),
            "best": best.line if best else None,
        }
        click.echo(msgspec.json.format(msgspec.json.encode(data), indent=1).decode())
        return
    unit = runner.metric.unit
    click.echo(f"First look, {SCREEN_BLOCKS} blocks, {runner.metric.name} {unit}".rstrip())
    sign = -1 if runner.metric.better == "high" else 1
    for name, value in sorted(first.items(), key=lambda item: sign * item[1]):
        click.echo(f"  {name:28} {format_value(value)}")
    click.echo(f"\nThe best {min(TOP, len(results))} against it {AS_IS}, {blocks} fresh blocks")
    for r in results:
        ci = f" [{r.ci[0]:.3f}, {r.ci[1]:.3f}]" if r.ci else ""
        click.echo(f"  {r.name:28} gain {r.gain:.3f}x{ci}  {r.verdict}")
    click.echo("\nWhat it means")
    if best:
        click.echo(f"  Start it so (gain {best.gain:.2f}x):\n{best.line}")
    else:
        click.echo("  No placement is better than the command as it is, as far as these blocks can tell.")
    sys.stdout.flush()
