/* SPDX-License-Identifier: Apache-2.0 */
/* Random rows of a table, as embedding lookups read them: rows of args->chains lines in a, their numbers a stream of
 * 32-bit indices in b (args->k of them, in [0, rows)), read from cursor[0] on and round again. One round is one row.
 * Rows do not wait for each other: as many are on the way as the core can track. Returns the sum of all words. */

static inline nmb_vu nmb_gather_line(nmb_vu sum, const uint64_t *p)
{
    for (size_t i = 0; i < NMB_LINE / sizeof *p; i += NMB_LANES)
        sum = nmb_vu_add(sum, nmb_vu_load(p + i));
    return sum;
}

static uint64_t nmb_gather(nmb_args *args, uint64_t loops)
{
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

#define NMB_GATHER_ROWS                                                                                                \
    {.name = "gather",                                                                                                 \
     .family = "gather",                                                                                               \
     .brief = "x += row[index[i]]",                                                                                    \
     .fn = nmb_gather,                                                                                                 \
     .flags = NMB_COUNTED,                                                                                             \
     .arrays = 2,                                                                                                      \
     .element_bytes = NMB_LINE,                                                                                        \
     .bytes_read = NMB_LINE},
