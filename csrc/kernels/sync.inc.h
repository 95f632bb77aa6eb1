/* SPDX-License-Identifier: Apache-2.0 */
/* What all parts of a team do together, over the barrier in args->shared. One round is one barrier, one all-reduce. */

/* Before each arrival every part waits, another time in each round and part, of up to args->delay additions. Then
 * ticks[] gets two numbers a round: when the part arrived, and when it left. */
static uint64_t nmb_sync_barrier_apart(nmb_args *args, uint64_t loops)
{
    uint64_t round, chain = 1;
    for (round = 0; round < loops; round++) {
        uint64_t random = (args->seed + round * args->parts + args->part) * UINT64_C(0x9e3779b97f4a7c15);
        random = (random ^ random >> 32) * UINT64_C(0xbf58476d1ce4e5b9) >> 32;
        chain = nmb_delay(chain, random * (args->delay + 1) >> 32);
        args->ticks[2 * round] = nmb_clock_now(args->clock);
        if (nmb_barrier_wait(args->shared, args->parts, args->wait, args->stop, NULL, NULL))
            break;
        args->ticks[2 * round + 1] = nmb_clock_now(args->clock);
        if (round % NMB_SPINS == NMB_SPINS - 1 && nmb_stopped(args))
            break;
    }
    return round;
}

static uint64_t nmb_sync_barrier(nmb_args *args, uint64_t loops)
{
    nmb_say_tier(args);
    if (args->delay)
        return nmb_sync_barrier_apart(args, loops);
    uint64_t round;
    for (round = 0; round < loops; round++) {
        if (nmb_barrier_wait(args->shared, args->parts, args->wait, args->stop, NULL, NULL))
            break;
        if (!nmb_round_done(args, round))
            break;
    }
    return round;
}

enum { NMB_LINE_FLOATS = NMB_LINE / sizeof(float) };

/* n elements from `from` on of every part's result: sums of all parts' vectors, added in the order of the parts, so
 * that the bits do not depend on who adds them. */
static inline void nmb_allreduce_line(const nmb_args *args, size_t from, size_t n)
{
    float sum[NMB_LINE_FLOATS] = {0};
    for (unsigned part = 0; part < args->parts; part++) {
        const float *x = (const float *)(const void *)((const char *)args->a + part * args->stride) + from;
        for (size_t i = 0; i < n; i++)
            sum[i] += x[i];
    }
    for (unsigned part = 0; part < args->parts; part++) {
        float *y = (float *)(void *)((char *)args->b + part * args->stride) + from;
        for (size_t i = 0; i < n; i++)
            y[i] = sum[i];
    }
}

static void nmb_allreduce_span(const nmb_args *args, size_t from, size_t to)
{
    for (; to - from >= NMB_LINE_FLOATS; from += NMB_LINE_FLOATS)
        nmb_allreduce_line(args, from, NMB_LINE_FLOATS);
    nmb_allreduce_line(args, from, to - from);
}

/* Vectors of all parts stand args->stride bytes apart, inputs from a, results from b on: each part sums its span of
 * lines over all vectors and writes it into all results, between two barriers. */
static uint64_t nmb_allreduce_f32(nmb_args *args, uint64_t loops)
{
    nmb_say_tier(args);
    const size_t n = args->bytes / sizeof(float), lines = (n + NMB_LINE_FLOATS - 1) / NMB_LINE_FLOATS;
    const size_t from = lines * args->part / args->parts * NMB_LINE_FLOATS;
    const size_t to = lines * (args->part + 1) / args->parts * NMB_LINE_FLOATS;
    uint64_t round;
    for (round = 0; round < loops; round++) {
        if (nmb_barrier_wait(args->shared, args->parts, args->wait, args->stop, NULL, NULL))
            break;
        nmb_allreduce_span(args, from, to < n ? to : n);
        if (nmb_barrier_wait(args->shared, args->parts, args->wait, args->stop, NULL, NULL))
            break;
        if (!nmb_round_done(args, round))
            break;
    }
    return round;
}

#define NMB_SYNC_ROWS                                                                                                  \
    {.name = "barrier",                                                                                                \
     .family = "sync",                                                                                                 \
     .brief = "all parts meet",                                                                                        \
     .fn = nmb_sync_barrier,                                                                                           \
     .flags = NMB_COUNTED | NMB_COLLECTIVE},                                                                           \
        {.name = "allreduce_f32",                                                                                      \
         .family = "sync",                                                                                             \
         .brief = "every part gets the sum of all parts' vectors",                                                     \
         .fn = nmb_allreduce_f32,                                                                                      \
         .flags = NMB_COUNTED | NMB_COLLECTIVE,                                                                        \
         .arrays = 2,                                                                                                  \
         .element_bytes = 4},
