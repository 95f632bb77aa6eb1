# SPDX-License-Identifier: Apache-2.0
"""Models as the synthetic instance runs them: published shapes, what they move and compute, how they are scaled down.

Shapes: Llama-3.1-8B from its published configuration, BERT-large and DLRM as in oneDNN benchdnn's input files
(tests/benchdnn/inputs). Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from numabench.errors import UsageError

Kind = Literal["gemm", "heads", "read", "gather", "own"]
BYTES = {"f32": 4, "bf16": 2, "int8": 1}
SHARDS = (1, 2, 4, 8)  # parts that real ranks run
SMALL_SHARDS = (16, 32)  # for a size asked for
OWN_ROUNDS = 20  # multiplications between two barriers of the cached preset
EXPLAINED = 0.15  # measured and predicted may differ by so much


class Op(NamedTuple):
    """What all threads do up to the next barrier.

    gemm: out (m x n) = in (m x k) times weights, outputs shared out. heads: ``times`` multiplications of activations.
    read: ``bytes`` streamed. gather: ``times`` random rows of ``bytes``. own: every thread multiplies matrices of its
    own, n x n x n, ``times`` over.
    """

    name: str
    kind: Kind
    m: int = 0
    n: int = 0
    k: int = 0
    times: int = 1
    bytes: int = 0

    @property
    def flops(self) -> float:
        """Multiplications and additions; of one thread for ``own``."""
        if self.kind in {"read", "gather"}:
            return 0.0
        return 2.0 * self.m * self.n * self.k * self.times


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One preset at one scale: the operations of a layer, run ``layers`` times a step."""

    preset: str
    batch: int
    dtype: str
    layers: int
    ops: tuple[Op, ...]
    ctx: int = 0
    shard: int = 1
    scaled: tuple[str, ...] = ()  # what was made smaller, each step
    opening: tuple[Op, ...] = ()  # of a layer, f32, what the first step of a request does before its own: a prefill

    @property
    def every_op(self) -> tuple[Op, ...]:
        """Those of the opening, then those of a step."""
        return (*self.opening, *self.ops)

    @property
    def summed(self) -> tuple[Op, ...]:
        """Operations whose outputs tensor-parallel parts add up, an all-reduce each."""
        return tuple(op for op in self.every_op if op.kind == "gemm" and op.name.split()[-1] in SUMMED)

    def item_bytes(self, op: Op) -> int:
        """Of one weight."""
        return BYTES["f32"] if op in self.opening else BYTES[self.dtype]

    @property
    def weight_bytes(self) -> int:
        """Of all layers, tables included; an opening has its own."""
        size = sum(op.n * op.k * self.item_bytes(op) for op in self.every_op if op.kind == "gemm")
        return self.layers * size + self.table_bytes

    @property
    def table_bytes(self) -> int:
        """Tables that rows are gathered from."""
        return TABLES * ROWS * ROW_BYTES if any(op.kind == "gather" for op in self.ops) else 0

    @property
    def kv_bytes(self) -> int:
        """Keys and values of all layers."""
        return self.layers * sum(op.bytes for op in self.ops if op.kind == "read")

    @property
    def bytes_per_step(self) -> int:
        """What one step streams from memory: weights, keys and values, gathered rows."""
        rows = sum(op.times * op.bytes for op in self.ops if op.kind == "gather")
        size = sum(op.n * op.k for op in self.ops if op.kind == "gemm") * BYTES[self.dtype]
        return self.layers * (size + rows) + self.kv_bytes

    @property
    def flops_per_step(self) -> float:
        """Without what a thread does for itself (``own``)."""
        return self.layers * sum(op.flops for op in self.ops if op.kind != "own")

    @property
    def barriers(self) -> int:
        """Per step."""
        return self.layers * len(self.ops)


# ---- shapes ----------------------------------------------------------------------------------------------------------
HIDDEN, FFN, QKV, HEADS, HEAD = 4096, 14336, 6144, 32, 128  # Llama-3.1-8B: 32 query heads, 8 of keys and of values
KV_PER_TOKEN = 8 * 128 * 2 * 2  # bytes per layer, bf16
BERT, BERT_FFN, BERT_ROWS, BERT_HEADS = 1024, 4096, 384, 16
TABLES, ROWS, ROW_BYTES = 26, 1 << 16, 512
BOTTOM, TOP = (13, 512, 256, 128), (479, 1024, 1024, 512, 256, 1)
LAYERS = {"llm-prefill": 32, "llm-decode": 32, "encoder": 24, "recsys": 1, "cached": 1}
PRESETS = tuple(LAYERS)
SUMMED = ("o", "down", "ffn2")  # tensor-parallel parts cut their inputs: the outputs of all parts are added up
HOGS = ("hog-read", "hog-write")  # neighbours: nothing but a stream of reads or writes
HOG_BYTES = 256 << 20
DTYPES = {"llm-prefill": "f32", "llm-decode": "bf16", "encoder": "f32", "recsys": "f32", "cached": "f32"}


def make(
    preset: str,
    *,
    batch: int | None = None,
    dtype: str = "",
    layers: int | None = None,
    ctx: int = 2048,
    shard: int = 1,
    l2_bytes: int = 1 << 20,
) -> Model:
    """A preset. ``batch``: sequences of decode (1), rows of prefill (512), samples of recsys (2048).

    ``shard``: one of so many tensor-parallel parts. Raises UsageError.
    """
    if preset in HOGS:
        streams = (Op(preset.removeprefix("hog-"), "read", bytes=HOG_BYTES),)
        return Model(preset=preset, batch=1, dtype="f32", layers=1, ops=streams)
    if preset not in LAYERS:
        raise UsageError(f"preset {preset!r}: allowed are {', '.join(PRESETS)}")
    dtype = dtype or DTYPES[preset]
    if dtype not in BYTES or (dtype != DTYPES[preset] and preset != "llm-decode"):
        allowed = ", ".join(BYTES) if preset == "llm-decode" else DTYPES[preset]
        raise UsageError(f"dtype {dtype!r} of {preset}: allowed are {allowed}")
    full = LAYERS[preset]
    count = full if layers is None else layers
    scaled = [f"layers {count} of {full}"] if count < full else []
    if shard > 1:
        scaled.append(f"tensor-parallel part, 1 of {shard}")
    if preset == "llm-decode":
        rows = 1 if batch is None else batch
        if ctx != 2048:
            scaled.append(f"context {ctx} instead of 2048")
        ops = _llama(rows, shard, (Op("kv", "read", bytes=ctx * rows * KV_PER_TOKEN // shard),))
    elif preset == "llm-prefill":
        rows = 512 if batch is None else batch
        ops = _llama(rows, shard, (Op("attention", "heads", rows, rows, 2 * HEAD, HEADS // shard),))
    elif preset == "encoder":
        rows = BERT_ROWS
        ops = (
            Op("qkv", "gemm", rows, 3 * BERT // shard, BERT),
            Op("attention", "heads", rows, rows, 2 * BERT // BERT_HEADS, BERT_HEADS // shard),
            Op("o", "gemm", rows, BERT, BERT // shard),
            Op("ffn1", "gemm", rows, BERT_FFN // shard, BERT),
            Op("ffn2", "gemm", rows, BERT, BERT_FFN // shard),
        )
    elif preset == "recsys":
        rows = 2048 if batch is None else batch
        pairs = [("bottom", BOTTOM), ("top", TOP)]
        ops = (
            Op("gather", "gather", times=TABLES * rows, bytes=ROW_BYTES),
            *(
                Op(f"{name}{i}", "gemm", rows, dims[i + 1], dims[i])
                for name, dims in pairs
                for i in range(len(dims) - 1)
            ),
        )
        scaled.append(f"{ROWS} rows a table")
    else:
        rows = 1 if batch is None else batch
        n = max(int((l2_bytes / 2 / 3 / BYTES["f32"]) ** 0.5) // 16 * 16, 16)
        ops = (Op("own", "own", n, n, n, OWN_ROUNDS),)
    ctx = ctx if preset == "llm-decode" else 0
    return Model(
        preset=preset, batch=rows, dtype=dtype, layers=count, ops=ops, ctx=ctx, shard=shard, scaled=tuple(scaled)
    )


def with_prefill(decode: Model, rows: int) -> Model:
    """A decode model whose requests open with a prompt of so many rows, its weights in f32."""
    attention = (Op("attention", "heads", rows, rows, 2 * HEAD, HEADS // decode.shard),)
    ops = tuple(op._replace(name=f"prompt {op.name}") for op in _llama(rows, decode.shard, attention))
    return msgspec.structs.replace(decode, opening=ops)


def _llama(rows: int, shard: int, attention: tuple[Op, ...]) -> tuple[Op, ...]:
    return (
        Op("qkv", "gemm", rows, QKV // shard, HIDDEN),
        *attention,
        Op("o", "gemm", rows, HIDDEN, HIDDEN // shard),
        Op("gate_up", "gemm", rows, 2 * FFN // shard, HIDDEN),
        Op("down", "gemm", rows, HIDDEN, FFN // shard),
    )


def fit(
    preset: str, llc_bytes: int, free_bytes: int, copies: int = 1, size: int | None = None, **given: int | str
) -> Model:
    """The preset with as few layers as keep its weights out of the caches, if ``copies`` of it fit a quarter of memory.

    Fewer layers first, then a shorter context, then a tensor-parallel part; never smaller matrices, other types, or
    fewer barriers. ``size``: the smallest part of a layer that has so many bytes, whatever the caches hold. Raises
    UsageError with what is needed and what there is.
    """
    if preset in ("cached", *HOGS):
        return make(preset, **given)  # type: ignore[arg-type]
    if size is not None:
        parts = [make(preset, layers=1, shard=shard, **given) for shard in (*SHARDS, *SMALL_SHARDS)]  # type: ignore[arg-type]
        return [made for made in parts if made.weight_bytes >= size or made.shard == 1][-1]
    smallest = None
    for part in SHARDS if preset != "recsys" else (1,):
        for ctx in (2048, 512) if preset == "llm-decode" else (2048,):
            for layers in range(1, LAYERS[preset] + 1):
                made = make(preset, layers=layers, shard=part, **({"ctx": ctx} | given))  # type: ignore[arg-type]
                smallest = min(smallest or made, made, key=lambda m: m.weight_bytes + m.kv_bytes)
                if made.weight_bytes + made.kv_bytes >= 4 * llc_bytes:
                    break
            if copies * (made.weight_bytes + made.kv_bytes) <= free_bytes // 4:
                return made
            if "ctx" in given:
                break
    need = copies * (smallest.weight_bytes + smallest.kv_bytes) if smallest else 0
    raise UsageError(
        f"preset {preset} needs {4 * need / 2**30:.1f} GiB free for {copies} copies, {free_bytes / 2**30:.1f} GiB are"
    )


# ---- prediction ------------------------------------------------------------------------------------------------------


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured on the same CPUs and pages, minutes before: the whole team's figures.

    ``gflop_per_s`` by name of the operation, on data that lies in the caches; ``gather_gb_per_s`` of random rows.
    """

    read_gb_per_s: float
    barrier_ns: float
    gflop_per_s: dict[str, float]
    gather_gb_per_s: float = 0.0
    allreduce_ns: float = 0.0  # of the outputs of one operation, by all ranks of the model


PARTS = ("memory", "compute", "barriers", "all-reduce")


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """Least time of one step, ns, the part that dominates, and what became of it."""

    predicted_ns: float
    measured_ns: float
    dominant: str  # one of PARTS
    allreduce_share: float = 0.0  # of the predicted time

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.measured_ns / self.predicted_ns

    @property
    def verdict(self) -> str:
        """``explained``, or ``unexplained +x %``: never a guessed cause."""
        if abs(self.ratio - 1) <= EXPLAINED:
            return "explained"
        return f"unexplained {(self.ratio - 1) * 100:+.0f} %"


def predict(model: Model, ceilings: Ceilings, threads: int, measured_ns: float) -> Prediction:
    """T >= sum over operations of max(bytes / bandwidth, flops / rate) + barriers + all-reduces, from ceilings."""
    parts = dict.fromkeys(PARTS, 0.0) | {"barriers": model.barriers * ceilings.barrier_ns}
    if ceilings.allreduce_ns:  # each ends with a barrier of its own
        count = model.layers * sum(op in model.summed for op in model.ops)
        parts["all-reduce"] = count * (ceilings.allreduce_ns + ceilings.barrier_ns)
    for op in model.ops:
        compute = op.flops * (threads if op.kind == "own" else 1) / ceilings.gflop_per_s.get(op.name, float("inf"))
        size = op.bytes if op.kind == "read" else op.n * op.k * BYTES[model.dtype] if op.kind == "gemm" else 0
        memory = size / ceilings.read_gb_per_s
        if op.kind == "gather":
            memory = op.times * op.bytes / ceilings.gather_gb_per_s
        parts["memory" if memory >= compute else "compute"] += model.layers * max(memory, compute)
    return Prediction(
        predicted_ns=sum(parts.values()),
        measured_ns=measured_ns,
        dominant=max(parts, key=lambda name: parts[name]),
        allreduce_share=parts["all-reduce"] / sum(parts.values()),
    )


def regime(model: Model, ceilings: Ceilings) -> str:
    """Whether a decode step is bound by memory here, and a prefill step by compute, in words."""
    known = [value for value in ceilings.gflop_per_s.values() if value > 0]
    if model.preset not in ("llm-decode", "llm-prefill") or not known:
        return ""
    ridge = max(known) / ceilings.read_gb_per_s * BYTES[model.dtype] / 2
    if model.preset == "llm-decode":
        if model.batch <= ridge / 4:
            return f"bandwidth-bound: batch {model.batch} is below a quarter of the ridge ({ridge:.0f} rows)"
        return f"decode is not clearly bandwidth-bound here: batch {model.batch}, ridge {ridge:.1f} rows"
    if model.batch >= 4 * ridge:
        return f"compute-bound: {model.batch} rows are above four times the ridge ({ridge:.0f} rows)"
    return f"prefill is not clearly compute-bound here: {model.batch} rows, ridge {ridge:.0f} rows"


def cuts(total: int, parts: int, unit: int) -> list[tuple[int, int]]:
    """Split a length into parts that are multiples of ``unit``, as even as that allows; some may be empty."""
    units = -(-total // unit)
    bounds = [min(-(-units * i // parts) * unit, total) for i in range(parts + 1)]
    return [(bounds[i], bounds[i + 1]) for i in range(parts)]


def names(models: Sequence[Model]) -> str:
    """Models as people call them: ``llm-decode batch 8``."""
    return ", ".join(f"{m.preset} batch {m.batch}" if m.preset == "llm-decode" else m.preset for m in models)
