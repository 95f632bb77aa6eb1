# SPDX-License-Identifier: Apache-2.0
"""The journal survives a kill, a cut line, a full disk, and does not touch what is not its own."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from numabench.errors import RecordError
from numabench.record import Journal, save
from numabench.series import Sample
from tests.record.test_round_trip import CASE, SAMPLE, small

ROOT = Path(__file__).parents[2]
KEY = (CASE.experiment, CASE.label)
WRITER = """
import sys
from pathlib import Path
import msgspec
from numabench.record import Journal
from tests.record.test_round_trip import CASE, SAMPLE
sample = msgspec.structs.replace(SAMPLE, windows=(1.5,) * 4000)
with Journal(Path(sys.argv[1]), {"seed": 3}) as journal:
    for number in range(10**9):
        journal.add(CASE, msgspec.structs.replace(sample, number=number))
        print(number, flush=True)
"""


def numbered(number: int) -> Sample:
    return msgspec.structs.replace(SAMPLE, number=number)


def written(path: Path, count: int) -> bytes:
    with Journal(path, {"seed": 3}) as journal:
        for number in range(count):
            journal.add(CASE, numbered(number))
    return path.read_bytes()


def numbers(path: Path) -> list[int]:
    return [sample.number for sample in Journal.read(path)[1].get(KEY, ())]


@pytest.mark.parametrize("delay_s", [0.0, 0.013, 0.05])
def test_a_killed_process_loses_at_most_the_sample_in_flight(tmp_path: Path, delay_s: float) -> None:
    path, told = tmp_path / "j", tmp_path / "told"
    with told.open("wb") as out:
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=out, cwd=ROOT)
    try:
        end = time.monotonic() + 30
        while told.read_bytes().count(b"\n") < 5 and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(delay_s)
    finally:
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    finished = told.read_bytes().count(b"\n")
    assert finished >= 5
    kept = numbers(path)
    assert kept == list(range(len(kept)))
    assert finished <= len(kept) <= finished + 1
    with Journal(path, {"seed": 3}) as journal:
        journal.add(CASE, numbered(len(kept)))
    assert numbers(path) == [*kept, len(kept)]


def test_cut_anywhere_it_can_be_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "j"
    text = written(path, 2)
    starts = [at + 1 for at, byte in enumerate(text) if byte == ord("\n")]
    for at in range(len(text)):
        path.write_bytes(text[:at])
        # A line counts as soon as only its end is missing.
        kept = sum(start <= at + 1 for start in starts) - 1
        if at >= starts[0] - 1:
            assert numbers(path) == list(range(kept))
        else:
            with pytest.raises(RecordError, match="not a journal"):
                Journal.read(path)
        with Journal(path, {"seed": 3}) as journal:
            for number in range(max(kept, 0), 2):
                journal.add(CASE, numbered(number))
        assert path.read_bytes() == text, f"cut at {at}"


@pytest.mark.parametrize(
    "text",
    [
        b"precious notes",
        b"precious\nnotes\n",
        b'{"kind":"numabench-record","schema":1}',
        b'{"kind":"numabench-record-journal","schema":2,"plan":{}}\n',
        b'{"kind":"numabench-record-journal","schema":1,"plan":5}\n',
        b"\xff\xfe\n\x00",
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(text)
    with pytest.raises(RecordError, match="not a journal of this version"):
        Journal(path, {})
    with pytest.raises(RecordError, match="not a journal of this version"):
        Journal.read(path)
    assert path.read_bytes() == text


def test_damage_in_the_middle_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "j"
    lines = written(path, 3).split(b"\n")
    lines[2] = lines[2][:-5]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(RecordError, match=r"j: line 3 is damaged$"):
        Journal.read(path)


def test_a_journal_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"cannot write .*No such file"):
        Journal(tmp_path / "none" / "j", {})
    with pytest.raises(RecordError, match=r"cannot read .*No such file"):
        Journal.read(tmp_path / "none")


FILE_LIMIT = 4000


@contextmanager
def file_limit() -> Iterator[None]:
    """Files of this process end at FILE_LIMIT; a write across it is cut short as on a full disk.

    Not a fixture: the test runner's own output may be a file that is longer already.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)


def fill(path: Path) -> int:
    """Add samples until the journal refuses; how many it took."""
    number = 0
    refused = r"cannot write .*/j: [^\n]*; [^\n]* are free there$"
    with pytest.raises(RecordError, match=refused), Journal(path, {}) as journal:  # noqa: PT012
        for number in range(100_000):
            journal.add(CASE, numbered(number))
    return number


def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with file_limit():
        taken = fill(path)
    assert taken > 1
    assert path.stat().st_size < FILE_LIMIT
    assert path.read_bytes().endswith(b"\n")
    assert numbers(path) == list(range(taken))


def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"mounting a small file system needs CAP_SYS_ADMIN: {mount.stderr.strip()}")
    try:
        taken = fill(disk / "j")
        assert numbers(disk / "j") == list(range(taken))
        with pytest.raises(RecordError, match=r"cannot write .*: No space left on device; .* are free there$"):
            save(small(), disk / "x.json")
        assert os.listdir(disk) == ["j"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 3), st.binary(max_size=60), st.integers(0, 400))
def test_a_journal_with_any_bytes_in_it_is_read_or_refused(tmp_path: Path, line: int, junk: bytes, cut: int) -> None:
    """Whatever stands in one of its lines, or wherever it ends: samples that are whole, or one clear refusal."""
    path = tmp_path / "j"
    path.unlink(missing_ok=True)
    with Journal(path, {"seed": 3}) as journal:
        for number in range(3):
            journal.add(CASE, numbered(number))
    lines = path.read_bytes().split(b"\n")
    lines[line] = lines[line][:cut] + junk
    path.write_bytes(b"\n".join(lines))
    found = outcome(path)
    if isinstance(found, str):
        assert str(path) in found
    else:
        assert all(sample == numbered(sample.number) for taken in found.values() for sample in taken)


def outcome(path: Path) -> str | dict[tuple[str, str], tuple[Sample, ...]]:
    """The samples of a journal, or what its refusal says."""
    try:
        return Journal.read(path)[1]
    except RecordError as error:
        return str(error)
