# SPDX-License-Identifier: Apache-2.0
"""Buffers: refused with the remedy, placed, proven, given back."""

from __future__ import annotations

from pathlib import Path

import pytest

from numabench.errors import HugePagesUnavailable, PlacementError, UsageError
from numabench.machine import Machine
from numabench.memory import allocate
from numabench.units import parse_bytes, parse_numbers, parse_seconds


def test_bound_buffer_is_proven_on_its_node() -> None:
    with allocate("8MiB", 0) as buffer:
        proof = buffer.proof()
        assert proof.how == "move_pages"
        assert proof.seen == {0: 2048}
        assert proof.absent == 0
        assert proof.kind_seen == "base"
        assert proof.misplaced([0]) == 0
        assert proof.misplaced([1]) == 2048


def test_arrays_of_a_with_block_outlive_it_and_take_the_memory_with_them() -> None:
    with allocate("1MiB", 0) as buffer:
        address = buffer.region.address
        array = buffer.as_array("f4")
    array[:] = 3
    assert array.sum() == 3 * array.size
    assert _mapped(address)
    del array, buffer
    assert not _mapped(address)


def _mapped(address: int) -> bool:
    maps = Path("/proc/self/maps").read_text().splitlines()
    spans = [[*line.split()[0].split("-"), line.split()[1]] for line in maps]
    return any(int(low, 16) <= address < int(high, 16) and how.startswith("rw") for low, high, how in spans)


@pytest.mark.needs_capability("thp")
def test_thp_is_what_it_says() -> None:
    with allocate("8MiB", 0, pages="thp") as buffer:
        assert buffer.proof().kind_seen == "thp"


@pytest.mark.parametrize(
    ("size", "node", "pages", "error", "word"),
    [
        ("1MiB", 99, "base", PlacementError, "does not exist"),
        ("100TiB", 0, "base", PlacementError, "are free"),
        ("64GiB", 0, "1G", HugePagesUnavailable, "nr_hugepages"),
        ("0", 0, "base", UsageError, "positive"),
        ("-5", 0, "base", UsageError, "positive"),
        ("many", 0, "base", UsageError, "positive"),
        ("1MiB", 0, "huge", UsageError, "allowed are"),
    ],
)
def test_refused_before_allocating(size: str, node: int, pages: str, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        allocate(size, node, pages=pages)


def test_sizes_and_lists() -> None:
    assert parse_bytes("1.5GiB") == 3 << 29
    assert parse_bytes("1GB") == 10**9
    assert parse_seconds("2min") == 120
    assert parse_numbers("0-2,7", "--cpus") == (0, 1, 2, 7)
    for bad in ("3-1", "a", "", "1,,2"):
        with pytest.raises(UsageError, match="--cpus"):
            parse_numbers(bad, "--cpus")


def test_a_huge_page_answers_for_all_of_its_base_pages() -> None:
    with allocate("32MiB", Machine.load().targets()[0], pages="thp") as buffer:
        proof = buffer.proof()
        each = buffer.region.placement()
        assert (proof.pages, proof.seen, proof.absent) == (32 << 8, each.nodes, each.not_resident)
        assert proof.placement is not None
        assert proof.placement.moved_since(each) == 0
        if proof.kind_share == 1.0:
            assert buffer.region.placement(huge=True).nodes == each.nodes
