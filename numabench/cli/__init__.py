# SPDX-License-Identifier: Apache-2.0
"""The command line: the only place that prints or exits."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

import click

EXIT_FAILED, EXIT_USAGE, EXIT_NOTHING, EXIT_INTERNAL, EXIT_INTERRUPTED = 1, 2, 3, 70, 130
COMMANDS = {
    "topology": ("look", "The machine as seen: nodes, CPUs, caches, distances, memory."),
    "doctor": ("look", "Can this machine be measured, what is in the way, and the line that fixes it."),
    "selftest": ("trust", "Plants faults and says which of them the suite notices here."),
    "list": ("look", "Experiments, kernels and tiers, and what is unavailable here."),
    "run": ("run", "Measure: the standard set, or the experiments named."),
    "show": ("run", "Print a saved record."),
    "report": ("report", "One page that works offline, or a single figure."),
    "compare": ("prove", "Before and after: two records, cell by cell."),
    "ab": ("prove", "Any two commands, interleaved: did the change help?"),
    "diagnose": ("prove", "What is in a program's way, and a proof by the one change that helps."),
    "recommend": ("recommend", "Exact flags for a tool, from a record."),
    "tune": ("tune", "The placements of any command, tried and ranked."),
    "validate": ("validate", "Hold this machine or a record against a specification, a baseline, or itself."),
    "baseline": ("validate", "Good machines of one class into a baseline."),
    "fleet": ("fleet", "Many machines: run on an engine, collect, judge, act."),
    "verdict": ("validate", "A stored result in one line, for health checks."),
}


class Lazy(click.Group):
    """Imports a command's module when it is called, so that --help is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"numabench.cli.{COMMANDS[cmd_name][0]}")
        return getattr(module, cmd_name.replace("list", "list_"))  # type: ignore[no-any-return]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click does, with the nearest names for an unknown command."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=3) or list(COMMANDS)
            raise click.UsageError(f"no command {args[0]!r}: did you mean {' or '.join(close)}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table alone: nothing is imported for --help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="numabench")
def cli() -> None:
    """What memory distance costs on this machine, measured with proof.

    Example: numabench run latency bandwidth --profile quick
    """


def _terminated(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)


def _refuse_empty(words: list[str]) -> None:
    """An unset variable of a script must not become a gate that holds nothing against anything."""
    own = words[: words.index("--")] if "--" in words else words
    if any(not word or (word.startswith("--") and word.endswith("=")) for word in own):
        raise click.UsageError("an argument is empty: is a variable unset? (those of another program come after --)")


def main() -> None:
    """Entry point: one line for every error, exit codes 0, 1, 2, 3, 70, 130."""
    from numabench import errors

    signal.signal(signal.SIGTERM, _terminated)
    try:
        _refuse_empty(sys.argv[1:])
        code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        _fail(_interrupted(error.__cause__ or error), EXIT_INTERRUPTED)
    except SystemExit as error:
        if hasattr(error, "__notes__"):
            click.echo(f"\nnumabench: {_interrupted(error)}", err=True)
        raise
    except click.ClickException as error:
        _fail(error.format_message(), EXIT_USAGE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (errors.UsageError, errors.RecordError, errors.TopologyError) as error:
        _fail(str(error), EXIT_USAGE)
    except errors.NumabenchError as error:
        _fail(str(error), EXIT_NOTHING)
    except Exception as error:
        if os.environ.get("NUMABENCH_DEBUG"):
            raise
        _fail(f"internal error: {type(error).__name__}: {error} (NUMABENCH_DEBUG=1 shows where)", EXIT_INTERNAL)


def _interrupted(error: BaseException) -> str:
    """What is said of it, with the notes that the command left on how to go on."""
    return "; ".join(["interrupted", *getattr(error, "__notes__", ())])


def _fail(message: str, code: int) -> None:
    click.echo(f"numabench: {message}", err=True)
    sys.exit(code)
