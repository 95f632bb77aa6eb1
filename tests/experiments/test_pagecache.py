# SPDX-License-Identifier: Apache-2.0
"""Page cache: who reads first and who uses, the words; a file written, dropped and read in for real."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from numabench import _core, filecache, session
from numabench.backend import Hardware
from numabench.errors import NumabenchError, UsageError
from numabench.jobs import pagecache
from numabench.machine import Machine
from numabench.series import Case, Options
from tests.fakes import Fake, many

QUICK = Options(profile="quick")


def truth(case: Case) -> float:
    return 20.0 if case.initiator == case.target else 10.0


def test_six_cases_over_the_two_nodes_farthest_apart() -> None:
    machine = many(nodes=4, packages=2, bare=1)
    cases = session.plan(["pagecache"], QUICK, machine)
    assert [(c.params["first"], c.initiator, c.target, "then" in c.params) for c in cases] == [
        (0, 0, 0, False),
        (0, 2, 0, False),
        (2, 0, 2, False),
        (2, 2, 2, False),
        (2, 0, 0, True),
        (0, 2, 2, True),
    ]
    for case in cases:
        assert {machine.cpu(cpu).node for cpu in case.cpus} == {case.initiator}
        assert machine.cpu(case.touch_cpus[0]).node == case.params["first"]
        assert machine.cpu(case.touch_cpus[-1]).node == case.target
        assert case.bytes <= 2 << 30


def test_words_compare_with_a_file_that_the_own_node_read() -> None:
    machine = many(nodes=2, packages=2)
    record = session.run(["pagecache"], QUICK, machine=machine, backend=Fake(0.001, truth=truth))
    (table,) = session.tables(record)
    rows = dict(table.rows)
    assert rows["CPUs of 1, first read on node 0"][0].ratio == pytest.approx(0.5, rel=0.01)
    assert rows["CPUs of 1, first read on node 0"][1].text == "0: 100%"
    assert rows["CPUs of 1, first read on node 0, dropped, read again"][0].ratio == pytest.approx(1.0, rel=0.01)
    assert any("CPUs of node 1" in line and "node 0 read first at 0.50x" in line for line in table.meaning)
    assert any("read again by node 1: 1.00x" in line for line in table.meaning)


def test_one_node_runs_the_local_case_and_says_why_not_the_others() -> None:
    machine = many(nodes=1, packages=1)
    assert [c.unavailable for c in session.plan(["pagecache"], QUICK, machine)] == ["", "one node"]
    record = session.run(["pagecache"], QUICK, machine=machine, backend=Fake())
    (table,) = session.tables(record)
    assert table.meaning == ("A file that another node read first cannot be had: one node.",)


def test_what_cannot_be_chosen_is_said() -> None:
    with pytest.raises(UsageError, match="pagecache measures read"):
        session.plan(["pagecache"], Options(kernels=("triad",)), many())
    (case,) = session.plan(["pagecache"], Options(pages="thp"), many())
    assert "no kind to choose" in case.unavailable


def local(size: int) -> Case:
    (case, *_) = session.plan(["pagecache"], Options(profile="quick", bytes=size), Machine.load())
    return case


def on_disk(folder: Path) -> bool:
    return filecache.file_system(folder.stat().st_dev) not in filecache.IN_MEMORY


def test_a_file_is_read_in_where_the_reader_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on_disk(tmp_path):
        pytest.skip("temporary files are in memory")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    case = local(8 << 20)
    with Hardware(Machine.load(), QUICK) as bench:
        (sample,) = bench.measure([case], 0, 0, 1)
    assert sample.value > 0
    assert sample.evidence.placement_seen == {case.target: (8 << 20) // sample.evidence.page_step_bytes}
    assert sample.evidence.pages_absent == 0
    assert sample.evidence.placement_how == "first_read"
    assert not list(tmp_path.iterdir())


def test_dropping_is_seen_and_refused_where_pages_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on_disk(tmp_path):
        pytest.skip("temporary files are in memory")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    size = 4 << 20
    with ExitStack() as stack:
        file = pagecache._written(stack, size, 1)
        filecache.drop(file, size)
        assert filecache.resident(file, size) == 0
        filecache._read(file, size)
        assert filecache.resident(file, size) == size // os.sysconf("SC_PAGESIZE")
        region = stack.enter_context(_core.Region(size, "any", fd=file))
        assert 0.5 <= region.as_array().min() <= region.as_array().max() < 1  # and mapped: these pages stay
        with pytest.raises(NumabenchError, match=r"left .* pages"):
            filecache.drop(file, size)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm")
def test_files_in_memory_and_missing_folders_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        if not on_disk(Path("/dev/shm")):
            monkeypatch.setenv("TMPDIR", "/dev/shm")
            with pytest.raises(NumabenchError, match=r"is a tmpfs.*TMPDIR=FOLDER"):
                pagecache._written(stack, 1 << 20, 1)
        monkeypatch.setenv("TMPDIR", "/nowhere")
        with pytest.raises(NumabenchError, match=r"/nowhere: No such file.*TMPDIR=FOLDER"):
            pagecache._written(stack, 1 << 20, 1)
