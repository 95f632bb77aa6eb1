/* SPDX-License-Identifier: Apache-2.0 */
/* The one public header of the measuring core.
 *
 * Contract of every function that returns int: 0, or -errno. Objects come back through the last `out` argument and are
 * destroyed by the matching destroy function, which accepts NULL. Nothing here prints, exits, reads the environment or
 * changes the machine; nothing keeps writable globals. */
#ifndef NMB_H
#define NMB_H

#include <stddef.h>
#include <stdint.h>

#define NMB_LINE       64  /* bytes per cache line that accounting assumes */
#define NMB_PAD        128 /* keeps two threads' state apart, adjacent-line prefetch included */
#define NMB_MAX_CHAINS 32
#define NMB_MAX_NODES  1024 /* the kernel's own bound on node ids (MAX_NUMNODES) */

/* ---- clock.c ---------------------------------------------------------------------------------------------------- */

enum nmb_clock_source { NMB_CLOCK_COUNTER = 0, NMB_CLOCK_MONOTONIC_RAW = 1 };

/* A calibrated clock. `source` COUNTER is the TSC (x86-64) or CNTVCT_EL0 (aarch64). */
typedef struct nmb_clock {
    int source;
    int invariant;          /* the hardware says that the counter's rate never changes */
    double hz;              /* ticks per second */
    double overhead_ns;     /* median cost of one reading; the mean where the counter's steps are longer */
    double overhead_p99_ns; /* what one reading in a hundred exceeds */
    double step_ns;         /* smallest step seen between two different readings */
} nmb_clock;

/* Picks the counter if it is invariant (unless `want` is NMB_CLOCK_MONOTONIC_RAW) and calibrates it against
 * CLOCK_MONOTONIC_RAW for about 20 ms. */
int nmb_clock_init(int want, nmb_clock *out);
/* What reading the clock costs on the CPU of the caller, from 1001 pairs: overhead_ns, overhead_p99_ns and step_ns. */
void nmb_clock_measure(nmb_clock *clock);
uint64_t nmb_clock_now(const nmb_clock *clock);
/* Frequency of this core now, from a chain of dependent additions (one a cycle on every supported core); no counter
 * access needed. Takes about 10 us. */
double nmb_core_hz(const nmb_clock *clock);
/* Instructions a cycle that this core gives the caller now, eight at most, of such as hardly wait for each other: about
 * half as many while a second thread works on the same core, whether this system shows that thread or not. 0 where
 * there is no such loop. Takes some 5 us; core_hz: nmb_core_hz just before. */
double nmb_core_width(const nmb_clock *clock, double core_hz);

/* ---- affinity.c -------------------------------------------------------------------------------------------------- */

/* CPUs that thread `tid` (0: the caller) may use, ascending, at most `max` written; *count is the full number. */
int nmb_affinity_get(int tid, int *cpus, size_t max, size_t *count);
int nmb_affinity_set(int tid, const int *cpus, size_t count);
/* CPU and node the caller is on right now. */
int nmb_affinity_where(int *cpu, int *node);

/* ---- region.c -----------------------------------------------------------------------------------------------------
 */

enum nmb_page_kind { NMB_PAGE_BASE = 0, NMB_PAGE_THP = 1, NMB_PAGE_2M = 2, NMB_PAGE_1G = 3, NMB_PAGE_ANY = 4 };
enum nmb_policy {
    NMB_POLICY_LOCAL = 0, /* no mbind: pages go where they are first touched */
    NMB_POLICY_BIND = 1,
    NMB_POLICY_PREFERRED = 2,
    NMB_POLICY_INTERLEAVE = 3,
    NMB_POLICY_WEIGHTED = 4
};

typedef struct nmb_region nmb_region;
typedef struct nmb_region_spec {
    size_t bytes;
    int page_kind;
    int policy;
    const int *nodes;
    size_t node_count;
    int fd; /* 0: private memory; else a file or memfd, mapped shared from `offset` on, with NMB_PAGE_ANY only */
    size_t offset;
} nmb_region_spec;

/* Maps `bytes` (rounded up to the page kind) between guard pages, sets policy and page kind before any touch, touches
 * nothing. On failure *call names the system call that refused. */
int nmb_region_create(const nmb_region_spec *spec, const char **call, nmb_region **out);
void nmb_region_destroy(nmb_region *region);
void *nmb_region_base(const nmb_region *region);
size_t nmb_region_bytes(const nmb_region *region);
size_t nmb_region_page_bytes(const nmb_region *region); /* of the page kind asked for */
/* Faults pages in without writing them (MADV_POPULATE_WRITE), so that a dry pool is an error and not a SIGBUS. */
int nmb_region_populate(nmb_region *region, size_t offset, size_t bytes);
/* Asks for huge pages now (MADV_COLLAPSE, Linux 6.1). */
int nmb_region_collapse(nmb_region *region);

/* ---- placement.c ---------------------------------------------------------------------------------------------------
 */

#define NMB_NOT_RESIDENT (-1) /* absent, or the shared zero page */
#define NMB_UNKNOWN_NODE (-2)

/* Node of each page of [base, base + pages * page_bytes) as move_pages tells it; one int16 a page. */
int nmb_placement_query(const void *base, size_t pages, size_t page_bytes, int16_t *node_of_page);
/* Pages per node of such an answer; per_node has NMB_MAX_NODES entries. */
void nmb_placement_count(const int16_t *node_of_page, size_t pages, uint64_t *per_node, uint64_t *not_resident);
/* Pages whose node differs between two answers. */
uint64_t nmb_placement_moved(const int16_t *before, const int16_t *after, size_t pages);

/* What /proc/self/smaps says of the mapping that holds `base`; bytes. */
typedef struct nmb_smaps {
    uint64_t rss, anon_huge, swap, kernel_page, mmu_page;
} nmb_smaps;
int nmb_smaps_query(const void *base, nmb_smaps *out);
/* What /proc/self/numa_maps says of it: bytes per node (NMB_MAX_NODES entries) and the kernel page size. */
int nmb_numa_maps_query(const void *base, uint64_t *bytes_per_node, uint64_t *kernel_page);

/* The node of each page as get_mempolicy(MPOL_F_NODE | MPOL_F_ADDR) tells it, one call a page. The question faults
 * absent pages in, so that none is found absent: look at smaps first. */
int nmb_placement_ask(const void *base, size_t pages, size_t page_bytes, int16_t *node_of_page);

/* ---- barrier.c -------------------------------------------------------------------------------------------------- */

/* SPIN polls without pause and never gives its CPU away; FUTEX sleeps at once; POLITE pauses, then yields. */
enum nmb_wait { NMB_WAIT_SPIN = 0, NMB_WAIT_FUTEX = 1, NMB_WAIT_POLITE = 2 };

/* A flat barrier, ready when arrived is 0. Its home is where the caller puts it, aligned to NMB_PAD. */
typedef struct nmb_barrier {
    _Alignas(NMB_PAD) unsigned arrived;
    _Alignas(NMB_PAD) unsigned turn;
} nmb_barrier;

/* Sense-reversing barrier of `count` threads (Mellor-Crummey and Scott, ACM TOCS 9(1), 1991), all with the same `wait`.
 * The last to arrive calls last(arg), unless NULL, before it lets the others go. 0, or -ECANCELED when *stop was seen
 * to be set; the barrier must then be made ready again. */
int nmb_barrier_wait(nmb_barrier *barrier, unsigned count, int wait, const int *stop, void (*last)(void *), void *arg);

/* ---- probe.c ----------------------------------------------------------------------------------------------------- */

enum nmb_call {
    NMB_CALL_MBIND,
    NMB_CALL_SET_MEMPOLICY,
    NMB_CALL_GET_MEMPOLICY,
    NMB_CALL_MOVE_PAGES,
    NMB_CALL_SCHED_SETAFFINITY,
    NMB_CALL_PERF_SOFTWARE,
    NMB_CALL_PERF_HARDWARE,
    NMB_CALL_HUGETLB_2M,
    NMB_CALL_HUGETLB_1G,
    NMB_CALL_MADV_HUGEPAGE,
    NMB_CALL_MADV_COLLAPSE,
    NMB_CALL_MADV_POPULATE_WRITE,
    NMB_CALLS
};
/* Makes the call once, in a thread and on memory of its own, and leaves nothing behind: 0 or the call's -errno. `node`
 * is what mbind and set_mempolicy ask for. */
int nmb_try(int call, int node);

/* ---- process.c --------------------------------------------------------------------------------------------------- */

/* Moves all pages that another process has on node `from` to node `to` (migrate_pages): the number of pages that could
 * not be moved, or -errno. Its policies stay as they are. */
int nmb_move_process(int pid, int from, int to);
enum nmb_count {
    NMB_COUNT_KERNEL = 1,    /* what happens in the kernel too */
    NMB_COUNT_FROM_EXEC = 2, /* nothing of the thread itself, but its future children from their exec on */
};
/* A counter of a thread and of its future children, counting at once unless `scope` says otherwise: a descriptor to
 * read value, time enabled and time running (three uint64_t, times in ns) from, or -errno. `type` and `config` as
 * perf_event_open(2) has them. */
int nmb_counter_open(int tid, uint32_t type, uint64_t config, int scope);

/* ---- kernels: registry.c, isa/ and kernels/ -------------------------------------------------------------------------
 */

/* Small enough to leave most of a first cache alone. The last bin holds all that took longer. */
enum { NMB_BINS = 2048, NMB_TICKS_A_BIN = 8 };

/* What one thread works on. The caller sets it up; a kernel changes only cursor[] and what the arrays hold. */
typedef struct nmb_args {
    void *a, *b, *c, *d; /* arrays; gemm: C = alpha A B + beta C; gemv: B transposed */
    size_t bytes;        /* of each array */
    size_t stride;       /* bytes between accesses (stride), between the parts' vectors (allreduce) */
    double scalar;       /* scale, triad, update */
    uint64_t delay; /* dependent additions, about one cycle each. stream: after every four lines; barrier: before an
                     * arrival, at most so many */
    uint64_t seed;  /* values written by write kernels and fill: never all zero, different from call to call */
    void *cursor[NMB_MAX_CHAINS]; /* chase: the pointer at which each chain stands; gather: the next index */
    unsigned chains;              /* gather: lines a row; shared and sync: 1 */
    unsigned part, parts;         /* this thread's share of a common job */
    void *shared;                 /* common job (a ring being built, ...); shared and sync: the lines or the barrier */
    int wait;                     /* sync: how a part waits, an nmb_wait */
    uint64_t *ticks;        /* shared and sync: clock's ticks at the end of each round go here, unless NULL; with a
                             * delay at arrival and at the end; chase of one chain: NMB_BINS counts of loads, of
                             * NMB_TICKS_A_BIN ticks each */
    const nmb_clock *clock; /* set by the run, as is stop */
    const int *stop;        /* long kernels look at it between blocks and return early when it is not 0 */
    /* gemm: row-major m x n = m x k times k x n; leading dimensions in elements; scratch is at least
     * nmb_gemm_scratch() bytes; block sizes of 0 mean the kernel's own. `transposed`: of nmb_transposed, A lies as
     * k x m, B as n x k. mix: m lines are read and n written in turn. */
    size_t m, n, k, lda, ldb, ldc;
    double alpha, beta;
    void *scratch;
    size_t scratch_bytes;
    size_t mc, kc, nc;
    unsigned transposed;
    unsigned ran; /* nmb_ran of every kernel called with it: each says itself what it was compiled as */
} nmb_args;

enum nmb_ran { NMB_RAN_SCALAR = 1, NMB_RAN_AVX2 = 2, NMB_RAN_AVX512 = 4, NMB_RAN_NEON = 8 };
enum nmb_transposed { NMB_A_TRANSPOSED = 1, NMB_B_TRANSPOSED = 2 };

/* Runs `loops` rounds and returns a value that depends on all data read, so that no load can be removed. */
typedef uint64_t (*nmb_kernel_fn)(nmb_args *args, uint64_t loops);

enum nmb_kernel_flag {
    NMB_SLICED = 1,     /* one round = the arrays once; may be called on slices of them */
    NMB_COUNTED = 2,    /* one round = one element per chain (chase) or one multiplication (gemm) */
    NMB_NT = 4,         /* stores bypass the caches; fenced inside the call */
    NMB_DEPENDENT = 8,  /* each access waits for the one before */
    NMB_SETUP = 16,     /* prepares buffers; not measured, not listed */
    NMB_COLLECTIVE = 32 /* parts wait for each other: all `parts` of them run at once, all rounds in one call */
};

/* Instructions that no psABI level has. */
enum nmb_cpu_feature { NMB_CPU_AVX512_VNNI = 1, NMB_CPU_AVX512_BF16 = 2 };

/* One kernel in one tier; of several rows of one name the last one that the CPU can run is the best. An element is one
 * array element (stream), one access (stride), one load (chase), one multiply-add (gemm). Bytes are per element as
 * STREAM counts them; `allocated` is what a write-allocating cache reads on top. */
typedef struct nmb_kernel {
    const char *name;
    const char *family;
    const char *brief; /* the loop body in one line, such as "a[i] = b[i] + s * c[i]" */
    nmb_kernel_fn fn;
    unsigned flags;
    unsigned arrays;
    unsigned element_bytes;
    unsigned bytes_read, bytes_written, bytes_allocated;
    unsigned flops;
    unsigned char sizes[3]; /* gemm, gemv: bytes of an element of A, B and C */
    const char *variant;    /* how the kernel works where there are several ways in one tier, otherwise NULL */
    unsigned scratch;       /* gemv: bytes of scratch; gemm: bytes of a packed element */
    unsigned needs;         /* enum nmb_cpu_feature beyond the tier's level */
    unsigned mr, nr;        /* gemm: micro-kernel shape */
    unsigned default_mc, default_kc, default_nc; /* gemm: block sizes when the caller gives none */
} nmb_kernel;

typedef struct nmb_tier {
    const char *name;  /* scalar, avx2, avx512, neon */
    const char *level; /* the psABI level or architecture it needs, such as x86-64-v3 */
    const nmb_kernel *kernels;
    size_t count;
    int usable; /* this CPU and this kernel of the system can run it */
} nmb_tier;

/* The features (enum nmb_cpu_feature) of this CPU. Slow under a hypervisor: ask once. */
unsigned nmb_cpu_features(void);
/* Tiers built in, slowest first; returns their number, at most `max` written. */
size_t nmb_tiers(nmb_tier *out, size_t max);
/* Kernels that prepare buffers, the same in every tier: fill_f64, fill_f32 (fault in by MADV_POPULATE_WRITE where the
 * system has it, then write values in [0.5, 1) everywhere), move (pages of k bytes to node `part`), the jobs of
 * a ring, fill_rows. NULL if there is none. They return 0 or -errno as uint64_t. */
const nmb_kernel *nmb_setup_kernel(const char *name);
/* Bytes of scratch a gemm call on an m x n x k block needs. */
size_t nmb_gemm_scratch(const nmb_kernel *kernel, size_t m, size_t n, size_t k, size_t mc, size_t kc, size_t nc);

/* ---- ring.c
 * ---------------------------------------------------------------------------------------------------------- */

/* Pointer rings over a buffer: one node per `stride` bytes, the pointer in a pseudo-random 8-byte slot of its node, in
 * random order inside windows of `window` bytes, windows in random order; a window of 0 is the order of addresses.
 * `chains` independent rings share the nodes in equal parts. The order of nodes is decided first and the pointers
 * follow it, so each ring is one cycle by construction (as in multichase); the proof reads every pointer back. */
typedef struct nmb_ring nmb_ring;
typedef struct nmb_ring_spec {
    void *base;
    size_t bytes, stride, window;
    unsigned chains;
    uint64_t seed;
} nmb_ring_spec;

int nmb_ring_create(const nmb_ring_spec *spec, nmb_ring **out);
void nmb_ring_destroy(nmb_ring *ring);
size_t nmb_ring_nodes(const nmb_ring *ring); /* of all chains together */
void *nmb_ring_start(const nmb_ring *ring, unsigned chain);
/* The four jobs of building, each for share `part` of `parts`; a job may start when all parts of the one before are
 * done. Also SETUP kernels (ring_order, ring_shuffle, ... with args.shared = ring), so that a team does them. */
int nmb_ring_order(nmb_ring *ring, unsigned part, unsigned parts);
int nmb_ring_shuffle(nmb_ring *ring, unsigned part, unsigned parts);
int nmb_ring_link(nmb_ring *ring, unsigned part, unsigned parts);
int nmb_ring_prove(nmb_ring *ring, unsigned part, unsigned parts);
/* After all parts of prove: 0, or -EILSEQ if the pointers are not exactly `chains` cycles that visit every node once.
 */
int nmb_ring_proven(const nmb_ring *ring);
/* Follows pointers from `start` until it is met again; returns the number of steps, or 0 after `limit` steps. */
uint64_t nmb_ring_walk(void *start, uint64_t limit);

/* ---- team.c, run.c
 * ------------------------------------------------------------------------------------------------------ */

/* Pinned threads that wait for work. The caller of start and wait is none of them. */
typedef struct nmb_team nmb_team;

typedef struct nmb_work {
    const nmb_kernel *kernel; /* NULL: this thread sits the run out */
    nmb_args args;
    uint64_t loops; /* rounds to do; 0: until the common window ends */
    size_t block;   /* per call of the kernel: bytes of each array (SLICED; several passes if the arrays are smaller) or
                     * rounds (COUNTED); 0: one pass or one round */
    size_t offset;  /* SLICED: where in the arrays a window ended, and the next one goes on; 0 at first */
} nmb_work;

/* What happened on one thread during one run. */
typedef struct nmb_stamp {
    uint64_t start, end; /* clock ticks */
    double elements;     /* done between them; a block that the window's end cuts counts in proportion */
    uint64_t calls;      /* of the kernel; a window reads the clock after each */
    uint64_t sink;
    double core_hz_before, core_hz_after; /* 0 when not asked for */
    double width_before, width_after;     /* nmb_core_width, likewise */
    uint64_t voluntary_switches, involuntary_switches, minor_faults;
    int cpu_start, cpu_end;
    unsigned ran; /* nmb_ran of the kernels called; 0: a SETUP kernel, which has no tier */
    int error;    /* -errno of a SETUP kernel, or of reading the evidence */
} nmb_stamp;

enum nmb_run_flag { NMB_RUN_CORE_HZ = 1 };

/* Starts one pinned thread per entry of `cpus` (a CPU may stand there twice; each pin is read back). An entry of
 * NMB_ANY_CPU is a thread that roams where the process may run. */
#define NMB_ANY_CPU (-1)
int nmb_team_create(const nmb_clock *clock, const int *cpus, size_t count, nmb_team **out);
void nmb_team_destroy(nmb_team *team);
size_t nmb_team_size(const nmb_team *team);
/* One run: all threads leave a barrier together and do works[i]. `works` must live until wait returns 0. window_ticks
 * is the length of the common window for works whose loops are 0. */
int nmb_team_start(nmb_team *team, nmb_work *works, uint64_t window_ticks, unsigned flags);
/* 0 when all are done, -ETIMEDOUT after timeout_ms. */
int nmb_team_wait(nmb_team *team, unsigned timeout_ms);
void nmb_team_cancel(nmb_team *team); /* asks for an early end; wait still has to return 0 */
const nmb_stamp *nmb_team_stamps(const nmb_team *team);

/* ---- instance.c ---------------------------------------------------------------------------------------------------
 */

/* One request; ns from the start of the run on CLOCK_MONOTONIC. */
typedef struct nmb_request {
    int64_t scheduled, sent, start, done;
    uint32_t server;
    uint32_t unused[7];
} nmb_request;

/* A queue of requests in memory that processes share. Its words are futexes. */
typedef struct nmb_board {
    _Alignas(NMB_PAD) uint32_t published; /* requests sent */
    uint32_t waiting, closed;
    _Alignas(NMB_PAD) uint32_t claimed; /* requests that an instance has taken */
    _Alignas(NMB_PAD) size_t capacity;
    _Alignas(NMB_PAD) nmb_request requests[];
} nmb_board;

size_t nmb_board_bytes(size_t capacity);
void nmb_board_clear(nmb_board *board, size_t capacity);
/* The open loop: sends requests [from, to) at `origin` + scheduled whether or not earlier ones are done. 0, -EINVAL, or
 * -ECANCELED when *stop was seen to be set. The caller's CPU is busy meanwhile. */
int nmb_board_send(nmb_board *board, size_t from, size_t to, int64_t origin, const int *stop);
void nmb_board_close(nmb_board *board); /* no more requests will come */
int64_t nmb_monotonic_ns(void);

/* Processes that serve one model together, each a tensor-parallel part of it: in memory that they share, cleared. The
 * first claims the requests. A run starts when all have ended the one before. */
typedef struct nmb_ranks {
    nmb_barrier barrier;
    _Alignas(NMB_PAD) int64_t next;
} nmb_ranks;

/* How to serve. `until` 0: the board's requests as they are sent; else closed loop, one request after the other until
 * then. Times are absolute, ns of CLOCK_MONOTONIC. Request `stall_at` is held up by `stall_ns`, a planted fault. */
typedef struct nmb_serve {
    int64_t origin, until;
    unsigned steps;   /* runs of the program for one request */
    unsigned opening; /* so many barriers of the program end its first part, which only the first of them runs */
    unsigned duty;    /* closed loop: percent of the time at work, asleep for the rest after each request; 0: all */
    uint32_t server;
    int64_t stall_at, stall_ns;
    nmb_ranks *ranks; /* NULL: alone */
    unsigned rank, rank_count;
} nmb_serve;

/* A model: per thread a program of works, run in order. A work without a kernel is a barrier of all threads when its
 * loops are 1, else nothing. */
typedef struct nmb_instance nmb_instance;
static inline int nmb_is_barrier(const nmb_work *work) { return !work->kernel && work->loops == 1; }

/* works[thread * length + i]; every thread's program has the same barriers, the last work is one. Copies the works;
 * what they point to, and the board, must outlive the instance. */
int nmb_instance_create(const nmb_work *works, unsigned threads, size_t length, int wait, nmb_board *board,
                        nmb_instance **out);
void nmb_instance_destroy(nmb_instance *instance);
/* Before each run of the team with nmb_serve_kernel, args.shared = instance, args.part of args.parts its threads. The
 * work's loops are the most requests to serve. */
void nmb_instance_prepare(nmb_instance *instance, const nmb_serve *serve);
extern const nmb_kernel nmb_serve_kernel;
uint64_t nmb_instance_steps(const nmb_instance *instance);
size_t nmb_instance_barriers(const nmb_instance *instance);
/* Clock ticks that thread 0 spent up to each barrier, waiting included, over all steps of the run. */
const uint64_t *nmb_instance_op_ticks(const nmb_instance *instance);
/* What the last call of a thread's work returned. */
uint64_t nmb_instance_result(const nmb_instance *instance, unsigned thread, size_t work);

#endif
