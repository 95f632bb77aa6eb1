# SPDX-License-Identifier: Apache-2.0
"""A against itself, then A against B: whether a change of commands or settings helped, by how much, how sure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from numabench.analysis import compare, stats
from numabench.commands import Arm, Block, Metric, Run
from numabench.series import FLAGS, Progress

A, AGAIN, B = "A", "A again", "B"


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Fixed before the first block; shares: threshold of interest, effect sought, precision to stop at."""

    blocks: int = 10
    threshold: float = compare.THRESHOLD
    effect: float = compare.EFFECT
    precision: float = 0.01
    seed: int = 0


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """All blocks and what follows from them. ``reasons`` say why there is no verdict; empty when there is one."""

    schema: int = 1
    kind: str = "numabench-ab"
    metric: Metric
    commands: dict[str, tuple[str, ...]]
    rules: Rules
    same: tuple[Block, ...]  # A against A
    blocks: tuple[Block, ...]  # A against B
    spread: compare.Spread
    change: compare.Change | None  # B over A
    reasons: tuple[str, ...] = ()
    disturbed: tuple[str, ...] = ()


class Takes(Protocol):
    """What takes blocks: commands.Runner, or a simulation of it."""

    @property
    def metric(self) -> Metric:
        """The figure compared."""

    def blocks(self, arms: Sequence[Arm], most: int, seed: int = 0, warm: bool = True) -> Iterator[Block]:
        """Up to ``most`` blocks."""


def ab(a: Arm, b: Arm | None, runner: Takes, rules: Rules, progress: Callable[[Progress], None] | None = None) -> Trial:
    """Run the trial; without ``b`` only A against itself.

    A series ends early only at 6, 8, 10, 15, 20 or 30 blocks and only because its interval is narrow enough, never
    because of what it says. A against B is run even if A against A shows too much noise only when that noise is
    narrower than the effect sought; otherwise nothing could be learned from it.
    """
    a = msgspec.structs.replace(a, name=A)
    total, began, done = rules.blocks * (2 if b else 1), time.monotonic(), 0

    def taken(arms: Sequence[Arm], seed: int, warm: bool) -> tuple[Block, ...]:
        nonlocal done
        found: list[Block] = []
        for block in runner.blocks(arms, rules.blocks, seed, warm):
            found.append(block)
            done += 1
            if progress:
                spent = time.monotonic() - began
                label = " against ".join(arm.name for arm in arms)
                left = spent / done * (total - done)
                progress(Progress(done=done, total=total, label=label, elapsed_s=spent, left_s=left))
            if stats.may_stop(len(found), [_half_width(found, arms)], rules.precision):
                break
        return tuple(found)

    again = msgspec.structs.replace(a, name=AGAIN)
    same = taken((a, again), rules.seed, True)
    spread = compare.same_against_same(_ratio(same, A, AGAIN), rules.effect, rules.threshold)
    reasons = [spread.trouble] if spread.trouble else []
    blocks: tuple[Block, ...] = ()
    change = None
    if b and not reasons:
        b = msgspec.structs.replace(b, name=B)
        done, total = len(same), len(same) + rules.blocks
        blocks = taken((a, b), rules.seed + 1, True)
        found = _ratio(blocks, A, B)
        (change,) = compare.judge([found], [runner.metric.better], rules.threshold)
        change = msgspec.structs.replace(change, wilcoxon_p=compare.wilcoxon(_values(blocks, B), _values(blocks, A)))
        reasons.extend(change.reasons)
        if change.verdict == "no detectable change" and change.mde is not None and change.mde > rules.effect:
            reasons.append(
                f"a change of less than {change.mde:.1%} would go unseen, and {rules.effect:.0%} is to be seen: "
                "more --blocks, a calmer machine, or a larger --effect"
            )
    reasons.extend(_settings((*same, *blocks)))
    if len(words := {run.same for run in _runs((*same, *blocks))}) > 1:
        reasons.append(f"the runs did not do the same work: {' and '.join(sorted(map(repr, words))[:3])}")
    return Trial(
        metric=runner.metric,
        commands={arm.name: arm.command for arm in (a, b) if arm},
        rules=rules,
        same=same,
        blocks=blocks,
        spread=spread,
        change=change,
        reasons=tuple(reasons),
        disturbed=tuple(disturbances((*same, *blocks))),
    )


def _runs(blocks: Iterable[Block]) -> list[Run]:
    return [run for block in blocks for run in block.runs.values()]


def _values(blocks: Sequence[Block], arm: str) -> list[float]:
    return [block.runs[arm].value for block in blocks]


def _ratio(blocks: Sequence[Block], base: str, new: str) -> stats.Ratio:
    return stats.ratio(_values(blocks, new), _values(blocks, base))


def _half_width(blocks: Sequence[Block], arms: Sequence[Arm]) -> float:
    if len(blocks) not in stats.CHECKPOINTS:
        return float("inf")
    found = _ratio(blocks, arms[0].name, arms[1].name)
    return stats.half_width(found.ci, found.value)


def _settings(blocks: Iterable[Block]) -> list[str]:
    changed = {key: pair for block in blocks for key, pair in block.changed.items()}
    return [f"{key} changed during the trial: {old} -> {new}" for key, (old, new) in changed.items()]


def disturbances(blocks: Iterable[Block]) -> list[str]:
    """What disturbed the runs, each with how many of them; and a core whose frequency moved by more than 2 %."""
    runs = _runs(blocks)
    said = []
    for name in dict.fromkeys(flag for run in runs for flag in run.flags):
        said.append(f"{FLAGS[name]} ({sum(name in run.flags for run in runs)} of {len(runs)} runs)")
    hz = [run.core_hz for run in runs if run.core_hz]
    if len(hz) > 1 and stats.variation(hz) > 0.02:
        said.append(f"the core's frequency varied, from {min(hz) / 1e9:.2f} to {max(hz) / 1e9:.2f} GHz")
    return said
