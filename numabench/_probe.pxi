# SPDX-License-Identifier: Apache-2.0
# Part of _core.pyx: system calls tried for real, and the slow way of asking where pages are.

CALLS = (
    "mbind", "set_mempolicy", "get_mempolicy", "move_pages", "sched_setaffinity", "perf_software", "perf_hardware",
    "hugetlb_2M", "hugetlb_1G", "madvise_hugepage", "madvise_collapse", "madvise_populate_write",
)
assert len(CALLS) == NMB_CALLS


def try_call(str name, int node=0):
    """Make the system call once, harmlessly: the empty string, or the name of its error."""
    cdef int call = CALLS.index(name), rc
    with nogil:
        rc = nmb_try(call, node)
    return _errno.errorcode.get(-rc, str(-rc)) if rc else ""


def move_process(int pid, int source, int target):
    """Move the pages that a process has on one node to another: how many stayed behind. Raises Unsupported."""
    cdef int rc
    with nogil:
        rc = nmb_move_process(pid, source, target)
    check(rc if rc < 0 else 0, f"migrate_pages({pid}, {source}, {target})", Unsupported)
    return rc


def open_counter(int tid, uint32_t type, uint64_t config, bint kernel=False, bint from_exec=False):
    """Descriptor of a hardware or software counter of a thread and its future children (perf_event_open).

    ``kernel``: of what happens in the kernel too; ``from_exec``: of the children alone, each from its exec on.
    Raises Unsupported.
    """
    cdef int scope = (NMB_COUNT_KERNEL if kernel else 0) | (NMB_COUNT_FROM_EXEC if from_exec else 0)
    cdef int fd = nmb_counter_open(tid, type, config, scope)
    check(fd if fd < 0 else 0, f"perf_event_open({type}, {config:#x})", Unsupported)
    return fd


def ask_policy(Region region not None):
    """As ``Region.placement``, by get_mempolicy, one call a page. Faults absent pages in, so it finds none absent."""
    cdef nmb_region *c = region.open()
    cdef size_t step = nmb_region_page_bytes(c) if region.pages in ("2M", "1G") else os.sysconf("SC_PAGESIZE")
    cdef size_t pages = nmb_region_bytes(c) // step
    cdef Placement result = Placement()
    cdef uint64_t *per_node = <uint64_t *>calloc(NMB_MAX_NODES, sizeof(uint64_t))
    cdef int rc
    result.map = <int16_t *>calloc(pages, sizeof(int16_t))
    try:
        if result.map == NULL or per_node == NULL:
            raise MemoryError
        with nogil:
            rc = nmb_placement_ask(nmb_region_base(c), pages, step, result.map)
        check(rc, "get_mempolicy(MPOL_F_NODE | MPOL_F_ADDR)", PlacementError)
        nmb_placement_count(result.map, pages, per_node, &result.not_resident)
        result.pages, result.page_bytes = pages, step
        result.nodes = {node: per_node[node] for node in range(NMB_MAX_NODES) if per_node[node]}
    finally:
        free(per_node)
    return result
