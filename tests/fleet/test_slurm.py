# SPDX-License-Identifier: Apache-2.0
"""A real Slurm of eight nodes: every way a node can fail, a run killed and resumed, actions and their guards.

One run with one fault a node, since Slurm's shortest time limit is a minute.
"""

from __future__ import annotations

import collections
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from numabench.validation import outcome
from numabench.validation.baseline import build

from . import reframed, simslurm, stub
from .simulate import template

pytestmark = pytest.mark.fleet
# Where the packages are installed by make, as root, a cluster that does not come up is a failure, not a skip.
if simslurm.lacking() and os.environ.get("NUMABENCH_FLEET") != "required":
    pytest.skip(f"no Slurm cluster can be started: {simslurm.lacking()}", allow_module_level=True)

FAULTS = {"n2": "fail", "n3": "kill", "n4": "hang", "n5": "nothing", "n6": "pass", "n7": "hang", "n8": "truncated"}
EXPECTED = {
    "n1": ("PASS", ""),
    "n2": ("FAIL", ""),
    "n3": ("MISSING", "MISSING/crashed"),
    "n4": ("MISSING", "MISSING/timeout"),
    "n5": ("MISSING", "MISSING/no-data"),
    "n6": ("MISSING", "MISSING/unavailable"),
    "n7": ("MISSING", "MISSING/node-failed"),
    "n8": ("MISSING", "MISSING/no-data"),
}


def templates(folder: Path, behave: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    good = template()
    (folder / "pass.json").write_bytes(outcome.dumps(good))
    bad = json.loads(outcome.dumps(good)) | {"verdict": "FAIL", "reason": "BELOW_SPEC bw.read.local[node1]: 70 GB/s"}
    bad["checks"] = [*bad["checks"], {"layer": "spec", "name": "bw.read.local", "instance": "node1", "verdict": "FAIL"}]
    (folder / "fail.json").write_text(json.dumps(bad))
    weak = {"node0": (126.0,) * 3, "node1": (180.0,) * 3}
    outcome.save(msgspec.structs.replace(good, values=good.values | {"bw.read.local": weak}), folder / "weak.json")
    (folder / "behave.json").write_text(json.dumps(behave))
    return folder


def ran(folder: Path) -> dict[str, int]:
    return dict(collections.Counter(path.name.split(".")[1] for path in folder.glob("ran.*")))


def numabench(*words: str) -> list[str]:
    return [sys.executable, "-m", "numabench", *words]


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(numabench(*words), capture_output=True, text=True, timeout=180, check=False)


def until(what: str, done: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    assert callable(done)
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.2)


class World:
    """One cluster, one run that met every fault, killed once on its way."""

    def __init__(self, slurm: simslurm.SimSlurm, folder: Path) -> None:
        self.slurm, self.run, self.stub = slurm, folder / "run", templates(folder / "stub", FAULTS)
        slurm.call("scontrol", "update", "NodeName=n6", "State=DRAIN", "Reason=fan broken")
        worker = f"{sys.executable} {stub.__file__} {self.stub}"
        self.words = numabench("fleet", "run", "--out", str(self.run), "--time", "1", "--wait", "65seconds")
        self.words += ["--poll", "0.5", "--command", worker]
        first = subprocess.Popen(self.words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until("both hanging workers run", lambda: {"n4", "n7"} <= ran(self.stub).keys())
        first.kill()
        first.wait()
        slurm.kill_node("n7")
        # Slurm counts limits in minutes; an end set by hand is a time limit like any other, only sooner.
        job = slurm.call("squeue", "-h", "-w", "n4", "-o", "%i").strip()
        slurm.call("scontrol", "update", f"JobId={job}", "EndTime=now+5")
        self.first = subprocess.run([*self.words, "--resume"], capture_output=True, text=True, timeout=170, check=False)
        self.ran = ran(self.stub)
        self.status = json.loads(call("fleet", "status", str(self.run), "--json").stdout)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with simslurm.SimSlurm(8) as slurm:
        yield World(slurm, tmp_path_factory.mktemp("slurm"))


def test_every_host_has_one_verdict_with_its_reason(world: World) -> None:
    assert world.first.returncode == 1, world.first.stderr
    found = {one["host"]: (one["verdict"], one["reason"]) for one in world.status}
    assert len(world.status) == len(found) == 8
    for host, (verdict, reason) in EXPECTED.items():
        assert found[host][0] == verdict, (host, found[host])
        assert found[host][1].startswith(reason), (host, found[host])


def test_a_run_killed_and_resumed_starts_no_host_twice(world: World) -> None:
    # Those with a result, and those whose jobs were still there; what had ended without a result is tried again.
    assert {host: world.ran[host] for host in ("n1", "n2", "n4", "n7")} == dict.fromkeys(("n1", "n2", "n4", "n7"), 1)
    assert "n6" not in world.ran


def test_collect_says_the_same(world: World, tmp_path: Path) -> None:
    done = call("fleet", "collect", str(world.run), "-o", str(tmp_path), "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    found = {host["host"]: host for host in report["hosts"]}
    for host, (verdict, reason) in EXPECTED.items():
        assert found[host]["verdict"] == verdict
        assert found[host]["reason"].startswith(reason)
    assert [Path(path).name for path, _ in report["rejected"]] == ["n8.json"]
    assert report["quarantine"] == ["n2"]


def test_actions_print_and_keep_the_reasons_of_others(world: World, tmp_path: Path) -> None:
    call("fleet", "collect", str(world.run), "-o", str(tmp_path))
    report = tmp_path / "fleet.json"
    before = world.slurm.call("sinfo", "-R", "-h", "-o", "%E %n")
    printed = call("fleet", "actions", str(report))
    assert printed.stdout.startswith("scontrol update NodeName=n2 State=DRAIN 'Reason=numabench: BELOW_SPEC")
    assert len(printed.stdout.splitlines()) == 1
    assert world.slurm.call("sinfo", "-R", "-h", "-o", "%E %n") == before
    foreign = json.loads(report.read_text())
    for host in foreign["hosts"]:
        if host["host"] == "n6":
            host["verdict"] = "FAIL"
    report.write_text(json.dumps(foreign))
    applied = call("fleet", "actions", str(report), "--apply")
    assert applied.returncode == 0, applied.stderr
    assert applied.stdout == "drained n2\n"
    assert "n6: left alone, its reason is 'fan broken'" in applied.stderr
    reasons = world.slurm.call("sinfo", "-R", "-h", "-N", "-o", "%N %E")
    assert "n2 numabench: BELOW_SPEC" in reasons
    assert "n6 fan broken" in reasons
    for host in foreign["hosts"]:
        host["verdict"] = "PASS"
    report.write_text(json.dumps(foreign | {"cleared": ["n2", "n6", "n1"]}))
    applied = call("fleet", "actions", str(report), "--apply")
    assert (applied.returncode, applied.stdout) == (0, "resumed n2\n"), applied.stderr
    reasons = world.slurm.call("sinfo", "-R", "-h", "-N", "-o", "%N %E")
    assert "n2" not in reasons
    assert "n6 fan broken" in reasons


def test_resume_after_repair_runs_only_what_is_missing(world: World) -> None:
    templates(world.stub, {})
    world.slurm.call("scontrol", "update", "NodeName=n6", "State=RESUME")
    world.slurm._spawn("n7", "/usr/sbin/slurmd", "-D", "-N", "n7")
    done = subprocess.run([*world.words, "--resume"], capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 1, done.stderr  # n2's result stands
    after = ran(world.stub)
    assert {host for host, count in after.items() if count > world.ran.get(host, 0)} == {
        "n3",
        "n4",
        "n5",
        "n6",
        "n7",
        "n8",
    }
    assert done.stdout.splitlines()[-1] == "1 FAIL, 7 PASS"


def test_two_runs_at_once_leave_each_other_be(world: World, tmp_path: Path) -> None:
    where = templates(tmp_path / "stub", {"n3": "fail"})
    worker = f"{sys.executable} {stub.__file__} {where}"
    words = ["--hosts", "n[1-4]", "--window", "2", "--time", "1", "--poll", "0.5", "--command", worker]
    folders = [str(tmp_path / name) for name in "ab"]
    both = [
        subprocess.Popen(numabench("fleet", "run", "--out", folder, *words), stdout=subprocess.PIPE, text=True)
        for folder in folders
    ]
    for run in both:
        said, _ = run.communicate(timeout=120)
        assert (run.returncode, said.splitlines()[-1]) == (1, "1 FAIL, 3 PASS")
    assert ran(where) == dict.fromkeys(("n1", "n2", "n3", "n4"), 2)


def test_a_folder_is_not_used_twice_by_accident(world: World) -> None:
    done = subprocess.run(world.words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--resume" in done.stderr


def test_reframe_names_the_slow_node(world: World, tmp_path: Path) -> None:
    templates(world.stub, {"n5": "fail"})
    done, report = reframed.run(world.stub, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert reframed.failed(report) == ["n5"]


def test_reframe_holds_figures_against_a_baseline(world: World, tmp_path: Path) -> None:
    templates(world.stub, {"n5": "weak"})
    outcome.save(build([template()]), tmp_path / "good.json")
    done, report = reframed.run(world.stub, tmp_path, tmp_path / "good.json")
    assert done.returncode == 1, done.stdout + done.stderr
    (failed,) = reframed.failed(report)
    assert failed.startswith("n5: performance error")
    assert "bw_read_local=126.0 GB/s, expected 180.0" in failed


MPIRUN = ["mpirun", "--allow-run-as-root"]
MEASURE = ["validate", "--size", "1MiB", "--pages", "base", "--passes", "3", "--budget", "1s"]


def mpirun(*words: str) -> subprocess.CompletedProcess[str]:
    plain = {**os.environ, "OMPI_MCA_plm_rsh_agent": ""}
    return subprocess.run([*MPIRUN, *words], capture_output=True, text=True, timeout=120, check=False, env=plain)


def test_mpirun_keeps_the_worker_contract(tmp_path: Path) -> None:
    where = templates(tmp_path / "stub", {})
    out = tmp_path / "out"
    out.mkdir()
    done = mpirun("-N", "1", sys.executable, stub.__file__, str(where), "--node-name", "here", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert call("fleet", "collect", str(out), "--expect", "here,gone").returncode == 3


def test_of_three_ranks_on_a_host_one_measures(tmp_path: Path) -> None:
    done = mpirun("--oversubscribe", "-n", "3", *numabench(*MEASURE), "--out", str(tmp_path))
    (result,) = [outcome.load(path) for path in tmp_path.iterdir()]
    assert result.values or result.missing, done.stderr
    assert result.job["OMPI_COMM_WORLD_RANK"] == "0"
    assert done.stderr.count("another process of this job measures this host") == 2, done.stderr


def test_a_real_measurement_on_eight_nodes(tmp_path: Path) -> None:
    """All share these CPUs, so that the figures are no verdict on anything; each has its own, and who measured them."""
    with simslurm.SimSlurm(8):
        worker = shlex.join(numabench(*MEASURE))
        words = ["fleet", "run", "--out", str(tmp_path), "--time", "2", "--poll", "0.5", "--window", "2"]
        done = call(*words, "--command", worker)
    results = {path.stem: outcome.load(path) for path in tmp_path.rglob("n?.json")}
    assert sorted(results) == [f"n{i}" for i in range(1, 9)], done.stderr
    for host, result in results.items():
        assert (result.host, result.job["SLURMD_NODENAME"]) == (host, host)
        assert result.verdict in ("INCONCLUSIVE", "FAIL", "WARN", "PASS")
    assert any(result.values for result in results.values()), done.stdout
    assert len({result.job["SLURM_JOB_ID"] for result in results.values()}) == 8


def test_one_step_over_an_allocation_and_a_slurmd_alone_killed(tmp_path: Path) -> None:
    """A task and a node that die leave the others be; a step goes on without the daemon that began it."""
    faults = {"n2": "fail", "n3": "kill", "n4": "hang", "n5": "nothing", "n6": "slow"}
    where, out = templates(tmp_path / "stub", faults), tmp_path / "run"
    with simslurm.SimSlurm(6) as slurm:
        words = ["fleet", "run", "--in-allocation", "--out", str(out), "--time", "2"]
        words += ["--command", f"{sys.executable} {stub.__file__} {where}"]
        held = ["salloc", "-N6", "--exclusive", "--no-kill", "-t", "5"]
        running = subprocess.Popen(
            [*held, *numabench(*words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        until("the hanging and the slow worker run", lambda: {"n4", "n6"} <= ran(where).keys())
        slurm.procs["n6"].kill()
        slurm.kill_node("n4")
        said, errors = running.communicate(timeout=120)
        assert running.returncode == 1, errors
        assert said.splitlines() == [
            f"FAIL         {'n2':20} {json.loads((out / 'n2.json').read_text())['reason']}",
            f"MISSING      {'n3':20} MISSING/crashed",
            f"MISSING      {'n4':20} MISSING/node-failed",
            f"MISSING      {'n5':20} MISSING/no-data",
            "1 FAIL, 3 MISSING, 2 PASS",
        ], (said, errors)
        assert outcome.load(out / "n6.json").verdict == "PASS"
    outside = call("fleet", "run", "--in-allocation", "--out", str(tmp_path / "none"))
    assert (outside.returncode, outside.stderr.count("\n")) == (2, 1), outside.stderr


def test_a_window_smaller_than_the_fleet(tmp_path: Path) -> None:
    """Jobs are forgotten by Slurm after five seconds here; ``make fleet-test NODES=64`` makes the fleet larger."""
    n = int(os.environ.get("NUMABENCH_FLEET_NODES", "8"))
    where, out = templates(tmp_path / "stub", {"n2": "nothing"}), tmp_path / "run"
    with simslurm.SimSlurm(n, min_job_age=5) as slurm:
        words = ["fleet", "run", "--out", str(out), "--time", "1", "--poll", "0.5", "--window", str(max(3, n // 4))]
        words += ["--command", f"{sys.executable} {stub.__file__} {where}"]
        done = subprocess.run(numabench(*words), capture_output=True, text=True, timeout=600, check=False)
        assert slurm.call("squeue", "-h") == ""
    assert done.returncode == 3, done.stderr
    lines = done.stdout.splitlines()
    assert lines == [f"MISSING      {'n2':20} MISSING/no-data", f"1 MISSING, {n - 1} PASS"]
