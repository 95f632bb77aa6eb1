# SPDX-License-Identifier: Apache-2.0
"""Two processes add up their vectors through a pipe each way: us an all-reduce where ranks share no memory.

Reading, writing and adding are Python's and numpy's: some 5 us a round are theirs.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from statistics import fmean, median

from numabench.disturbance import Watch
from numabench.errors import NumabenchError
from numabench.jobs.base import Bench
from numabench.series import Case, Evidence, Options, Sample

__all__ = ["samples", "seconds"]

WINDOWS, WARM = 4, 20
CHUNK = 32 << 10  # both write before either reads: a pipe holds 64 KiB (pipe(7))
LIMIT_S, TAIL = 60.0, 0.99


def samples(bench: Bench, group: Sequence[Case], number: int, position: int, seed: int) -> list[Sample]:
    """Fresh processes for each case. Raises NumabenchError when one fails, or finds another sum than it should."""
    found = []
    for at, case in enumerate(group):
        watch = Watch(case.cpus)
        watch.start()
        each, seen = _run(case, seed)
        changes = watch.stop()
        rounds = int(case.params["rounds"])
        means = tuple(fmean(each[i : i + rounds]) for i in range(0, len(each), rounds))
        ordered = sorted(each)
        found.append(
            Sample(
                number=number,
                position=position + at,
                value=median(means),
                windows=means,
                evidence=Evidence(
                    proof="none",
                    cpus_asked=case.cpus,
                    cpus_seen=seen,
                    clock="monotonic",
                    steal_share=changes.steal_share,
                    throttled_us=changes.throttled_us,
                ),
                flags=(
                    *(("unpinned",) if seen != tuple(sorted(case.cpus)) else ()),
                    "unverified_placement",
                    *changes.flags,
                ),
                extras={"p50_us": median(each), "p99_us": ordered[int(TAIL * len(ordered))]},
            )
        )
    return found


def seconds(group: Sequence[Case], options: Options) -> float:
    """Starting two interpreters, then some 20 us a round and 2 GB/s."""
    del options
    return sum(0.7 + WINDOWS * int(case.params["rounds"]) * (20e-6 + int(case.params["size"]) / 2e9) for case in group)


def _run(case: Case, seed: int) -> tuple[list[float], tuple[int, ...]]:
    """us of every round as the first rank saw them, and the CPUs that the ranks were bound to."""
    there, back = os.pipe(), os.pipe()
    ends = ((back[0], there[1]), (there[0], back[1]))
    count = WINDOWS * int(case.params["rounds"])
    with ExitStack() as stack:
        ranks = []
        try:
            for rank, (cpu, fds) in enumerate(zip(case.cpus, ends, strict=True)):
                numbers = (rank, *fds, int(case.params["size"]), count, cpu, seed)
                argv = [sys.executable, "-c", f"from {__name__} import main; main()", *map(str, numbers)]
                process = subprocess.Popen(argv, pass_fds=fds, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                ranks.append(stack.enter_context(process))
                stack.callback(process.kill)  # before it is waited for: nothing when it has ended
        finally:
            for fd in (*there, *back):  # a rank that dies must be the end of the other's pipe
                os.close(fd)
        answers = []
        for process in ranks:
            try:
                out, said = process.communicate(timeout=LIMIT_S)
            except subprocess.TimeoutExpired as error:
                raise NumabenchError(f"a rank did not end within {LIMIT_S:g} s") from error
            if process.returncode:
                last = (said.decode(errors="replace").strip().splitlines() or ["no word"])[-1]
                raise NumabenchError(f"a rank ended with status {process.returncode}: {last}")
            answers.append(json.loads(out))
    return answers[0]["us"], tuple(sorted(cpu for answer in answers for cpu in answer["cpus"]))


def _rank(rank: int, source: int, sink: int, size: int, rounds: int, cpu: int, seed: int) -> dict[str, object]:
    """Exchange and add, chunk by chunk; the result is compared with the sum of both vectors. Raises NumabenchError."""
    import numpy as np

    os.sched_setaffinity(0, {cpu})
    inputs = [np.random.default_rng([seed, at]).random(size // 4, dtype="f4") for at in (0, 1)]
    mine, total, other = inputs[rank], np.empty_like(inputs[0]), np.empty_like(inputs[0])
    out, into = mine.data.cast("B"), other.data.cast("B")
    each = []
    with io.FileIO(source, "rb") as reader, io.FileIO(sink, "wb") as writer:
        for number in range(WARM + rounds):
            started = time.perf_counter_ns()
            for at in range(0, size, CHUNK):
                end = min(at + CHUNK, size)
                _all(writer.write, out[at:end])
                _all(reader.readinto, into[at:end])
                np.add(mine[at // 4 : end // 4], other[at // 4 : end // 4], out=total[at // 4 : end // 4])
            if number >= WARM:
                each.append((time.perf_counter_ns() - started) / 1e3)
    if not np.array_equal(total, inputs[0] + inputs[1]):
        raise NumabenchError("all-reduce: a result is not the sum of the inputs")
    return {"us": each if rank == 0 else [], "cpus": sorted(os.sched_getaffinity(0))}


def _all(move: Callable[[memoryview], int | None], part: memoryview) -> None:
    """Read or write until all of it is done. Raises NumabenchError at the other's end."""
    done = 0
    while done < len(part):
        count = move(part[done:])
        if not count:
            raise NumabenchError("the other rank has ended")
        done += count


def main() -> None:
    """One rank, from its arguments; figures as JSON."""
    try:
        print(json.dumps(_rank(*map(int, sys.argv[1:]))))
    except (NumabenchError, OSError) as error:
        sys.exit(str(error))
