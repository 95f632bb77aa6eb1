# SPDX-License-Identifier: Apache-2.0
"""What a curve of throughput over workers says: which model fits, whether one more helps, and why it stopped.

Nothing here speaks of more workers than were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from numabench.analysis import stats

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

LEAST_POINTS = 6  # counts below which nothing is fitted
UNDECIDED = 2.0  # a difference of AICc that decides nothing (Burnham and Anderson 2002, ch. 2.6)
NEAR = 0.15  # a ceiling is the bandwidth if it lies so close to the measured one
RESAMPLES = 400
Name = Literal["ceiling", "amdahl", "usl"]
Step = Literal["helps", "overhead", "no detectable change", "too few passes"]


class Fit(NamedTuple):
    """One model: its parameters, their 95 % intervals over resampled passes (None below six), and its AICc.

    ``rate`` is the throughput of one worker. ceiling: min(rate N, limit), ``limit`` missing when no count reached it.
    amdahl: rate N / (1 + serial (N - 1)). usl: rate N / (1 + serial (N - 1) + exchange N (N - 1)), ``peak`` only when
    it lies within the counts measured (Gunther 2007).
    """

    name: Name
    parameters: dict[str, float]
    ci: dict[str, tuple[float, float]] | None
    aicc: float


class Curve(NamedTuple):
    """All fits, best first; ``chosen`` is None when two of them are too close to tell apart."""

    fits: tuple[Fit, ...]
    chosen: Fit | None


def fit(counts: Sequence[int], per_pass: Sequence[Sequence[float]], seed: int = 1) -> Curve | None:
    """Fit ceiling, Amdahl and USL to log throughput; ``per_pass[p][i]`` is that of pass p at ``counts[i]``.

    None below six counts or without a pass. AICc over all passes and counts chooses (Hurvich and Tsai 1989).
    """
    import numpy as np

    if len(set(counts)) < LEAST_POINTS or not per_pass:
        return None
    n = np.asarray(counts, dtype=np.float64)
    logs = np.log(np.asarray(per_pass, dtype=np.float64))
    passes = len(logs)
    rows = [logs.mean(axis=0)]
    if passes >= stats.LEAST_PASSES:
        drawn = np.random.default_rng(seed).integers(0, passes, size=(RESAMPLES, passes))
        rows.extend(logs[drawn].mean(axis=1))
    means = np.stack(rows)
    own = float(((logs - means[0]) ** 2).sum())  # what no curve over counts can explain
    found = []
    for name, search in _SEARCH.items():
        shape, ranges = search
        best, squares = _zoom(n, means, shape, ranges)
        rates = np.exp((means - np.log(shape(n, best))).mean(axis=1))
        values = _read(name, n, rates, best)
        ci = None
        if passes >= stats.LEAST_PASSES:
            ci = {
                key: (float(low), float(high))
                for key, column in values.items()
                if key in _present(values)
                for low, high in [np.quantile(column[1:], (0.025, 0.975))]
            }
        parameters = {key: float(column[0]) for key, column in values.items() if key in _present(values)}
        found.append(Fit(name, parameters, ci, _aicc(own + passes * float(squares[0]), logs.size, len(ranges) + 2)))
    found.sort(key=lambda one: one.aicc)
    # USL holds Amdahl as the case of no exchange: a tie between the two is Amdahl's.
    sure = found[1].aicc - found[0].aicc >= UNDECIDED or (found[0].name, found[1].name) == ("amdahl", "usl")
    return Curve(tuple(found), found[0] if sure else None)


def predict(fit: Fit, workers: float) -> float:
    """Throughput that a fit gives to so many workers."""
    p = fit.parameters
    if fit.name == "ceiling":
        return min(p["rate"] * workers, p.get("limit", float("inf")))
    return p["rate"] * workers / (1 + (workers - 1) * (p["serial"] + p.get("exchange", 0.0) * workers))


def _aicc(squares: float, n: int, parameters: int) -> float:
    """AICc of a least-squares fit; ``parameters`` counts the variance."""
    import math

    scale = max(squares / n, 1e-18)  # data without noise would have an infinite likelihood
    return n * math.log(scale) + 2 * parameters + 2 * parameters * (parameters + 1) / max(n - parameters - 1, 1e-9)


def _ceiling(n: Array, p: Array) -> Array:
    import numpy as np

    return np.minimum(n, p[..., 0:1])


def _usl(n: Array, p: Array) -> Array:
    exchange = p[..., 1:2] if p.shape[-1] > 1 else 0.0
    result: Array = n / (1 + p[..., 0:1] * (n - 1) + exchange * n * (n - 1))
    return result


# Shape of a curve but for its rate, and where each of its parameters is looked for (lowest, highest, as powers of ten).
_SEARCH: dict[Name, tuple[Callable[[Array, Array], Array], tuple[tuple[float, float], ...]]] = {
    "ceiling": (_ceiling, ((0.0, 4.0),)),
    "amdahl": (_usl, ((-6.0, 0.0),)),
    "usl": (_usl, ((-6.0, 0.0), (-9.0, 0.0))),
}


def _zoom(
    n: Array, means: Array, shape: Callable[[Array, Array], Array], ranges: tuple[tuple[float, float], ...]
) -> tuple[Array, Array]:
    """Least squares for every row of ``means`` by a grid that narrows: (parameters, sums of squares)."""
    import itertools

    import numpy as np

    rows, grid = len(means), 31 if len(ranges) == 1 else 15
    steps = np.array(list(itertools.product(np.linspace(-0.5, 0.5, grid), repeat=len(ranges))))
    middle = np.tile([(low + high) / 2 for low, high in ranges], (rows, 1))
    width = np.array([high - low for low, high in ranges])
    lowest, highest = np.array([r[0] for r in ranges]), np.array([r[1] for r in ranges])
    best = np.full(rows, np.inf)
    for _ in range(14):
        places = np.clip(middle[:, None, :] + steps * width, lowest, highest)
        off = means[:, None, :] - np.log(shape(n, 10.0**places))
        squares = ((off - off.mean(axis=2, keepdims=True)) ** 2).sum(axis=2)
        at = squares.argmin(axis=1)
        better = squares[np.arange(rows), at] <= best
        middle = np.where(better[:, None], places[np.arange(rows), at], middle)
        best = np.minimum(best, squares[np.arange(rows), at])
        width = width * 0.45
    return 10.0**middle, best


def _read(name: Name, n: Array, rates: Array, p: Array) -> dict[str, Array]:
    """Named parameters of every row; NaN where a row has none."""
    import numpy as np

    if name == "ceiling":
        reached = p[:, 0] < n.max() * 0.999
        return {"rate": rates, "limit": np.where(reached, rates * p[:, 0], np.nan)}
    if name == "amdahl":
        return {"rate": rates, "serial": p[:, 0]}
    peak = np.sqrt(np.maximum(1 - p[:, 0], 0) / p[:, 1])
    return {
        "rate": rates,
        "serial": p[:, 0],
        "exchange": p[:, 1],
        "peak": np.where(peak <= n.max(), peak, np.nan),
    }


def _present(values: dict[str, Array]) -> set[str]:
    """Parameters that the data show in every resample; one that only some of them show is not told."""
    import numpy as np

    return {key for key, column in values.items() if bool(np.isfinite(column).all())}


def last_step(throughput: stats.Ratio, p99: stats.Ratio | None = None) -> Step:
    """Whether the last workers added help: throughput up with an interval above 1, and p99 not up.

    ``throughput`` and ``p99`` are ratios of the larger count to the smaller, paired by pass.
    """
    if throughput.ci is None:
        return "too few passes"
    if p99 is not None and p99.ci is not None and p99.ci[0] > 1:
        return "overhead"
    if throughput.ci[0] > 1:
        return "helps"
    return "overhead" if throughput.ci[1] < 1 else "no detectable change"


def why_stopped(
    curve: Curve | None,
    counts: Sequence[int],
    cores: int,
    bandwidth: float | None = None,
    barrier_share: float | None = None,
) -> str:
    """What ended the growth, only as far as it is measured.

    ``bandwidth`` is the measured ceiling in the curve's unit, ``barrier_share`` the predicted share of the barriers.
    """
    if curve is None:
        return f"fewer than {LEAST_POINTS} counts: no fit"
    if curve.chosen is None:
        return f"undecided between {curve.fits[0].name} and {curve.fits[1].name}"
    limit = curve.chosen.parameters.get("limit")
    if curve.chosen.name == "ceiling":
        if limit is None:
            return "it had not stopped at the most workers measured"
        if bandwidth and abs(limit / bandwidth - 1) <= NEAR:
            return "bandwidth"
        return "a ceiling that is not the measured bandwidth" if bandwidth else "a ceiling"
    if max(counts) > cores:
        return "cores: more workers than cores"
    if barrier_share is not None and barrier_share >= NEAR:
        return "synchronisation"
    return "a serial share that no measured part explains"


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's tau-b of two rankings of the same things; 0 when one of them ranks nothing (Kendall 1945)."""
    pairs = [
        ((a > b) - (a < b), (x > y) - (x < y))
        for i, (a, x) in enumerate(zip(first, second, strict=True))
        for b, y in list(zip(first, second, strict=True))[:i]
    ]
    scale = sum(a != 0 for a, _ in pairs) * sum(b != 0 for _, b in pairs)
    return float(sum(a * b for a, b in pairs) / scale**0.5) if scale else 0.0


def regret(chosen_by: Sequence[float], truth: Sequence[float]) -> float:
    """Share of the best true throughput that is lost by taking what looks best in ``chosen_by``."""
    pick = max(range(len(truth)), key=lambda i: chosen_by[i])
    return 1 - truth[pick] / max(truth)


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points that no other beats: first coordinate high, second low."""
    return [
        i
        for i, (gain, cost) in enumerate(points)
        if not any(g >= gain and c <= cost and (g, c) != (gain, cost) for g, c in points)
    ]
