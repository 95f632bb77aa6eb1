/* SPDX-License-Identifier: Apache-2.0 */
/* Bandwidth kernels over f64 arrays: a is the destination, b, c and d are sources (read and update work on a). Arrays
 * may start at any 8-byte boundary and have any length; the destination decides where vectors start, so that no store
 * is split over two lines and NT stores fill whole ones. */

/* Elements before p reaches a line boundary. */
static inline size_t nmb_head(const void *p, size_t n)
{
    const size_t head = (size_t)(-(uintptr_t)p & (NMB_LINE - 1)) / sizeof(double);
    return head < n ? head : n;
}

/* Elements between two delays: larger bursts would queue by themselves. */
enum { NMB_PIECE = 4 * NMB_LINE / sizeof(double) };
static inline size_t nmb_piece_end(const nmb_args *args, size_t i, size_t n)
{
    return args->delay && n - i > NMB_PIECE ? i + NMB_PIECE : n;
}

/* Additions of which each waits for the one before, from one delay to the next: out-of-order execution cannot overlap
 * them, so that in the long run at most one piece passes every args->delay cycles. The sum doubles, because some cores
 * add constants without taking time. Straight rows behind branches that always go the same way: the end of a loop of
 * single additions is not foreseen, and each piece would then wait for memory by itself. */
#if defined(__x86_64__)
#define NMB_ADDITIONS(count) __asm__ volatile(".rept " #count "\n\taddq %0, %0\n\t.endr" : "+r"(chain)::"cc")
#elif defined(__aarch64__)
#define NMB_ADDITIONS(count) __asm__ volatile(".rept " #count "\n\tadd %0, %0, %0\n\t.endr" : "+r"(chain))
#else
#define NMB_ADDITIONS(count)                                                                                           \
    for (unsigned nmb_i = 0; nmb_i < (count); nmb_i++) {                                                               \
        chain += chain;                                                                                                \
        __asm__ volatile("" : "+r"(chain));                                                                            \
    }
#endif
static inline uint64_t nmb_delay(uint64_t chain, uint64_t additions)
{
    if (additions & 1)
        NMB_ADDITIONS(1);
    if (additions & 2)
        NMB_ADDITIONS(2);
    if (additions & 4)
        NMB_ADDITIONS(4);
    if (additions & 8)
        NMB_ADDITIONS(8);
    if (additions & 16)
        NMB_ADDITIONS(16);
    if (additions & 32)
        NMB_ADDITIONS(32);
    for (additions >>= 6; additions; additions--)
        NMB_ADDITIONS(64);
    return chain;
}

static inline void nmb_vd_store_pair(double *p, nmb_vd v, nmb_vd w)
{
    nmb_vd_store(p, v);
    nmb_vd_store(p + NMB_LANES, w);
}

#define NMB_BLOCK (8 * NMB_LANES) /* elements per turn of an unrolled loop */

/* Every byte reaches the result: XOR is injective in each operand, and doubling between rounds keeps the weight of a
 * round's digest, 2^rounds - 1, odd. XOR takes one cycle and a memory operand; AVX-512 takes two operands at once,
 * without which arithmetic and not L1 would set the pace. */
static uint64_t nmb_stream_read(nmb_args *args, uint64_t loops)
{
    nmb_say_tier(args);
    const uint64_t *a = args->a;
    const size_t n = args->bytes / sizeof(uint64_t), head = nmb_head(a, n);
    uint64_t total = 0, chain = 1;

    for (; loops; loops--) {
        size_t i = 0;
        uint64_t digest = 0;
        nmb_vu x0 = nmb_vu_zero(), x1 = x0, x2 = x0, x3 = x0, x4 = x0, x5 = x0, x6 = x0, x7 = x0;
        for (; i < head; i++) {
            digest ^= a[i];
            nmb_clobber();
        }
        while (i < n) {
            const size_t end = nmb_piece_end(args, i, n);
            for (; end - i >= 2 * NMB_BLOCK; i += 2 * NMB_BLOCK) {
                const uint64_t *p = a + i;
                x0 = nmb_vu_xor3(x0, nmb_vu_load(p), nmb_vu_load(p + 1 * NMB_LANES));
                x1 = nmb_vu_xor3(x1, nmb_vu_load(p + 2 * NMB_LANES), nmb_vu_load(p + 3 * NMB_LANES));
                x2 = nmb_vu_xor3(x2, nmb_vu_load(p + 4 * NMB_LANES), nmb_vu_load(p + 5 * NMB_LANES));
                x3 = nmb_vu_xor3(x3, nmb_vu_load(p + 6 * NMB_LANES), nmb_vu_load(p + 7 * NMB_LANES));
                x4 = nmb_vu_xor3(x4, nmb_vu_load(p + 8 * NMB_LANES), nmb_vu_load(p + 9 * NMB_LANES));
                x5 = nmb_vu_xor3(x5, nmb_vu_load(p + 10 * NMB_LANES), nmb_vu_load(p + 11 * NMB_LANES));
                x6 = nmb_vu_xor3(x6, nmb_vu_load(p + 12 * NMB_LANES), nmb_vu_load(p + 13 * NMB_LANES));
                x7 = nmb_vu_xor3(x7, nmb_vu_load(p + 14 * NMB_LANES), nmb_vu_load(p + 15 * NMB_LANES));
            }
            for (; end - i >= NMB_LANES; i += NMB_LANES)
                x0 = nmb_vu_xor(x0, nmb_vu_load(a + i));
            for (; i < end; i++) {
                digest ^= a[i];
                nmb_clobber();
            }
            chain = nmb_delay(chain, args->delay);
        }
        x0 = nmb_vu_xor3(nmb_vu_xor3(x0, x1, x2), nmb_vu_xor3(x3, x4, x5), nmb_vu_xor(x6, x7));
        total = 2 * total + (digest ^ nmb_vu_fold(x0));
        nmb_clobber();
    }
    return total;
}

/* One kernel that stores: ELEM(i) is the value of element i, VEC(i) that of a vector from element i on, PAIR stores two
 * vectors, AHEAD(i) prefetches, END closes the call. All loads of a block come before its stores, in ascending order:
 * compilers shuffle them otherwise, and prefetchers then follow worse (AVX2 copy lost 8 % on an Intel server). */
#define NMB_STREAM_KERNEL(name, ELEM, VEC, PAIR, AHEAD, END)                                                           \
    static uint64_t name(nmb_args *args, uint64_t loops)                                                               \
    {                                                                                                                  \
        nmb_say_tier(args);                                                                                            \
        double *const a = args->a;                                                                                     \
        const double *const b = args->b, *const c = args->c, *const d = args->d;                                       \
        const size_t n = args->bytes / sizeof(double), head = nmb_head(a, n);                                          \
        uint64_t chain = 1;                                                                                            \
        (void)b, (void)c, (void)d;                                                                                     \
        for (uint64_t round = 0; round < loops; round++) {                                                             \
            const double s = NMB_SCALAR_##ELEM(args, round);                                                           \
            const nmb_vd vs = nmb_vd_set(s);                                                                           \
            size_t i = 0;                                                                                              \
            (void)s, (void)vs;                                                                                         \
            for (; i < head; i++) {                                                                                    \
                a[i] = ELEM(i);                                                                                        \
                nmb_clobber();                                                                                         \
            }                                                                                                          \
            while (i < n) {                                                                                            \
                const size_t end = nmb_piece_end(args, i, n);                                                          \
                for (; end - i >= NMB_BLOCK; i += NMB_BLOCK) {                                                         \
                    AHEAD(i);                                                                                          \
                    const nmb_vd v0 = VEC(i);                                                                          \
                    const nmb_vd v1 = VEC(i + NMB_LANES);                                                              \
                    const nmb_vd v2 = VEC(i + 2 * NMB_LANES);                                                          \
                    const nmb_vd v3 = VEC(i + 3 * NMB_LANES);                                                          \
                    const nmb_vd v4 = VEC(i + 4 * NMB_LANES);                                                          \
                    const nmb_vd v5 = VEC(i + 5 * NMB_LANES);                                                          \
                    const nmb_vd v6 = VEC(i + 6 * NMB_LANES);                                                          \
                    const nmb_vd v7 = VEC(i + 7 * NMB_LANES);                                                          \
                    PAIR(a + i, v0, v1);                                                                               \
                    PAIR(a + i + 2 * NMB_LANES, v2, v3);                                                               \
                    PAIR(a + i + 4 * NMB_LANES, v4, v5);                                                               \
                    PAIR(a + i + 6 * NMB_LANES, v6, v7);                                                               \
                }                                                                                                      \
                for (; end - i >= 2 * NMB_LANES; i += 2 * NMB_LANES) {                                                 \
                    const nmb_vd v0 = VEC(i), v1 = VEC(i + NMB_LANES);                                                 \
                    PAIR(a + i, v0, v1);                                                                               \
                }                                                                                                      \
                for (; i < end; i++) {                                                                                 \
                    a[i] = ELEM(i);                                                                                    \
                    nmb_clobber();                                                                                     \
                }                                                                                                      \
                chain = nmb_delay(chain, args->delay);                                                                 \
            }                                                                                                          \
            nmb_clobber();                                                                                             \
        }                                                                                                              \
        END;                                                                                                           \
        return 0;                                                                                                      \
    }

#define NMB_AHEAD_NONE(i) (void)0
/* Into L2, 2 KiB ahead. Beside NT stores the hardware prefetchers of Intel servers fall behind a lone read stream: this
 * is worth a sixth. It costs reads, plain stores and two read streams more than it gives: only copy_nt has it. */
#if defined(__x86_64__)
#define NMB_AHEAD_COPY(i)                                                                                              \
    for (size_t ahead = 2048; ahead < 2048 + NMB_BLOCK * sizeof(double); ahead += NMB_LINE)                            \
    __builtin_prefetch((const char *)(b + (i)) + ahead, 0, 2)
#else
#define NMB_AHEAD_COPY(i) (void)0
#endif

#define NMB_ELEM_WRITE(i)                       s
#define NMB_VEC_WRITE(i)                        vs
#define NMB_SCALAR_NMB_ELEM_WRITE(args, round)  nmb_write_value((args)->seed, round)
#define NMB_ELEM_COPY(i)                        b[i]
#define NMB_VEC_COPY(i)                         nmb_vd_keep(nmb_vd_load(b + (i)))
#define NMB_SCALAR_NMB_ELEM_COPY(args, round)   (args)->scalar
#define NMB_ELEM_SCALE(i)                       s *b[i]
#define NMB_VEC_SCALE(i)                        nmb_vd_keep(nmb_vd_mul(vs, nmb_vd_load(b + (i))))
#define NMB_SCALAR_NMB_ELEM_SCALE(args, round)  (args)->scalar
#define NMB_ELEM_ADD(i)                         b[i] + c[i]
#define NMB_VEC_ADD(i)                          nmb_vd_keep(nmb_vd_add(nmb_vd_load(b + (i)), nmb_vd_load(c + (i))))
#define NMB_SCALAR_NMB_ELEM_ADD(args, round)    (args)->scalar
#define NMB_ELEM_TRIAD(i)                       nmb_fma(s, c[i], b[i])
#define NMB_VEC_TRIAD(i)                        nmb_vd_keep(nmb_vd_fma(vs, nmb_vd_load(c + (i)), nmb_vd_load(b + (i))))
#define NMB_SCALAR_NMB_ELEM_TRIAD(args, round)  (args)->scalar
#define NMB_ELEM_UPDATE(i)                      s *a[i]
#define NMB_VEC_UPDATE(i)                       nmb_vd_keep(nmb_vd_mul(vs, nmb_vd_load(a + (i))))
#define NMB_SCALAR_NMB_ELEM_UPDATE(args, round) (args)->scalar
/* Mixes of reads and writes on the bus. With plain stores a line that is written has been read before, so that there is
 * no write-allocate to wonder about: update is 1:1. With NT stores nothing is read back: copy_nt is 1:1. Differences,
 * so that values stay bounded however often they are taken. */
#define NMB_ELEM_MIX21(i)                      b[i] - a[i]
#define NMB_VEC_MIX21(i)                       nmb_vd_keep(nmb_vd_sub(nmb_vd_load(b + (i)), nmb_vd_load(a + (i))))
#define NMB_SCALAR_NMB_ELEM_MIX21(args, round) (args)->scalar
#define NMB_ELEM_MIX31(i)                      b[i] + c[i] - a[i]
#define NMB_VEC_MIX31(i)                       nmb_vd_keep(nmb_vd_sub(NMB_VEC_ADD(i), nmb_vd_load(a + (i))))
#define NMB_SCALAR_NMB_ELEM_MIX31(args, round) (args)->scalar
#define NMB_ELEM_SUM3(i)                       b[i] + c[i] + d[i]
#define NMB_VEC_SUM3(i)                        nmb_vd_keep(nmb_vd_add(NMB_VEC_ADD(i), nmb_vd_load(d + (i))))
#define NMB_SCALAR_NMB_ELEM_SUM3(args, round)  (args)->scalar

NMB_STREAM_KERNEL(nmb_stream_write, NMB_ELEM_WRITE, NMB_VEC_WRITE, nmb_vd_store_pair, NMB_AHEAD_NONE, (void)0)
NMB_STREAM_KERNEL(nmb_stream_copy, NMB_ELEM_COPY, NMB_VEC_COPY, nmb_vd_store_pair, NMB_AHEAD_NONE, (void)0)
NMB_STREAM_KERNEL(nmb_stream_scale, NMB_ELEM_SCALE, NMB_VEC_SCALE, nmb_vd_store_pair, NMB_AHEAD_NONE, (void)0)
NMB_STREAM_KERNEL(nmb_stream_add, NMB_ELEM_ADD, NMB_VEC_ADD, nmb_vd_store_pair, NMB_AHEAD_NONE, (void)0)
NMB_STREAM_KERNEL(nmb_stream_triad, NMB_ELEM_TRIAD, NMB_VEC_TRIAD, nmb_vd_store_pair, NMB_AHEAD_NONE, (void)0)
NMB_STREAM_KERNEL(nmb_stream_update, NMB_ELEM_UPDATE, NMB_VEC_UPDATE, nmb_vd_store_pair, NMB_AHEAD_NONE, (void)0)
NMB_STREAM_KERNEL(nmb_stream_mix_2_1, NMB_ELEM_MIX21, NMB_VEC_MIX21, nmb_vd_store_pair, NMB_AHEAD_NONE, (void)0)
NMB_STREAM_KERNEL(nmb_stream_mix_3_1, NMB_ELEM_MIX31, NMB_VEC_MIX31, nmb_vd_store_pair, NMB_AHEAD_NONE, (void)0)

#define NMB_STREAM_ROW(kernel, text, nt, n_arrays, reads, writes, allocates, n_flops)                                  \
    {.name = #kernel,                                                                                                  \
     .family = "stream",                                                                                               \
     .brief = text,                                                                                                    \
     .fn = nmb_stream_##kernel,                                                                                        \
     .flags = NMB_SLICED | (nt),                                                                                       \
     .arrays = n_arrays,                                                                                               \
     .element_bytes = 8,                                                                                               \
     .bytes_read = reads,                                                                                              \
     .bytes_written = writes,                                                                                          \
     .bytes_allocated = allocates,                                                                                     \
     .flops = n_flops}

#if NMB_HAVE_NT
NMB_STREAM_KERNEL(nmb_stream_write_nt, NMB_ELEM_WRITE, NMB_VEC_WRITE, nmb_vd_stream_pair, NMB_AHEAD_NONE, nmb_fence())
NMB_STREAM_KERNEL(nmb_stream_copy_nt, NMB_ELEM_COPY, NMB_VEC_COPY, nmb_vd_stream_pair, NMB_AHEAD_COPY, nmb_fence())
NMB_STREAM_KERNEL(nmb_stream_triad_nt, NMB_ELEM_TRIAD, NMB_VEC_TRIAD, nmb_vd_stream_pair, NMB_AHEAD_NONE, nmb_fence())
NMB_STREAM_KERNEL(nmb_stream_mix_2_1_nt, NMB_ELEM_ADD, NMB_VEC_ADD, nmb_vd_stream_pair, NMB_AHEAD_NONE, nmb_fence())
NMB_STREAM_KERNEL(nmb_stream_mix_3_1_nt, NMB_ELEM_SUM3, NMB_VEC_SUM3, nmb_vd_stream_pair, NMB_AHEAD_NONE, nmb_fence())

#define NMB_STREAM_NT_ROWS                                                                                             \
    NMB_STREAM_ROW(write_nt, "a[i] = s, past the caches", NMB_NT, 1, 0, 8, 0, 0),                                      \
        NMB_STREAM_ROW(copy_nt, "a[i] = b[i], past the caches", NMB_NT, 2, 8, 8, 0, 0),                                \
        NMB_STREAM_ROW(triad_nt, "a[i] = b[i] + s * c[i], past the caches", NMB_NT, 3, 16, 8, 0, 2),                   \
        NMB_STREAM_ROW(mix_2_1_nt, "a[i] = b[i] + c[i], past the caches", NMB_NT, 3, 16, 8, 0, 1),                     \
        NMB_STREAM_ROW(mix_3_1_nt, "a[i] = b[i] + c[i] + d[i], past the caches", NMB_NT, 4, 24, 8, 0, 2),
#else
#define NMB_STREAM_NT_ROWS
#endif

#define NMB_STREAM_ROWS                                                                                                \
    NMB_STREAM_ROW(read, "x ^= a[i]", 0, 1, 8, 0, 0, 0), NMB_STREAM_ROW(write, "a[i] = s", 0, 1, 0, 8, 8, 0),          \
        NMB_STREAM_ROW(copy, "a[i] = b[i]", 0, 2, 8, 8, 8, 0),                                                         \
        NMB_STREAM_ROW(scale, "a[i] = s * b[i]", 0, 2, 8, 8, 8, 1),                                                    \
        NMB_STREAM_ROW(add, "a[i] = b[i] + c[i]", 0, 3, 16, 8, 8, 1),                                                  \
        NMB_STREAM_ROW(triad, "a[i] = b[i] + s * c[i]", 0, 3, 16, 8, 8, 2),                                            \
        NMB_STREAM_ROW(update, "a[i] = s * a[i]", 0, 1, 8, 8, 0, 1),                                                   \
        NMB_STREAM_ROW(mix_2_1, "a[i] = b[i] - a[i]", 0, 2, 16, 8, 0, 1),                                              \
        NMB_STREAM_ROW(mix_3_1, "a[i] = b[i] + c[i] - a[i]", 0, 3, 24, 8, 0, 2), NMB_STREAM_NT_ROWS
