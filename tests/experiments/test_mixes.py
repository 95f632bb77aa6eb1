# SPDX-License-Identifier: Apache-2.0
"""Any ratio of reads to writes: what is planned, how it counts, and what the words say."""

from __future__ import annotations

from typing import cast

import pytest
from msgspec.structs import replace

from numabench import _core, kernels, session
from numabench.backend import Hardware
from numabench.errors import UsageError
from numabench.jobs import mix
from numabench.machine import Machine
from numabench.series import Options
from numabench.units import parse_ratio
from tests.fakes import Fake, many

NT = "mix_nt" in kernels.tier().kernels


def test_ratios_are_read_in_lowest_terms() -> None:
    assert [parse_ratio(text) for text in ("5:1", "10:2", "0:7", "3 : 0")] == [(5, 1), (5, 1), (0, 1), (1, 0)]
    for text in ("0:0", "5", "5:1:1", "-1:2", "a:b", "1000:1"):
        with pytest.raises(UsageError, match="reads to writes"):
            parse_ratio(text)


def test_a_ratio_is_planned_plainly_and_past_the_caches() -> None:
    options = Options(profile="quick", ratios=((5, 1), (1, 2)))
    cases = session.plan(["mixes"], options, many(nodes=1, packages=1))
    plain = {(c.params["reads"], c.params["writes"]): c.unavailable for c in cases if c.kernel == "mix"}
    assert plain[5, 1] == ""
    assert "reads its line first" in plain[1, 2]
    assert all(not c.unavailable for c in cases if c.kernel == "mix_nt")
    assert {c.kernel for c in cases} == {"read", "mix"} | ({"mix_nt"} if NT else set())
    with pytest.raises(UsageError, match="--ratio 5:1"):
        session.plan(["mixes"], Options(kernels=("mix",)), many())


def test_rows_are_the_ratios_and_the_bus_carries_what_counts() -> None:
    options = Options(profile="quick", ratios=((5, 1),))
    backend = Fake(0.001, truth=lambda case: 50.0 if case.kernel == "mix" else 100.0)
    record = session.run(["mixes"], options, machine=many(nodes=1, packages=1), backend=backend)
    (table,) = session.tables(record)
    assert [name for name, _ in table.rows][:2] == ["1R", "5R:1W"]
    assert any("5R:1W gives the least, 0.50x" in line for line in table.meaning)
    assert dict(table.rows)["5R:1W"][-1].text.startswith("50")


@pytest.mark.parametrize("kernel", ["mix", *(["mix_nt"] if NT else [])])
def test_bytes_of_a_turn_are_reads_and_writes_on_the_bus(kernel: str) -> None:
    """Of 7 lines on the bus at 5:2, a plain store shares its line with a read."""
    machine = Machine.load()
    options = Options(profile="quick", ratios=((5, 2),), bytes=4 << 20, pages="base")
    case = next(c for c in session.plan(["mixes"], options, machine) if c.kernel == kernel)
    case = replace(case, cpus=case.cpus[:1])
    with Hardware(machine, options) as backend:
        (sample,) = backend.measure([case], 0, 0, 1)
        assert sample.value > 0
        with backend.fixed_work(case, 1) as call:
            (stamp,) = cast("list[_core.Stamp]", call())
    lines = stamp.elements * 8 / mix.LINE
    assert lines % (5 if kernel == "mix" else 7) == 0
