# SPDX-License-Identifier: Apache-2.0
"""Every tool on every captured machine: lists are of that machine, and no gain is invented."""

from __future__ import annotations

import functools
import random
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from numabench import launchers, layout, record, session
from numabench.errors import UsageError
from numabench.launchers.choose import NOT_MEASURED, Choice, choose, here
from numabench.machine import Machine
from numabench.measure import summary
from numabench.series import Case, Evidence, Options, Sample, Series
from numabench.units import parse_numbers
from tests.fakes import Fake, two_nodes
from tests.machine import facts
from tests.machine.facts import machine

TOOLS = sorted(launchers.tools())
GOALS: tuple[layout.Goal, ...] = ("one-per-node", "split", "whole")


def said(answer: str, entry: dict[str, str]) -> str:
    return answer


def layouts(m: Machine) -> list[layout.Layout]:
    largest = max(len(slot.cpus) for slot in layout.per_node(m).slots)
    return [layout.per_node(m), layout.split(m, max(largest // 2, 1)), layout.whole(m)]


@pytest.mark.parametrize("name", facts.NAMES)
def test_divisions_fit_the_machine(name: str) -> None:
    m = machine(name)
    for made in layouts(m):
        assert made.slots
        assert layout.disjoint(made.slots)
        for slot in made.slots:
            assert set(slot.cpus) <= set(m.allowed_cpus)
            assert set(slot.nodes) <= set(m.targets())
            found = [m.cpu(cpu).core for cpu in slot.cpus]
            assert len(set(found)) == len(found), "two CPUs of one core"
            if made.goal != "whole":
                assert len({m.cpu(cpu).node for cpu in slot.cpus}) == 1
                assert len(slot.nodes) == 1
    total = len(m.one_cpu_per_core(c for n in m.initiators() for c in m.cpus_of(n)))
    assert sum(len(slot.cpus) for slot in layout.whole(m).slots) == total


@pytest.mark.parametrize("name", facts.NAMES)
@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_on_every_machine(name: str, tool: str) -> None:
    m = machine(name)
    for made in layouts(m):
        choice = Choice(layout=made, gain=NOT_MEASURED, why=("a test",), decode_threads=None)
        for answer in ("yes", "no", "not here"):
            for binds in (True, False):
                found = launchers.recommend(tool, choice, m, binds=binds, ask=functools.partial(said, answer))
                assert found.main, (made.goal, answer, binds)
                text = "\n".join(line.text for line in (*found.main, *found.extra)) + "\n".join(found.notes)
                assert not re.search(r"\{[a-z_]+\}", text), text
                if not binds:
                    assert not re.search(r"numactl .* (-m \d|--interleave=)", "\n".join(x.text for x in found.main))
                for line in (*found.main, *found.extra):
                    check_lists(line, made, m, found.kind)


def check_lists(line: launchers.Line, made: layout.Layout, m: Machine, kind: str) -> None:
    """CPU lists in a line are those of its instance, nodes those of its memory."""
    allowed = (
        set(made.slots[line.instance].cpus) if line.instance is not None else {c for s in made.slots for c in s.cpus}
    )
    patterns = r"(?:-C |taskset -c |BIND=\"?'?|cpuset-cpus=|CPUAffinity=|AllowedCPUs=|cpu-cores=|core_list )([\d,|-]+)"
    for found in re.findall(patterns, line.text):
        for part in found.strip("|").split("|"):
            cpus = set(parse_numbers(part, "list"))
            assert cpus <= allowed, line.text
            if line.instance is not None and "|" not in found:
                assert cpus == allowed, line.text
    for nodes in re.findall(r"(?: -m |cpuset-mems=|NUMAMask=|--interleave=|numa-node=)([\d,-]+)", line.text):
        assert set(parse_numbers(nodes, "nodes")) <= set(m.targets()), line.text
    if kind == "shell":
        assert shlex.split(line.text)


def test_onnx_ids_count_from_one() -> None:
    choice = Choice(layout=layout.per_node(machine("20em64t-hybrid-1p6c2t+2ca4co1t")), gain="", why=())
    found = launchers.recommend(
        "onnxruntime", choice, machine("20em64t-hybrid-1p6c2t+2ca4co1t"), ask=lambda entry: "yes"
    )
    ids = re.search(r"affinities', '([\d;]+)'", found.extra[0].text)
    assert ids is not None
    assert [int(x) - 1 for x in ids[1].split(";")] == list(choice.layout.slots[0].cpus[1:])


@pytest.mark.parametrize("tool", TOOLS)
def test_scripts_are_shell_or_configuration(tool: str, tmp_path: Path) -> None:
    m = machine("32amd64-4s2n4c-cgroup2")
    for made in layouts(m):
        choice = Choice(layout=made, gain="1.43x [1.38, 1.48] of one unbound process", why=("a test",))
        found = launchers.recommend(tool, choice, m, ask=lambda entry: "no")
        text = launchers.script(found)
        if found.kind == "shell":
            assert "1.43x [1.38, 1.48]" in text
            file = tmp_path / "launch.sh"
            file.write_text(text)
            assert subprocess.run(["bash", "-n", file], check=False).returncode == 0, text


def test_a_script_starts_all_instances_and_ends_them(tmp_path: Path) -> None:
    """Run for real, with the CPUs there are."""
    here_now = Machine.load()
    made = layout.split(here_now, 1)
    choice = Choice(layout=made, gain=NOT_MEASURED, why=())
    command = f"sh -c 'grep Cpus_allowed_list /proc/self/status >> {tmp_path}/masks'"
    found = launchers.recommend("taskset", choice, here_now, command=command)
    file = tmp_path / "launch.sh"
    file.write_text(launchers.script(found))
    assert subprocess.run(["bash", file], check=False, timeout=60).returncode == 0
    masks = sorted(int(line.split()[1]) for line in (tmp_path / "masks").read_text().splitlines())
    assert masks == sorted(slot.cpus[0] for slot in made.slots)


def test_the_tools_file_is_whole() -> None:
    known = {"documentation", "source", "tried", "unverified"}
    for name, tool in launchers.tools().items():
        for entry in (*tool["lines"], *tool.get("extra", ())):
            assert entry["status"] in known, name
            assert set(entry["goals"].split()) <= set(GOALS), name
            assert entry.get("probe") is None or entry["probe"] in tool["probes"], name
        for one in tool.get("probes", {}).values():
            assert one["run"], name
            assert one["since"], name
    assert len(TOOLS) == 15


def test_a_new_flag_needs_its_probe() -> None:
    m = two_nodes()
    choice = Choice(layout=layout.per_node(m), gain=NOT_MEASURED, why=())
    new = launchers.recommend("llamacpp", choice, m, ask=lambda entry: "yes")
    old = launchers.recommend("llamacpp", choice, m, ask=lambda entry: "no")
    assert all("--load-mode none" in x.text for x in new.main)
    assert all("--no-mmap" in x.text for x in old.main)
    assert all(x.unverified for x in new.main)


def test_probes_answer() -> None:
    assert launchers.probe({"run": "true", "since": ""}) == "yes"
    assert launchers.probe({"run": "false", "since": ""}) == "no"
    assert launchers.probe({"run": "no-such-program-here --help", "since": ""}) == "not here"
    assert launchers.probe({"run": "echo systemd 252", "expect": "systemd 25", "since": ""}) == "yes"
    assert launchers.probe({"run": "python3 -c 'import no_such_module'", "expect": "x", "since": ""}) == "not here"


def test_names() -> None:
    assert launchers.find("llama.cpp") == "llamacpp"
    assert launchers.find("K8s") == "kubernetes"
    with pytest.raises(UsageError, match="vllm"):
        launchers.find("vlm")


def divided(values: dict[tuple[int, int, str], float], extra: dict[tuple[int, int, str], float]) -> list[Series]:
    """Series as divide makes them: steps per second of (instances, threads, binding), and their p99."""
    draw, found = random.Random(1), []
    for (count, threads, binding), value in values.items():
        case = Case(
            experiment="divide",
            kernel="instance",
            unit="steps/s",
            better="high",
            cpus=(0, 1),
            params={"preset": "llm-decode", "instances": count, "threads": threads, "binding": binding},
        )
        samples = [
            Sample(
                number=n,
                position=n,
                value=value * (1 + draw.gauss(0, 0.005)),
                windows=(value,),
                evidence=Evidence(proof="move_pages"),
                extras={"p99_ns": extra.get((count, threads, binding), 1e6)},
            )
            for n in range(8)
        ]
        found.append(summary(case, samples, "", Options()))
    return found


def with_series(series: list[Series]) -> record.Record:
    return session.build(two_nodes(), {}, {}, series, "2026-01-01T00:00:00+00:00", 1.0)


def test_the_best_measured_division_with_its_gain() -> None:
    found = with_series(divided({(1, 2, "none"): 100, (1, 2, "cores"): 105, (2, 1, "cores"): 150}, {}))
    made = choose(found, found.machine)
    assert [slot.cpus for slot in made.layout.slots] == [(0,), (1,)]
    assert [slot.nodes for slot in made.layout.slots] == [(0,), (1,)]
    assert made.layout.goal == "one-per-node"
    gain = re.match(r"(1\.\d+)x \[(1\.\d+), (1\.\d+)\] of one unbound", made.gain)
    assert gain is not None, made.gain
    assert float(gain[2]) <= 1.5 <= float(gain[3])


def test_ranks_of_one_model_are_no_division() -> None:
    series = divided({(1, 2, "none"): 100, (1, 2, "cores"): 105, (2, 1, "cores"): 150}, {})
    ranks = msgspec.structs.replace(series[2].case, params=series[2].case.params | {"ranks": 2})
    found = with_series([*series[:2], msgspec.structs.replace(series[2], case=ranks)])
    assert len(choose(found, found.machine).layout.slots) == 1


def test_a_bound_on_p99_excludes_faster_divisions() -> None:
    series = divided(
        {(1, 2, "none"): 100, (1, 2, "cores"): 105, (2, 1, "cores"): 150},
        {(2, 1, "cores"): 9e6, (1, 2, "cores"): 2e6},
    )
    made = choose(with_series(series), two_nodes(), p99_ns=5e6)
    assert len(made.layout.slots) == 1
    with pytest.raises(UsageError, match="p99"):
        choose(with_series(series), two_nodes(), p99_ns=1e6)


def test_only_overhead_is_called_that() -> None:
    found = with_series(divided({(1, 2, "none"): 100, (2, 1, "cores"): 100.1}, {}))
    assert any("nothing measurable" in line for line in choose(found, found.machine).why)


def test_nothing_measured_promises_nothing() -> None:
    made = choose(with_series([]), two_nodes())
    assert made.gain == NOT_MEASURED
    assert len(made.layout.slots) == 2


def test_remote_evidence_and_decode_threads_come_from_the_record() -> None:
    taken = session.run(
        ["bandwidth", "latency"], Options(profile="quick", passes=6), machine=two_nodes(), backend=Fake()
    )
    why = " ".join(choose(taken, taken.machine).why)
    assert "Remote reads" in why
    assert "0.5" in why
    assert "Remote loads" in why


def test_lists_are_cut_to_what_is_allowed() -> None:
    found = with_series(divided({(1, 2, "none"): 100, (2, 1, "cores"): 150}, {}))
    cut, why = here(found, [0], [0, 1])
    assert cut.allowed_cpus == (0,)
    assert "CPUs 0" in why
    made = choose(found, cut)
    assert all(set(slot.cpus) <= {0} for slot in made.layout.slots)
    assert any("does not fit" in line for line in made.why)
    assert "another machine" in here(found, None, None)[1]


def test_reserved_cores_are_taken_off_every_instance() -> None:
    m = machine("32amd64-4s2n4c-cgroup2")
    plain, less = layout.per_node(m), layout.per_node(m, reserve=1)
    assert [len(s.cpus) - 1 for s in plain.slots] == [len(s.cpus) for s in less.slots]
    assert set(less.reserved).isdisjoint(c for s in less.slots for c in s.cpus)
    with pytest.raises(UsageError, match="reserve"):
        layout.per_node(m, reserve=99)


def test_divide_goes_round_the_nodes() -> None:
    m = machine("32amd64-4s2n4c-cgroup2")
    two = layout.divide(m, 2, 1)
    assert len({slot.nodes for slot in two.slots}) == 2
    with pytest.raises(UsageError, match="fit"):
        layout.divide(m, 99, 1)


def record_file(tmp_path: Path, series: list[Series]) -> Path:
    found = msgspec.structs.replace(with_series(series), machine=Machine.load())
    record.save(found, tmp_path / "r.json")
    return tmp_path / "r.json"


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    import sys

    return subprocess.run(
        [sys.executable, "-m", "numabench", "recommend", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command(tmp_path: Path) -> None:
    file = str(record_file(tmp_path, divided({(1, 2, "none"): 100, (1, 1, "cores"): 150}, {})))
    shown = cli(file, "--for", "openmp", "--command", "./serve")
    assert shown.returncode == 0, shown.stderr
    assert "OMP_NUM_THREADS=1" in shown.stdout
    assert "gain: 1." in shown.stdout
    data: dict[str, Any] = msgspec.json.decode(cli(file, "--for", "systemd", "--json").stdout)
    assert data["slots"]
    assert data["main"]
    assert cli(file, "--for", "vlm").returncode == 2
    assert cli("/nonexistent.json").returncode == 2
    both = cli(file, "--for", "numactl", "--json", "--script")
    assert (both.returncode, both.stdout) == (2, "")
    assert "--json and --script" in both.stderr
    assert cli("--list").stdout.count("\n") == 15
    assert "needs a record" in cli("--for", "vllm").stderr
    assert cli(file, "--for", "numactl", "--script").stdout.startswith("#!/usr/bin/env bash")


def test_systemd_accepts_its_lines() -> None:
    """The unit's own parser reads every line, where it is installed."""
    import shutil
    import tempfile

    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    m = two_nodes()
    choice = Choice(layout=layout.per_node(m), gain=NOT_MEASURED, why=())
    for answer in ("yes", "no"):
        for line in launchers.recommend(
            "systemd", choice, m, command="/bin/true", ask=functools.partial(said, answer)
        ).main:
            with tempfile.NamedTemporaryFile("w", suffix=".service") as unit:
                unit.write(line.text + "\n")
                unit.flush()
                done = subprocess.run(
                    ["systemd-analyze", "verify", unit.name], capture_output=True, text=True, check=False
                )
                told = done.stdout + done.stderr
                assert "Unknown key" not in told
                assert "Failed to parse" not in told


def test_every_tool_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "launchers.md").read_text()
    assert all(f"`{name}`" in text for name in TOOLS)
