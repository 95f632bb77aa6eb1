# SPDX-License-Identifier: Apache-2.0
"""The shapes are the published ones, and scaling down leaves them alone."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from numabench import presets
from numabench.errors import UsageError
from numabench.instance.spec import SMALL, WIDE, some_columns


@pytest.mark.parametrize(("dtype", "megabytes"), [("f32", 872), ("bf16", 436), ("int8", 218)])
def test_a_layer_of_llama_weighs_what_it_does(dtype: str, megabytes: int) -> None:
    assert presets.make("llm-decode", dtype=dtype, layers=1).weight_bytes / 1e6 == pytest.approx(megabytes, abs=0.6)


def test_flops_and_bytes_of_the_presets() -> None:
    prefill = presets.make("llm-prefill")
    assert prefill.flops_per_step / 1e12 == pytest.approx(7.15 + 32 * 4.3e-3, rel=0.005)
    decode = presets.make("llm-decode")
    assert decode.weight_bytes / 1e9 == pytest.approx(14.0, rel=0.005)
    assert decode.kv_bytes == 2048 * 128 * 1024
    assert presets.make("llm-decode", batch=8).kv_bytes == 8 * decode.kv_bytes
    encoder = presets.make("encoder")
    assert encoder.flops_per_step / 1e9 == pytest.approx(246, rel=0.005)
    assert encoder.weight_bytes / 1e9 == pytest.approx(1.21, rel=0.005)
    recsys = presets.make("recsys")
    gathered = sum(op.times * op.bytes for op in recsys.ops if op.kind == "gather")
    assert gathered == 53248 * 512
    assert recsys.weight_bytes - recsys.table_bytes == pytest.approx(9.5e6, rel=0.01)
    assert recsys.flops_per_step / 2048 == pytest.approx(4.73e6, rel=0.01)
    cached = presets.make("cached", l2_bytes=1 << 20)
    assert 3 * cached.ops[0].n ** 2 * 4 <= 1 << 19
    assert decode.barriers == 32 * 5


def test_a_shard_is_a_shape_that_ranks_run() -> None:
    whole, part = presets.make("llm-decode", layers=1), presets.make("llm-decode", layers=1, shard=8)
    assert part.weight_bytes * 8 == whole.weight_bytes
    assert {op.name: (op.n, op.k) for op in part.ops if op.kind == "gemm"} == {
        "qkv": (768, 4096),
        "o": (4096, 512),
        "gate_up": (3584, 4096),
        "down": (4096, 1792),
    }
    assert part.barriers == whole.barriers
    assert any("1 of 8" in word for word in part.scaled)


def test_fitting_takes_fewer_layers_and_never_smaller_matrices() -> None:
    gib = 1 << 30
    big = presets.fit("llm-decode", llc_bytes=512 << 20, free_bytes=64 * gib)
    assert big.layers == 5
    assert big.weight_bytes + big.kv_bytes >= 4 * 512 << 20
    one = presets.fit("llm-decode", llc_bytes=32 << 20, free_bytes=64 * gib)
    assert one.layers == 1
    assert one.scaled == ("layers 1 of 32",)
    small = presets.fit("llm-decode", llc_bytes=8 << 20, free_bytes=gib)
    assert small.shard > 1
    assert small.ctx == 2048 or "context" in " ".join(small.scaled)
    assert small.ops[0].m == 1
    with pytest.raises(UsageError, match="GiB"):
        presets.fit("llm-decode", llc_bytes=32 << 20, free_bytes=64 << 20)
    with pytest.raises(UsageError, match="llm-decode"):
        presets.make("llm-dekode")
    with pytest.raises(UsageError, match="bf16"):
        presets.make("llm-decode", dtype="f64")


def test_prediction_by_hand() -> None:
    model = presets.make("llm-decode", layers=1)
    ceilings = presets.Ceilings(
        read_gb_per_s=40.0, barrier_ns=1000.0, gflop_per_s=dict.fromkeys(("qkv", "o", "gate_up", "down"), 400.0)
    )
    least = (model.weight_bytes + model.kv_bytes) / 40.0 + 5 * 1000.0
    found = presets.predict(model, ceilings, 2, least * 1.1)
    assert found.predicted_ns == pytest.approx(least)
    assert found.dominant == "memory"
    assert found.verdict == "explained"
    assert presets.predict(model, ceilings, 2, least * 1.3).verdict == "unexplained +30 %"
    summed = msgspec.structs.replace(ceilings, allreduce_ns=9000.0)
    found = presets.predict(model, summed, 2, least)
    assert found.predicted_ns == pytest.approx(least + 2 * (9000.0 + 1000.0))
    assert found.allreduce_share == pytest.approx(20000.0 / found.predicted_ns)
    assert "bandwidth-bound" in presets.regime(model, ceilings)
    slow = presets.Ceilings(read_gb_per_s=400.0, barrier_ns=1000.0, gflop_per_s={"qkv": 40.0, "o": 40.0})
    assert "not clearly" in presets.regime(model, slow)
    prefill = presets.make("llm-prefill", layers=1)
    fast = presets.Ceilings(
        read_gb_per_s=40.0,
        barrier_ns=1000.0,
        gflop_per_s={op.name: 400.0 for op in prefill.ops},
    )
    assert presets.predict(prefill, fast, 2, 1.0).dominant == "compute"
    assert "compute-bound" in presets.regime(prefill, fast)


def test_rates_come_from_columns_enough() -> None:
    assert some_columns(4096 * 4, 6144) == WIDE
    assert some_columns(14336 * 2, 4096) == WIDE
    assert some_columns(128 * 4, 4096) == SMALL // (128 * 4)
    assert some_columns(13 * 4, 512) == 512
    assert some_columns(4096 * 4, 40) == 40


def test_cuts_cover_and_keep_the_unit() -> None:
    for total, parts, unit in [(6144, 2, 32), (4096, 3, 32), (28672, 7, 16), (1, 4, 32), (256, 8, 64), (479, 2, 32)]:
        found = presets.cuts(total, parts, unit)
        assert found[0][0] == 0
        assert found[-1][1] == total
        assert all(a[1] == b[0] for a, b in itertools.pairwise(found))
        assert all(low % unit == 0 for low, high in found if high > low)
