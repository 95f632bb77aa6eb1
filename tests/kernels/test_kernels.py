# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from numabench import _core, kernels

from .reference import REFERENCES, WORD, Case, Floats, chase, digest

MAX_ELEMENTS, ARRAYS = 1100, 4
LENGTHS = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 63, 64, 65, 71, 127, 128, 129, 200, 511, 1000)
SHIFTS = (0, 8, 16, 24, 40, 56)  # bytes; every alignment to 16, 32 and 64
STRIDES = (8, 16, 64, 72, 192, 4096)
CHASE_LOADS = (1, 15, 16, 17, 31, 33, 127, 128, 129, 255, 1000)
COVERED_ELSEWHERE = {
    "blas1",
    "gemm",
    "gemv",
    "peak",
    "gather",
    "mix",
    "shared",
    "sync",
    "contend",
}  # families with a test file of their own

CATALOGUE = [
    kernel
    for tier in kernels.tiers().values()
    for kernel in tier.kernels.values()
    if kernel.family not in COVERED_ELSEWHERE
]
SLICED = [kernel for kernel in CATALOGUE if kernel.sliced]


def named(kernel: _core.Kernel) -> str:
    return f"{kernel.tier}-{kernel.name}"


def need(kernel: _core.Kernel) -> None:
    tier = kernels.tiers()[kernel.tier]
    if not tier.usable:
        pytest.skip(f"this CPU does not run {tier.level}")


class Bench:
    """Four regions between guard pages and one pinned thread that runs kernels on parts of them."""

    def __init__(self, team: _core.Team, regions: list[_core.Region]) -> None:
        self.team, self.regions = team, regions

    def fill(self) -> list[Floats]:
        """Small whole numbers, so that every operation is exact, none in two regions; returns what the regions hold."""
        held = []
        for i, region in enumerate(self.regions):
            memory = region.as_array()
            memory[:] = 3 * np.random.default_rng(i).integers(1, 2**13, len(memory)) + i
            held.append(memory.copy())
        return held

    def place(self, i: int, elements: int, shift: int, at_end: bool) -> int:
        """Byte offset of an array ``shift`` bytes behind the region's begin or before its end."""
        return self.regions[i].bytes - 8 * elements - shift if at_end else shift

    def run(
        self,
        kernel: _core.Kernel,
        elements: int,
        offsets: list[int],
        stride: int = 0,
        loops: int = 1,
        block: int = 0,
        delay: int = 0,
    ) -> _core.Stamp:
        places = dict(zip("abcd", zip(self.regions, offsets, strict=True), strict=True))
        work = _core.Work(
            kernel,
            bytes=8 * elements,
            stride=stride,
            scalar=-3.0,
            seed=7,
            loops=loops,
            block=block,
            delay=delay,
            **places,  # type: ignore[arg-type]
        )
        return self.team.run([work])[0]

    def differs(self, held: list[Floats]) -> bool:
        return any(
            not np.array_equal(region.as_array().view(np.uint64), want.view(np.uint64))
            for region, want in zip(self.regions, held, strict=True)
        )


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with _core.Team(_core.affinity()[:1]) as team:
        regions = [_core.Region(8 * MAX_ELEMENTS) for _ in range(ARRAYS)]
        yield Bench(team, regions)
        for region in regions:
            region.close()


def expected(
    kernel: _core.Kernel, bench: Bench, held: list[Floats], elements: int, offsets: list[int], step: int
) -> int:
    """Do one round of the reference on ``held``; what the kernel must return."""
    a, b, c, d = (want[offset // 8 :][:elements] for want, offset in zip(held, offsets, strict=True))
    if kernel.bytes_written and not kernel.bytes_read:
        a[:1] = bench.regions[0].as_array()[offsets[0] // 8 :][:elements][:1]
    return REFERENCES[kernel.name](Case(a, b, c, d, -3.0, step))


def strides_of(kernel: _core.Kernel) -> tuple[int, ...]:
    return STRIDES if kernel.family == "stride" else (0,)


def test_every_kernel_has_a_reference() -> None:
    assert {kernel.name for kernel in CATALOGUE} - {"chase"} == set(REFERENCES)


def test_tiers_agree_on_the_catalogue() -> None:
    facts = {
        tier.name: [
            (k.name, k.bytes_read, k.bytes_written, k.bytes_allocated, k.arrays, k.flops) for k in tier.kernels.values()
        ]
        for tier in kernels.tiers().values()
    }
    assert all(rows == facts["scalar"] for rows in facts.values())


@pytest.mark.parametrize("kernel", SLICED, ids=named)
def test_values_and_surroundings(kernel: _core.Kernel, bench: Bench) -> None:
    need(kernel)
    for elements in LENGTHS:
        for n, shift in enumerate(SHIFTS):
            for at_end in (False, True):
                for stride in strides_of(kernel):
                    offsets = [
                        bench.place(i, elements, SHIFTS[(n + 2 * i) % 6] if i else shift, at_end) for i in range(ARRAYS)
                    ]
                    held = bench.fill()
                    stamp = bench.run(kernel, elements, offsets, stride)
                    want = expected(kernel, bench, held, elements, offsets, max(stride // 8, 1))
                    where = f"{elements} elements at {offsets}, stride {stride}"
                    assert not bench.differs(held), where
                    assert stamp.sink == (want if kernel.bytes_read and not kernel.bytes_written else 0), where
                    assert stamp.elements == -(-8 * elements // (stride or 8)), where


@pytest.mark.parametrize("kernel", SLICED, ids=named)
@pytest.mark.parametrize("block", [192, 576, 4608])
def test_slices_do_what_the_whole_does(kernel: _core.Kernel, block: int, bench: Bench) -> None:
    need(kernel)
    stride = 192 if kernel.family == "stride" else 0
    offsets, elements, held = [8, 24, 56, 40], 1000, bench.fill()
    stamp = bench.run(kernel, elements, offsets, stride, block=block)
    if kernel.bytes_written and not kernel.bytes_read:  # each slice has a value of its own
        a = bench.regions[0].as_array()[1 : 1001 : 24 if stride else 1]
        assert ((a >= 1) & (a < 2)).all()
        assert len(set(a)) == -(-8 * elements // block)
        return
    want = 0
    for first in range(0, 8 * elements, block):
        size = min(block, 8 * elements - first) // 8
        want += expected(kernel, bench, held, size, [first + at for at in offsets], max(stride // 8, 1))
    assert stamp.sink == want % WORD
    assert not bench.differs(held)


@pytest.mark.parametrize("kernel", [k for k in SLICED if k.family == "stream"], ids=named)
@pytest.mark.parametrize("delay", [1, 9])
def test_delay_changes_time_only(kernel: _core.Kernel, delay: int, bench: Bench) -> None:
    need(kernel)
    for elements in LENGTHS:
        for shift in SHIFTS:
            offsets, held = [shift, 8, 24, 40], bench.fill()
            stamp = bench.run(kernel, elements, offsets, delay=delay)
            want = expected(kernel, bench, held, elements, offsets, 1)
            assert not bench.differs(held), f"{elements} elements at {offsets}"
            assert stamp.sink == (want if kernel.bytes_read and not kernel.bytes_written else 0)


def test_delay_takes_its_time(bench: Bench) -> None:
    """So many additions after every four lines, one a cycle at best; nothing but a stream takes a delay."""
    elements, additions = 1024, 100_000
    clock = bench.team.clock
    stamp = bench.run(kernels.kernel("read"), elements, [0, 0, 0, 0], delay=additions)
    pieces = 8 * elements // 256
    least_ns = pieces * additions / 6.5e9 * 1e9  # no core of today reaches 6.5 GHz
    assert stamp.end_ns - stamp.start_ns > least_ns
    assert 0.5 < clock.core_width() < 9
    assert clock.additions(1000) == pytest.approx(1000 * clock.core_hz() / 1e9, rel=0.5)
    with pytest.raises(ValueError, match="takes no delay"):
        bench.run(kernels.kernel("stride_read"), 8, [0, 0, 0, 0], stride=8, delay=1)


@pytest.mark.parametrize("kernel", SLICED, ids=named)
def test_accounting_is_what_was_touched(kernel: _core.Kernel, bench: Bench) -> None:
    """Elements that change were written; elements were read if one changed bit shows in what the kernel leaves."""
    need(kernel)
    elements, offsets, stride = 233, [8, 24, 56, 40], 24 if kernel.family == "stride" else 0
    accesses = -(-8 * elements // (stride or 8))
    held = bench.fill()
    first = bench.run(kernel, elements, offsets, stride)
    a = bench.regions[0].as_array()[1 : 1 + elements]
    out = a[:: stride // 8 or 1].copy()
    written = np.count_nonzero(a != held[0][1 : 1 + elements])
    assert 8 * written == accesses * kernel.bytes_written

    read = 0
    for i in range(ARRAYS):
        for element in range(elements):
            bench.fill()
            bit = 63 if kernel.bytes_written else element * 5 % 64  # arithmetic cannot round a sign away
            bench.regions[i].as_array("u8")[offsets[i] // 8 + element] ^= np.uint64(1 << bit)
            stamp = bench.run(kernel, elements, offsets, stride)
            shows = stamp.sink != first.sink
            if kernel.bytes_written:
                shows |= not np.array_equal(a[:: stride // 8 or 1], out)
            read += shows
    assert 8 * read == accesses * kernel.bytes_read


@pytest.mark.parametrize("kernel", [k for k in SLICED if k.bytes_written and not k.bytes_read], ids=named)
def test_stored_values_change_and_are_never_zero(kernel: _core.Kernel, bench: Bench) -> None:
    need(kernel)
    stride = 8 if kernel.family == "stride" else 0
    region, seen = bench.regions[0], []
    with_seed = [(seed, loops) for seed in range(40) for loops in (1, 2, 3)]
    for seed, loops in with_seed:
        work = _core.Work(
            kernel, a=(region, 0), bytes=8, stride=stride, seed=seed, loops=loops, block=8 * loops
        )  # one call of the kernel that does all rounds
        bench.team.run([work])
        seen.append(float(region.as_array()[0]))
    assert all(1 <= value < 2 for value in seen)
    assert len(set(seen)) == len(with_seed)


@pytest.mark.parametrize("kernel", [k for k in SLICED if k.bytes_read and not k.bytes_written], ids=named)
@pytest.mark.parametrize("rounds", [1, 2, 3, 64, 65])
def test_every_round_reads_again(kernel: _core.Kernel, rounds: int, bench: Bench) -> None:
    """Each round doubles what was there and adds its own digest: no round cancels another."""
    need(kernel)
    bench.fill()
    stamp = bench.run(
        kernel, 77, [8, 8, 8, 8], 8 if kernel.family == "stride" else 0, loops=rounds, block=8 * 77 * rounds
    )
    assert stamp.sink == digest(bench.regions[0].as_array()[1:78]) * (2**rounds - 1) % WORD


@pytest.mark.parametrize("chains", range(1, _core.MAX_CHAINS + 1))
@pytest.mark.parametrize("kernel", [k for k in CATALOGUE if k.family == "chase"], ids=named)
def test_chase_stands_where_its_pointers_lead(kernel: _core.Kernel, chains: int, bench: Bench) -> None:
    need(kernel)
    region, nodes = bench.regions[0], 137
    ring = _core.Ring(region, 0, 64 * nodes, 64, 64 * 16, chains, seed=chains)
    for job in _core.RING_JOBS:
        bench.team.run([_core.Work(_core.setup_kernel(job), ring=ring, loops=1)])
    starts = [ring.start(chain) or 0 for chain in range(chains)]
    before = region.as_array("u8").copy()
    for loads in CHASE_LOADS:
        stamp = bench.team.run([_core.Work(kernel, ring=ring, chains=chains, loops=loads, block=loads)])[0]
        assert stamp.sink == chase(before, region.address, starts, loads), f"{loads} loads"
        assert stamp.elements == loads * chains
    assert np.array_equal(region.as_array("u8"), before)
    assert (kernel.bytes_read, kernel.bytes_written, kernel.dependent) == (8, 0, True)


@pytest.mark.parametrize("kernel", [k for k in CATALOGUE if k.family == "chase"], ids=named)
def test_loads_timed_one_by_one_are_the_same_loads(kernel: _core.Kernel, bench: Bench) -> None:
    need(kernel)
    region, nodes, loads = bench.regions[0], 137, 1000
    ring = _core.Ring(region, 0, 64 * nodes, 64, 64 * 16, 2, seed=1)
    for job in _core.RING_JOBS:
        bench.team.run([_core.Work(_core.setup_kernel(job), ring=ring, loops=1)])
    before = region.as_array("u8").copy()
    with _core.Region(8 * _core.BINS) as counts:
        work = _core.Work(kernel, ring=ring, chains=1, ticks=(counts, 0), loops=loads, block=loads)
        stamp = bench.team.run([work])[0]
        view = counts.as_array("u8")
        found = view.copy()
        del view
        assert stamp.sink == chase(before, region.address, [ring.start(0) or 0], loads)
        assert stamp.elements == found.sum() == loads
        took = (stamp.end_ns - stamp.start_ns) * bench.team.clock.hz / 1e9
        assert (np.arange(_core.BINS) * found).sum() * _core.TICKS_A_BIN <= took
        with pytest.raises(ValueError, match="single chain"):
            _core.Work(kernel, ring=ring, chains=2, ticks=(counts, 0))
