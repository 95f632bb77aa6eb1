/* SPDX-License-Identifier: Apache-2.0 */
/* Part of core_selftest.c: teams and runs. Threads share CPUs where there are more threads than CPUs. */

enum { MAX_THREADS = 8, ELEMENTS = 509, GEMM = 96 };

static double arrays[MAX_THREADS][3][ELEMENTS + 3];
static double matrices[MAX_THREADS][3][GEMM * GEMM];
static nmb_work works[MAX_THREADS];
static nmb_team *team;
static unsigned threads;

static int wait_all(void)
{
    int rc;
    while ((rc = nmb_team_wait(team, 1000)) == -ETIMEDOUT) {
    }
    return rc;
}

static int run_all(uint64_t window, unsigned flags)
{
    int rc = nmb_team_start(team, works, window, flags);
    return rc ? rc : wait_all();
}

static nmb_tier best_tier(void)
{
    nmb_tier tiers[8];
    size_t count = nmb_tiers(tiers, 8);
    while (count > 1 && !tiers[count - 1].usable)
        count--;
    return tiers[count - 1];
}

static const nmb_kernel *kernel_of(nmb_tier tier, const char *name)
{
    for (size_t i = 0; i < tier.count; i++)
        if (!strcmp(tier.kernels[i].name, name))
            return &tier.kernels[i];
    return NULL;
}

static const nmb_kernel *a_gemm(nmb_tier tier, unsigned element_bytes)
{
    for (size_t i = 0; i < tier.count; i++)
        if (!strcmp(tier.kernels[i].family, "gemm") && tier.kernels[i].element_bytes == element_bytes)
            return &tier.kernels[i];
    return NULL;
}

/* triad over slices: what is counted is what was done, and nothing outside of the arrays changes. */
static void test_counted_rounds(const nmb_kernel *triad)
{
    static const size_t blocks[] = {0, 8, 64, 1000, 1024, ELEMENTS * 8, 3 * ELEMENTS * 8};
    int right = 1;
    for (size_t b = 0; b < COUNT(blocks); b++) {
        for (unsigned i = 0; i < threads; i++) {
            for (int j = 0; j < ELEMENTS + 3; j++)
                arrays[i][0][j] = 1, arrays[i][1][j] = 2, arrays[i][2][j] = 3;
            works[i] = (nmb_work){.kernel = triad, .loops = i + 1, .block = blocks[b]};
            works[i].args = (nmb_args){.a = arrays[i][0] + 1,
                                       .b = arrays[i][1] + 1,
                                       .c = arrays[i][2] + 1,
                                       .bytes = ELEMENTS * 8,
                                       .scalar = 2};
        }
        right &= run_all(0, 0) == 0;
        for (unsigned i = 0; i < threads; i++) {
            const nmb_stamp *s = &nmb_team_stamps(team)[i];
            const double *a = arrays[i][0];
            right &= s->elements == (double)ELEMENTS * (i + 1) && s->error == 0 && s->end >= s->start;
            right &= s->cpu_start == cpus[i % cpu_count] && s->cpu_end == s->cpu_start;
            right &= s->core_hz_before == 0 && s->core_hz_after == 0 && s->width_before == 0 && s->width_after == 0;
            right &= a[0] == 1 && a[ELEMENTS + 1] == 1 && a[1] == 8 && a[ELEMENTS] == 8 && a[ELEMENTS / 2] == 8;
        }
    }
    check(right, "team of %u: rounds, slices, elements, CPUs", threads);
}

static void test_windows(const nmb_kernel *read)
{
    const uint64_t window = (uint64_t)(tick.hz * (quick ? 0.002 : 0.01));
    for (unsigned i = 0; i < threads; i++) {
        works[i] = (nmb_work){.kernel = i == 1 ? NULL : read, .block = 512};
        works[i].args = (nmb_args){.a = arrays[i][0], .bytes = 512 * 7};
    }
    int rc = run_all(window, NMB_RUN_CORE_HZ), right = 1;
    const nmb_stamp *s = nmb_team_stamps(team);
    uint64_t common = 0;
    for (unsigned i = 0; i < threads; i++) {
        if (i == 1) {
            right &= s[i].elements == 0 && s[i].start == 0 && s[i].cpu_start == -1;
            continue;
        }
        right &= s[i].core_hz_before > 0 && s[i].core_hz_after > 0;
        right &= s[i].width_before > 0 && s[i].width_after > 0;
        if (s[i].start == s[i].end) { /* more threads than CPUs: no turn within the window */
            right &= s[i].elements == 0 && threads > cpu_count;
            continue;
        }
        right &= s[i].elements > 0 && (common == 0 || s[i].end == common);
        right &= s[i].end - s[i].start <= window || tick.source != NMB_CLOCK_COUNTER;
        common = s[i].end;
    }
    right &= common != 0;
    check(rc == 0 && right, "team of %u: a common window, one thread sitting it out", threads);
}

/* Long work of each kind ends soon after it is cancelled, on all threads. */
static void test_cancel(nmb_tier tier)
{
    const nmb_kernel *read = kernel_of(tier, "read"), *gemm = a_gemm(tier, 8);
    for (int kind = 0; kind < 3; kind++) {
        size_t scratch_bytes = gemm ? nmb_gemm_scratch(gemm, GEMM, GEMM, GEMM, 0, 0, 0) : 0;
        void *scratch[MAX_THREADS];
        for (unsigned i = 0; i < threads; i++) {
            scratch[i] = aligned_alloc(NMB_LINE, (scratch_bytes + 4096) / NMB_LINE * NMB_LINE);
            works[i] = (nmb_work){.kernel = read, .loops = kind == 1 ? UINT64_MAX : 0, .block = 1024};
            works[i].args = (nmb_args){.a = arrays[i][0], .bytes = ELEMENTS * 8};
            if (kind == 2 && gemm) {
                works[i] = (nmb_work){.kernel = gemm, .loops = UINT64_MAX / 2, .block = 1 << 20};
                works[i].args = (nmb_args){.a = matrices[i][0],
                                           .b = matrices[i][1],
                                           .c = matrices[i][2],
                                           .m = GEMM,
                                           .n = GEMM,
                                           .k = GEMM,
                                           .lda = GEMM,
                                           .ldb = GEMM,
                                           .ldc = GEMM,
                                           .alpha = 1,
                                           .scratch = scratch[i],
                                           .scratch_bytes = scratch_bytes};
            }
        }
        int started = nmb_team_start(team, works, (uint64_t)(tick.hz * 3600), 0);
        int early = nmb_team_wait(team, 20), busy = nmb_team_start(team, works, 1, 0);
        nmb_team_cancel(team);
        int rc = nmb_team_wait(team, 20000);
        check(started == 0 && early == -ETIMEDOUT && busy == -EBUSY && rc == 0,
              "team of %u: an hour of %s ends when cancelled", threads,
              kind == 0   ? "window"
              : kind == 1 ? "rounds"
                          : "gemm");
        if (rc)
            exit(1); /* nothing else can be said of a team that does not stop */
        for (unsigned i = 0; i < threads; i++)
            free(scratch[i]);
    }
}

static void test_setup_by_team(void)
{
    enum { NODES = 1000 };
    static void *memory[NODES * 8];
    nmb_ring_spec spec = {memory, sizeof memory, 64, 4096, 3, 5};
    nmb_ring *ring = NULL;
    static const char *const job[] = {"ring_order", "ring_shuffle", "ring_link", "ring_prove"};
    int rc = nmb_ring_create(&spec, &ring);
    for (size_t j = 0; !rc && j < COUNT(job); j++) {
        for (unsigned i = 0; i < threads; i++)
            works[i] = (nmb_work){
                .kernel = nmb_setup_kernel(job[j]), .loops = 1, .args = {.shared = ring, .part = i, .parts = threads}};
        rc = run_all(0, 0);
    }
    check(rc == 0 && nmb_ring_proven(ring) == 0, "team of %u: builds and proves a ring", threads);
    works[threads - 1].args.part = threads;
    check(run_all(0, 0) == 0 && nmb_team_stamps(team)[threads - 1].error == -EINVAL &&
              (threads == 1 || nmb_team_stamps(team)[0].error == 0),
          "team of %u: the error of a setup kernel is that thread's", threads);
    nmb_ring_destroy(ring);
}

/* The kernels whose parts wait for each other, in every way to wait that ends with more threads than CPUs. */
static void test_collectives(nmb_tier tier)
{
    enum { ROUNDS = 50, MOST = 200 };
    static _Alignas(NMB_PAD) unsigned char lines[2 * NMB_PAD];
    static float in[MAX_THREADS][MOST], out[MAX_THREADS][MOST];
    static uint64_t ticks[MAX_THREADS][ROUNDS];
    static uint64_t slots[3 * NMB_LINE / sizeof(uint64_t)];
    int right = 1;
    for (size_t n = 1; n <= MOST; n += 33) {
        const int wait = threads > cpu_count ? (n % 2 ? NMB_WAIT_POLITE : NMB_WAIT_FUTEX) : (int)(n % 3);
        memset(lines, 0, sizeof lines);
        memset(out, 0, sizeof out);
        for (unsigned i = 0; i < threads; i++) {
            for (size_t j = 0; j < MOST; j++)
                in[i][j] = (float)(j + 1000 * i);
            works[i] = (nmb_work){.kernel = kernel_of(tier, "allreduce_f32"), .loops = ROUNDS};
            works[i].args = (nmb_args){.a = in,
                                       .b = out,
                                       .bytes = n * sizeof(float),
                                       .stride = sizeof in[0],
                                       .shared = lines,
                                       .wait = wait,
                                       .ticks = ticks[i],
                                       .chains = 1,
                                       .part = i,
                                       .parts = threads};
        }
        right &= run_all(0, 0) == 0;
        for (unsigned i = 0; i < threads; i++) {
            const nmb_stamp *s = &nmb_team_stamps(team)[i];
            right &= s->sink == ROUNDS && s->elements == ROUNDS;
            for (size_t j = 0; j < MOST; j++)
                right &= out[i][j] == (j < n ? (float)(threads * j + 500 * threads * (threads - 1)) : 0);
            for (int r = 0; r < ROUNDS; r++)
                right &= ticks[i][r] >= (r ? ticks[i][r - 1] : s->start) && ticks[i][r] <= s->end;
            works[i].kernel = kernel_of(tier, "barrier");
        }
        right &= run_all(0, 0) == 0;
        /* Nobody leaves a barrier before everyone has come to it: no round ends before the one before has ended. */
        for (int r = 1; r < ROUNDS && tick.source == NMB_CLOCK_COUNTER; r++)
            for (unsigned i = 0; i < threads * threads; i++)
                right &= r < 2 || ticks[i / threads][r] >= ticks[i % threads][r - 2];
    }
    check(right, "team of %u: barriers and all-reduces", threads);
    static const char *const pairs[] = {"pingpong_flag", "pingpong_cas", "pingpong_add", "queue"};
    for (size_t k = 0; threads == 2 && cpu_count > 1 && k < COUNT(pairs); k++) {
        for (int again = 0; again < 5; again++) { /* whatever the lines hold */
            for (unsigned i = 0; i < 2; i++) {
                works[i] = (nmb_work){.kernel = kernel_of(tier, pairs[k]), .loops = ROUNDS};
                works[i].args = (nmb_args){.shared = lines,
                                           .a = slots,
                                           .bytes = sizeof slots,
                                           .ticks = ticks[i],
                                           .chains = 1,
                                           .part = i,
                                           .parts = 2};
            }
            const nmb_stamp *s = nmb_team_stamps(team);
            right = run_all(0, 0) == 0 && s[0].elements == ROUNDS && s[1].elements == ROUNDS;
            right &=
                s[1].sink == (k == 3 ? 7 * ROUNDS * (ROUNDS + 1) / 2 : ROUNDS) && s[0].sink == (k == 3 ? 0 : ROUNDS);
            check(right, "team of two: %s", pairs[k]);
        }
        works[0].loops = works[1].loops = UINT64_MAX;
        works[0].args.ticks = works[1].args.ticks = NULL;
        int started = nmb_team_start(team, works, 0, 0), early = nmb_team_wait(team, 5);
        nmb_team_cancel(team);
        check(started == 0 && early == -ETIMEDOUT && wait_all() == 0 && nmb_team_stamps(team)[0].elements == 0,
              "team of two: endless %s ends when cancelled", pairs[k]);
        works[0].loops = 0;
        check(nmb_team_start(team, works, 1000, 0) == -EINVAL, "team of two: %s for a window refused", pairs[k]);
    }
    for (int wait = NMB_WAIT_SPIN; wait <= NMB_WAIT_POLITE; wait++) { /* one part is missing */
        memset(lines, 0, sizeof lines);
        works[0] = (nmb_work){.kernel = kernel_of(tier, "barrier"), .loops = 1};
        works[0].args = (nmb_args){.shared = lines, .wait = wait, .parts = 2};
        for (unsigned i = 1; i < threads; i++)
            works[i].kernel = NULL;
        int started = nmb_team_start(team, works, 0, 0), early = nmb_team_wait(team, 5);
        nmb_team_cancel(team);
        check(started == 0 && early == -ETIMEDOUT && wait_all() == 0, "team of %u: a lonely barrier can be cancelled",
              threads);
    }
}

static void test_odd_runs(void)
{
    memset(works, 0, sizeof works);
    check(run_all(0, 0) == 0 && run_all(1, NMB_RUN_CORE_HZ) == 0, "team of %u: empty runs", threads);
    works[threads - 1] = (nmb_work){.kernel = kernel_of(best_tier(), "read")};
    works[threads - 1].args.a = arrays[0][0];
    works[threads - 1].args.bytes = 64;
    check(nmb_team_start(team, works, 0, 0) == -EINVAL, "team of %u: work without an end refused", threads);
    works[threads - 1].loops = 1;
    check(run_all(0, 0) == 0 && nmb_team_stamps(team)[threads - 1].elements == 8, "team of %u: still runs", threads);
    int right = 1;
    for (int i = 0; i < (quick ? 50 : 1000); i++)
        right &= run_all(0, 0) == 0 && nmb_team_stamps(team)[threads - 1].elements == 8;
    check(right, "team of %u: many short runs", threads);
    check(nmb_team_wait(team, 0) == 0, "team of %u: waiting without a run", threads);
    nmb_team_cancel(team);
    check(run_all(0, 0) == 0 && nmb_team_stamps(team)[threads - 1].elements == 8,
          "team of %u: a cancellation between runs does not touch the next", threads);
}

static void test_teams(void)
{
    int on[MAX_THREADS], bad[] = {0, ABSENT_CPU};
    nmb_tier tier = best_tier();
    for (threads = 1; threads <= MAX_THREADS; threads += quick && threads > 2 ? 5 : 1) {
        for (unsigned i = 0; i < threads; i++)
            on[i] = cpus[i % cpu_count];
        if (nmb_team_create(&tick, on, threads, &team)) {
            check(0, "team of %u", threads);
            continue;
        }
        check(nmb_team_size(team) == threads, "team of %u", threads);
        test_counted_rounds(kernel_of(tier, "triad"));
        test_windows(kernel_of(tier, "read"));
        test_cancel(tier);
        test_setup_by_team();
        test_collectives(tier);
        test_odd_runs();
        nmb_team_destroy(team);
    }
    team = NULL;
    bad[0] = cpus[0];
    check(nmb_team_create(&tick, bad, 2, &team) == -EINVAL && !team, "team: absent CPU refused");
    check(nmb_team_create(&tick, on, 0, &team) == -EINVAL && !team, "team: of nobody refused");
    int rc = 0;
    for (int i = 0; i < (quick ? 50 : 1000) && !rc; i++) {
        rc = nmb_team_create(&tick, on, 2, &team);
        if (!rc && i % 2) { /* destroyed in the middle of a run */
            works[0] = works[1] = (nmb_work){.kernel = kernel_of(tier, "read")};
            works[0].args = works[1].args = (nmb_args){.a = arrays[0][0], .bytes = 64};
            rc = nmb_team_start(team, works, (uint64_t)tick.hz * 3600, 0);
        }
        if (!rc)
            nmb_team_destroy(team);
    }
    check(rc == 0, "team: made and destroyed many times, idle and running");
    nmb_team_destroy(NULL);
}
