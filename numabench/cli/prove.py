# SPDX-License-Identifier: Apache-2.0
"""Commands that prove: compare records, ab any two commands, diagnose a program."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import textwrap
from typing import Any

import click
import msgspec

from numabench.cli import EXIT_FAILED, EXIT_NOTHING
from numabench.errors import UsageError

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%?")


def share(text: str, option: str) -> float:
    """Read ``2``, ``2%`` or ``0.5 %`` as a share of one. Raises UsageError."""
    match = _PERCENT.fullmatch(text.strip())
    if not match or not 0 <= float(match[1]) < 1000:
        raise UsageError(f"{option} {text!r}: per cent are allowed, such as 1% or 0.5%")
    return float(match[1]) / 100


def print_json(data: object) -> None:
    """One document on stdout."""
    text = msgspec.json.encode(msgspec.to_builtins(data, str_keys=True))
    click.echo(msgspec.json.format(text, indent=1).decode())


def _print(data: object, lines: list[str], as_json: bool) -> None:
    if as_json:
        print_json(data)
    else:
        for line in lines:
            click.echo(line)


def _wrapped(lines: list[str]) -> list[str]:
    """Lines that fit a terminal, those that follow one indented below it; commands in one piece where they fit."""
    if not sys.stdout.isatty():
        return lines
    width = shutil.get_terminal_size().columns
    made = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()))
        made += textwrap.wrap(
            line, width, subsequent_indent=indent + "  ", drop_whitespace=True, break_long_words=False,
            break_on_hyphens=False,
        ) if len(line) > width else [line]  # fmt: skip
    return made


@click.command()
@click.argument("base")
@click.argument("new", nargs=-1)
@click.option(
    "--to", "more", metavar="FILE", multiple=True, help="Sets: records before the change, then --to each after."
)
@click.option("--threshold", default="1%", metavar="PERCENT", help="A smaller change is of no interest.")
@click.option("--allow", multiple=True, metavar="NAME", help="A difference that is the very change to be judged.")
@click.option("--markdown", is_flag=True, help="A table for a pull request.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def compare(
    base: str, new: tuple[str, ...], more: tuple[str, ...], threshold: str, allow: tuple[str, ...], markdown: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Compare two records, or two sets of them: better, worse, no detectable change, not comparable.

    Exit codes: 0 nothing became worse, 1 something did, 2 usage, 3 no verdict possible.

    Example: numabench compare before.json after.json --markdown
    """
    from numabench import changes
    from numabench import record as records
    from numabench.reports import verdicts

    if not more and len(new) != 1:
        raise UsageError(f"compare takes BASE and NEW, {1 + len(new)} were given; sets: BASE... --to NEW --to NEW ...")
    sides = ([base, *new], list(more)) if more else ([base], list(new))
    loaded = [[records.load(name) for name in side] for side in sides]
    found = changes.compare_records(loaded[0], loaded[1], share(threshold, "--threshold"), allow)
    _print(found, verdicts.comparison(found, markdown), as_json)
    if found.count("worse"):
        raise click.exceptions.Exit(EXIT_FAILED)
    if not found.judged:
        raise click.exceptions.Exit(EXIT_NOTHING)


def words_of(text: str, option: str) -> tuple[str, ...]:
    """A command line as its words; no shell runs it. Raises UsageError."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"{option} {text!r}: {error}") from None
    if not words:
        raise UsageError(f"{option}: an empty command; a shell line is sh -c '...'")
    return words


def check_command(name: str, command: tuple[str, ...]) -> None:
    """Refuse a command that is a misspelt option of numabench's own. Raises UsageError."""
    if command and command[0].startswith("-"):
        raise UsageError(f"{name} has no option {command[0]} (numabench {name} --help); a command comes after --")


@click.command()
@click.option("--a", "first", required=True, metavar="CMD", help="What is there now. No shell: sh -c '...' for one.")
@click.option("--b", "second", metavar="CMD", help="What may be better.")
@click.option("--aa", is_flag=True, help="Only A against itself: what can this machine tell?")
@click.option(
    "--metric", default="wall", metavar="wall|user|memory|REGEX", help="The last match's number in the output."
)
@click.option("--better", type=click.Choice(["low", "high"]), help="Which way is better; needed with a REGEX.")
@click.option(
    "--same",
    default="",
    show_default=False,
    metavar="REGEX",
    help="Output that must be alike in all runs, such as a checksum.",
)
@click.option("--blocks", default=10, type=click.IntRange(6, 200), metavar="N", help="Pairs of processes at most.")
@click.option("--threshold", default="1%", metavar="PERCENT", help="A smaller change is of no interest.")
@click.option("--effect", default="10%", metavar="PERCENT", help="The change to be seen; more noise gives no verdict.")
@click.option("--precision", default="1%", metavar="PERCENT", help="Stop at 6, 8, 10 ... blocks when so narrow.")
@click.option("--timeout", default="10min", metavar="TIME", help="For one process.")
@click.option("--seed", type=click.IntRange(0), metavar="N", default=0, help="Order.")
@click.option("--markdown", is_flag=True, help="Text for a pull request.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def ab(first: str, second: str | None, aa: bool, metric: str, better: Any, same: str, blocks: int, threshold: str,
       effect: str, precision: str, timeout: str, seed: int, markdown: bool, as_json: bool) -> None:  # fmt: skip
    """Compare any two commands: A against itself, then A against B, in blocks of fresh processes.

    Exit codes: 0 B is not worse, 1 B is worse, 2 usage, 3 no verdict possible.

    Example: numabench ab --a './serve --old' --b './serve --new' --metric 'rate: (.*)' --better high
    """
    from numabench import trial
    from numabench.cli.progress import Telling
    from numabench.commands import Arm, CommandFailed, Metric, Runner
    from numabench.reports import verdicts
    from numabench.units import parse_seconds

    if bool(second) == aa:
        raise UsageError("give --b CMD, or --aa for A against itself alone")
    try:
        re.compile(same)
    except re.error as error:
        raise UsageError(f"--same {same!r}: {error}") from None
    rules = trial.Rules(
        blocks=blocks,
        threshold=share(threshold, "--threshold"),
        effect=share(effect, "--effect"),
        precision=share(precision, "--precision"),
        seed=seed,
    )
    runner = Runner(Metric.parse(metric, better), timeout_s=parse_seconds(timeout), same=same)
    arms = [Arm(name=n, command=words_of(c, f"--{n.lower()}")) for n, c in (("A", first), ("B", second)) if c]
    with Telling() as told:
        try:
            found = trial.ab(arms[0], arms[1] if second else None, runner, rules, told)
        except CommandFailed as error:
            raise CommandFailed(f"no verdict: {error}") from error
    _print(found, _wrapped(verdicts.trial(found, markdown)), as_json)
    if found.reasons:
        raise click.exceptions.Exit(EXIT_NOTHING)
    if found.change and found.change.verdict == "worse":
        raise click.exceptions.Exit(EXIT_FAILED)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--pid", type=click.IntRange(1), metavar="N", help="A process that runs already; it is only looked at.")
@click.option("--seconds", default="10s", metavar="TIME", help="How long to watch.")
@click.option("--record", "file", metavar="FILE.json", help="A record of this machine, to predict gains.")
@click.option("--no-try", is_flag=True, help="Only look; do not run the command again with one thing changed.")
@click.option("--blocks", default=6, type=click.IntRange(6, 30), metavar="N", help="Pairs of processes of a try.")
@click.option("--timeout", default="2min", metavar="TIME", help="For one process; a server is ended then.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def diagnose(
    command: tuple[str, ...], pid: int | None, seconds: str, file: str | None, no_try: bool, blocks: int, timeout: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Where a program's threads run, where its pages are, what is in its way, and what to change.

    Exit codes: 0 healthy, 1 a cause was found, 2 usage, 3 nothing can be said.

    Example: numabench diagnose -- ./serve --once
    """
    from numabench import diagnose as diagnosing
    from numabench import record as records
    from numabench.ceilings import Known
    from numabench.cli.progress import Telling
    from numabench.machine import Machine
    from numabench.reports import verdicts
    from numabench.units import parse_seconds

    if bool(command) == (pid is not None):
        raise UsageError("give either --pid N or -- COMMAND")
    check_command("diagnose", command)
    watched = parse_seconds(seconds)
    machine = Machine.load()
    known = Known.of(records.load(file), machine) if file else Known()
    with Telling() as told:
        found = (
            diagnosing.diagnose_pid(pid, machine, watched, known, told)
            if pid is not None
            else diagnosing.diagnose_command(
                command,
                machine,
                watched,
                known,
                attempt=not no_try,
                blocks=blocks,
                timeout_s=parse_seconds(timeout),
                tell=told,
            )
        )
    _print(found, _wrapped(verdicts.diagnosis(found)), as_json)
    if not found.healthy:
        raise click.exceptions.Exit(EXIT_FAILED)
