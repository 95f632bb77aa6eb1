# SPDX-License-Identifier: Apache-2.0
"""Other programs and numabench in turn on this machine: ratios with their intervals, never absolute claims.

Example: python -m benchmarks.peers --multichase ./multichase --only chase
"""

from __future__ import annotations

import click
import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.peers import chase, gemm, stream
from benchmarks.peers.duels import Duel, Family, Missing, Ring
from numabench.backend import Hardware
from numabench.machine import Machine
from numabench.series import Options
from numabench.units import format_value

LEAST, DEFAULT = 6, 7
FAMILIES: dict[str, Family] = {"chase": chase, "stream": stream, "gemm": gemm}


@click.command(help=__doc__)
@click.option("--only", type=click.Choice(list(FAMILIES)), multiple=True, help="These families only.")
@click.option("--multichase", default="multichase", show_default=True, help="The program, by name or path.")
@click.option("--rounds", type=click.IntRange(LEAST, 100), default=DEFAULT, show_default=True, help="Alternations.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, writable=True), help="Write the figures as JSON.")
def main(only: tuple[str, ...], multichase: str, rounds: int, output: str | None) -> None:
    machine = Machine.load()
    console = Console()
    found: list[Duel] = []
    missing: list[Missing] = []
    with Hardware(machine, Options(profile="standard")) as hardware:
        ring = Ring(hardware, machine, rounds, {"multichase": multichase})
        for name, family in FAMILIES.items():
            if only and name not in only:
                continue
            for one in family.duels(ring):
                if isinstance(one, Missing):
                    missing.append(one)
                    continue
                found.append(one)
                console.print(f"{one.name:34} {one.share:.3f} of {one.rival}", highlight=False, style="dim")
    table = Table("ours", "rival", "unit", "ours", "theirs", "better by a factor of", box=None, pad_edge=False)
    for one in found:
        span = f" [{one.ci[0]:.3f}, {one.ci[1]:.3f}]" if one.ci else ""
        table.add_row(
            one.name, one.rival, one.unit, format_value(one.ours), format_value(one.theirs), f"{one.share:.3f}x{span}"
        )
    console.print(machine.describe(), highlight=False)
    console.print(table)
    for rival, remedy in missing:
        console.print(f"{rival} is not here: {remedy}", highlight=False)
    if output:
        with open(output, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(found), indent=1))


if __name__ == "__main__":
    main()
