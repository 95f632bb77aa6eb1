# SPDX-License-Identifier: Apache-2.0
"""One library's multiplication, timed in a process of its own: a figure for every line that comes in.

Arguments: library kind (numpy, cblas, mkl, onednn), its path, type (f32, f64, bf16, s8), m, n, k. GFLOP/s, the median
of five windows of 50 ms, or of as few as take half a second. Calls go through the C interfaces, by ctypes: that of the
reference BLAS (Netlib's cblas.h), cblas_gemm_bf16bf16f32 and cblas_gemm_s8u8s32 of MKL's developer reference, and the
matmul primitive of oneDNN's dnnl.h. All operands are row-major as they lie; none is packed beforehand, as ours are not.
Bytes are of all values; a library that is right only where they are half as large says ``saturates``: without VNNI
products of bytes are often added in 16 bits (VPMADDUBSW).
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

ROW_MAJOR, NO_TRANSPOSE, FIX_OFFSET = 101, 111, 173  # mkl_cblas.h
DNNL_CPU, DNNL_TYPES, DNNL_AB, IN_ORDER, ARGS = 1, {"f32": 3, "bf16": 2, "s8": 5, "s32": 4}, 3, 1, (1, 33, 17)
UNIMPLEMENTED = 3  # dnnl_types.h
WINDOWS, WINDOW_S, ENOUGH_S = 5, 0.05, 0.5

Call = Callable[[], object]


def _operands(kind: str, m: int, n: int, k: int, top: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(1)
    if kind == "s8":
        a, b = (rng.integers(-top, top, shape).astype("i1") for shape in ((m, k), (k, n)))
        return a, b, np.zeros((m, n), "i4")
    dtype = "f8" if kind == "f64" else "f4"
    a, b = (rng.uniform(0.5, 1, shape).astype(dtype) for shape in ((m, k), (k, n)))
    if kind == "bf16":
        a, b = ((x.view("u4") >> 16).astype("u2") for x in (a, b))
    return a, b, np.zeros((m, n), dtype)


def _cblas(path: str, kind: str, m: int, n: int, k: int, arrays: tuple[Any, Any, Any]) -> Call:
    library = ctypes.CDLL(path)
    scalar = ctypes.c_double if kind == "f64" else ctypes.c_float
    fixed = [ctypes.c_int(x) for x in (ROW_MAJOR, NO_TRANSPOSE, NO_TRANSPOSE)]
    sizes = [ctypes.c_int(x) for x in (m, n, k)]
    a, b, c = (ctypes.c_void_p(x.ctypes.data) for x in arrays)
    lda, ldb, ldc = (ctypes.c_int(x) for x in (k, n, n))
    if kind == "s8":
        # A is unsigned here: the same bytes, 128 higher; the offset makes the product the same.
        fixed.insert(3, ctypes.c_int(FIX_OFFSET))
        offset, zero = ctypes.c_byte(-128), ctypes.c_byte(0)
        none = ctypes.byref(ctypes.c_int(0))
        arrays[0][:] ^= np.int8(-128)
        words = [*fixed, *sizes, scalar(1), a, lda, offset, b, ldb, zero, scalar(0), c, ldc, none]
        return lambda: library.cblas_gemm_s8u8s32(*words)
    call = {"f32": "cblas_sgemm", "f64": "cblas_dgemm", "bf16": "cblas_gemm_bf16bf16f32"}[kind]
    function = getattr(library, call)
    function.restype = None
    words = [*fixed, *sizes, scalar(1), a, lda, b, ldb, scalar(0), c, ldc]
    return lambda: function(*words)


def _onednn(path: str, kind: str, m: int, n: int, k: int, arrays: tuple[Any, Any, Any]) -> Call:
    library = ctypes.CDLL(path)

    def do(name: str, *words: object) -> None:
        status = getattr(library, name)(*words)
        if status == UNIMPLEMENTED:
            raise NotImplementedError
        if status:
            raise SystemExit(f"{name}: status {status}")

    def handle() -> ctypes.c_void_p:
        return ctypes.c_void_p()

    engine, stream, plan, primitive = handle(), handle(), handle(), handle()
    do("dnnl_engine_create", ctypes.byref(engine), DNNL_CPU, ctypes.c_size_t(0))
    do("dnnl_stream_create", ctypes.byref(stream), engine, IN_ORDER)
    kinds = (kind, kind, "s32" if kind == "s8" else "f32")
    layouts, memories = [], []
    for array, shape, one in zip(arrays, ((m, k), (k, n), (m, n)), kinds, strict=True):
        layout, memory = handle(), handle()
        dims = (ctypes.c_int64 * 2)(*shape)
        do("dnnl_memory_desc_create_with_tag", ctypes.byref(layout), 2, dims, DNNL_TYPES[one], DNNL_AB)
        do("dnnl_memory_create", ctypes.byref(memory), layout, engine, ctypes.c_void_p(array.ctypes.data))
        layouts.append(layout)
        memories.append(memory)
    do("dnnl_matmul_primitive_desc_create", ctypes.byref(plan), engine, layouts[0], layouts[1], None, layouts[2], None)
    do("dnnl_primitive_create", ctypes.byref(primitive), plan)

    class Argument(ctypes.Structure):
        _fields_ = (("index", ctypes.c_int), ("memory", ctypes.c_void_p))

    words = (Argument * 3)(*(Argument(index, memory.value) for index, memory in zip(ARGS, memories, strict=True)))

    def call() -> None:
        do("dnnl_primitive_execute", primitive, stream, 3, words)
        do("dnnl_stream_wait", stream)

    return call


def _right(kind: str, arrays: tuple[Any, Any, Any], row: Any) -> bool:
    """Whether the last row of C is what the first call should have made of ``row`` and B."""
    _, b, c = arrays
    if kind == "bf16":
        row, b = ((x.astype("u4") << 16).view("f4") for x in (row, b))
    wanted = row.astype("f8") @ b.astype("f8")
    return bool(np.allclose(c[-1], wanted, rtol=0 if kind == "s8" else 1e-4))


def windows(take: Callable[[], float]) -> float:
    """The median of so many windows; calls that are windows by themselves are not repeated for long."""
    started, found = time.perf_counter(), [take()]
    while len(found) < WINDOWS and time.perf_counter() - started < ENOUGH_S:
        found.append(take())
    return median(found)


def _window(call: Call, operations: int) -> float:
    loops, started, took = 0, time.perf_counter(), 0.0
    while took < WINDOW_S:
        call()
        loops += 1
        took = time.perf_counter() - started
    return operations * loops / took / 1e9


def main(library: str, path: str, kind: str, *sizes: str) -> None:
    m, n, k = map(int, sizes)
    words = {128: "right", 64: "saturates"} if kind == "s8" else {128: "right"}
    for top, word in words.items():
        arrays = _operands(kind, m, n, k, top)
        row = arrays[0][-1].copy()
        if library == "numpy":
            call: Call = partial(np.matmul, arrays[0], arrays[1], out=arrays[2])
        else:
            try:
                call = (_onednn if library == "onednn" else _cblas)(path, kind, m, n, k, arrays)
            except NotImplementedError:
                print("unimplemented", flush=True)
                return
        call()
        if _right(kind, arrays, row):
            print(word, flush=True)
            break
    else:
        print("wrong", flush=True)
    for _ in sys.stdin:
        print(windows(lambda: _window(call, 2 * m * n * k)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
