# SPDX-License-Identifier: Apache-2.0
"""Verdicts on changes: known values of the tests, and by simulation how often they err and how often they find."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from numabench.analysis import compare, stats
from numabench.commands import Arm, Block, Metric, Run
from numabench.trial import Rules, ab

TRIALS = 300  # a thousand of each are in docs/compare.md


def pair(logs: Sequence[float]) -> stats.Ratio:
    return stats.ratio([math.exp(x) for x in logs], [1.0] * len(logs))


def verdict(logs: Sequence[float], better: compare.Better = "low", threshold: float = 0.01) -> str:
    return compare.judge([pair(logs)], [better], threshold)[0].verdict


def test_corrections_have_the_published_values() -> None:
    # Benjamini and Hochberg 1995, section 3: fifteen p-values, the four smallest are rejected at 5 %, Holm's three.
    ps = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
    ]
    ps.append(1.0)
    assert sum(q <= 0.05 for q in compare.benjamini_hochberg(ps)) == 4
    assert sum(q <= 0.05 for q in compare.holm(ps)) == 3
    mixed = ps[::-1]
    assert compare.benjamini_hochberg(mixed) == compare.benjamini_hochberg(ps)[::-1]
    assert compare.holm(mixed) == compare.holm(ps)[::-1]
    assert compare.benjamini_hochberg([0.01], 10) == [pytest.approx(0.1)]
    assert compare.benjamini_hochberg([]) == compare.holm([]) == []


def test_signed_ranks_have_the_published_values() -> None:
    ups = [1.01, 1.02, 1.03, 1.04, 1.05, 1.06]
    assert compare.wilcoxon(ups, [1.0] * 6) == pytest.approx(0.03125)
    assert compare.wilcoxon([*ups[:5], 1 / 1.06], [1.0] * 6) == pytest.approx(2 * 14 / 64), "P(W <= 6), n = 6"
    assert compare.wilcoxon([1.0] * 6, [1.0] * 6) == 1
    assert compare.wilcoxon([1.1, 1 / 1.1], [1.0, 1.0]) == 1


def test_each_verdict_and_both_directions() -> None:
    noise = [-0.002, 0.001, 0.002, -0.001, 0.0005, -0.0005]
    up = [x + 0.05 for x in noise]
    assert (verdict(up, "low"), verdict(up, "high")) == ("worse", "better")
    assert (verdict([-x for x in up], "low"), verdict([-x for x in up], "high")) == ("better", "worse")
    assert verdict(noise) == "equivalent"
    assert verdict([x + 0.009 for x in noise]) == "small change"
    assert verdict([20 * x for x in noise]) == "no detectable change"
    assert verdict(noise[:5]) == "not comparable"
    assert verdict([0.0] * 6) == "equivalent"
    assert verdict([0.05] * 6) == "worse"
    assert verdict(up, threshold=0.1) == "equivalent"


def test_more_cells_ask_for_more() -> None:
    logs = [0.03, 0.02, 0.04, 0.015, 0.045, 0.03]
    alone, among = (compare.judge([pair(logs)], ["low"], cells=m)[0] for m in (1, 100))
    assert (alone.verdict, among.verdict) == ("worse", "no detectable change")
    assert alone.mde is not None
    assert among.mde is not None
    assert among.mde > 2 * alone.mde


def test_the_detectable_change_at_80_percent_is_near_that_of_a_known_error() -> None:
    """With many blocks the error is known, and the figure is that of the textbook: t(0.975) + t(0.9)."""
    limit = stats.student_t(0.975, 400)
    asked = compare.POWER - compare.IN_HAND
    assert compare.detectable(400, limit, power=asked) == pytest.approx(limit + stats.student_t(0.9, 400), rel=0.01)
    assert compare.detectable(400, limit, power=0.8) < compare.detectable(400, limit)
    assert compare.detectable(5, 2.57) > 1.25 * stats.detectable(6), "few blocks, and 90 % instead of 80 %"


class Simulated:
    """Takes blocks of a command whose true figures are known; B is ``shift`` (log) above A."""

    metric = Metric.parse("wall")

    def __init__(self, rng: np.random.Generator, sd: float, shift: float = 0.0) -> None:
        self.rng, self.sd, self.shift = rng, sd, shift

    def blocks(self, arms: Sequence[Arm], most: int, seed: int = 0, warm: bool = True) -> Iterator[Block]:
        for number in range(most):
            slow = self.rng.normal(0, 0.05)  # what both arms of a block share
            logs = {a.name: slow + self.rng.normal(0, self.sd) + self.shift * (a.name == "B") for a in arms}
            runs = {name: math.exp(x) for name, x in logs.items()}
            yield Block(
                number=number,
                runs={
                    n: Run(arm=n, block=number, position=0, wall_s=v, user_s=v, system_s=0, peak_bytes=1, value=v)
                    for n, v in runs.items()
                },
            )


ARM = Arm(name="", command=("true",))


def in_claims(alarms: int, found: int, trials: int) -> None:
    """Both rates keep the claim, within two standard errors of so many trials."""
    assert alarms / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)
    assert found / trials >= 0.9 - 2 * math.sqrt(0.9 * 0.1 / trials)


@pytest.mark.parametrize("sd", [0.01, 0.03])
def test_whole_trials_of_ab(sd: float) -> None:
    """A against A, then A against B, stopping early by width: false alarms, and power at the size printed."""
    rng = np.random.default_rng(7)
    rules = Rules(effect=1.0, precision=0.012)
    alarms = found = refused = early = 0

    def changed(shift: float) -> compare.Change:
        nonlocal refused, early
        while True:  # one in twenty says that A differs from itself, and then nothing of B
            done = ab(ARM, ARM, Simulated(rng, sd, shift), rules)
            early += len(done.same) < rules.blocks
            if done.change is not None:
                return done.change
            refused += 1

    for _ in range(TRIALS):
        null = changed(0.0)
        assert null.mde is not None
        alarms += null.verdict in ("better", "worse")
        found += changed(math.log1p(null.mde)).verdict == "worse"
    in_claims(alarms, found, TRIALS)
    assert refused < 0.08 * 2 * TRIALS
    assert (early > TRIALS / 2) == (sd == 0.01)


@pytest.mark.parametrize(("cells", "n"), [(1, 10), (6, 6)])
def test_comparisons_of_records(cells: int, n: int) -> None:
    """Unpaired passes of two runs: any false alarm in the whole table, and power where one cell alone changed."""
    rng = np.random.default_rng(cells)

    def compared(shift: float) -> list[compare.Change]:
        ratios = []
        for cell in range(cells):
            base, new = np.exp(rng.normal(0, 0.02, n)), np.exp(rng.normal(shift * (cell == 0), 0.02, n))
            ratios.append(stats.unpaired_ratio(list(new), list(base)))
        return compare.judge(ratios, ["low"] * cells)

    alarms = found = 0
    for _ in range(TRIALS):
        null = compared(0.0)
        alarms += any(change.verdict in ("better", "worse") for change in null)
        assert null[0].mde is not None
        found += compared(math.log1p(null[0].mde))[0].verdict == "worse"
    in_claims(alarms, found, TRIALS)


def test_unpaired_intervals_do_not_need_equal_numbers_or_scatter() -> None:
    rng = np.random.default_rng(9)
    covered = 0
    for _ in range(400):
        a, b = np.exp(rng.normal(0, 0.01, 6)), np.exp(rng.normal(0, 0.05, 12))
        ci = stats.unpaired_ratio(list(a), list(b)).ci
        covered += ci is not None and ci[0] <= 1 <= ci[1]
    assert covered / 400 > 0.93
    assert stats.unpaired_ratio([1.0] * 5, [1.0] * 9).ci is None
    assert stats.unpaired_ratio([2.0] * 6, [1.0] * 9).ci == (2, 2)
    with pytest.raises(ValueError, match="positive"):
        stats.unpaired_ratio([1.0], [0.0])
