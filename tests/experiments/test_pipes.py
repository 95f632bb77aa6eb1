# SPDX-License-Identifier: Apache-2.0
"""All-reduce between processes: the sum is right, ranks sit where they should, and a rank that dies is an error."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from numabench import session
from numabench.backend import Hardware
from numabench.errors import NumabenchError
from numabench.jobs import pipes
from numabench.machine import Machine
from numabench.series import FATAL, Case, Options
from tests.fakes import Fake, many


def piped(machine: Machine, options: Options) -> list[Case]:
    return [case for case in session.plan(["sync"], options, machine) if case.job == "pipes"]


def test_two_ranks_on_a_node_and_on_two() -> None:
    cases = piped(many(nodes=2, packages=2), Options())
    assert {(case.params["span"], case.cpus) for case in cases} == {
        ("2 ranks on a node, processes with pipes", (0, 1)),
        ("2 ranks, nodes 0 and 1, processes with pipes", (0, 2)),
    }
    assert sorted({case.params["size"] for case in cases}) == [8 << 10, 64 << 10, 512 << 10, 4 << 20]


@pytest.mark.parametrize("size", [4, 8 << 10, (96 << 10) + 4])
def test_the_sum_is_checked_and_every_round_timed(size: int) -> None:
    machine = Machine.load()
    if len(machine.allowed_cpus) < 2:
        pytest.skip("two ranks need two CPUs")
    (case, *_) = piped(machine, Options(profile="quick"))
    case = replace(case, params=case.params | {"size": size, "rounds": 25})
    with Hardware(machine, Options(profile="quick")) as backend:
        (sample,) = backend.measure([case], 0, 0, 7)
    assert len(sample.windows) == pipes.WINDOWS
    assert 0 < sample.extras["p50_us"] <= sample.extras["p99_us"]
    assert not {"unpinned", *FATAL} & set(sample.flags) - {"stolen", "throttled"}
    assert sample.evidence.cpus_seen == tuple(sorted(case.cpus))


def test_a_rank_that_cannot_run_is_an_error_with_its_word() -> None:
    machine = Machine.load()
    case = Case(
        experiment="sync",
        kernel="allreduce_f32",
        unit="us",
        better="low",
        cpus=(machine.allowed_cpus[0], 1 << 14),
        params={"size": 64, "rounds": 2},
    )
    with Hardware(machine, Options()) as backend, pytest.raises(NumabenchError, match="a rank ended with status 1"):
        pipes.samples(backend, [case], 0, 0, 1)


def test_pipes_against_shared_memory_in_words() -> None:
    def truth(case: Case) -> float:
        return 30.0 if case.job == "pipes" else 10.0

    backend = Fake(0.001, truth=truth)
    record = session.run(["sync"], Options(profile="quick"), machine=many(nodes=1, packages=1), backend=backend)
    words = [line for table in session.tables(record) for line in table.meaning]
    assert any("8 KiB: through pipes between processes it takes 3.00x" in line for line in words)
    # A step's all-reduces are those of shared memory: (5 x 10 + 2 x 10) x 32.
    assert any(re.search(r"\b22[34]\d us a token", line) for line in words)
