# SPDX-License-Identifier: Apache-2.0
"""Peak kernels do as many multiply-adds as they say: each adds one to a sum that comes back."""

from __future__ import annotations

import re

import pytest

from numabench import _core

from .test_disassembly import disassemble, loops

PEAK = [kernel for _, _, usable, found in _core.tiers() for kernel in found if usable and kernel.family == "peak"]
INSTRUCTION = {
    "peak_f32": r"vfmadd\d+ps",
    "peak_f64": r"vfmadd\d+pd",
    "peak_s8 widened": r"vpmaddwd",
    "peak_s8 avx512_vnni": r"vpdpbusd",
    "peak_bf16 widened": r"vfmadd\d+ps",
    "peak_bf16 avx512_bf16": r"vdpbf16ps",
}


def named(kernel: _core.Kernel) -> str:
    return "-".join(filter(None, (kernel.tier, kernel.name, kernel.variant)))


@pytest.mark.parametrize("kernel", PEAK, ids=named)
@pytest.mark.parametrize("steps", [0, 1, 7, 1000])
def test_returns_the_multiply_adds_done(kernel: _core.Kernel, steps: int) -> None:
    with _core.Team(_core.affinity()[:1]) as team:
        stamp = team.run([_core.Work(kernel, k=steps, loops=3, block=3)])[0]
    assert stamp.elements == stamp.sink == 3 * steps * kernel.shape[0] * kernel.shape[1]


@pytest.mark.parametrize("kernel", [k for k in PEAK if k.tier in {"avx2", "avx512"}], ids=named)
def test_the_loop_is_made_of_multiply_adds(kernel: _core.Kernel) -> None:
    wanted = INSTRUCTION[f"{kernel.name} {kernel.variant}".strip()]
    functions = disassemble()
    if not functions:
        pytest.skip("objdump is missing")
    name = {
        "peak_s8 avx512_vnni": "nmb_peak_s8_vnni",
        "peak_bf16 avx512_bf16": "nmb_peak_bf16_dp",
        "peak_bf16 widened": "nmb_peak_f32",
    }.get(f"{kernel.name} {kernel.variant}", f"nmb_{kernel.name}")
    found = loops(functions[kernel.tier, name])
    counts = [sum(bool(re.match(wanted, line.text)) for line in loop) for loop in found]
    assert max(counts) == kernel.shape[0]
