# SPDX-License-Identifier: Apache-2.0
"""The plugin in a user's own suite: fixtures, markers, and no cost for who does not use it."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]


def run(pytester: pytest.Pytester, text: str, *words: str) -> pytest.RunResult:
    pytester.makepyfile(text)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-rs", *words)


def test_fixtures_give_proven_buffers_and_pinned_teams(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        """
        def test_it(numa_machine, numa_buffer, pinned_team):
            node = numa_machine.targets()[0]
            buffer = numa_buffer("1MiB", node)
            assert buffer.proof().seen == {node: 256}
            assert len(pinned_team(numa_machine.allowed_cpus[:1])) == 1
        """,
    )
    done.assert_outcomes(passed=1)


def test_markers_skip_and_name_what_is_missing(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        """
        import pytest

        @pytest.mark.needs_nodes(99)
        def test_many():
            raise AssertionError

        @pytest.mark.needs_nodes(1)
        @pytest.mark.needs_capability("mbind")
        def test_one():
            pass

        @pytest.mark.needs_capability("1G")
        def test_pages(numa_buffer):
            numa_buffer("1GiB", 0, pages="1G")
        """,
        "--strict-markers",
    )
    text = done.stdout.str()
    assert "needs 99 nodes with memory, this machine has" in text
    outcomes = done.parseoutcomes()
    assert outcomes["passed"] + outcomes["skipped"] == 3
    if outcomes["skipped"] == 2:
        assert "needs 1G: " in text


def test_wrong_arguments_fail_with_the_reason(pytester: pytest.Pytester) -> None:
    done = run(pytester, "def test_it(numa_buffer):\n    numa_buffer('1MiB', 77)\n")
    done.assert_outcomes(failed=1)
    assert "node 77" in done.stdout.str()


def test_a_suite_that_does_not_use_it_imports_nothing_heavy() -> None:
    heavy = ("numpy", "rich", "numabench._core")
    program = f"import sys, numabench.pytest_plugin; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_benchmarks_are_collected_one_per_case(pytester: pytest.Pytester, request: pytest.FixtureRequest) -> None:
    done = pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "--collect-only", "-q", str(request.config.rootpath / "benchmarks")
    )
    text = done.stdout.str()
    for word in (
        "test_latency[chase",
        "test_bandwidth[read",
        "test_stride[stride_read",
        "test_gemm[gemm_f32",
        "test_scaling[",
    ):
        assert word in text


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--numabench-size", "1MiB"], 0, "test_gemm[gemm_f64-n0-n0-"),
        (["--numabench-size", "much"], 4, "--numabench-size: size 'much'"),
        (["--numabench-passes", "0"], 4, "--numabench-passes 0: 1 to 30 are allowed"),
    ],
)
def test_benchmarks_take_a_size_and_passes(
    pytester: pytest.Pytester, request: pytest.FixtureRequest, words: list[str], status: int, said: str
) -> None:
    place = request.config.rootpath / "benchmarks" / "test_gemm.py"
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--collect-only", "-q", str(place), *words)
    assert done.ret == status, done.stdout.str() + done.stderr.str()
    text = done.stdout.str() + done.stderr.str()
    assert said in text
    assert "Traceback" not in text
    assert "n=1024" not in text
