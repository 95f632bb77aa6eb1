# SPDX-License-Identifier: Apache-2.0
"""The engine's side of transfer.py; runs in an interpreter of its own that has onnx, numpy and the engines."""

import json
import os
import sys
import time
from collections.abc import Callable

CONTEXT = 256  # tokens before a sequence starts anew


def make(path: str, shapes: list[list[int]]) -> None:
    """A chain of multiplications; where shapes do not follow each other, the first columns go on."""
    import numpy as np
    import onnx  # type: ignore[import-not-found]
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(1)
    nodes, weights, last, width = [], [], "x", shapes[0][1]
    for i, (_, k, n) in enumerate(shapes):
        if width != k:
            ends = [("starts", [0]), ("ends", [k]), ("axes", [1])]
            names = []
            for name, value in ends:
                weights.append(numpy_helper.from_array(np.array(value, dtype=np.int64), f"{name}{i}"))
                names.append(f"{name}{i}")
            nodes.append(helper.make_node("Slice", [last, *names], [f"cut{i}"]))
            last = f"cut{i}"
        values = (draw.random((k, n), dtype=np.float32) * 0.5 + 0.5) / (0.75 * k)
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"y{i}"]))
        last, width = f"y{i}", n
    first = helper.make_tensor_value_info("x", TensorProto.FLOAT, [shapes[0][0], shapes[0][1]])
    end = helper.make_tensor_value_info(last, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "chain", [first], [end], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


def make_gguf(path: str) -> None:
    """One layer of Llama-3.1-8B in f16, all of its matrices, and a vocabulary of bytes."""
    import gguf  # type: ignore[import-not-found]
    import numpy as np

    hidden, ffn, heads, groups, vocabulary = 4096, 14336, 32, 8, 259
    draw, writer = np.random.default_rng(1), gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(2 * CONTEXT)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([b"<unk>", b"<s>", b"</s>", *(f"<0x{i:02X}>".encode() for i in range(256))])
    writer.add_token_scores([0.0] * vocabulary)
    writer.add_token_types([2, 3, 3, *[6] * 256])
    shapes = {
        "token_embd": (vocabulary, hidden),
        "output": (vocabulary, hidden),
        "blk.0.attn_q": (hidden, hidden),
        "blk.0.attn_k": (hidden * groups // heads, hidden),
        "blk.0.attn_v": (hidden * groups // heads, hidden),
        "blk.0.attn_output": (hidden, hidden),
        "blk.0.ffn_gate": (ffn, hidden),
        "blk.0.ffn_up": (ffn, hidden),
        "blk.0.ffn_down": (hidden, ffn),
    }
    for name, shape in shapes.items():
        values = draw.random(shape, dtype=np.float32) * 0.02 - 0.01
        writer.add_tensor(f"{name}.weight", values.astype(np.float16))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(hidden, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def onnxruntime(path: str, threads: int) -> Callable[[], object]:
    """A call that runs the model once in ONNX Runtime."""
    import numpy as np
    import onnxruntime as ort  # type: ignore[import-not-found]

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {"x": np.full(session.get_inputs()[0].shape, 0.75, dtype=np.float32)}
    return lambda: session.run(None, feed)


def openvino(path: str, threads: int) -> Callable[[], object]:
    """A call that runs the model once in OpenVINO: one stream, f32 as the weights are, pinning left to the process."""
    import numpy as np
    import openvino as ov  # type: ignore[import-not-found]

    core = ov.Core()
    told = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(core.read_model(path), "CPU", told).create_infer_request()
    feed = np.full(tuple(request.get_input_tensor(0).shape), 0.75, dtype=np.float32)
    return lambda: request.infer([feed])


def llamacpp(path: str, threads: int) -> Callable[[], object]:
    """A call that takes one token through llama.cpp (as in ctransformers), weights read into memory of its own."""
    from ctransformers import LLM, Config  # type: ignore[import-not-found]

    llm = LLM(path, model_type="gguf", config=Config(threads=threads, context_length=2 * CONTEXT, mmap=False))

    done = 0

    def once() -> None:
        nonlocal done
        if done == CONTEXT:
            llm.reset()
            done = 0
        llm.eval([5])
        done += 1

    return once


ENGINES = {"onnxruntime": onnxruntime, "openvino": openvino, "llamacpp": llamacpp}


def run(engine: str, path: str, threads: int, cpus: str, seconds: float) -> None:
    """Load, wait for the common start, run back to back for so long; print how many runs were done."""
    if cpus:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    once = ENGINES[engine](path, threads)
    once()
    print("ready", flush=True)
    start = float(sys.stdin.readline())
    while time.time() < start:
        once()
    end, runs = start + seconds, 0.0
    while True:
        began = time.time()
        once()
        done = time.time()
        if done >= end:
            runs += max(0.0, (end - began) / (done - began))
            break
        runs += 1
    print(json.dumps({"runs": runs}))


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(sys.argv[2], json.loads(sys.argv[3]))
    elif sys.argv[1] == "make_gguf":
        make_gguf(sys.argv[2])
    else:
        run(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5], float(sys.argv[6]))
