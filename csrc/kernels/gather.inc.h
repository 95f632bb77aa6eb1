/* SPDX-License-Identifier: Apache-2.0 */
/* Random rows of a table, as embedding lookups read them and their training writes them: rows of args->chains lines in
 * a, their numbers a stream of 32-bit indices in b (args->k of them, in [0, rows)), read from cursor[0] on and round
 * again. One round is one row. Rows do not wait for each other: as many are on the way as the core can track. Reading
 * returns the sum of all words. */

static inline nmb_vu nmb_gather_line(nmb_vu sum, const uint64_t *p)
{
    for (size_t i = 0; i < NMB_LINE / sizeof *p; i += NMB_LANES)
        sum = nmb_vu_add(sum, nmb_vu_load(p + i));
    return sum;
}

static uint64_t nmb_gather(nmb_args *args, uint64_t loops)
{
    nmb_say_tier(args);
    const uint32_t *const first = args->b, *const end = first + args->k, *at = args->cursor[0];
    const size_t lines = args->chains, words = lines * NMB_LINE / sizeof(uint64_t);
    const uint64_t *const table = args->a;
    nmb_vu x = nmb_vu_zero(), y = x;
    while (loops) {
        const size_t run = (size_t)(end - at) < loops ? (size_t)(end - at) : (size_t)loops;
        for (const uint32_t *const to = at + run; at != to; at++) {
            const uint64_t *row = table + *at * words;
            size_t left = lines;
            for (; left >= 2; left -= 2, row += 2 * NMB_LINE / sizeof *row) {
                x = nmb_gather_line(x, row);
                y = nmb_gather_line(y, row + NMB_LINE / sizeof *row);
            }
            if (left)
                x = nmb_gather_line(x, row);
        }
        loops -= run;
        if (at == end)
            at = first;
    }
    args->cursor[0] = (void *)(uintptr_t)at;
    return nmb_vu_sum(nmb_vu_add(x, y));
}

/* A kernel that stores: LINE(p, v) does it to one line, END closes the call. The value is another for each row number
 * of the list, and from call to call by the seed. */
#define NMB_SCATTER_KERNEL(name, VALUE, LINE, END)                                                                     \
    static uint64_t name(nmb_args *args, uint64_t loops)                                                               \
    {                                                                                                                  \
        nmb_say_tier(args);                                                                                            \
        const uint32_t *const first = args->b, *const end = first + args->k, *at = args->cursor[0];                    \
        const size_t words = args->chains * (size_t)NMB_LINE / sizeof(double);                                         \
        double *const table = args->a;                                                                                 \
        while (loops) {                                                                                                \
            const size_t run = (size_t)(end - at) < loops ? (size_t)(end - at) : (size_t)loops;                        \
            for (const uint32_t *const to = at + run; at != to; at++) {                                                \
                double *const row = table + *at * words;                                                               \
                const nmb_vd v = nmb_vd_set(VALUE);                                                                    \
                for (size_t w = 0; w < words; w += NMB_LINE / sizeof(double))                                          \
                    LINE(row + w, v);                                                                                  \
            }                                                                                                          \
            loops -= run;                                                                                              \
            if (at == end)                                                                                             \
                at = first;                                                                                            \
        }                                                                                                              \
        END;                                                                                                           \
        args->cursor[0] = (void *)(uintptr_t)at;                                                                       \
        return 0;                                                                                                      \
    }

static inline void nmb_scatter_line(double *p, nmb_vd v)
{
    for (size_t i = 0; i < NMB_LINE / sizeof *p; i += NMB_LANES)
        nmb_vd_store(p + i, nmb_vd_keep(v));
}

static inline void nmb_scatter_line_update(double *p, nmb_vd v)
{
    for (size_t i = 0; i < NMB_LINE / sizeof *p; i += NMB_LANES)
        nmb_vd_store(p + i, nmb_vd_keep(nmb_vd_mul(v, nmb_vd_load(p + i))));
}

NMB_SCATTER_KERNEL(nmb_scatter, nmb_write_value(args->seed, (uint64_t)(at - first)), nmb_scatter_line, (void)0)
NMB_SCATTER_KERNEL(nmb_scatter_update, args->scalar, nmb_scatter_line_update, (void)0)

#define NMB_SCATTER_ROW(kernel, text, nt, reads, allocates)                                                            \
    {.name = #kernel,                                                                                                  \
     .family = "gather",                                                                                               \
     .brief = text,                                                                                                    \
     .fn = nmb_##kernel,                                                                                               \
     .flags = NMB_COUNTED | (nt),                                                                                      \
     .arrays = 2,                                                                                                      \
     .element_bytes = NMB_LINE,                                                                                        \
     .bytes_read = reads,                                                                                              \
     .bytes_written = NMB_LINE,                                                                                        \
     .bytes_allocated = allocates}

#if NMB_HAVE_NT
/* Lines start at multiples of 64 bytes: a whole line is written past the caches. */
static inline void nmb_scatter_line_nt(double *p, nmb_vd v)
{
#if NMB_TIER_AVX512
    _mm512_stream_pd(p, v);
#else
    for (size_t i = 0; i < NMB_LINE / sizeof *p; i += 2 * NMB_LANES)
        nmb_vd_stream_pair(p + i, v, v);
#endif
}
NMB_SCATTER_KERNEL(nmb_scatter_nt, nmb_write_value(args->seed, (uint64_t)(at - first)), nmb_scatter_line_nt,
                   nmb_fence())
#define NMB_SCATTER_NT_ROWS NMB_SCATTER_ROW(scatter_nt, "row[index[i]] = s, past the caches", NMB_NT, 0, 0),
#else
#define NMB_SCATTER_NT_ROWS
#endif

#define NMB_GATHER_ROWS                                                                                                \
    {.name = "gather",                                                                                                 \
     .family = "gather",                                                                                               \
     .brief = "x += row[index[i]]",                                                                                    \
     .fn = nmb_gather,                                                                                                 \
     .flags = NMB_COUNTED,                                                                                             \
     .arrays = 2,                                                                                                      \
     .element_bytes = NMB_LINE,                                                                                        \
     .bytes_read = NMB_LINE},                                                                                          \
        NMB_SCATTER_ROW(scatter, "row[index[i]] = s", 0, 0, NMB_LINE),                                                 \
        NMB_SCATTER_ROW(scatter_update, "row[index[i]] *= s", 0, NMB_LINE, 0), NMB_SCATTER_NT_ROWS
