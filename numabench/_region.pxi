# SPDX-License-Identifier: Apache-2.0
# Part of _core.pyx: memory and where its pages are.

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

    def placement(self, bint huge=False):
        """Query the node of every page: of every base page, or every huge page of a hugetlb region.

        ``huge``: a thp region has huge pages alone, as smaps told; each is asked once for all of its base pages.
        """
        cdef nmb_region *region = self.open()
        cdef size_t step = nmb_region_page_bytes(region) if self.pages in ("2M", "1G") else os.sysconf("SC_PAGESIZE")
        cdef size_t pages = nmb_region_bytes(region) // step
        cdef Placement result = Placement()
        cdef uint64_t *per_node = <uint64_t *>calloc(NMB_MAX_NODES, sizeof(uint64_t))
        cdef size_t each = nmb_region_page_bytes(region) // step if huge and self.pages == "thp" else 1
        cdef size_t at
        cdef int rc
        result.map = <int16_t *>calloc(pages, sizeof(int16_t))
        try:
            if result.map == NULL or per_node == NULL:
                raise MemoryError
            with nogil:
                rc = nmb_placement_query(nmb_region_base(region), pages // each, step * each, result.map)
            check(rc, "move_pages(query)", PlacementError)
            at = pages if each > 1 else 0
            while at > 1:
                at -= 1
                result.map[at] = result.map[at // each]
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
