/* SPDX-License-Identifier: Apache-2.0 */
/* Any ratio of reads to writes: of args->m + args->n lines in turn, in the order of addresses, m are read and n are
 * updated in place (so that nothing is read for their sake but themselves: m + n reads, n writes), or in mix_nt written
 * past the caches without being read (m reads, n writes). Whole turns only, from a line boundary on. Returns the XOR of
 * what was read only. */
#define NMB_MIX_KERNEL(name, VALUE, LINE, END)                                                                         \
    static uint64_t name(nmb_args *args, uint64_t loops)                                                               \
    {                                                                                                                  \
        nmb_say_tier(args);                                                                                            \
        const size_t step = NMB_LINE / sizeof(double);                                                                 \
        const size_t turn = args->m + args->n, turns = args->bytes / NMB_LINE / turn;                                  \
        nmb_vu x = nmb_vu_zero(), y = x;                                                                               \
        for (uint64_t round = 0; round < loops; round++) {                                                             \
            double *p = args->a;                                                                                       \
            const nmb_vd v = nmb_vd_set(VALUE);                                                                        \
            for (size_t t = 0; t < turns; t++) {                                                                       \
                size_t left = args->m;                                                                                 \
                for (; left >= 2; left -= 2, p += 2 * step) {                                                          \
                    x = nmb_mix_line(x, p);                                                                            \
                    y = nmb_mix_line(y, p + step);                                                                     \
                }                                                                                                      \
                if (left) {                                                                                            \
                    x = nmb_mix_line(x, p);                                                                            \
                    p += step;                                                                                         \
                }                                                                                                      \
                for (size_t i = 0; i < args->n; i++, p += step)                                                        \
                    LINE(p, v);                                                                                        \
            }                                                                                                          \
            nmb_clobber();                                                                                             \
        }                                                                                                              \
        END;                                                                                                           \
        return nmb_vu_fold(nmb_vu_xor(x, y));                                                                          \
    }

static inline nmb_vu nmb_mix_line(nmb_vu sum, const double *p)
{
    for (size_t i = 0; i < NMB_LINE / sizeof *p; i += NMB_LANES)
        sum = nmb_vu_xor(sum, nmb_vu_load((const uint64_t *)(const void *)(p + i)));
    return sum;
}

NMB_MIX_KERNEL(nmb_mix, args->scalar, nmb_scatter_line_update, (void)0)

#define NMB_MIX_ROW(kernel, text, nt, reads)                                                                           \
    {.name = #kernel,                                                                                                  \
     .family = "mix",                                                                                                  \
     .brief = text,                                                                                                    \
     .fn = nmb_##kernel,                                                                                               \
     .flags = NMB_SLICED | (nt),                                                                                       \
     .arrays = 1,                                                                                                      \
     .element_bytes = 8,                                                                                               \
     .bytes_read = reads,                                                                                              \
     .bytes_written = 8}

#if NMB_HAVE_NT
NMB_MIX_KERNEL(nmb_mix_nt, nmb_write_value(args->seed, round), nmb_scatter_line_nt, nmb_fence())
#define NMB_MIX_NT_ROWS                                                                                                \
    NMB_MIX_ROW(mix_nt, "of m + n lines m are read, n written past the caches; bytes of a written line", NMB_NT, 0),
#else
#define NMB_MIX_NT_ROWS
#endif

#define NMB_MIX_ROWS                                                                                                   \
    NMB_MIX_ROW(mix, "of m + n lines m are read, n updated; bytes of an updated line", 0, 8), NMB_MIX_NT_ROWS
