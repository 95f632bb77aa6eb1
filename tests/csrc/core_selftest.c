/* SPDX-License-Identifier: Apache-2.0 */
/* The core without an interpreter, for valgrind, the sanitizers and emulated CPUs: clock, affinity, regions, placement,
 * setup kernels here; rings, and teams with their runs, in the files it includes. One line a check; what this system
 * does not offer is "unavailable" and says why; exit status 1 if a check failed. `quick` as first argument: less of
 * everything. */
#define _GNU_SOURCE
#include "nmb.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ABSENT_CPU = 60000, ABSENT_NODE = NMB_MAX_NODES - 1, MAX_CPUS = 4096 };
#define COUNT(x) (sizeof(x) / sizeof(*(x)))

static int failures, unavailable, quick;
static nmb_clock tick;
static int cpus[MAX_CPUS];
static size_t cpu_count;

#define check(ok, ...) check_at(__LINE__, (ok) != 0, __VA_ARGS__)
__attribute__((format(printf, 3, 4))) static void check_at(int line, int ok, const char *what, ...)
{
    char text[200];
    va_list list;
    va_start(list, what);
    vsnprintf(text, sizeof text, what, list);
    va_end(list);
    if (!ok)
        printf("FAILED line %d: %s\n", line, text);
    else
        printf("ok %s\n", text);
    failures += !ok;
}

/* ENOSYS: an emulator or a kernel without NUMA. EPERM: a container's filter. Nothing else excuses. */
static int not_here(int rc, const char *what)
{
    if (rc != -ENOSYS && rc != -EPERM)
        return 0;
    printf("unavailable %s: %s\n", what, strerror(-rc));
    unavailable++;
    return 1;
}

static uint64_t raw_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void test_clock(void)
{
    nmb_clock raw;
    check(nmb_clock_init(-1, &raw) == -EINVAL && nmb_clock_init(2, &raw) == -EINVAL, "clock: unknown source refused");
    check(nmb_clock_init(NMB_CLOCK_MONOTONIC_RAW, &raw) == 0 && raw.source == NMB_CLOCK_MONOTONIC_RAW && raw.hz == 1e9,
          "clock: system clock on request");
    check(nmb_clock_init(NMB_CLOCK_COUNTER, &tick) == 0, "clock: calibrates");
    check(tick.source == (tick.invariant ? NMB_CLOCK_COUNTER : NMB_CLOCK_MONOTONIC_RAW), "clock: counter if invariant");
    check(tick.overhead_ns > 0 && tick.step_ns > 0, "clock: a reading costs %g ns, smallest step %g ns",
          tick.overhead_ns, tick.step_ns);
    uint64_t last = nmb_clock_now(&tick), back = 0;
    for (int i = 0; i < 100000; i++) {
        uint64_t now = nmb_clock_now(&tick);
        back += now < last;
        last = now;
    }
    check(back == 0, "clock: never runs back");
    double worst = 0;
    for (int i = 0; i < 3; i++) { /* the best of three: another thread may have had this CPU in between */
        uint64_t t0 = raw_ns(), c0 = nmb_clock_now(&tick), t1;
        while ((t1 = raw_ns()) < t0 + 20000000) {
        }
        double ratio = (double)(nmb_clock_now(&tick) - c0) / tick.hz * 1e9 / (double)(t1 - t0);
        if (i == 0 || (ratio > 1 ? ratio - 1 : 1 - ratio) < (worst > 1 ? worst - 1 : 1 - worst))
            worst = ratio;
    }
    check(worst > 0.98 && worst < 1.02, "clock: runs %.4f times as fast as CLOCK_MONOTONIC_RAW", worst);
    check(nmb_core_hz(&tick) > 1e6 && nmb_core_hz(&raw) > 1e6, "clock: core frequency");
    check(nmb_core_width(&tick, nmb_core_hz(&tick)) > 0 && nmb_core_width(&tick, 0) == 0, "clock: width of the core");
}

static void test_affinity(void)
{
    int bad[] = {ABSENT_CPU, -1, 1 << 20}, one = -1, cpu = -1, node = -1;
    size_t count = 0;
    check(nmb_affinity_get(0, cpus, MAX_CPUS, &cpu_count) == 0 && cpu_count > 0, "affinity: %zu CPUs", cpu_count);
    int ascending = 1;
    for (size_t i = 1; i < cpu_count; i++)
        ascending &= cpus[i - 1] < cpus[i];
    check(ascending, "affinity: ascending");
    check(nmb_affinity_get(0, &one, 1, &count) == 0 && one == cpus[0] && count == cpu_count,
          "affinity: full number with room for one");
    for (size_t i = 0; i < COUNT(bad); i++)
        check(nmb_affinity_set(0, &bad[i], 1) == -EINVAL, "affinity: CPU %d refused", bad[i]);
    check(nmb_affinity_set(0, cpus, 0) == -EINVAL, "affinity: no CPU at all refused");
    check(nmb_affinity_get(0, &one, 1, &count) == 0 && count == cpu_count, "affinity: a refusal changes nothing");
    int pinned = 1;
    for (size_t i = 0; i < cpu_count && i < 16; i++) {
        pinned &= nmb_affinity_set(0, &cpus[i], 1) == 0 && nmb_affinity_get(0, &one, 1, &count) == 0;
        pinned &= count == 1 && one == cpus[i] && nmb_affinity_where(&cpu, &node) == 0 && cpu == cpus[i] && node >= 0;
    }
    check(pinned, "affinity: pinned, read back, and running there");
    check(nmb_affinity_set(0, cpus, cpu_count) == 0, "affinity: restored");
    check(nmb_affinity_get(1 << 30, &one, 1, &count) == -ESRCH, "affinity: no such thread");
}

/* Whether writing at `p` ends a child; the sanitizers' own handlers end it by exit instead of the signal. */
static int write_ends(volatile char *p)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit none = {0, 0};
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
        setrlimit(RLIMIT_CORE, &none);
        *p = 1;
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) && (WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGBUS);
}

static void test_refused_specs(void)
{
    const char *call = NULL;
    nmb_region *region = NULL;
    int zero = 0, negative = -1, beyond = NMB_MAX_NODES, absent = ABSENT_NODE;
    const struct {
        nmb_region_spec spec;
        const char *what;
    } bad[] = {
        {{0, NMB_PAGE_BASE, NMB_POLICY_LOCAL, NULL, 0, 0, 0}, "no bytes"},
        {{SIZE_MAX, NMB_PAGE_BASE, NMB_POLICY_LOCAL, NULL, 0, 0, 0}, "all bytes"},
        {{4096, -1, NMB_POLICY_LOCAL, NULL, 0, 0, 0}, "page kind -1"},
        {{4096, NMB_PAGE_ANY + 1, NMB_POLICY_LOCAL, NULL, 0, 0, 0}, "page kind beyond the last"},
        {{4096, NMB_PAGE_BASE, -1, NULL, 0, 0, 0}, "policy -1"},
        {{4096, NMB_PAGE_BASE, NMB_POLICY_WEIGHTED + 1, &zero, 1, 0, 0}, "policy beyond the last"},
        {{4096, NMB_PAGE_BASE, NMB_POLICY_BIND, NULL, 0, 0, 0}, "bind to no node"},
        {{4096, NMB_PAGE_BASE, NMB_POLICY_LOCAL, NULL, 0, 5, 0}, "a file with page kind base"},
        {{4096, NMB_PAGE_ANY, NMB_POLICY_LOCAL, NULL, 0, -5, 0}, "a negative file"},
        {{4096, NMB_PAGE_BASE, NMB_POLICY_BIND, &negative, 1, 0, 0}, "node -1"},
        {{4096, NMB_PAGE_BASE, NMB_POLICY_BIND, &beyond, 1, 0, 0}, "node beyond the last"},
    };
    for (size_t i = 0; i < COUNT(bad); i++)
        check(nmb_region_create(&bad[i].spec, &call, &region) == -EINVAL && !strcmp(call, "spec") && !region,
              "region: %s refused", bad[i].what);
    nmb_region_spec spec = {(size_t)1 << 50, NMB_PAGE_BASE, NMB_POLICY_LOCAL, NULL, 0, 0, 0};
    check(nmb_region_create(&spec, &call, &region) < 0 && !region && !strcmp(call, "mmap"),
          "region: 1 PiB refused by mmap");
    spec = (nmb_region_spec){4096, NMB_PAGE_BASE, NMB_POLICY_BIND, &absent, 1, 0, 0};
    int rc = nmb_region_create(&spec, &call, &region);
    check(rc < 0 && !region && !strcmp(call, "mbind"), "region: absent node refused by mbind");
    if (!not_here(rc, "mbind"))
        check(rc == -EINVAL, "region: absent node is EINVAL");
    nmb_region_destroy(NULL);
}

/* Emulators of user space take advice and forget it. */
static int advice_counts(void) { return madvise((void *)(uintptr_t)sysconf(_SC_PAGESIZE), 1, MADV_DONTFORK) != 0; }

static void test_page_kinds(void)
{
    const int real = advice_counts() || !not_here(-ENOSYS, "madvise");
    static const char *const name[] = {"base", "thp", "2M", "1G", "any"};
    const char *call = NULL;
    for (int kind = NMB_PAGE_BASE; kind <= NMB_PAGE_ANY; kind++) {
        nmb_region *region = NULL;
        nmb_region_spec spec = {3 * 4096 + 1, kind, NMB_POLICY_LOCAL, NULL, 0, 0, 0};
        int rc = nmb_region_create(&spec, &call, &region);
        if (rc) { /* no pool, no such size, or a kernel without transparent huge pages */
            check((kind == NMB_PAGE_2M || kind == NMB_PAGE_1G) ? !strcmp(call, "mmap") : !strcmp(call, "madvise"),
                  "region: %s pages refused by %s", name[kind], call);
            printf("unavailable %s pages: %s\n", name[kind], strerror(-rc));
            unavailable++;
            continue;
        }
        char *base = nmb_region_base(region);
        size_t bytes = nmb_region_bytes(region), page = nmb_region_page_bytes(region);
        check(bytes >= spec.bytes && bytes % page == 0 && (uintptr_t)base % page == 0,
              "region: %s pages, %zu bytes, aligned", name[kind], bytes);
        check(write_ends(base - 1) && write_ends(base + bytes), "region: %s pages are guarded on both sides",
              name[kind]);
        memset(base, 1, bytes);
        check(!real || write_ends(base), "region: %s pages are not there in a forked child", name[kind]);
        rc = nmb_region_collapse(region);
        if (kind == NMB_PAGE_THP && rc == 0 && real) {
            nmb_smaps smaps;
            check(nmb_smaps_query(base, &smaps) || smaps.anon_huge == bytes, "region: collapsed into huge pages");
        }
        check(nmb_region_populate(region, bytes, 1) == -EINVAL && nmb_region_populate(region, 1, bytes) == -EINVAL &&
                  nmb_region_populate(region, SIZE_MAX, 2) == -EINVAL,
              "region: populating outside of it refused");
        nmb_region_destroy(region);
    }
}

static void test_placement(void)
{
    enum { PAGES = 9000, PART = 64 }; /* more pages than one batch of the query */
    static int16_t before[PAGES], after[PAGES];
    static uint64_t per_node[NMB_MAX_NODES], missing;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const char *call = NULL;
    nmb_region *region = NULL;
    nmb_region_spec spec = {PAGES * page, NMB_PAGE_BASE, NMB_POLICY_LOCAL, NULL, 0, 0, 0};
    int here_cpu, here = 0;
    if (nmb_region_create(&spec, &call, &region)) {
        check(0, "placement: region");
        return;
    }
    char *base = nmb_region_base(region);
    check(nmb_placement_query(base, 1, 0, before) == -EINVAL, "placement: pages of no bytes refused");
    int rc = nmb_placement_query(base, PAGES, page, before);
    if (!not_here(rc, "move_pages")) {
        nmb_placement_count(before, PAGES, per_node, &missing);
        check(rc == 0 && missing == PAGES, "placement: untouched is not resident");
        volatile char sum = 0;
        for (size_t i = 0; i < PART; i++)
            sum = (char)(sum + base[i * page]);
        nmb_placement_query(base, PAGES, page, before);
        nmb_placement_count(before, PAGES, per_node, &missing);
        check(missing == PAGES, "placement: only read is the zero page, not resident");
        nmb_affinity_set(0, cpus, 1);
        nmb_affinity_where(&here_cpu, &here);
        memset(base, 1, PART * page);
        nmb_placement_query(base, PAGES, page, after);
        nmb_placement_count(after, PAGES, per_node, &missing);
        check(missing == PAGES - PART && per_node[here] == PART, "placement: written pages are on the writer's node");
        check(nmb_placement_moved(before, after, PAGES) == PART && nmb_placement_moved(after, after, PAGES) == 0,
              "placement: what changed is counted");
        rc = nmb_region_populate(region, PART * page, PART * page);
        if (rc != -EINVAL) { /* Linux before 5.14 does not know it */
            nmb_placement_query(base, PAGES, page, after);
            nmb_placement_count(after, PAGES, per_node, &missing);
            check(rc == 0 && missing == PAGES - 2 * PART, "placement: populated pages are resident");
        }
        memset(base, 1, PAGES * page);
        nmb_placement_query(base, PAGES, page, after);
        nmb_placement_count(after, PAGES, per_node, &missing);
        check(missing == 0, "placement: every page of several batches");
        nmb_affinity_set(0, cpus, cpu_count);
        uint64_t kernel_page = 0, sum_bytes = 0;
        nmb_smaps smaps;
        check(nmb_smaps_query(base, &smaps) == 0 && smaps.rss == PAGES * page && smaps.kernel_page == page &&
                  smaps.anon_huge == 0,
              "placement: smaps agrees");
        check(nmb_smaps_query(base + 5 * page, &smaps) == 0 && smaps.rss == PAGES * page, "placement: from inside too");
        check(nmb_smaps_query((void *)16, &smaps) == -ENOENT, "placement: smaps of no mapping");
        rc = nmb_numa_maps_query(base, per_node, &kernel_page);
        for (int i = 0; i < NMB_MAX_NODES; i++)
            sum_bytes += per_node[i];
        if (rc == -ENOENT && access("/proc/self/numa_maps", R_OK))
            not_here(-ENOSYS, "numa_maps");
        else
            check(rc == 0 && sum_bytes == PAGES * page && kernel_page == page, "placement: numa_maps agrees");
    }
    nmb_region_destroy(region);
}

static void test_probe(void)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const char *call_name = NULL;
    nmb_region *region = NULL;
    nmb_region_spec spec = {.bytes = 2 * page, .page_kind = NMB_PAGE_BASE, .policy = NMB_POLICY_LOCAL};
    int here_cpu, here = 0;
    int16_t told[2] = {-9, -9};
    nmb_affinity_where(&here_cpu, &here);
    for (int call = 0; call < NMB_CALLS; call++) {
        int first = nmb_try(call, here);
        check(first <= 0 && nmb_try(call, here) == first, "probe: call %d answers %d, twice", call, first);
    }
    check(nmb_try(NMB_CALLS, 0) == -EINVAL && nmb_try(-1, 0) == -EINVAL && nmb_try(0, -1) == -EINVAL,
          "probe: unknown calls and nodes refused");
    check(nmb_move_process(0, 0, 0) == -EINVAL && nmb_move_process(1, 0, NMB_MAX_NODES) == -EINVAL &&
              nmb_counter_open(0, 1, 0, 0) == -EINVAL,
          "process: a wrong argument is accepted");
    int rc = nmb_try(NMB_CALL_MBIND, ABSENT_NODE);
    check(rc == -EINVAL || rc == -EPERM || rc == -ENOSYS, "probe: a node that is not there");
    if (nmb_region_create(&spec, &call_name, &region)) {
        check(0, "probe: region");
        return;
    }
    memset(nmb_region_base(region), 1, 2 * page);
    rc = nmb_placement_ask(nmb_region_base(region), 2, page, told);
    if (!not_here(rc, "get_mempolicy"))
        check(rc == 0 && told[0] >= 0 && told[1] >= 0, "probe: get_mempolicy tells the node");
    nmb_region_destroy(region);
}

static void test_policies(void)
{
    enum { PAGES = 32 };
    static const char *const name[] = {"local", "bind", "preferred", "interleave", "weighted"};
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    int16_t seen[PAGES];
    uint64_t per_node[NMB_MAX_NODES], missing;
    int here_cpu, here = 0;
    nmb_affinity_where(&here_cpu, &here);
    for (int policy = NMB_POLICY_BIND; policy <= NMB_POLICY_WEIGHTED; policy++) {
        const char *call = NULL;
        nmb_region *region = NULL;
        nmb_region_spec spec = {PAGES * page, NMB_PAGE_BASE, policy, &here, 1, 0, 0};
        int rc = nmb_region_create(&spec, &call, &region);
        if (not_here(rc, name[policy]))
            continue;
        if (rc == -EINVAL && policy == NMB_POLICY_WEIGHTED) { /* Linux 6.9 */
            not_here(-ENOSYS, "weighted");
            continue;
        }
        check(rc == 0, "policy: %s", name[policy]);
        if (rc)
            continue;
        memset(nmb_region_base(region), 1, PAGES * page);
        rc = nmb_placement_query(nmb_region_base(region), PAGES, page, seen);
        nmb_placement_count(seen, PAGES, per_node, &missing);
        check(rc == 0 && per_node[here] == PAGES, "policy: %s puts all pages on node %d", name[policy], here);
        nmb_region_destroy(region);
    }
}

static void test_fill(void)
{
    enum { ELEMENTS = 5000 };
    static const char *const names[] = {"fill_f64",     "fill_f32",  "move",      "ring_order",
                                        "ring_shuffle", "ring_link", "ring_prove"};
    for (size_t i = 0; i < COUNT(names); i++) {
        const nmb_kernel *kernel = nmb_setup_kernel(names[i]);
        check(kernel && !strcmp(kernel->name, names[i]) && (kernel->flags & NMB_SETUP), "setup: %s", names[i]);
    }
    check(!nmb_setup_kernel("fill") && !nmb_setup_kernel(""), "setup: unknown names");
    double *d = malloc(ELEMENTS * sizeof *d);
    float *f = (float *)d;
    int right = 1, differ = 0;
    for (uint64_t seed = 0; seed < 50; seed++) {
        nmb_args args = {.a = d, .bytes = ELEMENTS * sizeof *d, .seed = seed * 0x0123456789abcdefu};
        right &= nmb_setup_kernel("fill_f64")->fn(&args, 1) == 0;
        for (int i = 0; i < ELEMENTS; i++)
            right &= d[i] >= 0.5 && d[i] < 1;
        differ += d[0] != d[1];
        args.bytes = ELEMENTS * sizeof *f;
        right &= nmb_setup_kernel("fill_f32")->fn(&args, 1) == 0;
        for (int i = 0; i < ELEMENTS; i++)
            right &= f[i] >= 0.5f && f[i] < 1;
        differ += f[0] != f[1];
    }
    check(right, "setup: every value filled in is in [0.5, 1)");
    check(differ == 100, "setup: neighbours differ");
    nmb_args none = {.a = d, .bytes = 0};
    check(nmb_setup_kernel("fill_f64")->fn(&none, 1) == 0, "setup: nothing to fill");
    free(d);
}

#include "core_ring.inc.h"
#include "core_team.inc.h"
#include "core_instance.inc.h"

int main(int argc, char **argv)
{
    quick = argc > 1 && !strcmp(argv[1], "quick");
    setvbuf(stdout, NULL, _IOLBF, 0);
    test_clock();
    test_affinity();
    test_refused_specs();
    test_page_kinds();
    test_placement();
    test_policies();
    test_probe();
    test_rings();
    test_fill();
    test_teams();
    test_instances();
    printf("%d failed, %d unavailable\n", failures, unavailable);
    return failures != 0;
}
