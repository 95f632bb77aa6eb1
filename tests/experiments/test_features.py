# SPDX-License-Identifier: Apache-2.0
"""Every command that the feature table names can be planned here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from numabench import experiments
from numabench.cli import cli

TEXT = (Path(__file__).parents[2] / "docs" / "features.md").read_text()
COMMANDS = sorted(set(re.findall(r"\| `numabench (run [^`]+)` \|", TEXT)))


@pytest.mark.parametrize("command", COMMANDS)
def test_command_of_the_table_plans(command: str) -> None:
    found = CliRunner().invoke(cli, [*command.split(), "--dry-run"])
    assert found.exit_code == 0, found.output
    assert re.search(r"\d cases?, about ", found.output)


def test_every_experiment_is_in_the_table_or_is_the_instance_s() -> None:
    named = {word for command in COMMANDS for word in command.split()}
    memory = {e.name for e in experiments.ALL if not {"instance"} & set(e.families)}
    assert memory - named <= {"divide", "neighbour", "frontend", "story", "load", "selfcheck"}
