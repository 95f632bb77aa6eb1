# SPDX-License-Identifier: Apache-2.0
"""Faults that have fooled benchmarks, and how each is planted on this machine."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from numabench import _core, kernels
from numabench.backend import Hardware
from numabench.environment import free_bytes
from numabench.errors import NumabenchError, Unsupported
from numabench.jobs.base import Stamps
from numabench.machine import Machine
from numabench.memory import Buffer, allocate
from numabench.series import Case, Options, Sample

BYTES, MIB = 16 << 20, 1 << 20
# Times the caches: a ring of one line in 256 bytes of which a half is within 5 % of the whole, though a cache that
# resists thrashing always holds a part of it, and answers in a fifth of the time.
PLATEAU = 4 * 18
MADV_DONTNEED, MADV_HUGEPAGE, MADV_COLLAPSE, MPOL_MF_MOVE = 4, 14, 25, 2
NEIGHBOUR_SHARE = 0.2  # of a CPU, below which another process is no neighbour to speak of
ATTEMPTS = 3  # of a fault that needs the system's scheduler to play along


class Refused(NumabenchError):
    """A planted fault was noticed before anything was measured."""


class Fault(NamedTuple):
    """A fault: the flag that must be raised (without one: the run must refuse), and how it is planted."""

    name: str
    fools: str
    flag: str
    plant: Callable[[Bench], Sample]
    attempts: int = 1


class Bench(Hardware):
    """The hardware with hooks: ``during`` is called in the midst of the windows, ``alter`` sees every stamp."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine, Options(profile="quick"))
        self.during: Callable[[], object] | None = None
        self.alter: Callable[[_core.Stamp], _core.Stamp] | None = None
        self.windows_left = 0

    @property
    def node(self) -> int:
        """The node that faults are planted on: the first with CPUs and memory."""
        both = [n for n in self.machine.initiators() if n in self.machine.targets()]
        if not both:
            raise Unsupported("no node has both CPUs and memory that are allowed")
        return both[0]

    def case(self, kernel: str = "read", pages: str = "base", size: int = BYTES, cpu: int | None = None) -> Case:
        """A case of one thread on memory of its own node."""
        first = self.machine.cpus_of(self.node)[0] if cpu is None else cpu
        chase = {"stride": 256, "window": 64 * 4096} if kernel == "chase" else {}
        return Case(
            experiment="selftest",
            kernel=kernel,
            unit="ns" if kernel == "chase" else "GB/s",
            better="low" if kernel == "chase" else "high",
            initiator=self.node,
            target=self.node,
            cpus=(first,),
            touch_cpus=(first,),
            pages=pages,
            bytes=size,
            params=dict(chase),
            cache_suspect=size < 4 * self.machine.llc_bytes((first,)),
        )

    def sample(self, case: Case, buffers: Sequence[Buffer]) -> Sample:
        """One pass over a case on given buffers."""
        return self._sample(case, list(buffers), 0, 0, 1)

    def clean(self, kernel: str) -> Case:
        """A case that caches show nothing of; ``cache_suspect`` where memory is too small for that."""
        caches = self.machine.llc_bytes(self.machine.cpus_of(self.node))
        size = max(caches * (PLATEAU if kernel == "chase" else 4), BYTES)
        fits = min(size, (free_bytes(self.node) or size) // 4) // (2 * MIB) * 2 * MIB
        return structs.replace(self.case(kernel, "thp", size=fits), cache_suspect=fits < size)

    def ordinary(self, case: Case, number: int = 0) -> Sample:
        """One pass as it should be."""
        return self.measure([case], number, number, 1 + number)[0]

    def _window(self, team: _core.Team, works: list[_core.Work], window_ns: float, core_hz: bool = False) -> Stamps:
        if core_hz and self.during:
            self.during()
        stamps = super()._window(team, works, window_ns, core_hz)
        return [self.alter(stamp) for stamp in stamps] if self.alter else stamps

    def once(self, act: Callable[[], object]) -> None:
        """Act before the second timed window, and only then."""
        seen = iter(range(1 << 30))
        self.during = lambda: act() if next(seen) == 1 else None


def _untouched(bench: Bench) -> Sample:
    """A buffer that was read before it was written is the shared zero page, and sits in the cache."""
    case = bench.case()
    with _core.Region(case.bytes, "base", "bind", [bench.node]) as region, Buffer(region, (bench.node,), "bind") as it:
        return bench.sample(case, [it])


def _wrong_node(bench: Bench) -> Sample:
    case, other = bench.case(), _other(bench)
    with allocate(case.bytes, other, machine=bench.machine) as buffer:
        lying = Buffer(buffer.region, (bench.node,), "bind")
        return bench.sample(case, [lying])


def _other(bench: Bench) -> int:
    others = [node for node in bench.machine.targets() if node != bench.node]
    if not others:
        raise Unsupported("this machine shows one node")
    return others[0]


def _short_cycle(bench: Bench) -> Sample:
    """A ring spliced so that it closes after half of its nodes: the order is made, then a pointer is turned back."""
    case = bench.case("chase")
    with ExitStack() as stack:
        buffer = stack.enter_context(allocate(case.bytes, bench.node, machine=bench.machine))
        team, region = bench.team(case.cpus), buffer.region
        ring = _core.Ring(region, 0, region.bytes, 256, 64 * 4096, 1, 1)
        for name in _core.RING_JOBS[:-1]:
            team.run([_core.Work(_core.setup_kernel(name), ring=ring, part=0, parts=1, loops=1)])
        words, base, start = region.as_array("u8"), region.address, ring.start()
        assert start is not None
        at = start
        for _ in range(ring.nodes // 2):
            at = int(words[(at - base) // 8])
        words[(at - base) // 8] = start
        del words
        if ring.walk(ring.nodes) == ring.nodes:
            raise Unsupported("the ring could not be spliced")
        team.run([_core.Work(_core.setup_kernel("ring_prove"), ring=ring, part=0, parts=1, loops=1)])
        try:
            work = _core.Work(kernels.kernel("chase", "best"), ring=ring, chains=1, block=1024)
        except NumabenchError as error:
            raise Refused(str(error)) from error
        team.run([work], window_ns=1e6)
    return bench.ordinary(case)


def _fits_cache(bench: Bench) -> Sample:
    from numabench.experiments import latency

    options = Options(bytes=MIB, pages="base", profile="quick")
    case = next(c for c in latency.Latency().plan(bench.machine, options) if not c.unavailable)
    return bench.ordinary(case)


def _edge_of_cache(bench: Bench) -> Sample:
    """Lines that just do not fit into the second cache: half of them do."""
    second = [cache.bytes for cache in bench.machine.caches if cache.level == 2]
    if not second:
        raise Unsupported("the system does not tell the size of the second cache")
    # A node of the ring is 256 bytes and one line of the cache.
    sample = bench.ordinary(bench.case("chase", size=4 * 3 * second[0] // 2))
    if "not_plateau" not in sample.flags and {"contended", "stolen"} & set(sample.flags):
        raise Unsupported("others used this core and its cache meanwhile")
    return sample


def _learned(bench: Bench) -> Sample:
    """A round takes 40 ms; from the second one over the same ring on a tenth less, as if something knew it."""
    return paced(bench, lambda rounds, _: 1.1 if rounds >= 1 else 1.0)


def paced(bench: Bench, speed: Callable[[float, float], float]) -> Sample:
    """A chase at 40 ms a round times what ``speed`` makes of the rounds so far, over this ring and over all."""
    case, walked = structs.replace(bench.case("chase"), cache_suspect=False), Counter[_core.Ring]()
    nodes, honest = case.bytes // int(case.params["stride"]), bench.team

    class Paced:
        def __init__(self, cpus: tuple[int, ...]) -> None:
            self.real = honest(cpus)

        def __len__(self) -> int:
            return len(self.real)

        def run(self, works: list[_core.Work], window_ns: float = 0.0, core_hz: bool = False) -> Stamps:
            stamps, ring = self.real.run(works, window_ns=window_ns, core_hz=core_hz), works[0].ring
            if ring is None or not window_ns:
                return stamps
            rounds = [walked[ring] / nodes, walked.total() / nodes]
            loads = int(window_ns / 40e6 * nodes * speed(*rounds))
            walked[ring] += loads
            # As long as asked for, so that others who take the CPU meanwhile change nothing.
            return [stamps[0]._replace(end_ns=stamps[0].start_ns + window_ns, elements=float(loads))]

    bench.team = Paced  # type: ignore[method-assign, assignment]
    return bench.ordinary(case)


def _coarse_clock(bench: Bench) -> Sample:
    """As many readings as if each block took less than the clock's."""
    bench.alter = lambda stamp: stamp._replace(calls=int((stamp.end_ns - stamp.start_ns) / bench.clock.overhead_ns))
    return bench.ordinary(bench.case())


def _collapse(bench: Bench) -> Sample:
    """Half of a buffer of base pages is made of huge pages in the midst of it, as khugepaged would."""
    case = bench.case()
    with allocate(case.bytes, bench.node, machine=bench.machine) as buffer:
        region, start = buffer.region, -(-buffer.region.address // (2 * MIB)) * 2 * MIB

        def collapse() -> None:
            _advise(region.address, region.bytes, MADV_HUGEPAGE)
            _advise(start, region.bytes // 2, MADV_COLLAPSE)

        bench.once(collapse)
        return bench.sample(case, [buffer])


def _advise(address: int, size: int, advice: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), advice) != 0:
        raise Unsupported(f"madvise({advice}): {os.strerror(ctypes.get_errno())}", ctypes.get_errno())


def _migration(bench: Bench) -> Sample:
    case, other = bench.case(), _other(bench)
    with allocate(case.bytes, bench.node, machine=bench.machine) as buffer:
        bench.once(lambda: _move(buffer.region.address, case.bytes // 4096 // 8, other))
        return bench.sample(case, [buffer])


def _move(address: int, count: int, node: int) -> None:
    try:
        libnuma = ctypes.CDLL("libnuma.so.1", use_errno=True)
    except OSError as error:
        raise Unsupported(str(error)) from error
    pages = (ctypes.c_void_p * count)(*(address + i * 4096 for i in range(count)))
    nodes, status = (ctypes.c_int * count)(*[node] * count), (ctypes.c_int * count)()
    if libnuma.move_pages(0, ctypes.c_ulong(count), pages, nodes, status, MPOL_MF_MOVE) < 0:
        raise Unsupported(f"move_pages: {os.strerror(ctypes.get_errno())}", ctypes.get_errno())


def _dropped(bench: Bench) -> Sample:
    """Pages that the system took away in the midst of it."""
    case = bench.case()
    with allocate(case.bytes, bench.node, machine=bench.machine) as buffer:
        bench.once(lambda: _advise(buffer.region.address, case.bytes // 2, MADV_DONTNEED))
        return bench.sample(case, [buffer])


def _strayed(bench: Bench) -> Sample:
    """The measuring thread is moved to another CPU."""
    case = bench.case()
    if len(bench.machine.allowed_cpus) < 2:
        raise Unsupported("one CPU is allowed")
    bench.team(case.cpus)
    away = [cpu for cpu in bench.machine.allowed_cpus if cpu != case.cpus[0]][:1]

    def stray() -> None:
        for tid in bench.members[case.cpus]:
            _core.set_affinity(away, tid)

    bench.once(stray)
    return bench.ordinary(case)


@contextmanager
def _quota(share: float) -> Iterator[None]:
    """A control group of this process with a share of one CPU; taken away again. Raises Unsupported."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    old = next((path for _, names, path in lines if "cpu" in names.split(",")), None)
    now = next((path for number, _, path in lines if number == "0"), None)
    root = Path("/sys/fs/cgroup/cpu" if old is not None else "/sys/fs/cgroup")
    home = root / (old if old is not None else now or "/").strip("/")
    group, period = home / f"numabench-selftest-{os.getpid()}", 10_000
    try:
        group.mkdir()
    except OSError as error:
        raise Unsupported(f"no control group can be made in {home}: {error.strerror}") from error
    try:
        try:
            if old is not None:
                (group / "cpu.cfs_period_us").write_text(str(period))
                (group / "cpu.cfs_quota_us").write_text(str(int(period * share)))
            else:
                (group / "cpu.max").write_text(f"{int(period * share)} {period}")
            (group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError as error:
            raise Unsupported(f"no quota can be set in {group}: {error.strerror}") from error
        yield
    finally:
        with suppress(OSError):
            (home / "cgroup.procs").write_text(str(os.getpid()))
        for _ in range(50):
            with suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.02)


def _throttled(bench: Bench) -> Sample:
    with _quota(0.3):
        return bench.ordinary(bench.case())


def _neighbour(bench: Bench) -> Sample:
    """Another process that computes on the same CPU."""
    case = bench.case()
    program = f"import os\nos.sched_setaffinity(0, [{case.cpus[0]}])\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-S", "-c", program], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            ran, began = _ran_s(child.pid), time.monotonic()
            sample = bench.ordinary(case)
            share = (_ran_s(child.pid) - ran) / (time.monotonic() - began)
            if share < NEIGHBOUR_SHARE and "contended" not in sample.flags:
                raise Unsupported(f"the neighbour got {share * 100:.0f} % of the CPU: too little to be one")
            return sample
        finally:
            child.kill()


def _ran_s(pid: int) -> float:
    """Seconds of CPU time of a process's main thread: first field of its schedstat, in ns."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError, ValueError) as error:
        raise Unsupported(f"/proc/{pid}/schedstat does not tell what the neighbour got: {error}") from error


def _optimised_away(bench: Bench) -> Sample:
    """Elements are counted that nobody loaded."""
    bench.alter = lambda stamp: stamp._replace(elements=stamp.elements * 1000)
    return bench.ordinary(bench.case())


def _other_tier(bench: Bench) -> Sample:
    """The catalogue hands out the function of another instruction set under the name of the one asked for."""
    case = bench.case()
    table = kernels.tier(case.tier).kernels
    others = [other for other in kernels.tiers().values() if other.usable and other.kernels is not table]
    if not others:
        raise Unsupported("this CPU runs one instruction set only")
    right = table[case.kernel]
    table[case.kernel] = others[0].kernels[case.kernel]
    try:
        return bench.ordinary(case)
    finally:
        table[case.kernel] = right


def _clock(bench: Bench) -> Sample:
    """The clock jumps by half a second against the system's."""
    honest, late = bench.reference_s, threading.Event()
    bench.once(late.set)
    bench.reference_s = lambda: honest() - 0.5 * late.is_set()  # type: ignore[assignment]
    return bench.ordinary(bench.case())


FAULTS = (
    Fault("untouched buffer", "the zero page answers from the cache", "not_resident", _untouched),
    Fault("buffer on the wrong node", "remote is printed as local", "misplaced", _wrong_node),
    Fault("short cycle", "the chase runs in a cached part", "", _short_cycle),
    Fault("buffer that fits in a cache", "the cache is measured", "cache_suspect", _fits_cache),
    Fault("buffer at the edge of a cache", "some of the loads miss", "not_plateau", _edge_of_cache, ATTEMPTS),
    Fault("ring that is learned", "less than a load takes", "chain_learned", _learned),
    Fault("clock too coarse", "the clock's own time is measured", "timer_coarse", _coarse_clock),
    Fault("huge pages made half-way", "two page sizes in one figure", "page_kind_mixed", _collapse),
    Fault("pages migrated meanwhile", "a mean of two nodes", "migrated", _migration),
    Fault("pages dropped meanwhile", "zero pages in half of the figure", "not_resident", _dropped),
    Fault("thread not where pinned", "another node's CPU measures", "unpinned", _strayed, ATTEMPTS),
    Fault("CPU quota", "pauses are taken for slow memory", "throttled", _throttled, ATTEMPTS),
    Fault("noisy neighbour", "half the speed for no reason of the machine", "contended", _neighbour, ATTEMPTS),
    Fault("loop optimised away", "impossible speed", "impossible_rate", _optimised_away),
    Fault("function of another tier", "a slower instruction set is printed as the best", "wrong_tier", _other_tier),
    Fault("clock that jumps", "any figure at all", "clock_jumped", _clock),
)
