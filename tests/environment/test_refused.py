# SPDX-License-Identifier: Apache-2.0
"""What the doctor says where system calls are really refused, as containers refuse them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from numabench.doctor import _placed
from numabench.memory import Proof

REFUSE = Path(__file__).with_name("refuse.py")
DOCTOR = (sys.executable, "-m", "numabench", "doctor", "--json")

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="no numbers of its calls")


def doctor(
    *, refused: str = "", before: tuple[str, ...] = (), user: int | None = None
) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code and findings by name."""
    argv = [sys.executable, str(REFUSE), refused, "--", *DOCTOR] if refused else [*before, *DOCTOR]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, user=user)
    assert done.stdout, done.stderr
    return done.returncode, {finding["name"]: finding for finding in json.loads(done.stdout)}


def test_nothing_refused() -> None:
    code, found = doctor()
    assert code == 0
    place = [finding for name, finding in found.items() if name.startswith("place on node")]
    assert place
    assert all(f["state"] == "ok" and "move_pages" in f["seen"] for f in place)
    assert found["pin threads"]["state"] == "ok"


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_mbind_refused_is_not_called_bound(error: str) -> None:
    """Success of libnuma would be no evidence: the finding names first touch and how to get mbind back."""
    code, found = doctor(refused=f"mbind={error}")
    place = [finding for name, finding in found.items() if name.startswith("place on node")]
    assert code == 0
    assert place
    assert all(f["state"] == "warning" and "first touch" in f["seen"] and "SYS_NICE" in f["remedy"] for f in place)


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_move_pages_refused_leaves_numa_maps(error: str) -> None:
    code, found = doctor(refused=f"move_pages={error}")
    proven = [finding for name, finding in found.items() if "on node" in name and "proof" in finding["seen"]]
    assert code == 0
    assert proven
    assert all(f["state"] == "warning" and "numa_maps" in f["seen"] and "seccomp" in f["remedy"] for f in proven)


def test_default_container_filter() -> None:
    """All four refused, as a container without CAP_SYS_NICE: placed by first touch, not bound, and still measurable."""
    refused = ",".join(f"{name}=EPERM" for name in ("mbind", "set_mempolicy", "get_mempolicy", "move_pages"))
    code, found = doctor(refused=refused)
    assert code == 0
    assert any(f["state"] == "warning" and "first touch" in f["seen"] for f in found.values())
    assert any(f["state"] == "warning" and "move_pages refused" in f["seen"] for f in found.values())


@pytest.mark.parametrize(("how", "by"), [("bind", "move_pages"), ("bind", "numa_maps"), ("first_touch", "numa_maps")])
def test_pages_elsewhere_are_a_failure_however_they_were_placed(how: str, by: str) -> None:
    elsewhere = Proof(by, 16, {0: 15, 1: 1}, 0, 4096, 1.0, "base", None)
    absent = Proof(by, 16, {0: 15}, 1, 4096, 1.0, "base", None)
    for proof in (elsewhere, absent):
        assert {f.name: f.state for f in _placed(0, how, proof)}["place on node 0"] == "failure"
    there = Proof(by, 16, {0: 16}, 0, 4096, 1.0, "base", None)
    assert not any(f.state == "failure" for f in _placed(0, how, there))


def test_no_proof_at_all_is_a_failure_and_never_ok() -> None:
    found = _placed(0, "bind", Proof("none", 0, {}, 0, 4096, 1.0, "base", None))
    assert [(f.name, f.state) for f in found] == [("prove on node 0", "failure")]


def test_policy_calls_refused_do_not_matter() -> None:
    """Placement uses neither, so refusing them must change nothing."""
    code, found = doctor(refused="set_mempolicy=EPERM,get_mempolicy=EPERM")
    assert code == 0
    assert all(f["state"] == "ok" for name, f in found.items() if name.startswith("place on node"))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_narrowed_mask_is_told() -> None:
    one = min(os.sched_getaffinity(0))
    code, found = doctor(before=("taskset", "-c", str(one)))
    assert code == 0
    assert found["CPUs"]["seen"].startswith("1 of ")
    assert found["pin threads"]["seen"].startswith("1 CPUs")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_unprivileged_user() -> None:
    try:
        subprocess.run([sys.executable, "-c", "import numabench"], check=True, user=65534, capture_output=True)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("another user cannot reach this interpreter or the package")
    code, found = doctor(user=65534)
    assert code == 0
    assert all(f["state"] == "ok" for name, f in found.items() if name.startswith("place on node"))
