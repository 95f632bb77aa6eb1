# SPDX-License-Identifier: Apache-2.0
"""The process of one instance: load, report, serve as told on stdin, prove, exit. One JSON line per answer."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from numabench import _core, kernels
from numabench.errors import NumabenchError
from numabench.instance.build import Built
from numabench.instance.exchange import vector_bytes
from numabench.instance.spec import Spec
from numabench.machine import Machine
from numabench.memory import Proof
from numabench.presets import Ceilings, Op

PR_SET_PDEATHSIG = 1
CEILING_NS, SHORT_WINDOWS = 60e6, 24
BARRIERS = 2000
ALLREDUCE_BYTES, FEWEST = 16 << 20, 4  # bytes added up for a ceiling, rounds at least


def main() -> int:
    """Read the orders; 0 at the end of stdin, 1 for an error, which is the last line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its instances itself
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    order = json.loads(sys.stdin.readline())
    try:
        spec = msgspec.convert(order["spec"], Spec, strict=False)
        if order["affinity"]:
            os.sched_setaffinity(0, order["affinity"])
        size = os.fstat(order["board"]).st_size
        with mmap.mmap(order["board"], size) as shared, _core.Board(shared) as board:
            _serve(spec, board)
    except NumabenchError as error:
        _say({"error": str(error)})
        return 1
    return 0


def _say(data: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(data) + "\n")
    sys.stdout.flush()


def _serve(spec: Spec, board: _core.Board) -> None:
    clock, machine, begun = _core.Clock(), Machine.load(), time.monotonic()
    with Built(spec, machine, clock, board) as built:
        _one_step(built)
        first = [buffer.proof() for buffer in built.buffers()]
        ram = sum(buffer.bytes for buffer in built.buffers()) + built.activations.bytes
        _say({"ready": True, "checksum": built.checksum(), "load_s": time.monotonic() - begun, "ram_bytes": ram})
        for line in sys.stdin:
            order = json.loads(line)
            do = order.pop("do")
            if do == "serve":
                _say(_run(built, order))
            elif do == "ceilings":
                _say(msgspec.to_builtins(ceilings(built)))
            elif do == "prove":
                _say(_prove(built, first))


def _one_step(built: Built) -> None:
    """The step whose checksum counts: the first."""
    now = _core.monotonic_ns()
    assert built.instance is not None
    built.instance.serve(built.team, now, until=now + 10**12, most=1, ranks=built.ranks)


def _run(built: Built, order: dict[str, int]) -> dict[str, Any]:
    assert built.instance is not None
    stamps = built.instance.serve(built.team, **order, opening=built.openings, ranks=built.ranks)
    return {
        "steps": built.instance.steps,
        "op_ns": built.instance.op_ns(built.clock),
        "cpus_seen": sorted({cpu for s in stamps for cpu in (s.cpu_start, s.cpu_end)}),
        "pinned": all(s.cpu in (_core.ANY_CPU, s.cpu_start) and s.cpu in (_core.ANY_CPU, s.cpu_end) for s in stamps),
        "tier": kernels.tiers_seen(s.tier for s in stamps),
        "switches": sum(s.involuntary_switches for s in stamps),
        "faults": sum(s.minor_faults for s in stamps),
    }


def _prove(built: Built, first: list[Proof]) -> dict[str, Any]:
    """Where the pages are now, how many moved since the load, and whether the outputs are still the same."""
    now = [buffer.proof() for buffer in built.buffers()]
    seen: dict[int, int] = {}
    for proof in now:
        for node, pages in proof.seen.items():
            seen[node] = seen.get(node, 0) + pages
    moved = sum(
        b.placement.moved_since(a.placement)
        for a, b in zip(first, now, strict=True)
        if a.placement is not None and b.placement is not None
    )
    wrong = sum(
        proof.misplaced(buffer.nodes)
        for proofs in (first, now)
        for buffer, proof in zip(built.buffers(), proofs, strict=True)
    )
    worst = min(now, key=lambda proof: proof.kind_share)
    return {
        "placement_seen": seen,
        "pages_checked": sum(proof.pages for proof in now),
        "pages_misplaced": wrong,
        "pages_absent": sum(proof.absent for proof in now),
        "page_step_bytes": now[0].step_bytes,
        "migrated": moved,
        "proof": now[0].how,
        "placement_how": built.how,
        "page_kind_seen": worst.kind_seen,
        "page_kind_share": worst.kind_share,
        "outputs": built.outputs(),
    }


# ---- ceilings --------------------------------------------------------------------------------------------------------


def ceilings(built: Built) -> Ceilings:
    """Bandwidth of these weights, rate of each operation out of the caches, and a barrier: the team's, measured now."""
    read = kernels.kernel("read", built.spec.tier)
    works = [_core.Work(read, a=(region, 0), bytes=region.bytes, block=1 << 20) for region in built.weights]
    rate = _elements(built, works) * read.bytes_read
    gathered = 0.0
    for op in built.spec.model.ops:
        if op.kind == "gather":
            found = [built.gather(op, t, loops=0) for t in range(built.threads)]
            gathered = _elements(built, found) * op.bytes
    rates = {op.name: _flops(built, op) for op in built.spec.model.ops if op.kind in ("gemm", "heads", "own")}
    return Ceilings(
        read_gb_per_s=rate,
        barrier_ns=_barrier(built),
        gflop_per_s=rates,
        gather_gb_per_s=gathered,
        allreduce_ns=_allreduce(built),
    )


def _elements(built: Built, works: Sequence[_core.Work | None], windows: int = 2) -> float:
    """Elements per ns of the team over a common window, the best: a ceiling is what was reached."""
    best = 0.0
    for _ in range(windows):
        stamps = [s for s in built.team.run(works, window_ns=2 * CEILING_NS / windows) if s is not None]
        span = max(s.end_ns for s in stamps) - min(s.start_ns for s in stamps)
        best = max(best, sum(s.elements for s in stamps) / span)
    return best


def _flops(built: Built, op: Op) -> float:
    """GFLOP/s of the team on a few columns of an operation's weights that stay in the caches.

    In short windows, some of which others leave alone: the step that it is compared with is a median.
    """
    return _elements(built, [built.small(op, t) for t in range(built.threads)], SHORT_WINDOWS) * 2


def _allreduce(built: Built) -> float:
    """ns to add up the outputs of an operation, when all ranks are there already; 0 for a model that is whole."""
    op = next((op for op in built.spec.model.ops if op in built.sums), None)
    if op is None or built.exchange is None:
        return 0.0
    rounds = max(min(ALLREDUCE_BYTES // vector_bytes(op), BARRIERS), FEWEST)
    first, many = ([built.exchange.work(op, t, loops) for t in range(built.threads)] for loops in (1, rounds))
    programs = [[*([a] if a else []), None, *([b] if b else []), None] for a, b in zip(first, many, strict=True)]
    with mmap.mmap(-1, _core.Board.bytes(1)) as memory, _core.Board(memory, clear=1) as board:
        together, now = _core.Instance(programs, built.spec.wait, board), _core.monotonic_ns()
        together.serve(built.team, now, until=now + 10**12, most=1)
        return together.op_ns(built.clock)[1] / rounds


def _barrier(built: Built) -> float:
    if built.threads == 1:
        return 0.0
    kernel = kernels.kernel("barrier", built.spec.tier)
    with _core.Region(4096, "base", "local") as lines:
        works = [
            _core.Work(
                kernel, shared=(lines, 0), part=t, parts=built.threads, wait=built.spec.wait, loops=BARRIERS
            )
            for t in range(built.threads)
        ]  # fmt: skip
        stamps = built.team.run(works)
    return (max(s.end_ns for s in stamps) - min(s.start_ns for s in stamps)) / BARRIERS


if __name__ == "__main__":
    sys.exit(main())
