# SPDX-License-Identifier: Apache-2.0
"""Fleets whose faults are known: defects of 8 % and more are found, good machines stay, every host is judged once."""

from __future__ import annotations

import html
import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from numabench.analysis import outliers
from numabench.fleet import causes, judge, store
from numabench.fleet.judge import Report
from numabench.reports import fleet as reports
from numabench.validation import outcome

from .simulate import DEFECTS, Fleet


def collected(folder: Path, hosts: list[str]) -> Report:
    with store.connect() as con:
        rejected = store.fill(con, store.files([folder]))
        return causes.with_causes(judge.judge(con, hosts, {}, rejected))


def visited(folder: Path, fleet: Fleet, visits: int = 3) -> Report:
    """Everybody once, then what is to be tested again."""
    fleet.visit(folder, 1)
    report = collected(folder, fleet.hosts)
    for number in range(2, visits + 1):
        fleet.visit(folder, number, list(report.retest))
        report = collected(folder, fleet.hosts)
    return report


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fleet, Report, Path]:
    fleet, folder = Fleet(1000, seed=5), tmp_path_factory.mktemp("fleet")
    return fleet, visited(folder, fleet), folder


def test_all_defects_are_found_and_no_good_machine_fails(simulated: tuple[Fleet, Report, Path]) -> None:
    fleet, report, _ = simulated
    failed = {host.host for host in report.hosts if host.verdict == "FAIL"}
    assert fleet.planted.keys() <= failed
    assert len(failed - fleet.planted.keys()) <= 1
    assert {defect.name for defect in fleet.planted.values()} == {defect.name for defect in DEFECTS}
    assert len(report.hosts) == len({host.host for host in report.hosts}) == 1000
    assert set(report.quarantine) == failed
    assert not set(report.quarantine) & set(report.retest)


def test_a_single_visit_fails_nobody_by_its_figures(simulated: tuple[Fleet, Report, Path], tmp_path: Path) -> None:
    fleet, final, _ = simulated
    fleet.visit(tmp_path, 1)
    report = collected(tmp_path, fleet.hosts)
    by_figures = [
        h for h in report.hosts if h.verdict == "FAIL" and not any(f.reason == "FACT_MISMATCH" for f in h.findings)
    ]
    assert not by_figures
    # Without the repeats many good machines would go: the rule rests on them.
    assert len(set(report.retest) - fleet.planted.keys()) > 50
    assert final.dip_chance == pytest.approx(0.02, abs=0.01)


def test_findings_have_effect_size_beside_p(simulated: tuple[Fleet, Report, Path]) -> None:
    fleet, report, _ = simulated
    for host in report.hosts:
        defect = fleet.planted.get(host.host)
        if defect and defect.name == "link half width":
            finding = host.findings[0]
            assert finding.what == "bw.read.remote[node0->node1]"
            assert finding.deficit is not None
            assert 0.47 < finding.deficit < 0.59  # a dip on top of it at most
            assert finding.z is not None
            assert finding.z < -6
            assert finding.q is not None
            assert finding.q < 0.01
            assert finding.visits == "3/3"
            assert host.causes[0].name == "socket link narrow or down"
        if defect and defect.name == "channel 30 %":
            assert "memory channel missing" in [cause.name for cause in host.causes]
        if defect and defect.name == "package 12 %":
            assert "one package throttled" in [cause.name for cause in host.causes]


def test_order_of_files_is_no_matter(simulated: tuple[Fleet, Report, Path], tmp_path: Path) -> None:
    fleet, report, folder = simulated
    paths = list(folder.rglob("*.json"))
    random.Random(1).shuffle(paths)
    with store.connect() as con:
        again = causes.with_causes(judge.judge(con, fleet.hosts[::-1], {}, store.fill(con, iter(paths))))
    assert outcome.dumps(again) == outcome.dumps(report)


def test_files_of_a_report(simulated: tuple[Fleet, Report, Path], tmp_path: Path) -> None:
    _, report, folder = simulated
    with store.connect() as con:
        store.fill(con, store.files([folder]))
        made = reports.files(report, con, tmp_path)
    assert {path.name for path in made} == {path.name for path in tmp_path.iterdir()}
    page = (tmp_path / "fleet.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert all(f'id="{host}"' in page for host in report.quarantine)
    host = next(h for h, defect in simulated[0].planted.items() if defect.name == "link half width")
    section = page.partition(f'id="{host}"')[2].partition("</details>")[0]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", section.partition("latest figure")[2])
    assert html.unescape(cells[0]) == "bw.read.remote[node0->node1]"  # the worst of its figures comes first
    assert float(cells[4].rstrip(" %")) == pytest.approx(50, abs=9)
    assert len(cells) == 5 * len(max(report.cohorts, key=lambda cohort: cohort.n).centres)
    assert page.count("<svg") == sum(len(cohort.centres) for cohort in report.cohorts)
    assert len((tmp_path / "hosts.csv").read_text().splitlines()) == 1001
    assert [line.split("\t")[0] for line in (tmp_path / "quarantine.txt").read_text().splitlines()] == list(
        report.quarantine
    )


def small(folder: Path, n: int, bad: dict[str, float], visits: int = 3, seed: int = 1) -> Report:
    """A class of n machines; ``bad`` multiplies the local bandwidth of some."""
    fleet = Fleet(n, seed=seed, share=0)
    for number in range(1, visits + 1):
        fleet.visit(folder, number)
        for path in (folder / f"visit{number}").glob("*.json"):
            result = outcome.load(path)
            values = dict(result.values)
            factor = bad.get(result.host, 1.0)
            values["bw.read.local"] = {"node0": (180.0 * factor,) * 3, "node1": (180.0,) * 3}
            outcome.save(msgspec.structs.replace(result, values=values), path)
    return collected(folder, fleet.hosts)


@pytest.mark.parametrize(
    ("n", "verdict"), [(1, "PASS"), (2, "PASS"), (7, "PASS"), (8, "WARN"), (31, "WARN"), (32, "FAIL"), (40, "FAIL")]
)
def test_what_may_be_said_depends_on_the_class(n: int, verdict: str, tmp_path: Path) -> None:
    report = small(tmp_path, n, {"h00000": 0.8})
    assert report.hosts[0].verdict == verdict
    assert not [host for host in report.hosts[1:] if host.verdict == "FAIL"]


@pytest.mark.parametrize(("minutes", "verdict"), [(9, "SUSPECT"), (10, "FAIL")])
def test_three_visits_within_one_busy_spell_are_one(minutes: int, verdict: str, tmp_path: Path) -> None:
    small(tmp_path, 32, {"h00000": 0.8})
    for number in (1, 2, 3):
        path = tmp_path / f"visit{number}" / "h00000.json"
        created = f"2026-11-02T12:{minutes * number:02d}:00+00:00"
        outcome.save(msgspec.structs.replace(outcome.load(path), created=created), path)
    first = collected(tmp_path, [f"h{at:05d}" for at in range(32)]).hosts[0]
    assert (first.verdict, first.history[-1].state) == (verdict, verdict)


def test_a_class_with_many_flagged_is_suspect_and_nobody_fails(tmp_path: Path) -> None:
    report = small(tmp_path, 40, {f"h{at:05d}": 0.7 for at in range(6)})
    assert not report.quarantine
    assert report.cohorts[0].suspect == ("bw.read.local[node0]",)
    assert {report.hosts[at].verdict for at in range(6)} == {"SUSPECT"}


def test_a_uniform_fault_is_no_outlier(tmp_path: Path) -> None:
    report = small(tmp_path, 40, {f"h{at:05d}": 0.5 for at in range(40)})
    assert not report.quarantine  # only a specification or a baseline can see it


def test_bad_input_is_left_out_and_told(tmp_path: Path) -> None:
    fleet = Fleet(12, share=0)
    fleet.visit(tmp_path, 1)
    folder = tmp_path / "visit1"
    (folder / "h00000.json").write_text("{")
    (folder / ".h00009.json.77").write_text("half")
    (folder / "h00001.json").write_text((folder / "h00001.json").read_text().replace("\n", "", 3)[:-900])
    for at, value in ((2, "0.0"), (3, "-1.0"), (4, "1e300")):
        path = folder / f"h{at:05d}.json"
        result = outcome.load(path)
        text = outcome.dumps(msgspec.structs.replace(result, values={"latency.local": {"node0": (77.5,)}})).decode()
        path.write_text(text.replace("77.5", value))
    shutil.copy(folder / "h00005.json", folder / "copy.json")
    when = outcome.load(folder / "h00006.json")
    outcome.save(msgspec.structs.replace(when, created="yesterday"), folder / "h00006.json")
    report = collected(tmp_path, [*fleet.hosts, "gone"])
    assert len(report.rejected) == 7
    missing = {host.host: host.reason for host in report.hosts if host.verdict == "MISSING"}
    assert set(missing) == {"h00000", "h00001", "h00002", "h00003", "h00004", "h00006", "gone"}
    assert report.counts["MISSING"] == 7
    assert sum(report.counts.values()) == 13


def test_the_lone_machine_with_another_mode_is_named(tmp_path: Path) -> None:
    fleet = Fleet(40, share=0)
    fleet.visit(tmp_path, 1)
    path = tmp_path / "visit1" / "h00007.json"
    result = outcome.load(path)
    outcome.save(
        msgspec.structs.replace(result, cohort="other", cohort_of=result.cohort_of | {"numa_nodes": "8"}), path
    )
    report = collected(tmp_path, fleet.hosts)
    assert report.quarantine == ("h00007",)
    assert report.hosts[7].findings[0].text.startswith("FACT_MISMATCH numa_nodes: 8, 39 of 40")


def test_drift_against_its_own_past() -> None:
    rng = np.random.default_rng(1)
    steady = np.log(100 * (1 + rng.normal(0, 0.003, 14)))
    assert outliers.drifted(steady) is None
    fallen = steady.copy()
    fallen[-3:] -= 0.1
    assert outliers.drifted(fallen) == pytest.approx(0.095, abs=0.02)
    fallen[-2] += 0.1
    assert outliers.drifted(fallen) is None
    assert outliers.drifted(steady[:10]) is None


def test_a_machine_that_falls_behind_its_own_past_is_suspect(tmp_path: Path) -> None:
    """Five machines make no outliers: only its own past can tell."""
    fleet = Fleet(5, share=0)
    for number in range(1, 15):
        fleet.visit(tmp_path, number)
        path = tmp_path / f"visit{number}" / "h00002.json"
        result = outcome.load(path)
        fallen = 0.85 if number > 11 else 1.0
        local = {"node0": (180.0 * fallen * (1 + 0.002 * (number % 3)),) * 3}
        outcome.save(msgspec.structs.replace(result, values={"bw.read.local": local}), path)
    report = collected(tmp_path, fleet.hosts)
    fell = report.hosts[2]
    assert (fell.verdict, fell.findings[0].reason) == ("SUSPECT", "DRIFT")
    assert "15 % worse than its own past" in fell.reason
    assert report.retest == ("h00002",)
    assert [change.state for change in fell.history] == ["PASS", "SUSPECT"]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.49])
def test_the_centre_stands_up_to_half_of_the_machines(share: float) -> None:
    rng = np.random.default_rng(2)
    r = rng.normal(0, 0.01, 1000)
    r[: int(1000 * share)] -= 1.0
    of = outliers.centre(r)
    assert of is not None
    assert abs(of.median) < 0.03


def test_equal_figures_have_a_spread_and_nonsense_has_no_figure() -> None:
    of = outliers.centre(outliers.logs(np.array([5.0, 5.0, 5.0]), "high"))
    assert of is not None
    assert of.sigma == outliers.SIGMA_FLOOR
    assert np.isnan(outliers.logs(np.array([0.0, -1.0, np.nan, np.inf]), "low")).all()
    assert outliers.centre(np.array([np.nan])) is None


def test_q_values_are_those_of_benjamini_and_hochberg() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005])
    assert outliers.q_values(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    rng = np.random.default_rng(3)
    null = outliers.q_values(rng.uniform(size=20000))
    assert (null <= 0.01).sum() <= 2


def test_command(tmp_path: Path) -> None:
    fleet = Fleet(3, share=0)
    fleet.visit(tmp_path, 1)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "numabench", "fleet", "collect", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    done = call(str(tmp_path), "--expect", "h0000[0-2]", "-o", str(tmp_path / "o"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"] == {"PASS": 3}
    assert call(str(tmp_path / "visit1"), "--expect", "h0000[0-3]").returncode == 3
    for words, said in (
        (["nowhere"], "no such folder"),
        ([str(tmp_path), "--expect", "h[3-1]"], "no range"),
        ([str(tmp_path), "--expect", "no/such.txt"], "no such file"),
    ):
        done = call(*words)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert said in done.stderr
