# SPDX-License-Identifier: Apache-2.0
"""What happens where system calls are really refused, as containers refuse them: the table in docs/method.md."""

from __future__ import annotations

import json
import os
import platform
import shutil
import site
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import numabench
from numabench.capabilities import placed
from numabench.doctor import finding
from numabench.environment import free_huge_pages
from numabench.machine import Machine
from numabench.memory import Proof
from numabench.series import FATAL

REFUSE = Path(__file__).with_name("refuse.py")
RUN = ("run", "latency", "--size", "8MiB", "--pages", "base", "--passes", "2", "--profile", "quick", "--json")
POLICY = ("mbind", "set_mempolicy", "get_mempolicy", "move_pages")  # what a container's default filter takes
NO_NUMA_MAPS = ",numa_maps=hidden"

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="no numbers of its calls")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user or mount")


def call(*words: str, refused: str = "", before: tuple[str, ...] = ()) -> Any:
    """Exit code, what stdout holds as JSON (None when nothing), and stderr."""
    start = (sys.executable, str(REFUSE), refused, "--") if refused else (sys.executable, "-m")
    argv = [*before, *start, "numabench", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def doctor(refused: str = "", before: tuple[str, ...] = ()) -> tuple[int, dict[str, dict[str, str]]]:
    code, found, said = call("doctor", "--json", refused=refused, before=before)
    assert found, said
    return code, {row["name"]: row for row in found}


def run(refused: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first series of a short run, and the record's capabilities."""
    code, record, said = call(*RUN, refused=refused)
    assert code == 0, said
    return record["series"][0], record["capabilities"]


def all_refused(names: tuple[str, ...], error: str = "EPERM") -> str:
    return ",".join(f"{name}={error}" for name in names)


def rows() -> list[tuple[str, ...]]:
    """The table of docs/method.md, without its head."""
    text = (Path(__file__).parents[2] / "docs" / "method.md").read_text()
    lines = text[text.index("| refused (EPERM") :].split("\n\n")[0].splitlines()[2:]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def no_better_than_inferred(series: dict[str, Any]) -> bool:
    """A neighbour of this machine may take it lower, a refused call may not."""
    return series["trust"] == "inferred" or FATAL.keys() & set(series["flags"]) == {"stolen"}


def test_every_call_has_a_row() -> None:
    said = " ".join(row[0] for row in rows())
    for name in (*POLICY, "sched_setaffinity", "perf_event_open", "hugetlb", "madvise"):
        assert name in said


@pytest.mark.parametrize("row", rows(), ids=[row[0] for row in rows()])
def test_the_document_says_what_happens(row: tuple[str, ...]) -> None:
    """Placed by, proven by, and how sure at most, or that nothing can run."""
    what, placed_by, proven_by, trust = row
    calls = what.partition("(")[0].replace("no numa_maps", "").replace(",", " ").split()
    refused = all_refused(tuple(name for name in calls if name not in ("nothing", "hugetlb")))
    if "no numa_maps" in what:
        if os.geteuid() != 0:
            pytest.skip("only root can hide numa_maps")
        refused += NO_NUMA_MAPS
    words: tuple[str, ...] = RUN
    if calls == ["hugetlb"]:
        if any(free_huge_pages(node, 2 << 20) for node in Machine.load().targets()):
            pytest.skip("there are huge pages here")
        words = tuple("2M" if word == "base" else word for word in RUN)
    code, record, said = call(*words, refused=refused)
    if "exit 3" in trust:
        assert code == 3, said
        return
    assert code == 0, said
    series = record["series"][0]
    how = {"mbind": "bind", "first touch": "first_touch", "as before": "bind"}
    proof = {"as before": "move_pages", "timing, if nodes differ": "none"}
    assert series["evidence"]["placement_how"] == how[placed_by]
    assert series["evidence"]["proof"] == proof.get(proven_by, proven_by)
    assert trust != "inferred" or no_better_than_inferred(series)


def test_nothing_refused() -> None:
    code, found = doctor()
    assert code == 0
    place = [row for name, row in found.items() if name.startswith("place on node")]
    assert place
    assert all(row["state"] == "ok" and "move_pages" in row["seen"] for row in place)
    assert found["pin threads"]["state"] == "ok"


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_mbind_refused_is_not_called_bound(error: str) -> None:
    """Success of libnuma would be no evidence: first touch is named, and how to get mbind back."""
    code, found = doctor(f"mbind={error}")
    place = [row for name, row in found.items() if name.startswith("place on node")]
    assert code == 0
    assert place
    assert all(row["state"] == "warning" and "first touch" in row["seen"] for row in place)
    assert all("SYS_NICE" in row["remedy"] and error in row["seen"] and "seccomp" in row["seen"] for row in place)
    series, can = run(f"mbind={error}")
    assert series["evidence"]["placement_how"] == "first_touch"
    assert series["evidence"]["proof"] == "move_pages"
    assert can["calls"]["mbind"] == error
    assert {row["name"]: row["level"] for row in can["table"]}["place on node 0"] == "inferred"


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_move_pages_refused_leaves_numa_maps(error: str) -> None:
    code, found = doctor(f"move_pages={error}")
    proven = [row for name, row in found.items() if "on node" in name and "proof" in row["seen"]]
    assert code == 0
    assert proven
    assert all(row["state"] == "warning" and "numa_maps" in row["seen"] for row in proven)
    assert all("seccomp" in row["remedy"] for row in proven)
    series, _ = run(f"move_pages={error}")
    assert series["evidence"]["proof"] == "numa_maps"
    assert series["evidence"]["pages_checked"] == 2048
    assert "unverified_placement" not in series["flags"]


def test_default_container_filter() -> None:
    """All four refused, as a container without CAP_SYS_NICE: placed by first touch, not bound, and still measurable."""
    code, found = doctor(all_refused(POLICY))
    assert code == 0
    assert any(row["state"] == "warning" and "first touch" in row["seen"] for row in found.values())
    assert any(row["state"] == "warning" and "move_pages refused" in row["seen"] for row in found.values())
    series, _ = run(all_refused(POLICY))
    assert (series["evidence"]["placement_how"], series["evidence"]["proof"]) == ("first_touch", "numa_maps")


@root_only
def test_the_third_rung_asks_page_by_page() -> None:
    series, _ = run("move_pages=EPERM" + NO_NUMA_MAPS)
    assert series["evidence"]["proof"] == "get_mempolicy"
    assert (series["evidence"]["pages_checked"], series["evidence"]["placement_seen"]) == (2048, {"0": 2048})
    assert "unverified_placement" not in series["flags"]


@root_only
def test_nothing_tells_where_pages_are() -> None:
    refused = all_refused(("move_pages", "get_mempolicy")) + NO_NUMA_MAPS
    _, found = doctor(refused)
    assert found["prove on node 0"]["state"] == "warning"
    series, _ = run(refused)
    assert series["evidence"]["proof"] == "none"
    assert series["evidence"]["pages_checked"] == 0
    assert "unverified_placement" in series["flags"]
    assert no_better_than_inferred(series)


def test_threads_that_cannot_be_pinned_end_it_in_one_line() -> None:
    code, found = doctor("sched_setaffinity=EPERM")
    assert code == 1
    assert found["pin threads"]["state"] == "failure"
    assert "sched_setaffinity" in found["pin threads"]["remedy"]
    code, record, said = call(*RUN, refused="sched_setaffinity=EPERM")
    assert code == 3
    assert "pin threads" in said + json.dumps(record)


def test_refused_advice_is_named() -> None:
    code, found = doctor("madvise=EPERM")
    assert code == 1
    assert found["thp pages"]["state"] == "failure"
    code, record, said = call(*RUN, refused="madvise=EPERM")
    assert code == 3
    assert "madvise" in said + json.dumps(record)


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS", "EACCES"])
def test_counters_are_good_to_have_only(error: str) -> None:
    code, found = doctor(f"perf_event_open={error}")
    assert code == 0
    assert {found[f"{kind} events"]["state"] for kind in ("software", "hardware")} == {"note"}
    assert error in found["software events"]["seen"]
    assert "PERFMON" in found["software events"]["remedy"]


def test_policy_calls_refused_do_not_matter() -> None:
    """Placement uses neither, so refusing them must change nothing."""
    code, found = doctor("set_mempolicy=EPERM,get_mempolicy=EPERM")
    assert code == 0
    assert all(row["state"] == "ok" for name, row in found.items() if name.startswith("place on node"))
    series, can = run("set_mempolicy=EPERM,get_mempolicy=EPERM")
    assert (series["evidence"]["placement_how"], series["evidence"]["proof"]) == ("bind", "move_pages")
    assert can["calls"]["set_mempolicy"] == can["calls"]["get_mempolicy"] == "EPERM"


@pytest.mark.parametrize(("how", "by"), [("bind", "move_pages"), ("bind", "numa_maps"), ("first_touch", "numa_maps")])
def test_pages_elsewhere_are_a_failure_however_they_were_placed(how: str, by: str) -> None:
    elsewhere = Proof(by, 16, {0: 15, 1: 1}, 0, 4096, 1.0, "base", None)
    absent = Proof(by, 16, {0: 15}, 1, 4096, 1.0, "base", None)
    for proof in (elsewhere, absent):
        assert {f.name: f.state for f in map(finding, placed(0, how, proof))}["place on node 0"] == "failure"
    there = Proof(by, 16, {0: 16}, 0, 4096, 1.0, "base", None)
    assert not any(finding(row).state == "failure" for row in placed(0, how, there))


@pytest.mark.parametrize(("how", "state"), [("bind", "warning"), ("first_touch", "failure")])
def test_no_proof_at_all_is_never_ok(how: str, state: str) -> None:
    found = [finding(row) for row in placed(0, how, Proof("none", 0, {}, 0, 4096, 1.0, "base", None))]
    assert ("prove on node 0", state) in [(row.name, row.state) for row in found]
    assert "ok" not in [row.state for row in found]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_narrowed_mask_is_told() -> None:
    one = min(os.sched_getaffinity(0))
    code, found = doctor(before=("taskset", "-c", str(one)))
    assert code == 0
    assert found["CPUs"]["seen"].startswith("1 of ")
    assert found["pin threads"]["seen"].startswith("1 CPU,")


NOBODY = 65534


@pytest.fixture
def reachable(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with this package that another user may run: this one, or the system's with copies of the files.

    Copies, because the folders of a virtual environment and of an editable install are often closed to others.
    """
    if _works(sys.executable):
        return sys.executable
    system = f"/usr/bin/python3.{sys.version_info.minor}"
    if not Path(system).exists():
        pytest.skip(f"another user cannot reach {sys.executable}, and there is no {system} of the same version")
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(Path(numabench.__file__).parent, home / "numabench", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("click", "msgspec", "numpy", "numpy.libs", "rich", "pygments", "markdown_it", "mdurl"):
        for place in site.getsitepackages():
            if (Path(place) / name).is_dir():
                shutil.copytree(Path(place) / name, home / name, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    for info in Path(site.getsitepackages()[0]).glob("numabench-*.dist-info"):
        shutil.copytree(info, home / info.name)
    for folder in (home, *home.parents):
        if folder.owner() == "root" and str(folder).startswith(tempfile.gettempdir() + "/"):
            folder.chmod(0o755)
    program = home / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={home} PYTHONDONTWRITEBYTECODE=1 exec {system} "$@"\n')
    program.chmod(0o755)
    assert _works(str(program)), "the copy does not run for another user"
    return str(program)


def _works(program: str) -> bool:
    try:
        subprocess.run(
            [program, "-c", "import numabench.doctor"], check=True, user=NOBODY, capture_output=True, cwd="/"
        )
    except (PermissionError, subprocess.CalledProcessError):
        return False
    return True


def as_nobody(program: str, *words: str) -> tuple[int, Any]:
    """Exit code and JSON of a command that another user types in a folder of everybody's."""
    argv = [program, "-m", "numabench", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, user=NOBODY, cwd="/")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@root_only
def test_unprivileged_user(reachable: str) -> None:
    code, rows = as_nobody(reachable, "doctor", "--json")
    found = {row["name"]: row for row in rows}
    assert code == 0
    assert all(row["state"] == "ok" for name, row in found.items() if name.startswith("place on node"))
    code, record = as_nobody(reachable, *RUN)
    assert code == 0
    evidence = record["series"][0]["evidence"]
    assert (evidence["placement_how"], evidence["proof"], evidence["pages_misplaced"]) == ("bind", "move_pages", 0)
