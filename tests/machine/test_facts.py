# SPDX-License-Identifier: Apache-2.0
"""Every fact of every captured machine, and the queries that experiments ask of such machines."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from numabench.errors import TopologyError
from numabench.machine import Machine
from tests.machine import facts

BULLDOZER = "hwloc takes each CPU of a compute unit for a core; the kernel pairs the two that share one"
POWER = "the kernel gives no package number and one mask per core: the model says unknown instead of 64"
# Every fact in which the model differs from the files of the tree, and why. Nothing else may differ.
DIFFERENT = {
    ("256ppc-8n8s4t", "packages"): POWER,
    ("256ppc-8n8s4t", "package_cpus"): POWER,
    ("64amd64-4s2n4ca2co", "cores"): BULLDOZER,
    ("64amd64-4s2n4ca2co", "core_cpus"): BULLDOZER,
    ("64amd64-4s2n4ca2co", "smt"): BULLDOZER,
    ("2i386-2t-hugepagesizecount", "huge_pages"): "no node directory: the machine's pools become those of its one node",
}


@pytest.fixture(scope="session")
def tree() -> Iterator[Any]:
    with ExitStack() as stack:
        yield functools.cache(lambda name: stack.enter_context(facts.unpacked(name)))


def test_all_captures_are_here() -> None:
    assert len(facts.NAMES) == 16
    assert {name for name, _ in DIFFERENT} <= set(facts.NAMES)


@pytest.mark.parametrize("name", facts.NAMES)
def test_facts_agree(name: str, tree: Any) -> None:
    seen, expected = facts.seen(Machine.load(tree(name))), facts.expected(name)
    assert len(expected) >= 15
    differ = {fact for fact, value in expected.items() if seen[fact] != value}
    assert differ == {fact for capture, fact in DIFFERENT if capture == name}


@pytest.mark.parametrize(("name", "fact"), [("64amd64-4s2n4ca2co", "cores"), ("64amd64-4s2n4ca2co", "smt")])
def test_what_differs_is_one_of_the_accepted_answers(name: str, fact: str, tree: Any) -> None:
    assert facts.seen(Machine.load(tree(name)))[fact] in facts.accepted(name)[fact]


@pytest.mark.parametrize("name", facts.NAMES)
def test_model_survives_json(name: str, tree: Any) -> None:
    machine = Machine.load(tree(name))
    assert msgspec.json.decode(msgspec.json.encode(machine), type=Machine) == machine


@pytest.mark.parametrize("name", facts.NAMES)
def test_queries_hold_on_every_machine(name: str, tree: Any) -> None:
    machine = Machine.load(tree(name))
    assert machine.describe()
    for node in machine.nodes:
        near = machine.nearest_cpus(node.id)
        assert near
        assert set(near) <= set(machine.allowed_cpus)
        assert len(machine.one_cpu_per_core(near)) <= len(machine.cores)
        assert (node.id in machine.initiators()) == bool(machine.cpus_of(node.id))
        assert (machine.unavailable_reason(node.id) is None) == (node.id in machine.targets())
    pairs = [pair for found in machine.pair_classes().values() for pair in found]
    assert sorted(pairs) == sorted((i, j) for i in machine.initiators() for j in machine.targets())
    for i, j in pairs:
        assert (machine.relation(i, j) == "local") == (i == j)


def test_cpuless_nodes_are_targets_only(tree: Any) -> None:
    machine = Machine.load(tree("fakeheteromemtiers"))
    assert machine.initiators() == (0, 1, 2)
    assert set(machine.targets()) == {0, 1, 2, 4, 6, 8, 9}
    assert machine.relation(0, 8) == "cpu-less"
    bandwidths = {(a.target, a.value) for a in machine.memory_attributes if a.name == "read_bandwidth"}
    assert {(4, 10000), (6, 100)} <= bandwidths
    assert not [a for a in machine.memory_attributes if "latency" in a.name]  # 0 in the files: not given


def test_sparse_ids_and_far_pairs(tree: Any) -> None:
    machine = Machine.load(tree("48amd64-4pa2n6c-sparse"))
    assert machine.node(72).id == 72
    with pytest.raises(TopologyError, match=r"node 3 .*nodes here: 0-2,33-34,45,72-73"):
        machine.node(3)
    assert machine.distance(0, 0) == 10


def test_nodes_that_list_the_same_cpus_are_all_there(tree: Any, tmp_path: Path) -> None:
    copy = tmp_path / "overlap"
    shutil.copytree(tree("16amd64-8n2c-cpusets"), copy, symlinks=True)
    nodes = copy / "sys/devices/system/node"
    for name in ("cpumap", "cpulist"):
        if (nodes / "node0" / name).exists():
            (nodes / "node1" / name).write_text((nodes / "node0" / name).read_text())
    machine = Machine.load(copy)
    assert [node.id for node in machine.nodes] == list(range(8))
    assert machine.offline_nodes == ()
    first, second = machine.nodes[:2]
    assert (second.cpus, second.local_cpus) == ((), first.cpus)  # the CPUs are the first's, as for a node without any
    assert second.memory_bytes > 0


def test_cpuset_narrows_what_is_allowed(tree: Any) -> None:
    machine = Machine.load(tree("32amd64-4s2n4c-cgroup2"))
    assert machine.allowed_cpus == tuple(range(6))
    assert machine.initiators() == (0, 1)
    assert machine.cpus_of(1) == (4, 5)
    assert "cpuset" in (machine.unavailable_reason(7) or "")
    assert machine.unavailable_reason(99) == "node 99 does not exist"


def test_restricting_this_machine() -> None:
    here = Machine.load()
    first = here.allowed_cpus[0]
    assert here.restrict(cpus=[first]).allowed_cpus == (first,)
    with pytest.raises(TopologyError, match="no allowed CPU"):
        here.restrict(cpus=[])
    with pytest.raises(TopologyError, match="CPU 99999 does not exist"):
        here.cpu(99999)


@pytest.mark.parametrize(
    "text", ["", "<topology/>", "<?xml version='1.0'?><topology version='2.0'><obj", "hello", "\0\1"]
)
def test_garbage_is_refused_and_does_not_crash(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_text(text)
    program = f"""
from numabench.errors import TopologyError
from numabench.machine import Machine
try:
    Machine.load({str(path)!r})
except TopologyError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert str(path) in done.stdout


def test_empty_and_missing_sources(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "none"):
        with pytest.raises(TopologyError, match=str(source)):
            Machine.load(source)


def test_mask_of_the_process_counts() -> None:
    first = Machine.load().allowed_cpus[0]
    program = "from numabench.machine import Machine; print(*Machine.load().allowed_cpus)"
    command = ["taskset", "-c", str(first), sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == [str(first)]
