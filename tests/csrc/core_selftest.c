/* SPDX-License-Identifier: Apache-2.0 */
/* The core without an interpreter, for valgrind, the sanitizers and emulated CPUs. One line a check; exit 1 on a
 * failure. */
#define _GNU_SOURCE
#include "nmb.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int failures;

static void check(int ok, const char *what)
{
    printf("%s %s\n", ok ? "ok    " : "FAILED", what);
    failures += !ok;
}

static void test_clock(nmb_clock *clock)
{
    check(nmb_clock_init(NMB_CLOCK_COUNTER, clock) == 0, "clock: calibrates");
    uint64_t a = nmb_clock_now(clock), b = nmb_clock_now(clock);
    check(b >= a && clock->hz > 1e6 && clock->overhead_ns > 0, "clock: runs forward and has a cost");
    check(nmb_clock_init(7, clock) == -EINVAL, "clock: unknown source refused");
    nmb_clock raw;
    check(nmb_clock_init(NMB_CLOCK_MONOTONIC_RAW, &raw) == 0 && raw.hz == 1e9, "clock: system clock on request");
    check(nmb_core_hz(&raw) > 1e6, "clock: core frequency");
    nmb_clock_init(NMB_CLOCK_COUNTER, clock);
}

static int first_cpu(void)
{
    int cpus[4096];
    size_t count = 0;
    check(nmb_affinity_get(0, cpus, 4096, &count) == 0 && count > 0, "affinity: readable");
    int bad = 60000;
    check(nmb_affinity_set(0, &bad, 1) < 0, "affinity: absent CPU refused");
    return cpus[0];
}

static void test_region(void)
{
    const char *call = "";
    nmb_region *region = NULL;
    int node = 0, absent = 1000;
    int16_t before[64], after[64];
    uint64_t per_node[NMB_MAX_NODES], missing;
    nmb_region_spec spec = {.bytes = 64 * 4096, .page_kind = NMB_PAGE_BASE, .policy = NMB_POLICY_LOCAL};
    check(nmb_region_create(&spec, &call, &region) == 0, "region: created");
    char *base = nmb_region_base(region);
    check(nmb_placement_query(base, 64, 4096, before) == 0 && before[0] == NMB_NOT_RESIDENT,
          "region: untouched is absent");
    volatile char sum = 0;
    for (int i = 0; i < 64; i++)
        sum = (char)(sum + base[i * 4096]);
    nmb_placement_query(base, 64, 4096, before);
    nmb_placement_count(before, 64, per_node, &missing);
    check(missing == 64, "region: only read is the zero page, not resident");
    memset(base, 1, 64 * 4096);
    nmb_placement_query(base, 64, 4096, after);
    nmb_placement_count(after, 64, per_node, &missing);
    check(missing == 0 && nmb_placement_moved(before, after, 64) == 64, "region: written pages are resident");
    nmb_smaps smaps;
    check(nmb_smaps_query(base, &smaps) == 0 && smaps.rss == 64 * 4096 && smaps.kernel_page == 4096, "region: smaps");
    pid_t child = fork();
    if (child == 0) {
        base[64 * 4096] = 1;
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    check(!WIFEXITED(status) || WEXITSTATUS(status) != 0, "region: the page behind it is guarded");
    nmb_region_destroy(region);
    spec.policy = NMB_POLICY_BIND, spec.nodes = &absent, spec.node_count = 1;
    check(nmb_region_create(&spec, &call, &region) < 0 && !strcmp(call, "mbind"),
          "region: absent node refused by mbind");
    spec.nodes = &node, spec.bytes = 0;
    check(nmb_region_create(&spec, &call, &region) == -EINVAL, "region: no bytes refused");
    nmb_region_destroy(NULL);
}

static void test_ring(size_t bytes, size_t stride, size_t window, unsigned chains)
{
    char what[120];
    void **memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    nmb_ring_spec spec = {memory, bytes, stride, window, chains, 42};
    nmb_ring *ring = NULL;
    int ok = memory && nmb_ring_create(&spec, &ring) == 0;
    for (unsigned job = 0; ok && job < 3; job++)
        for (unsigned part = 0; part < 3; part++)
            ok &= (job == 0   ? nmb_ring_order(ring, part, 3)
                   : job == 1 ? nmb_ring_link(ring, part, 3)
                              : nmb_ring_prove(ring, part, 3)) == 0;
    ok = ok && nmb_ring_proven(ring) == 0;
    uint64_t steps = 0;
    for (unsigned c = 0; ok && c < chains; c++)
        steps += nmb_ring_walk(nmb_ring_start(ring, c), bytes);
    snprintf(what, sizeof what, "ring: %zu bytes, stride %zu, window %zu, %u chains", bytes, stride, window, chains);
    check(ok && steps == nmb_ring_nodes(ring), what);
    if (ok) { /* a planted short cycle must be seen */
        void **start = nmb_ring_start(ring, 0);
        *start = start;
        for (unsigned part = 0; part < 3; part++)
            nmb_ring_prove(ring, part, 3);
        check(bytes / stride == chains || nmb_ring_proven(ring) == -EILSEQ, "ring: a changed pointer is caught");
    }
    nmb_ring_destroy(ring);
    free(memory);
}

static void test_team(const nmb_clock *clock, int cpu, unsigned threads)
{
    int cpus[8];
    nmb_work works[8];
    static double a[8][512], b[8][512], c[8][512];
    nmb_team *team = NULL;
    nmb_tier tiers[8];
    size_t count = nmb_tiers(tiers, 8);
    memset(works, 0, sizeof works);
    for (unsigned i = 0; i < threads; i++)
        cpus[i] = cpu;
    check(nmb_team_create(clock, cpus, threads, &team) == 0, "team: created");
    for (size_t t = 0; t < count; t++) {
        if (!tiers[t].usable)
            continue;
        for (size_t k = 0; k < tiers[t].count; k++) {
            if (strcmp(tiers[t].kernels[k].family, "stream"))
                continue;
            for (unsigned i = 0; i < threads; i++) {
                for (int j = 0; j < 512; j++)
                    a[i][j] = 1, b[i][j] = 2, c[i][j] = 3;
                works[i] = (nmb_work){.kernel = &tiers[t].kernels[k], .loops = 3, .block = 1024};
                works[i].args = (nmb_args){.a = a[i] + 1, .b = b[i] + 1, .c = c[i] + 1, .bytes = 509 * 8, .scalar = 2};
            }
            int ok = nmb_team_start(team, works, 0, 0) == 0;
            while (ok && nmb_team_wait(team, 1000) == -ETIMEDOUT) {
            }
            for (unsigned i = 0; i < threads; i++) {
                ok &= nmb_team_stamps(team)[i].elements == 3 * 509.0;
                ok &= a[i][0] == 1 && a[i][510] == 1 && a[i][511] == 1; /* nothing outside */
                if (!strncmp(tiers[t].kernels[k].name, "triad", 5))
                    ok &= a[i][1] == 8 && a[i][509] == 8;
            }
            if (!ok)
                printf("FAILED %s/%s on %u threads\n", tiers[t].name, tiers[t].kernels[k].name, threads);
            failures += !ok;
        }
    }
    works[0].loops = 0;
    nmb_team_start(team, works, (uint64_t)(clock->hz * 3600), 0);
    nmb_team_cancel(team);
    int rc;
    while ((rc = nmb_team_wait(team, 1000)) == -ETIMEDOUT) {
    }
    check(rc == 0, "team: an hour's window ends when cancelled");
    works[0].loops = 0;
    check(nmb_team_start(team, works, 0, 0) == -EINVAL, "team: work without an end refused");
    nmb_team_destroy(team);
    cpus[0] = 60000;
    check(nmb_team_create(clock, cpus, 1, &team) < 0, "team: absent CPU refused");
}

int main(int argc, char **argv)
{
    nmb_clock clock;
    int quick = argc > 1 && !strcmp(argv[1], "quick");
    test_clock(&clock);
    int cpu = first_cpu();
    test_region();
    test_ring(64, 64, 64, 1);
    test_ring(1 << 16, 64, 4096, 1);
    test_ring((1 << 16) + 192, 64, 4096, 3);
    test_ring(quick ? 1 << 18 : 1 << 22, 256, 1 << 30, 16);
    test_team(&clock, cpu, 1);
    test_team(&clock, cpu, 3);
    printf("%d failed\n", failures);
    return failures != 0;
}
