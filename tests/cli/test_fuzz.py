# SPDX-License-Identifier: Apache-2.0
"""Nonsense on the command line and in every parser: one line and a documented exit code, never a traceback."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from numabench import errors, units
from numabench.cli import cli

OPTIONS = (
    "--profile", "--budget", "--precision", "--nodes", "--cpus", "--size", "--pages", "--tier", "--kernel", "--threads",
    "--passes", "--seed",
)  # fmt: skip
VALUES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "-1", "0", "1e9", "nan", "inf", "0-", "1-0", "9" * 30, "1%", "%", "quick", "1GiB", "٣"]),
    st.integers().map(str),
)
WORDS = st.one_of(st.sampled_from(["latency", "bandwidth", "gemm", "nothing"]), VALUES)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(WORDS, max_size=2), st.lists(st.tuples(st.sampled_from(OPTIONS), VALUES), max_size=4))
def test_run_refuses_nonsense_in_words(names: list[str], options: list[tuple[str, str]]) -> None:
    words = ["run", "--dry-run", *(word for pair in options for word in pair), "--", *names]
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    error = result.exception
    if error is None:
        assert result.exit_code == 0
    else:  # what main() turns into one line
        known = (errors.NumabenchError, click.ClickException, click.Abort, click.exceptions.Exit, SystemExit)
        assert isinstance(error, known), (words, error)
        assert "\n" not in str(error).strip() or isinstance(error, click.ClickException)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
def test_parsers_give_a_value_in_range_or_a_usage_error(text: str) -> None:
    parsers: tuple[tuple[Callable[[str], Any], Callable[[Any], bool]], ...] = (
        (units.parse_bytes, lambda v: 0 < v < 1 << 60),
        (units.parse_seconds, lambda v: 0 < v < 1e7),
        (lambda t: units.parse_share(t, "x"), lambda v: 0 < v < 1),
        (lambda t: units.parse_numbers(t, "x"), lambda v: bool(v) and min(v) >= 0),
    )
    for parse, good in parsers:
        with suppress(errors.UsageError):
            assert good(parse(text))


@given(st.integers(1, 2**59))
def test_sizes_read_back(size: int) -> None:
    assert units.parse_bytes(str(size)) == size
    printed = units.parse_bytes(units.format_bytes(size).replace(" B", ""))
    assert printed == pytest.approx(size, rel=0.06)


@given(st.sets(st.integers(0, 5000), min_size=1, max_size=40))
def test_lists_read_back(numbers: set[int]) -> None:
    assert set(units.parse_numbers(units.format_numbers(list(numbers)), "x")) == numbers


@given(st.floats(1e-6, 1e12), st.one_of(st.none(), st.floats(1e-9, 1e9)))
def test_figures_print_near_what_they_are(value: float, half: float | None) -> None:
    allowed = max(half or 0.0, value * 1e-2) + 0.5
    assert math.isclose(float(units.format_value(value, half)), value, abs_tol=allowed)
