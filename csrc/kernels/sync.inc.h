/* SPDX-License-Identifier: Apache-2.0 */
/* What all parts of a team do together, over the barrier in args->shared. One round is one barrier, one all-reduce. */

static uint64_t nmb_sync_barrier(nmb_args *args, uint64_t loops)
{
    nmb_say_tier(args);
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
