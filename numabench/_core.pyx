# SPDX-License-Identifier: Apache-2.0
# cython: embedsignature=False
"""The thin layer over csrc: owners for C objects, one error funnel, and runs that Ctrl-C can end."""

import errno as _errno
import os
import warnings
from collections import namedtuple

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport ENOMEM, ETIMEDOUT
from libc.stdint cimport int16_t, int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from numabench._nmb cimport *

from numabench.errors import HugePagesUnavailable, NumabenchError, PlacementError, Unsupported

MAX_CHAINS = NMB_MAX_CHAINS
BINS, TICKS_A_BIN = NMB_BINS, NMB_TICKS_A_BIN
RING_JOBS = ("ring_order", "ring_shuffle", "ring_link", "ring_prove")
PAGE_KINDS = ("base", "thp", "2M", "1G", "any")
POLICIES = ("local", "bind", "preferred", "interleave", "weighted")
LAYOUTS = ("nn", "tn", "nt", "tt")  # A and B: n as it is, t transposed; the position's bits are nmb_transposed
TIERS = ("scalar", "avx2", "avx512", "neon")  # the position's bit is nmb_ran
WAITS = ("spin", "futex", "polite")
DEF POLL_MS = 100

Stamp = namedtuple(
    "Stamp",
    "cpu start_ns end_ns elements calls sink core_hz_before core_hz_after width_before width_after "
    "voluntary_switches involuntary_switches minor_faults cpu_start cpu_end tier",
)
Smaps = namedtuple("Smaps", "rss anon_huge swap kernel_page mmu_page")
_UNSUPPORTED = {_errno.ENOSYS, _errno.EOPNOTSUPP}


cdef int check(int rc, str doing, kind=NumabenchError) except -1:
    """Turn 0 or -errno of a C call into nothing or an exception that names the call."""
    if rc == 0:
        return 0
    name = _errno.errorcode.get(-rc, str(-rc))
    cls = Unsupported if -rc in _UNSUPPORTED else kind
    raise cls(f"{doing}: {name} - {os.strerror(-rc)}", -rc)


cdef class Clock:
    """A calibrated clock: the invariant counter of the CPU, or CLOCK_MONOTONIC_RAW (``source``)."""

    cdef nmb_clock c

    def __cinit__(self, source=None):
        if source not in (None, "counter", "monotonic_raw"):
            raise ValueError(f"clock source {source!r}: one of counter, monotonic_raw")
        cdef int want = NMB_CLOCK_MONOTONIC_RAW if source == "monotonic_raw" else NMB_CLOCK_COUNTER, rc
        with nogil:
            rc = nmb_clock_init(want, &self.c)
        check(rc, "clock")

    @property
    def source(self):
        return "counter" if self.c.source == NMB_CLOCK_COUNTER else "monotonic_raw"

    @property
    def invariant(self):
        return bool(self.c.invariant)

    @property
    def hz(self):
        return self.c.hz

    @property
    def overhead_ns(self):
        return self.c.overhead_ns

    @property
    def step_ns(self):
        return self.c.step_ns

    def reading(self):
        """What a reading costs on the CPU of the caller, ns: median, what one in a hundred exceeds, smallest step."""
        cdef nmb_clock here = self.c
        with nogil:
            nmb_clock_measure(&here)
        return here.overhead_ns, here.overhead_p99_ns, here.step_ns

    def now_ns(self):
        """Time since an arbitrary moment, ns."""
        return nmb_clock_now(&self.c) * 1e9 / self.c.hz

    def core_hz(self):
        """Frequency of the core that runs the caller now, Hz, from a chain of dependent additions."""
        return nmb_core_hz(&self.c)

    def core_width(self):
        """Instructions a cycle that the core gives the caller now, eight at most; 0 where that cannot be told.

        About half as many while a second thread works on the same core, whether this system shows that thread or not.
        """
        return nmb_core_width(&self.c, nmb_core_hz(&self.c))

    def additions(self, double ns):
        """Dependent additions, one a cycle, that take ``ns`` at the caller's frequency now: a ``Work``'s delay."""
        return round(ns * nmb_core_hz(&self.c) / 1e9)


def affinity(int tid=0):
    """CPUs that thread ``tid`` (0: the caller) may run on, ascending."""
    cdef size_t count = 0, room = 4096
    cdef int *cpus
    while True:
        cpus = <int *>calloc(room, sizeof(int))
        if cpus == NULL:
            raise MemoryError
        try:
            check(nmb_affinity_get(tid, cpus, room, &count), f"sched_getaffinity({tid})", PlacementError)
            if count <= room:
                return tuple([cpus[i] for i in range(count)])
            room = count
        finally:
            free(cpus)


def set_affinity(cpus, int tid=0):
    """Restrict thread ``tid`` (0: the caller) to ``cpus``."""
    cdef list wanted = list(cpus)
    cdef int *numbers = <int *>calloc(len(wanted) + 1, sizeof(int))
    if numbers == NULL:
        raise MemoryError
    try:
        for i, cpu in enumerate(wanted):
            numbers[i] = cpu
        check(nmb_affinity_set(tid, numbers, len(wanted)), f"sched_setaffinity(CPUs {wanted})", PlacementError)
    finally:
        free(numbers)


def where():
    """(CPU, node) that the caller is on right now."""
    cdef int cpu = -1, node = -1
    check(nmb_affinity_where(&cpu, &node), "getcpu")
    return cpu, node


include "_region.pxi"


cdef class Kernel:
    """One kernel in one tier, with its accounting per element. Made by ``tiers`` and ``setup_kernel`` only."""

    cdef const nmb_kernel *c
    cdef readonly str name, family, brief, tier, variant
    cdef readonly unsigned arrays, element_bytes, bytes_read, bytes_written, bytes_allocated, flops
    cdef readonly tuple shape, sizes, blocks
    cdef readonly size_t depth_bytes
    cdef readonly bint sliced, nt, dependent, collective

    def __repr__(self):
        return f"<Kernel {self.family}/{self.name} {self.tier}>"

    def gemm_scratch(self, size_t m, size_t n, size_t k, blocks=(0, 0, 0)):
        """Bytes of packing buffer that one thread needs for an m x n x k multiplication (gemm and gemv)."""
        mc, kc, nc = blocks
        return nmb_gemm_scratch(self.c, m, n, k, mc, kc, nc)


cdef Kernel wrap_kernel(const nmb_kernel *c, str tier):
    cdef Kernel kernel = Kernel.__new__(Kernel)
    kernel.c, kernel.tier = c, tier
    kernel.name, kernel.family, kernel.brief = c.name.decode(), c.family.decode(), c.brief.decode()
    kernel.arrays, kernel.element_bytes, kernel.flops = c.arrays, c.element_bytes, c.flops
    kernel.bytes_read, kernel.bytes_written, kernel.bytes_allocated = c.bytes_read, c.bytes_written, c.bytes_allocated
    kernel.shape, kernel.sizes = (c.mr, c.nr), (c.sizes[0], c.sizes[1], c.sizes[2])
    kernel.blocks = (c.default_mc, c.default_kc, c.default_nc)
    kernel.depth_bytes = <size_t>c.default_kc * c.scratch
    kernel.variant = c.variant.decode() if c.variant != NULL else ""
    kernel.sliced, kernel.nt = bool(c.flags & NMB_SLICED), bool(c.flags & NMB_NT)
    kernel.dependent, kernel.collective = bool(c.flags & NMB_DEPENDENT), bool(c.flags & NMB_COLLECTIVE)
    return kernel


def tiers():
    """Tiers built in, slowest first: tuples (name, level, usable here, kernels).

    Of several kernels of one name, variants that this CPU runs, the last is the best.
    """
    cdef nmb_tier found[8]
    cdef size_t count = nmb_tiers(found, 8)
    cdef unsigned lacking = ~nmb_cpu_features()
    return tuple(
        [
            (
                found[i].name.decode(),
                found[i].level.decode(),
                bool(found[i].usable),
                tuple(
                    [
                        wrap_kernel(&found[i].kernels[j], found[i].name.decode())
                        for j in range(found[i].count)
                        if not found[i].kernels[j].needs & lacking
                    ]
                ),
            )
            for i in range(count)
        ]
    )


def setup_kernel(str name):
    """A kernel that prepares buffers: fill_f64, fill_f32, the four RING_JOBS, ..."""
    cdef const nmb_kernel *found = nmb_setup_kernel(name.encode())
    if found == NULL:
        raise ValueError(f"setup kernel {name!r}")
    return wrap_kernel(found, "")


cdef class Ring:
    """Pointer rings over part of a region (nmb.h says how they are made), built by ``Team.run`` of the RING_JOBS."""

    cdef nmb_ring *c
    cdef readonly Region region

    def __cinit__(self, Region region not None, size_t offset, size_t bytes, size_t stride, size_t window,
                  unsigned chains, uint64_t seed):
        cdef nmb_ring_spec spec
        cdef int rc
        if offset > region.bytes or bytes > region.bytes - offset:
            raise ValueError(f"ring of {bytes} bytes at {offset} does not fit a region of {region.bytes} bytes")
        spec.base = <char *>nmb_region_base(region.open()) + offset
        spec.bytes, spec.stride, spec.window, spec.chains, spec.seed = bytes, stride, window, chains, seed
        self.region = region
        with nogil:
            rc = nmb_ring_create(&spec, &self.c)
        check(rc, f"ring({bytes} bytes, stride {stride}, window {window}, {chains} chains)")

    def __dealloc__(self):
        nmb_ring_destroy(self.c)

    @property
    def nodes(self):
        """Nodes of all chains together."""
        return nmb_ring_nodes(self.c)

    @property
    def proven(self):
        """Whether the pointers read back are exactly one cycle per chain over all nodes."""
        return nmb_ring_proven(self.c) == 0

    def start(self, unsigned chain=0):
        """Address where a chain starts, or None beyond the last chain."""
        cdef void *start = nmb_ring_start(self.c, chain)
        return <uintptr_t>start if start != NULL else None

    def walk(self, uint64_t limit, unsigned chain=0):
        """Follow a chain until it meets its start: the number of steps, or 0 if that takes more than ``limit``."""
        cdef void *start = nmb_ring_start(self.c, chain)
        cdef uint64_t steps
        self.region.open()
        if start == NULL:
            raise ValueError(f"chain {chain}")
        with nogil:
            steps = nmb_ring_walk(start, limit)
        return steps


include "_probe.pxi"
include "_team.pxi"
include "_instance.pxi"
