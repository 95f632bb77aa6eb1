# SPDX-License-Identifier: Apache-2.0
"""Other programs and numabench in turn on this machine: ratios with their intervals, never absolute claims.

Example: python -m benchmarks.peers --multichase ./multichase --only chase
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median

import click
import msgspec
from rich.console import Console
from rich.table import Table

from numabench import gemm
from numabench.analysis import stats
from numabench.backend import Hardware
from numabench.machine import Machine
from numabench.series import Case, Options
from numabench.units import format_value

SET_BYTES = 10**9  # of all arrays together
CHASE_BYTES, CHASE_STRIDE, CHASE_WINDOW = 256 << 20, 256, 256 << 10  # multichase's own defaults
LEAST, DEFAULT = 6, 7
# Our kernel and likwid's of the same traffic; likwid's own `triad` has four arrays, `stream` is STREAM's.
LIKWID = {
    "read": "load",
    "write": "store",
    "write_nt": "store_mem",
    "copy": "copy",
    "copy_nt": "copy_mem",
    "triad": "stream",
    "triad_nt": "stream_mem",
}
NUMPY = """
import sys, time, numpy as np
dtype, n = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(1)
a, b, c = (rng.uniform(0.5, 1, (n, n)).astype(dtype) for _ in range(3))
np.matmul(a, b, out=c)
for _ in sys.stdin:
    rates = []
    while len(rates) < 5:
        loops, started = 0, time.perf_counter()
        while time.perf_counter() - started < 0.05:
            np.matmul(a, b, out=c)
            loops += 1
        rates.append(2 * n**3 * loops / (time.perf_counter() - started) / 1e9)
    print(sorted(rates)[2], flush=True)
"""
Figure = Callable[[], float]


class Duel(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison: ``share`` is ours over the rival's so that above 1 is better for us."""

    name: str
    rival: str
    unit: str
    ours: float
    theirs: float
    share: float
    ci: tuple[float, float] | None
    n: int


def _command(words: list[str], pattern: str) -> float:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = re.findall(pattern, done.stdout)
    if done.returncode or not found:
        said = (done.stderr or done.stdout).strip()[-200:]
        raise click.ClickException(f"{' '.join(words)} gave no figure (exit {done.returncode}): {said}")
    return float(found[-1])


def _likwid(test: str, threads: int) -> float:
    # It pins by itself, one thread per core of the machine, and first-touches; it refuses a narrowed mask.
    work = f"N:{SET_BYTES // 1000}kB:{threads}"
    return _command(["likwid-bench", "-t", test, "-w", work, "-s", "1"], r"MByte/s:\s+([\d.]+)") / 1000


def _case(machine: Machine, kernel: str, cpus: tuple[int, ...], pages: str, tier: str, **more: object) -> Case:
    fields = {"unit": "", "better": "high", "bytes": SET_BYTES, **more}
    return Case(
        experiment="peers",
        kernel=kernel,
        initiator=machine.cpu(cpus[0]).node,
        target=machine.cpu(cpus[0]).node,
        cpus=cpus,
        touch_cpus=cpus,
        pages=pages,
        tier=tier,
        **fields,  # type: ignore[arg-type]
    )


def _ours(hardware: Hardware, case: Case) -> Figure:
    numbers = iter(range(10**6))

    def take() -> float:
        number = next(numbers)
        return hardware.measure([case], number, number, number)[0].value

    return take


@contextmanager
def _numpy(dtype: str, n: int, cpus: tuple[int, ...]) -> Iterator[Figure]:
    unset = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # would slow a current OpenBLAS down
    env = {name: value for name, value in os.environ.items() if name not in unset}
    env["OPENBLAS_NUM_THREADS"] = str(len(cpus))
    words = ["taskset", "-c", ",".join(map(str, cpus)), sys.executable, "-c", NUMPY, dtype, str(n)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as child:

        def take() -> float:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write("\n")
            child.stdin.flush()
            return float(child.stdout.readline())

        yield take
        assert child.stdin is not None
        child.stdin.close()


def duel(name: str, unit: str, ours: dict[str, Figure], theirs: dict[str, Figure], rounds: int, lower: bool) -> Duel:
    """Everyone in turn, ``rounds`` times; the best of each side by median, compared round by round."""
    taken: dict[str, list[float]] = {who: [] for who in (*ours, *theirs)}
    for number in range(rounds):
        order = [*ours.items(), *theirs.items()]
        for who, take in order if number % 2 else reversed(order):
            taken[who].append(take())
    best = min if lower else max
    we, they = (best(side, key=lambda who: median(taken[who])) for side in (ours, theirs))
    share = stats.ratio(taken[they], taken[we]) if lower else stats.ratio(taken[we], taken[they])
    return Duel(
        name=f"{name} ({we})",
        rival=they,
        unit=unit,
        ours=median(taken[we]),
        theirs=median(taken[they]),
        share=share.value,
        ci=share.ci,
        n=rounds,
    )


def _chases(hardware: Hardware, machine: Machine, program: str, rounds: int) -> Iterator[Duel]:
    cpu = machine.allowed_cpus[:1]
    shape = {"stride": CHASE_STRIDE, "window": CHASE_WINDOW}
    for pages, flag in (("base", []), ("thp", ["-H"])):
        case = _case(machine, "chase", cpu, pages, "best", better="low", bytes=CHASE_BYTES, params=shape)
        words = [
            "taskset",
            "-c",
            str(cpu[0]),
            program,
            "-s",
            str(CHASE_STRIDE),
            "-m",
            str(CHASE_BYTES),
            "-T",
            str(CHASE_WINDOW),
            "-n",
            "3",
            *flag,
        ]
        theirs: dict[str, Figure] = {"multichase": partial(_command, words, r"([\d.]+)")}
        yield duel(f"chase, {pages}", "ns", {"best": _ours(hardware, case)}, theirs, rounds, lower=True)


def _streams(hardware: Hardware, machine: Machine, rounds: int) -> Iterator[Duel]:
    tests = subprocess.run(["likwid-bench", "-a"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"^(\w+) -", tests, re.M))
    every = machine.one_cpu_per_core(machine.allowed_cpus)
    for cpus in dict.fromkeys((every[:1], every)):
        for kernel, base in LIKWID.items():
            ours = {tier: _ours(hardware, _case(machine, kernel, cpus, "base", tier)) for tier in ("avx2", "avx512")}
            rivals = [test for test in (f"{base}_avx", f"{base}_avx512") if test in known]
            theirs: dict[str, Figure] = {test: partial(_likwid, test, len(cpus)) for test in rivals}
            yield duel(f"{kernel}, {len(cpus)} threads", "GB/s", ours, theirs, rounds, lower=False)


def _gemms(hardware: Hardware, machine: Machine, rounds: int) -> Iterator[Duel]:
    cpu = machine.allowed_cpus[:1]
    for kernel, dtype, size in (("gemm_f32", "f4", 4), ("gemm_f64", "f8", 8)):
        for n in (1024, 2048):
            case = _case(
                machine,
                kernel,
                cpu,
                "thp",
                "best",
                bytes=gemm.bytes_needed(n, n, n, size),
                params={"m": n, "n": n, "k": n},
            )
            with _numpy(dtype, n, cpu) as theirs:
                yield duel(
                    f"{kernel} n={n}, 1 thread",
                    "GFLOP/s",
                    {"best": _ours(hardware, case)},
                    {"numpy": theirs},
                    rounds,
                    lower=False,
                )


@click.command(help=__doc__)
@click.option("--only", type=click.Choice(["chase", "stream", "gemm"]), multiple=True, help="These families only.")
@click.option("--multichase", default="multichase", show_default=True, help="The program, by name or path.")
@click.option("--rounds", type=click.IntRange(LEAST, 100), default=DEFAULT, show_default=True, help="Alternations.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, writable=True), help="Write the figures as JSON.")
def main(only: tuple[str, ...], multichase: str, rounds: int, output: str | None) -> None:
    machine = Machine.load()
    console, notes = Console(), []
    found: list[Duel] = []
    with Hardware(machine, Options(profile="standard")) as hardware:
        families: dict[str, tuple[bool, str, Callable[[], Iterator[Duel]]]] = {
            "chase": (
                shutil.which(multichase) is not None,
                "multichase is not here: build it from its public repository and give --multichase PATH",
                lambda: _chases(hardware, machine, multichase, rounds),
            ),
            "stream": (
                shutil.which("likwid-bench") is not None,
                "likwid-bench is not here: apt-get install likwid",
                lambda: _streams(hardware, machine, rounds),
            ),
            "gemm": (True, "", lambda: _gemms(hardware, machine, rounds)),
        }
        for name, (there, missing, duels) in families.items():
            if only and name not in only:
                continue
            if not there:
                notes.append(missing)
                continue
            for one in duels():
                found.append(one)
                console.print(f"{one.name:34} {one.share:.3f} of {one.rival}", highlight=False, style="dim")
    table = Table("ours", "rival", "unit", "ours", "theirs", "better by a factor of", box=None, pad_edge=False)
    for one in found:
        span = f" [{one.ci[0]:.3f}, {one.ci[1]:.3f}]" if one.ci else ""
        table.add_row(
            one.name, one.rival, one.unit, format_value(one.ours), format_value(one.theirs), f"{one.share:.3f}x{span}"
        )
    console.print(machine.describe(), highlight=False)
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)
    if output:
        with open(output, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(found), indent=1))


if __name__ == "__main__":
    main()
