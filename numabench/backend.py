# SPDX-License-Identifier: Apache-2.0
"""One pass over a case on real hardware: fresh buffers, warm-up, timed windows, and the evidence for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import NamedTuple, Protocol

from numabench import _core, kernels
from numabench.analysis import stats
from numabench.environment import Watch
from numabench.errors import NumabenchError
from numabench.evidence import evidence, flags
from numabench.gemm import GemmPlan
from numabench.machine import Machine
from numabench.memory import Buffer, allocate, touch_region
from numabench.series import Case, Evidence, Options, Sample

# Windows of one pass (method: a minimum depends on how many values it is taken from, so the count is fixed).
CHASE_WINDOWS, RATE_WINDOWS = 32, 5
CHASE_WINDOW_NS = {"quick": 2e6, "standard": 5e6, "full": 10e6}
RATE_WINDOW_NS = {"quick": 30e6, "standard": 50e6, "full": 100e6}
WARM_NS, WARM_LIMIT_NS = 5e6, {"quick": 0.3e9, "standard": 1e9, "full": 3e9}
CHASE_BLOCK, RATE_BLOCK, FIXED_LOADS = 1024, 1 << 20, 1 << 19
# Arrays of one thread start at odd distances, so that they do not share their offset within a page.
STAGGER = 17 * 64
Windows = list[list[_core.Stamp]]


class _Job(NamedTuple):
    """A prepared case: what each thread does, what a window's stamps amount to, and how many windows of what length."""

    works: list[_core.Work]
    figure: Callable[[list[_core.Stamp]], float]
    estimator: Callable[[Sequence[float]], float]
    windows: int
    window_ns: float
    ring_nodes: int = 0
    plan: GemmPlan | None = None


class Backend(Protocol):
    """Whoever can take a sample of each case of a group: the hardware, or a test's stand-in."""

    def measure(self, group: Sequence[Case], number: int, position: int, seed: int) -> list[Sample]:
        """One pass over the cases of a group; NumabenchError when a case cannot run."""


class Hardware:
    """The machine itself. A context manager: teams of threads live as long as it does."""

    def __init__(self, machine: Machine, options: Options) -> None:
        self.machine, self.options = machine, options
        self.clock = _core.Clock()
        self.teams: dict[tuple[int, ...], _core.Team] = {}

    def __enter__(self) -> Hardware:
        return self

    def __exit__(self, *exc: object) -> None:
        for team in self.teams.values():
            team.close()
        self.teams.clear()

    def team(self, cpus: tuple[int, ...]) -> _core.Team:
        """The team pinned to these CPUs."""
        if cpus not in self.teams:
            self.teams[cpus] = _core.Team(cpus, self.clock)
        return self.teams[cpus]

    def measure(self, group: Sequence[Case], number: int, position: int, seed: int) -> list[Sample]:
        """Allocate once for the group, then run each case of it. Raises NumabenchError."""
        with ExitStack() as stack:
            buffers = self._buffers(stack, group, seed)
            return [self._sample(case, buffers, number, position + i, seed) for i, case in enumerate(group)]

    @contextmanager
    def fixed_work(self, case: Case, seed: int) -> Iterator[Callable[[], object]]:
        """A call that does the same work every time it is made, for timing from outside."""
        with ExitStack() as stack:
            job = self._prepare(stack, case, self._buffers(stack, [case], seed), seed, loops=True)
            yield lambda: self.team(case.cpus).run(job.works)

    def _buffers(self, stack: ExitStack, group: Sequence[Case], seed: int) -> list[Buffer]:
        first = group[0]
        stream = kernels.kernel(first.kernel, first.tier).family == "stream"
        parts = max(len(case.cpus) for case in group) if stream else 1
        fill = "fill_f32" if first.kernel.endswith("f32") else "fill_f64"
        size = max(max(case.bytes for case in group) // parts, 1)
        return [
            stack.enter_context(
                allocate(
                    size,
                    first.target,
                    pages=first.pages,
                    machine=self.machine,
                    touch=first.touch_cpus,
                    fill=fill,
                    seed=seed + part,
                )
            )
            for part in range(parts)
        ]

    def _sample(self, case: Case, buffers: list[Buffer], number: int, position: int, seed: int) -> Sample:
        """Warm up, take the windows, prove: everything between two proofs of where the pages are."""
        with ExitStack() as stack:
            job = self._prepare(stack, case, buffers, seed)
            before = [buffer.proof() for buffer in buffers]
            watch = Watch(case.cpus)
            watch.start()
            windows, settled = self._windows(case, job)
            changes = watch.stop()
            after = [buffer.proof() for buffer in buffers]
            values = tuple(job.figure(stamps) for stamps in windows)
            checksum = job.plan.checksum(buffers[0]) if job.plan else ""
            seen = Evidence(
                **evidence(case, buffers, before, after, windows, changes, self.clock),  # type: ignore[arg-type]
                ring_nodes=job.ring_nodes,
                checksum=checksum,
            )
            return Sample(
                number=number,
                position=position,
                value=job.estimator(values),
                windows=values,
                evidence=seen,
                flags=flags(case, seen, changes, windows, settled, self.machine),
                extras={"median": median(values)},
            )

    def _prepare(self, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, loops: bool = False) -> _Job:
        family = kernels.kernel(case.kernel, case.tier).family
        prepare = {"chase": self._chase, "gemm": self._gemm}.get(family, self._rate)
        return prepare(stack, case, buffers, seed, loops)

    def _chase(self, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, loops: bool) -> _Job:
        region = buffers[0].region
        chains = int(case.params.get("chains", 1))
        stride, window = int(case.params["stride"]), int(case.params["window"])
        builders = self.team(case.touch_cpus or case.cpus)
        ring = _core.Ring(region, 0, min(case.bytes, region.bytes), stride, window, chains, seed)
        for name in ("ring_order", "ring_link", "ring_prove"):
            builders.run(
                [
                    _core.Work(_core.setup_kernel(name), ring=ring, part=i, parts=len(builders), loops=1)
                    for i in range(len(builders))
                ]
            )
        if not ring.proven:
            raise NumabenchError("the pointer ring is not one cycle: the buffer was written to, or memory is faulty")
        kernel = kernels.kernel(case.kernel, case.tier)
        work = _core.Work(kernel, ring=ring, chains=chains, block=CHASE_BLOCK, loops=FIXED_LOADS if loops else 0)

        def ns_per_load(stamps: list[_core.Stamp]) -> float:
            return (stamps[0].end_ns - stamps[0].start_ns) / stamps[0].elements

        length = CHASE_WINDOW_NS[self.options.profile]
        return _Job([work], ns_per_load, min, CHASE_WINDOWS, length, ring.nodes)

    def _rate(self, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, loops: bool) -> _Job:
        """Kernels over arrays: bandwidth of all threads in the common window, or ns per access with a stride."""
        kernel = kernels.kernel(case.kernel, case.tier)
        stride = int(case.params.get("stride", 0))
        block = max(RATE_BLOCK // stride * stride, stride) if stride else RATE_BLOCK
        works = []
        for part in range(len(case.cpus)):
            region = buffers[part % len(buffers)].region
            each = (region.bytes - STAGGER * kernel.arrays) // kernel.arrays // 4096 * 4096
            a, b, c = ((region, i * (each + STAGGER)) for i in range(3))
            works.append(
                _core.Work(
                    kernel,
                    a=a,
                    b=b,
                    c=c,
                    bytes=each,
                    stride=stride,
                    scalar=-1.0 if kernel.name == "update" else 0.5,
                    seed=seed + part,
                    block=block,
                    loops=int(loops),
                )
            )
        per_element = kernels.app_bytes(kernel)

        def figure(stamps: list[_core.Stamp]) -> float:
            elements = sum(stamp.elements for stamp in stamps)
            span = max(stamp.end_ns for stamp in stamps) - min(stamp.start_ns for stamp in stamps)
            return span * len(stamps) / elements if stride else elements * per_element / span

        return _Job(works, figure, median, RATE_WINDOWS, RATE_WINDOW_NS[self.options.profile])

    def _gemm(self, stack: ExitStack, case: Case, buffers: list[Buffer], seed: int, loops: bool) -> _Job:
        kernel = kernels.kernel(case.kernel, case.tier)
        plan = GemmPlan(kernel, case, buffers[0].region)
        scratch = []
        for cpu in case.cpus:  # packing buffers lie on the thread's own node
            node = self.machine.cpu(cpu).node
            region = stack.enter_context(
                _core.Region(plan.scratch_bytes, "thp", "local" if node is None else "bind", [node or 0])
            )
            touch_region(region, self.team((cpu,)), "fill_f64", seed)
            scratch.append(region)
        works = plan.works(scratch, int(loops))
        plan.check(self.team(case.cpus), plan.works(scratch, 1))

        def gflop_per_s(stamps: list[_core.Stamp]) -> float:
            span = max(stamp.end_ns for stamp in stamps) - min(stamp.start_ns for stamp in stamps)
            return sum(stamp.elements for stamp in stamps) * kernel.flops / span

        return _Job(works, gflop_per_s, median, RATE_WINDOWS, RATE_WINDOW_NS[self.options.profile], plan=plan)

    def _windows(self, case: Case, job: _Job) -> tuple[Windows, bool]:
        """Warm up until the figures settle or the limit is reached; then exactly so many windows."""
        team = self.team(case.cpus)
        limit = time.monotonic() + WARM_LIMIT_NS[self.options.profile] / 1e9
        warm: list[float] = []
        while not stats.steady(warm) and time.monotonic() < limit:
            warm.append(job.figure(team.run(job.works, window_ns=WARM_NS)))
        settled = stats.steady(warm)
        return [team.run(job.works, window_ns=job.window_ns, core_hz=True) for _ in range(job.windows)], settled
