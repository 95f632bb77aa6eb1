# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport int16_t, int64_t, uint32_t, uint64_t

cdef extern from "nmb.h" nogil:
    enum:
        NMB_MAX_CHAINS
        NMB_BINS
        NMB_TICKS_A_BIN
        NMB_MAX_NODES
        NMB_SLICED
        NMB_COUNTED
        NMB_NT
        NMB_DEPENDENT
        NMB_SETUP
        NMB_COLLECTIVE
        NMB_PAD
        NMB_LINE
        NMB_CLOCK_COUNTER
        NMB_CLOCK_MONOTONIC_RAW
        NMB_RUN_CORE_HZ

    ctypedef struct nmb_clock:
        int source, invariant
        double hz, overhead_ns, overhead_p99_ns, step_ns

    int nmb_clock_init(int want, nmb_clock *out)
    void nmb_clock_measure(nmb_clock *clock)
    uint64_t nmb_clock_now(const nmb_clock *clock)
    double nmb_core_hz(const nmb_clock *clock)
    double nmb_core_width(const nmb_clock *clock, double core_hz)

    int nmb_affinity_get(int tid, int *cpus, size_t max, size_t *count)
    int nmb_affinity_set(int tid, const int *cpus, size_t count)
    int nmb_affinity_where(int *cpu, int *node)

    ctypedef struct nmb_region:
        pass
    ctypedef struct nmb_region_spec:
        size_t bytes
        int page_kind, policy
        const int *nodes
        size_t node_count
        int fd
        size_t offset

    int nmb_region_create(const nmb_region_spec *spec, const char **call, nmb_region **out)
    void nmb_region_destroy(nmb_region *region)
    void *nmb_region_base(const nmb_region *region)
    size_t nmb_region_bytes(const nmb_region *region)
    size_t nmb_region_page_bytes(const nmb_region *region)
    int nmb_region_collapse(nmb_region *region)

    int nmb_placement_query(const void *base, size_t pages, size_t page_bytes, int16_t *node_of_page)
    void nmb_placement_count(const int16_t *node_of_page, size_t pages, uint64_t *per_node, uint64_t *not_resident)
    uint64_t nmb_placement_moved(const int16_t *before, const int16_t *after, size_t pages)

    ctypedef struct nmb_smaps:
        uint64_t rss, anon_huge, swap, kernel_page, mmu_page
    int nmb_smaps_query(const void *base, nmb_smaps *out)
    int nmb_numa_maps_query(const void *base, uint64_t *bytes_per_node, uint64_t *kernel_page)
    int nmb_placement_ask(const void *base, size_t pages, size_t page_bytes, int16_t *node_of_page)

    enum:
        NMB_CALLS
    int nmb_try(int call, int node)

    int nmb_move_process(int pid, int source, int target)
    enum:
        NMB_COUNT_KERNEL
        NMB_COUNT_FROM_EXEC
    int nmb_counter_open(int tid, uint32_t type, uint64_t config, int scope)

    ctypedef struct nmb_args:
        void *a
        void *b
        void *c
        void *d
        size_t bytes, stride
        double scalar
        uint64_t delay, seed
        void **cursor
        unsigned chains, part, parts
        void *shared
        int wait
        uint64_t *ticks
        size_t m, n, k, lda, ldb, ldc
        double alpha, beta
        void *scratch
        size_t scratch_bytes, mc, kc, nc
        unsigned transposed

    ctypedef struct nmb_barrier:
        unsigned arrived

    ctypedef struct nmb_kernel:
        const char *name
        const char *family
        const char *brief
        unsigned flags, arrays, element_bytes, bytes_read, bytes_written, bytes_allocated, flops
        unsigned scratch, mr, nr, default_mc, default_kc, default_nc
        const unsigned char *sizes
        const char *variant
        unsigned needs

    ctypedef struct nmb_tier:
        const char *name
        const char *level
        const nmb_kernel *kernels
        size_t count
        int usable

    unsigned nmb_cpu_features()
    size_t nmb_tiers(nmb_tier *out, size_t max)
    const nmb_kernel *nmb_setup_kernel(const char *name)
    size_t nmb_gemm_scratch(const nmb_kernel *kernel, size_t m, size_t n, size_t k, size_t mc, size_t kc, size_t nc)

    ctypedef struct nmb_ring:
        pass
    ctypedef struct nmb_ring_spec:
        void *base
        size_t bytes, stride, window
        unsigned chains
        uint64_t seed
    int nmb_ring_create(const nmb_ring_spec *spec, nmb_ring **out)
    void nmb_ring_destroy(nmb_ring *ring)
    size_t nmb_ring_nodes(const nmb_ring *ring)
    void *nmb_ring_start(const nmb_ring *ring, unsigned chain)
    int nmb_ring_proven(const nmb_ring *ring)
    uint64_t nmb_ring_walk(void *start, uint64_t limit)

    ctypedef struct nmb_team:
        pass
    ctypedef struct nmb_work:
        const nmb_kernel *kernel
        nmb_args args
        uint64_t loops
        size_t block
    ctypedef struct nmb_stamp:
        uint64_t start, end
        double elements
        uint64_t calls, sink
        double core_hz_before, core_hz_after
        double width_before, width_after
        uint64_t voluntary_switches, involuntary_switches, minor_faults
        int cpu_start, cpu_end, error
        unsigned ran
    int nmb_team_create(const nmb_clock *clock, const int *cpus, size_t count, nmb_team **out)
    void nmb_team_destroy(nmb_team *team)
    size_t nmb_team_size(const nmb_team *team)
    int nmb_team_start(nmb_team *team, nmb_work *works, uint64_t window_ticks, unsigned flags)
    int nmb_team_wait(nmb_team *team, unsigned timeout_ms)
    void nmb_team_cancel(nmb_team *team)
    const nmb_stamp *nmb_team_stamps(const nmb_team *team)

    enum:
        NMB_ANY_CPU
    ctypedef struct nmb_request:
        int64_t scheduled, sent, start, done
        uint32_t server
    ctypedef struct nmb_board:
        uint32_t published, claimed
        size_t capacity
        nmb_request *requests
    ctypedef struct nmb_ranks:
        pass
    ctypedef struct nmb_serve:
        int64_t origin, until
        unsigned steps, opening, duty
        uint32_t server
        int64_t stall_at, stall_ns
        nmb_ranks *ranks
        unsigned rank, rank_count
    ctypedef struct nmb_instance:
        pass
    const nmb_kernel nmb_serve_kernel
    size_t nmb_board_bytes(size_t capacity)
    void nmb_board_clear(nmb_board *board, size_t capacity)
    int nmb_board_send(nmb_board *board, size_t first, size_t to, int64_t origin, const int *stop)
    void nmb_board_close(nmb_board *board)
    int64_t nmb_monotonic_ns()
    int nmb_instance_create(
        const nmb_work *works, unsigned threads, size_t length, int wait, nmb_board *board, nmb_instance **out)
    void nmb_instance_destroy(nmb_instance *instance)
    void nmb_instance_prepare(nmb_instance *instance, const nmb_serve *serve)
    uint64_t nmb_instance_steps(const nmb_instance *instance)
    size_t nmb_instance_barriers(const nmb_instance *instance)
    const uint64_t *nmb_instance_op_ticks(const nmb_instance *instance)
    uint64_t nmb_instance_result(const nmb_instance *instance, unsigned thread, size_t work)
