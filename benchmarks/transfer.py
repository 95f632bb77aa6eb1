# SPDX-License-Identifier: Apache-2.0
"""Does our ranking of divisions hold for real engines? ONNX Runtime, OpenVINO or llama.cpp over the same divisions.

python -m benchmarks.transfer --python PYTHON [--engine NAME] [--preset llm-decode|encoder] [--passes N] [--json FILE]

PYTHON is an interpreter that has numpy, the engines and what makes their models (onnx; gguf and ctransformers). The
model has the shapes of our preset in f32, a chain of multiplications made here. llama.cpp goes alone: it runs a whole
layer in f16 beside ours in bf16. Every division runs in fresh processes, side by side in time, in random order within
each pass. With --json a later call goes on where this one ended.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from numabench import presets
from numabench.analysis import scaling, stats
from numabench.backend import Hardware
from numabench.experiments import serving
from numabench.experiments.divide import _arms
from numabench.machine import Machine
from numabench.series import Case, Options

ENGINE = Path(__file__).with_name("transfer_engine.py")
SECONDS = 1.0


def arms(machine: Machine, options: Options, preset: str, llama: bool) -> list[Case]:
    """Divisions that both sides know: private weights, bound to CPUs or not at all."""
    found = [(slots, binding) for slots, binding, weights in _arms(machine) if not weights and binding != "node"]
    shard = 4 if preset == "llm-decode" and not llama else 1
    model = presets.make(preset, layers=1, shard=shard, dtype="bf16" if llama else "f32")
    return [serving.case("divide", options, model, slots, binding) for slots, binding in found]


def engine(python: str, name: str, model: Path, case: Case) -> float:
    """Runs per second of all the engine's processes together."""
    threads, count = int(case.params["threads"]), int(case.params["instances"])
    children = []
    for i in range(count):
        cpus = case.cpus[i * threads : (i + 1) * threads] if case.params["binding"] == "cores" else ()
        words = [
            python,
            str(ENGINE),
            "run",
            name,
            str(model),
            str(threads),
            ",".join(map(str, cpus)),
            str(SECONDS),
        ]
        children.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for child in children:
        assert child.stdout is not None
        if child.stdout.readline() != "ready\n":
            raise SystemExit(f"{name} could not load: {serving.name_of(case)}")
    start = f"{time.time() + 0.2}\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write(start)
        child.stdin.flush()
    told = [json.loads(child.communicate()[0]) for child in children]
    return float(sum(one["runs"] for one in told)) / SECONDS


def main() -> int:
    parser = argparse.ArgumentParser(description="Our ranking of divisions against an engine's.")
    parser.add_argument("--python", required=True)
    parser.add_argument("--engine", action="append", choices=["onnxruntime", "openvino", "llamacpp"])
    parser.add_argument("--preset", default="llm-decode", choices=["llm-decode", "encoder"])
    parser.add_argument("--passes", type=int, default=8)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    machine, options = Machine.load(), Options(profile="quick", pages="thp")
    engines = asked.engine or ["onnxruntime", "openvino"]
    llama = engines == ["llamacpp"]
    if "llamacpp" in engines and (not llama or asked.preset != "llm-decode"):
        parser.error("llamacpp goes alone, with llm-decode: its model is another")
    cases = arms(machine, options, asked.preset, llama)
    shapes = [(op.m, op.k, op.n) for op in presets_of(cases[0]).ops if op.kind == "gemm"]
    found: dict[str, list[list[float]]] = {name: [[] for _ in cases] for name in ("numabench", *engines)}
    with tempfile.TemporaryDirectory() as folder, Hardware(machine, options) as hardware:
        model = Path(folder) / ("model.gguf" if llama else "model.onnx")
        words = ["make_gguf", str(model)] if llama else ["make", str(model), json.dumps(shapes)]
        subprocess.run([asked.python, str(ENGINE), *words], check=True)
        if asked.json and asked.json.exists():  # passes of an earlier run of the same plan
            found = json.loads(asked.json.read_text())["figures"]
        for number in range(len(found["numabench"][0]), asked.passes):
            order = random.Random(number).sample(range(len(cases)), len(cases))  # noqa: S311
            taken: dict[tuple[str, int], float] = {}
            for at in order:
                taken["numabench", at] = hardware.measure([cases[at]], number, at, number)[0].value
                for name in engines:
                    taken[name, at] = engine(asked.python, name, model, cases[at])
            for (name, at), value in taken.items():
                found[name][at].append(value)
            if asked.json:
                asked.json.write_text(json.dumps(reports(cases, found) | {"figures": found}))
            print(f"pass {number + 1} of {asked.passes}", file=sys.stderr, flush=True)
    print(json.dumps(reports(cases, found), indent=1))
    return 0


def reports(cases: list[Case], found: dict[str, list[list[float]]]) -> dict[str, Any]:
    """A report for each engine."""
    ours = found["numabench"]
    return {name: report(cases, ours, theirs) for name, theirs in found.items() if name != "numabench"}


def presets_of(case: Case) -> presets.Model:
    from numabench.jobs.instance import model_of

    return model_of(case)


def report(cases: list[Case], ours: list[list[float]], theirs: list[list[float]]) -> dict[str, Any]:
    """Medians, tau and regret, with intervals over resampled passes."""
    rows = [
        {
            "division": serving.name_of(case),
            "ours": median(a),
            "ours_ci": stats.median_interval(a),
            "engine": median(b),
            "engine_ci": stats.median_interval(b),
        }
        for case, a, b in zip(cases, ours, theirs, strict=True)
    ]
    draw, taus, losses = random.Random(1), [], []  # noqa: S311
    passes = range(len(ours[0]))
    for _ in range(2000):
        chosen = [draw.choice(passes) for _ in passes]
        a = [median(one[p] for p in chosen) for one in ours]
        b = [median(one[p] for p in chosen) for one in theirs]
        taus.append(scaling.kendall(a, b))
        losses.append(scaling.regret(a, b))
    mine, true = [median(a) for a in ours], [median(b) for b in theirs]
    taus.sort()
    losses.sort()
    return {
        "model": msgspec.to_builtins(cases[0].params),
        "rows": rows,
        "kendall_tau": scaling.kendall(mine, true),
        "kendall_tau_95": (taus[50], taus[-51]),
        "regret": scaling.regret(mine, true),
        "regret_95": (losses[50], losses[-51]),
        "passes": len(ours[0]),
    }


if __name__ == "__main__":
    sys.exit(main())
