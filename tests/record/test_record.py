# SPDX-License-Identifier: Apache-2.0
"""Files that are cut, foreign, too new or cannot be written; each is one clear error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from numabench import session
from numabench.errors import RecordError
from numabench.record import Journal, Record, check_writable, dumps, load, loads, save, write
from numabench.series import Options
from tests.fakes import Fake, two_nodes


@pytest.fixture(scope="module")
def record() -> Record:
    return session.run(["latency"], Options(profile="quick"), machine=two_nodes(), backend=Fake())


def test_round_trip_by_file(record: Record, tmp_path: Path) -> None:
    save(record, tmp_path / "it.json")
    assert load(tmp_path / "it.json") == record
    assert [path.name for path in tmp_path.iterdir()] == ["it.json"]


def test_every_cut_is_noticed(record: Record) -> None:
    text = dumps(record, pretty=False)
    for at in range(0, len(text) - 1, 997):
        with pytest.raises(RecordError):
            loads(text[:at], "cut")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"{}", "not a numabench record"),
        (b"[1]", "not a numabench record"),
        (b'{"kind":"numabench-record","schema":99}', "schema 99"),
        (b'{"kind":"numabench-record","schema":1}', "damaged"),
        (b"hello", "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_foreign_files(text: bytes, word: str) -> None:
    with pytest.raises(RecordError, match=word):
        loads(text, "file")


def test_missing_file_and_folder(record: Record, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot read"):
        load(tmp_path / "none.json")
    with pytest.raises(RecordError, match="cannot write"):
        save(record, tmp_path / "no" / "x.json")
    with pytest.raises(RecordError, match="does not exist"):
        check_writable(tmp_path / "no" / "x.json")


def test_full_disk_is_one_line_and_leaves_nothing(record: Record, tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(RecordError, match="are free there"):
            save(record, tmp_path / "x.json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert not list(tmp_path.iterdir())


def test_journal_cut_anywhere_in_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "j"
    session.run(["latency"], Options(profile="quick"), machine=two_nodes(), backend=Fake(), journal=path)
    text = path.read_bytes()
    whole = sum(map(len, Journal.read(path)[1].values()))
    last = text.rstrip(b"\n").rfind(b"\n") + 1
    for at in range(last + 1, len(text) - 1, 53):
        path.write_bytes(text[:at])
        assert sum(map(len, Journal.read(path)[1].values())) == whole - 1
    path.write_bytes(text[:last].replace(b'"sample"', b'"other"', 1))
    with pytest.raises(RecordError, match="line 2"):
        Journal.read(path)
    path.write_bytes(b"something else")
    with pytest.raises(RecordError, match="not a journal"):
        Journal.read(path)
    assert os.path.exists(path)


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write(pipe, b"whole")
        assert os.read(reader, 100) == b"whole"
        assert pipe.is_fifo()
    finally:
        os.close(reader)
