# SPDX-License-Identifier: Apache-2.0
"""The command that tests the suite itself on this machine."""

from __future__ import annotations

import click
import msgspec

from numabench.cli import EXIT_FAILED, EXIT_NOTHING
from numabench.machine import Machine


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def selftest(as_json: bool) -> None:
    """Plant faults and say which of them are noticed on this machine. Exit 1 when one is missed, or on a false alarm.

    Takes about ten seconds. As root it makes a control group of its own for a moment; nothing else is changed.

    Example: numabench selftest --json
    """
    from numabench import selftest as planted

    def tell(outcome: planted.Outcome) -> None:
        if as_json:
            click.echo(f"{outcome.state:12}{outcome.fault}", err=True)
        else:
            click.echo(f"{outcome.state:12}{outcome.fault:30}{outcome.seen}")

    found = planted.run(Machine.load(), tell)
    count = {state: sum(one.state == state for one in found) for state in ("caught", "missed", "unavailable")}
    alarms = sum(one.state == "false alarm" for one in found)
    if as_json:
        text = msgspec.json.encode({"outcomes": found, **count, "false_alarms": alarms})
        click.echo(msgspec.json.format(text, indent=1).decode())
    else:
        said = ", ".join(f"{number} {state}" for state, number in count.items())
        click.echo(f"\n{said}, {alarms} false alarms. A fault that cannot be planted here says nothing about figures.")
    if count["missed"] or alarms:
        raise click.exceptions.Exit(EXIT_FAILED)
    if not count["caught"]:
        raise click.exceptions.Exit(EXIT_NOTHING)
