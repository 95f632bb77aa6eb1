# SPDX-License-Identifier: Apache-2.0
"""What lies in an instance's memory: weights by their place in the matrix, so that every cut computes the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numabench import _core
from numabench.instance.spec import MEAN, PAGE, UNIT, Fields, Slice
from numabench.presets import ROW_BYTES, Op, cuts

if TYPE_CHECKING:
    from numabench.instance.build import Built


def fill(built: Built, plan: list[list[Slice]]) -> None:
    """Weights by their place in the matrix; everything else likewise, so that every run computes the same."""
    rows, model = _core.setup_kernel("fill_rows"), built.spec.model
    ops = (*model.ops, *model.opening)
    f64 = _core.setup_kernel("fill_f64")
    jobs: list[list[_core.Work]] = [[] for _ in range(built.threads)]
    for t in range(built.threads):
        for part in plan[t]:
            op, seed = part.op, 1000 * part.layer + 1 + ops.index(part.op)
            at = (built.weights[t], part.offset)
            if op.kind == "own":
                for i in range(3):
                    jobs[t].append(_own(built, rows, t, part, i, seed))
            elif part.last > part.first and (built.spec.writes or not built.spec.fd):
                width, size = part.last - part.first, model.item_bytes(op)
                row, column = _first(built, op)
                scale = 1 / (MEAN * op.k * (built.spec.ranks if op in built.sums else 1))
                shape: Fields
                if built.skinny(op):
                    shape = {"m": width, "n": op.k, "lda": op.k, "ldb": part.first + column, "k": row}
                else:
                    shape = {"m": op.k, "n": width, "lda": width, "ldb": row, "k": part.first + column}
                jobs[t].append(_core.Work(rows, a=at, chains=size, scalar=scale, seed=seed, loops=1, **shape))
        jobs[t].extend(_kv(built, rows, t))
        jobs[t].append(_core.Work(f64, a=(built.scratch[t], 0), bytes=built.scratch[t].bytes, loops=1, seed=7))
    wide: Fields = {"n": ROW_BYTES // 4, "lda": ROW_BYTES // 4, "chains": 4, "seed": 3, "scalar": 1.0, "loops": 1}
    for region in built.table:
        for t, (first, last) in enumerate(cuts(region.bytes // ROW_BYTES, built.threads, UNIT)):
            at = (region, first * ROW_BYTES)
            jobs[t].append(_core.Work(rows, a=at, m=last - first, ldb=first, **wide))
    inputs = _inputs(built, rows)
    if len(built.loaders) == 1:
        for work in (*(w for found in jobs for w in found), *inputs):
            built.loaders.run([work])
        return
    for i in range(max(map(len, jobs))):
        built.loaders.run([found[i] if i < len(found) else None for found in jobs])
    for work in inputs:
        built.loaders.run([work, *([None] * (built.threads - 1))])


def _first(built: Built, op: Op) -> tuple[int, int]:
    """Where a rank's part of a matrix begins in the whole: rows of what is summed, columns of what leads to it."""
    rank, model = built.spec.rank, built.spec.model
    if not built.sums:
        return 0, 0
    if op in built.sums:
        return rank * op.k, 0
    ops = model.opening if op in model.opening else model.ops
    return 0, rank * next(after.k for after in ops[ops.index(op) + 1 :] if after.kind == "gemm")


def _own(built: Built, rows: _core.Kernel, t: int, part: Slice, i: int, seed: int) -> _core.Work:
    n = part.op.n
    at = (built.weights[t], part.offset + i * (-(-n * n * 4 // PAGE) * PAGE + UNIT))
    scale = 1 / (MEAN * n) if i == 1 else 1.0
    return _core.Work(rows, a=at, chains=4, m=n, n=n, lda=n, scalar=scale, seed=seed + i, loops=1)


def _kv(built: Built, rows: _core.Kernel, t: int) -> list[_core.Work]:
    """Keys and values by their place in the layer's whole, whichever thread reads them."""
    works, at = [], 0
    for layer in range(built.spec.model.layers):
        for op in (op for op in built.spec.model.ops if op.kind == "read"):
            first, last = cuts(op.bytes, built.threads, PAGE)[t]
            shape: Fields = {"m": (last - first) // PAGE, "n": PAGE // 4, "lda": PAGE // 4, "ldb": first // PAGE}
            place = (built.kv[t], at)
            works.append(_core.Work(rows, a=place, chains=4, **shape, scalar=1.0, seed=5 + layer, loops=1))
            at += last - first
    return works


def _inputs(built: Built, rows: _core.Kernel) -> list[_core.Work]:
    """Activations to start from; int8 ones for int8 weights."""
    model, works = built.spec.model, []
    for op in model.every_op:
        if op.kind == "gemm":
            size = 1 if model.item_bytes(op) == 1 else 4
            works.append(
                _core.Work(
                    rows, a=built.place[op, "in"], chains=size, m=op.m, n=op.k, lda=op.k, scalar=1.0, seed=11, loops=1
                )
            )
    return works
