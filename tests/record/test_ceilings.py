# SPDX-License-Identifier: Apache-2.0
"""What a record tells a diagnosis."""

from __future__ import annotations

import msgspec
import pytest

from numabench import session
from numabench.ceilings import Known, ceilings, slower
from numabench.errors import UsageError
from numabench.record import Record
from numabench.series import Options, Series
from tests.fakes import Fake, two_nodes

replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def record() -> Record:
    names = ["latency", "bandwidth", "scaling", "gemm", "pages"]
    return session.run(names, Options(profile="standard", passes=3), machine=two_nodes(), backend=Fake())


def of(record: Record, experiment: str, kernel: str) -> list[Series]:
    return [s for s in record.series if s.case.experiment == experiment and s.case.kernel == kernel]


def test_ceilings_are_the_records_own_figures(record: Record) -> None:
    found = ceilings(record)
    assert set(found.gb_per_s) == {(i, j) for i in (0, 1) for j in (0, 1)}
    for s in of(record, "bandwidth", "read"):
        assert s.case.initiator is not None
        assert s.case.target is not None
        curve = found.gb_per_s[s.case.initiator, s.case.target]
        assert curve[len(s.case.cpus)] >= (s.estimate or 0.0) > 0
    counts = {len(s.case.cpus) for s in of(record, "scaling", "read") if s.case.target == 0}
    assert counts <= set(found.gb_per_s[0, 0]), "as many teams as scaling had"
    assert set(found.gflop_per_s) == {"f32", "f64"}
    assert found.gflop_per_s["f32"].keys() <= {len(s.case.cpus) for s in of(record, "gemm", "gemm_f32")}
    assert found == Known.of(record, record.machine).ceilings
    assert found.idle_ns[0, 1] > found.idle_ns[0, 0]


def test_time_of_a_remote_access_is_the_larger_of_both_penalties(record: Record) -> None:
    found = slower(record)
    latency, reads = (
        ceilings(record).idle_ns,
        {(s.case.initiator, s.case.target): s.estimate or 0.0 for s in of(record, "bandwidth", "read")},
    )
    assert found[0, 0] == pytest.approx(1.0)
    assert found[0, 1] == pytest.approx(max(latency[0, 1] / latency[0, 0], reads[0, 0] / reads[0, 1]))


def test_a_record_of_another_machine_is_refused(record: Record) -> None:
    with pytest.raises(UsageError, match=r"another machine \(CPU"):
        Known.of(record, replace(record.machine, cpu_model="something else"))
    with pytest.raises(UsageError, match=r"another machine \(nodes 0: 0; 1: 1, here 0: 0"):
        Known.of(record, replace(record.machine, nodes=record.machine.nodes[:1]))


def test_what_is_not_to_be_trusted_is_a_hole(record: Record) -> None:
    bad = replace(record, series=tuple(replace(s, trust="untrusted") for s in record.series))
    found = ceilings(bad)
    assert (found.gb_per_s, found.gflop_per_s, found.idle_ns, found.walk_ns) == ({}, {}, {}, None)
    assert ceilings(replace(record, series=())) == found


def test_a_walk_costs_what_base_pages_add(record: Record) -> None:
    values = {"base": 150.0, "thp": 110.0}
    chases = [replace(s, estimate=values.get(s.case.pages, 1.0)) for s in of(record, "pages", "chase") if s.usable]
    assert ceilings(replace(record, series=tuple(chases))).walk_ns == pytest.approx(40.0)
    thp = tuple(s for s in chases if s.case.pages == "thp")
    assert ceilings(replace(record, series=thp)).walk_ns is None
    alike = tuple(replace(s, estimate=100.0) for s in chases)
    assert ceilings(replace(record, series=alike)).walk_ns is None, "a TLB that costs nothing bounds nothing"
