# SPDX-License-Identifier: Apache-2.0
"""Policy: spans and policies that are planned, and what the words say."""

from __future__ import annotations

from contextlib import ExitStack

import msgspec
import pytest

from numabench import jobs, session
from numabench.backend import Hardware
from numabench.errors import UsageError
from numabench.machine import Machine
from numabench.series import Case, Options
from tests.fakes import Fake, many

TRUE = {
    "main": 10.0,
    "workers": 30.0,
    "interleave": 20.0,
    "weighted": 20.0,
    "preferred": 10.0,
    "bind": 10.0,
    "apart": 50.0,
}


def truth(case: Case) -> float:
    return TRUE.get(str(case.params["weights"]), 40.0)


def test_words_name_the_best_and_the_price_of_copies() -> None:
    machine = many(nodes=2, packages=2)
    record = session.run(["policy"], Options(profile="quick"), machine=machine, backend=Fake(0.001, truth=truth))
    (table,) = session.tables(record)
    assert "a copy on every node, 4.00x" in table.meaning[0]
    assert "One instance per node reads 1.25x" in table.meaning[1]
    assert "2.00x" in table.meaning[2]
    assert "2x the memory" in table.meaning[2]
    assert dict(table.rows)["interleaved over the nodes"][0].ratio == pytest.approx(2.0, rel=0.01)


def test_spans_are_all_nodes_and_one_pair_of_each_class() -> None:
    machine = many(nodes=4, packages=2, bare=1)
    spans = {case.targets for case in session.plan(["policy"], Options(), machine)}
    assert spans == {(0, 1, 2, 3), (0, 1), (0, 2)}
    assert {case.targets for case in session.plan(["policy"], Options(profile="quick"), machine)} == {(0, 1, 2, 3)}


def test_one_node_asks_who_touches_first() -> None:
    cases = session.plan(["policy"], Options(), many(nodes=1, packages=1))
    assert [(case.kernel, case.params["weights"]) for case in cases if not case.unavailable] == [
        (kernel, how) for kernel in ("read", "gather") for how in ("main", "workers")
    ]
    assert {case.unavailable for case in cases} == {"", "one node"}


def test_weighted_needs_a_kernel_that_has_it() -> None:
    def reasons(kernel: str) -> set[str]:
        machine = msgspec.structs.replace(many(nodes=2, packages=2), kernel=kernel)
        return {
            c.unavailable for c in session.plan(["policy"], Options(), machine) if c.params["weights"] == "weighted"
        }

    assert reasons("Linux 6.9.1") == {""}
    assert reasons("Linux 7.0") == {""}
    assert reasons("Linux 6.1.0-9-amd64") == {"weighted interleaving needs Linux 6.9, this is Linux 6.1.0-9-amd64"}


def test_other_kernels_are_refused() -> None:
    with pytest.raises(UsageError, match="policy measures read and gather"):
        session.plan(["policy"], Options(kernels=("triad",)), many())


def test_lookups_are_a_table_of_their_own() -> None:
    machine = many(nodes=2, packages=2)
    options = Options(kernels=("read", "gather"), passes=6)
    record = session.run(["policy"], options, machine=machine, backend=Fake(0.001, truth=truth))
    streams, lookups = session.tables(record)
    assert streams.title.startswith("Weights of one instance over nodes 0-1")
    assert lookups.title.startswith("Tables of one instance over nodes 0-1")
    assert "4.00x" in lookups.meaning[0]
    assert "of tables that the main thread touched first" in lookups.meaning[0]


def test_lookups_here_read_all_of_the_table() -> None:
    machine = Machine.load()
    options = Options(profile="quick", kernels=("gather",), bytes=4 << 20, pages="base")
    case = next(c for c in session.plan(["policy"], options, machine) if not c.unavailable)
    with Hardware(machine, options) as backend:
        (sample,) = backend.measure([case], 0, 0, 1)
    assert sample.value > 0
    assert set(sample.evidence.placement_seen) <= set(machine.targets())


def test_threads_of_an_instance_per_node_read_all_of_it() -> None:
    """A thread that is alone on its node reads the whole copy, two on one node half each."""
    here = Machine.load()
    cpus = here.one_cpu_per_core(here.allowed_cpus)[:2]
    if len(cpus) < 2:
        pytest.skip("needs two cores")
    case = msgspec.structs.replace(
        next(c for c in session.plan(["policy"], Options(bytes=4 << 20, pages="base"), here) if not c.unavailable),
        cpus=cpus,
    )
    away = tuple(msgspec.structs.replace(c, node=1 if c.id == cpus[1] else c.node) for c in here.cpus)
    shares = {}
    for how in ("workers", "apart"):
        for machine in (here, msgspec.structs.replace(here, cpus=away)):
            one = msgspec.structs.replace(case, params=case.params | {"weights": how}, targets=case.targets[:1])
            with Hardware(machine, Options(profile="quick")) as bench, ExitStack() as stack:
                family = jobs.family(one)
                job = family.prepare(bench, stack, one, family.buffers(bench, stack, [one], 1), 1, True)
                shares[how, machine is here] = [8 * stamp.elements for stamp in bench.team(cpus).run(job.works)]
    half, all_of_it = [2 << 20] * 2, [4 << 20] * 2
    assert shares == {
        ("workers", True): half,
        ("workers", False): half,
        ("apart", True): half,
        ("apart", False): all_of_it,
    }
