# SPDX-License-Identifier: Apache-2.0
"""Any record comes back as it was, at every length of the file or not at all, and never with a null for a figure."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from numabench.errors import RecordError
from numabench.record import Journal, Record, check_writable, default_name, dumps, load, loads, save
from numabench.series import Case, Evidence, Sample, Series
from tests.fakes import two_nodes

MACHINE = two_nodes()
words = st.text(max_size=12)
numbers = st.integers(-(2**63), 2**63 - 1)
figures = st.floats(allow_nan=False, allow_infinity=False)
names = st.lists(words, max_size=3).map(tuple)
ids = st.lists(st.integers(0, 4095), max_size=4).map(tuple)
facts = st.dictionaries(
    words,
    st.recursive(
        st.none() | st.booleans() | numbers | figures | words,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)
cases = st.builds(
    Case,
    experiment=words,
    kernel=words,
    unit=words,
    better=st.sampled_from(["low", "high"]),
    initiator=st.none() | st.integers(0, 1023),
    target=st.none() | st.integers(0, 1023),
    cpus=ids,
    bytes=numbers,
    params=st.dictionaries(words, numbers | figures | words, max_size=3),
    unavailable=words,
)
evidence = st.builds(
    Evidence,
    placement_requested=st.dictionaries(st.integers(0, 1023), figures, max_size=3),
    placement_seen=st.dictionaries(st.integers(-14, 1023), numbers, max_size=3),
    proof=words,
    pages_checked=numbers,
    cpus_seen=ids,
    core_hz_seen=st.tuples(figures, figures),
    core_width=st.tuples(figures, figures),
    steal_share=figures,
)
samples = st.builds(
    Sample,
    number=st.integers(0, 30),
    position=st.integers(0, 10**6),
    value=figures,
    windows=st.lists(figures, max_size=4).map(tuple),
    evidence=evidence,
    flags=names,
    extras=st.dictionaries(words, figures, max_size=3),
)
series = st.builds(
    Series,
    case=cases,
    samples=st.lists(samples, max_size=3).map(tuple),
    estimate=st.none() | figures,
    ci=st.none() | st.tuples(figures, figures),
    spread_between=figures,
    spread_within=figures,
    flags=names,
    trust=st.sampled_from(["proven", "inferred", "untrusted", "unavailable"]),
    unavailable=words,
)
records = st.builds(
    Record,
    numabench=words,
    created=words,
    duration_s=figures,
    machine=st.just(MACHINE),
    environment=facts,
    capabilities=facts,
    plan=facts,
    series=st.lists(series, max_size=3).map(tuple),
)
CASE = Case(experiment="latency", kernel="chase", unit="ns", better="low", initiator=0, target=1, cpus=(0,))
SAMPLE = Sample(number=0, position=0, value=99.5, windows=(99.5, 100.5), evidence=Evidence(proof="move_pages"))


def small(sample: Sample = SAMPLE, **changes: Any) -> Record:
    one = Series(case=CASE, samples=(sample,), estimate=99.5, trust="proven")
    made: dict[str, Any] = {"numabench": "0", "created": "now", "duration_s": 1.0, "machine": MACHINE}
    made |= {"environment": {}, "capabilities": {}, "plan": {}, "series": (one,)}
    return Record(**(made | changes))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(records, st.booleans())
def test_any_record_comes_back(record: Record, pretty: bool) -> None:
    text = dumps(record, pretty)
    assert loads(text, "it") == record
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


@settings(deadline=None)
@given(cases, st.lists(samples, max_size=3))
def test_any_sample_comes_back_from_a_journal(
    tmp_path_factory: pytest.TempPathFactory, case: Case, taken: list[Sample]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    with Journal(path, {"seed": 1}) as journal:
        for sample in taken:
            journal.add(case, sample)
    expected = {(case.experiment, case.label): tuple(taken)} if taken else {}
    assert Journal.read(path) == ({"seed": 1}, expected)


def test_a_file_cut_at_any_byte_is_refused() -> None:
    text = dumps(small(), pretty=False)
    for at in range(len(text)):
        with pytest.raises(RecordError, match=r"^it is truncated or not JSON \(.*\)$"):
            loads(text[:at], "it")
    assert loads(text, "it") == small()


def test_the_file_shows_what_readers_look_for() -> None:
    one = json.loads(dumps(small()))["series"][0]
    shown = {key: one[key] for key in ("experiment", "label", "unit", "estimate", "ci", "n", "verdict", "flags")}
    assert shown == {
        "experiment": "latency",
        "label": CASE.label,
        "unit": "ns",
        "estimate": 99.5,
        "ci": None,
        "n": 1,
        "verdict": "proven",
        "flags": [],
    }
    assert one["evidence"]["proof"] == one["samples"][0]["evidence"]["proof"] == "move_pages"


def test_derived_and_unknown_fields_are_ignored() -> None:
    data = json.loads(dumps(small()))
    data["later"] = {"x": 1}
    data["series"][0] |= {"n": 7, "verdict": "made up", "unit": "apples", "later": [1]}
    data["series"][0]["samples"][0]["evidence"]["later"] = 1
    data["machine"]["later"] = None
    assert loads(json.dumps(data).encode(), "it") == small()


def test_a_wrong_type_is_named_by_its_path() -> None:
    data = json.loads(dumps(small()))
    data["series"][0]["samples"][0]["value"] = "fast"
    with pytest.raises(RecordError, match=r"damaged record: Expected `float`.*series\[0\]\.samples\[0\]\.value"):
        loads(json.dumps(data).encode(), "it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"kind":"numabench-record","schema":2}', "it has schema 2; this version of numabench reads schema 1"),
        (b'{"kind":"numabench-record","schema":true}', "it is JSON, but not a numabench record"),
        (b'{"kind":"numabench-record","schema":"1"}', "it is JSON, but not a numabench record"),
        (b"[" * 100_000, "it is "),
        (b'{"a":' * 100_000, "it is "),
        (b"null", "it is JSON, but not a numabench record"),
        (b'{"kind":"\xff"}', "it is truncated or not JSON"),
    ],
)
def test_foreign_text_is_one_line(text: bytes, message: str) -> None:
    with pytest.raises(RecordError) as caught:
        loads(text, "it")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("figure", [math.nan, math.inf, -math.inf])
def test_a_figure_that_json_lacks_is_refused_by_name(figure: float, tmp_path: Path) -> None:
    for sample, where in (
        (msgspec.structs.replace(SAMPLE, value=figure), r"value"),
        (msgspec.structs.replace(SAMPLE, windows=(1.0, figure)), r"windows\[1\]"),
        (msgspec.structs.replace(SAMPLE, extras={"x": figure}), r"extras\.x"),
    ):
        with pytest.raises(RecordError, match=f"latency {CASE.label}.*{where} is .*cannot hold"):
            save(small(sample), tmp_path / "x.json")
        assert not list(tmp_path.iterdir())
        with Journal(tmp_path / "j", {}) as journal, pytest.raises(RecordError, match=where):
            journal.add(CASE, sample)
        assert Journal.read(tmp_path / "j") == ({}, {})
        (tmp_path / "j").unlink()
    # A fact of the environment is only unknown then.
    assert loads(dumps(small(environment={"load": figure})), "it").environment == {"load": None}


def test_saving_replaces_and_a_failed_one_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    save(small(), path)
    save(small(duration_s=2.0), path)
    assert load(path).duration_s == 2.0

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        save(small(duration_s=3.0), path)
    assert load(path).duration_s == 2.0
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"cannot read .*: Is a directory"):
        load(tmp_path)
    with pytest.raises(RecordError, match="it is a folder"):
        check_writable(tmp_path)
    with pytest.raises(RecordError, match=r"cannot write .*: Is a directory$"):
        save(small(), tmp_path)
    with Journal(tmp_path / "j", {}) as journal:
        journal.add(CASE, SAMPLE)
    with pytest.raises(RecordError, match="journal of an unfinished run"):
        load(tmp_path / "j")


def test_the_default_name_has_host_and_time() -> None:
    assert default_name("big/one.example.org").startswith("numabench-big_one-")
    stamp = default_name("h").removeprefix("numabench-h-").removesuffix(".json")
    assert len(stamp) == len("20261123T101500")
    assert stamp[8] == "T"
