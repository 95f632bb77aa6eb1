# SPDX-License-Identifier: Apache-2.0
"""``pytest benchmarks/ --numabench-spec``: the same verdicts as the command's, on a machine whose figures are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from numabench import record as records
from numabench.validation.write_spec import write_spec

from .test_causes import FAULTS, made

pytest_plugins = ["pytester"]
GATE = Path(__file__).parents[2] / "benchmarks" / "test_specification.py"
CONFTEST = """
import pytest
from numabench import record

@pytest.fixture(scope="session")
def numabench_record():
    return record.load({!r})
"""


@pytest.mark.parametrize(
    ("name", "outcome"),
    [("good", "passed"), ("memory channel missing", "failed"), ("restricted by a cpuset", "failed")],
)
def test_gate(name: str, outcome: str, pytester: pytest.Pytester, tmp_path: Path) -> None:
    saved, spec = tmp_path / "here.json", tmp_path / "x.toml"
    records.save(made() if name == "good" else FAULTS[name], saved)
    spec.write_text(write_spec(made()))
    pytester.makeconftest(CONFTEST.format(str(saved)))
    pytester.makepyfile(test_specification=GATE.read_text())
    done = pytester.runpytest_subprocess("--numabench-spec", str(spec), "-p", "no:cacheprovider")
    done.assert_outcomes(**{outcome: 1})
    if name == "memory channel missing":
        done.stdout.fnmatch_lines(["*FAIL | bw.read.local*node1*", "*Probable cause 1: memory channel missing*"])


def test_a_bad_specification_ends_pytest_at_once(pytester: pytest.Pytester) -> None:
    pytester.makefile(".toml", bad="schema = 1\nname = 'x'\n[fcts]\n")
    done = pytester.runpytest_subprocess("--numabench-spec", "bad.toml")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*bad.toml:3: fcts: unknown key*"])
