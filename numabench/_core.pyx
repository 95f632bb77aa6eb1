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
PAGE_KINDS = ("base", "thp", "2M", "1G", "any")
POLICIES = ("local", "bind", "preferred", "interleave", "weighted")
WAITS = ("spin", "futex", "polite")
DEF POLL_MS = 100

Stamp = namedtuple(
    "Stamp",
    "cpu start_ns end_ns elements sink core_hz_before core_hz_after voluntary_switches involuntary_switches "
    "minor_faults cpu_start cpu_end",
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

    def now_ns(self):
        """Time since an arbitrary moment, ns."""
        return nmb_clock_now(&self.c) * 1e9 / self.c.hz

    def core_hz(self):
        """Frequency of the core that runs the caller now, Hz, from a chain of dependent additions."""
        return nmb_core_hz(&self.c)

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


cdef class Placement:
    """Nodes of a region's pages at one moment, as move_pages told them.

    ``nodes`` maps node to pages, ``not_resident`` counts absent and zero pages, ``page_bytes`` is the query's step.
    """

    cdef int16_t *map
    cdef readonly size_t pages, page_bytes
    cdef readonly uint64_t not_resident
    cdef readonly dict nodes

    def __dealloc__(self):
        free(self.map)

    def moved_since(self, Placement earlier not None):
        """Pages whose node differs from the ``earlier`` answer for the same region."""
        if self.pages != earlier.pages or self.page_bytes != earlier.page_bytes:
            raise ValueError("placements of different regions")
        return nmb_placement_moved(earlier.map, self.map, self.pages)


cdef class Region:
    """Memory of one page kind under one policy, between guard pages. Nothing is touched yet.

    ``bytes`` is rounded up to whole pages. ``fd``: a file or memfd, mapped shared from ``offset`` on, of "any" pages.
    Speaks the buffer protocol; ``close`` raises BufferError while a view lives, leaving a ``with`` block leaves the
    memory to the views that still live: it goes with the last of them.
    """

    cdef nmb_region *c
    cdef int views
    cdef bint left
    cdef readonly str pages, policy
    cdef readonly tuple nodes

    def __cinit__(self, size_t bytes, str pages="base", str policy="local", nodes=(), int fd=0, size_t offset=0):
        cdef nmb_region_spec spec
        cdef const char *call = b""
        cdef int *numbers = NULL
        cdef int rc
        if pages not in PAGE_KINDS:
            raise ValueError(f"page kind {pages!r}: one of {', '.join(PAGE_KINDS)}")
        if policy not in POLICIES:
            raise ValueError(f"policy {policy!r}: one of {', '.join(POLICIES)}")
        self.pages, self.policy, self.nodes = pages, policy, tuple(nodes)
        numbers = <int *>calloc(len(self.nodes) + 1, sizeof(int))
        if numbers == NULL:
            raise MemoryError
        try:
            for i, node in enumerate(self.nodes):
                numbers[i] = node
            spec.bytes, spec.page_kind, spec.policy = bytes, PAGE_KINDS.index(pages), POLICIES.index(policy)
            spec.nodes, spec.node_count = numbers, len(self.nodes)
            spec.fd, spec.offset = fd, offset
            with nogil:
                rc = nmb_region_create(&spec, &call, &self.c)
        finally:
            free(numbers)
        name = call.decode()
        huge_pool_dry = rc == -ENOMEM and name == "mmap" and pages in ("2M", "1G")
        check(
            rc,
            f"{name}({bytes} bytes, {pages} pages, {policy} {list(self.nodes)})",
            HugePagesUnavailable if huge_pool_dry else PlacementError,
        )

    def __dealloc__(self):
        nmb_region_destroy(self.c)

    def __del__(self):
        if self.c != NULL and not self.left:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.left = True
        if not self.views:
            self.close()

    def __repr__(self):
        if self.c == NULL:
            return "<Region closed>"
        return f"<Region {self.bytes} bytes, {self.pages} pages, {self.policy} {list(self.nodes)}>"

    def close(self):
        """Unmap. Closing twice is allowed; closing under a view or a run is a BufferError."""
        if self.views:
            raise BufferError(f"{self.views} views of the region are still in use")
        nmb_region_destroy(self.c)
        self.c = NULL

    cdef nmb_region *open(self) except NULL:
        if self.c == NULL:
            raise ValueError("region is closed")
        return self.c

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, nmb_region_base(self.open()), nmb_region_bytes(self.c), 0, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.views -= 1

    @property
    def bytes(self):
        return nmb_region_bytes(self.open())

    @property
    def page_bytes(self):
        """Size of the page kind asked for, bytes."""
        return nmb_region_page_bytes(self.open())

    @property
    def address(self):
        return <uintptr_t>nmb_region_base(self.open())

    def as_array(self, dtype="f8"):
        """One-dimensional numpy array over the memory; the region cannot be closed while it lives."""
        import numpy

        return numpy.frombuffer(self, dtype=dtype)

    def collapse(self):
        """Ask the kernel to make huge pages of the resident pages now (MADV_COLLAPSE)."""
        cdef nmb_region *region = self.open()
        cdef int rc
        with nogil:
            rc = nmb_region_collapse(region)
        check(rc, "madvise(MADV_COLLAPSE)", PlacementError)

    def placement(self):
        """Query the node of every page: of every base page, or every huge page of a hugetlb region."""
        cdef nmb_region *region = self.open()
        cdef size_t step = nmb_region_page_bytes(region) if self.pages in ("2M", "1G") else os.sysconf("SC_PAGESIZE")
        cdef size_t pages = nmb_region_bytes(region) // step
        cdef Placement result = Placement()
        cdef uint64_t *per_node = <uint64_t *>calloc(NMB_MAX_NODES, sizeof(uint64_t))
        cdef int rc
        result.map = <int16_t *>calloc(pages, sizeof(int16_t))
        try:
            if result.map == NULL or per_node == NULL:
                raise MemoryError
            with nogil:
                rc = nmb_placement_query(nmb_region_base(region), pages, step, result.map)
            check(rc, "move_pages(query)", PlacementError)
            nmb_placement_count(result.map, pages, per_node, &result.not_resident)
            result.pages, result.page_bytes = pages, step
            result.nodes = {node: per_node[node] for node in range(NMB_MAX_NODES) if per_node[node]}
        finally:
            free(per_node)
        return result

    def smaps(self):
        """/proc/self/smaps of this mapping, bytes."""
        cdef nmb_smaps found
        check(nmb_smaps_query(nmb_region_base(self.open()), &found), "/proc/self/smaps")
        return Smaps(found.rss, found.anon_huge, found.swap, found.kernel_page, found.mmu_page)

    def numa_maps(self):
        """/proc/self/numa_maps of this mapping: ({node: bytes}, kernel page size in bytes)."""
        cdef uint64_t *per_node = <uint64_t *>calloc(NMB_MAX_NODES, sizeof(uint64_t))
        cdef uint64_t page = 0
        if per_node == NULL:
            raise MemoryError
        try:
            check(nmb_numa_maps_query(nmb_region_base(self.open()), per_node, &page), "/proc/self/numa_maps")
            return {node: per_node[node] for node in range(NMB_MAX_NODES) if per_node[node]}, page
        finally:
            free(per_node)


cdef class Kernel:
    """One kernel in one tier, with its accounting per element. Made by ``tiers`` and ``setup_kernel`` only."""

    cdef const nmb_kernel *c
    cdef readonly str name, family, brief, tier, variant
    cdef readonly unsigned arrays, element_bytes, bytes_read, bytes_written, bytes_allocated, flops
    cdef readonly tuple shape, sizes
    cdef readonly bint sliced, nt, dependent, collective

    def __repr__(self):
        return f"<Kernel {self.family}/{self.name} {self.tier}>"

    def gemm_scratch(self, size_t m, size_t n, size_t k):
        """Bytes of packing buffer that one thread needs for an m x n x k multiplication (gemm and gemv)."""
        return nmb_gemm_scratch(self.c, m, n, k, 0, 0, 0)


cdef Kernel wrap_kernel(const nmb_kernel *c, str tier):
    cdef Kernel kernel = Kernel.__new__(Kernel)
    kernel.c, kernel.tier = c, tier
    kernel.name, kernel.family, kernel.brief = c.name.decode(), c.family.decode(), c.brief.decode()
    kernel.arrays, kernel.element_bytes, kernel.flops = c.arrays, c.element_bytes, c.flops
    kernel.bytes_read, kernel.bytes_written, kernel.bytes_allocated = c.bytes_read, c.bytes_written, c.bytes_allocated
    kernel.shape, kernel.sizes = (c.mr, c.nr), (c.sizes[0], c.sizes[1], c.sizes[2])
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
    """A kernel that prepares buffers: fill_f64, fill_f32, ring_order, ring_link, ring_prove."""
    cdef const nmb_kernel *found = nmb_setup_kernel(name.encode())
    if found == NULL:
        raise ValueError(f"setup kernel {name!r}")
    return wrap_kernel(found, "")


cdef class Ring:
    """Pointer rings over part of a region (nmb.h says how they are made); build with ``Team.run`` of the three jobs."""

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
