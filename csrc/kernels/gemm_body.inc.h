/* SPDX-License-Identifier: Apache-2.0 */
/* One GEMM for GEMM_T in vectors of GEMM_V. Five loops around a micro-kernel as in BLIS (Van Zee, van de Geijn, 2015)
 * with the parts of A and B exchanged, since C is row-major: a sliver of A stays in L1, the packed block of B in L2. */

enum {
    GEMM_NAME(vl) = sizeof(GEMM_V) / sizeof(GEMM_T), /* elements per vector */
    GEMM_NAME(nr) = GEMM_NV * GEMM_NAME(vl),
    GEMM_NAME(kb) = NMB_LINE / sizeof(GEMM_T), /* columns of A packed together: one cache line per row */
    GEMM_NAME(kc) = GEMM_KC
};

/* Columns of a packed block of A and rows of one of B: multiples of kb, so that the innermost loop has a constant
 * length. The padding is zero in both: whatever else A and B hold, it adds nothing. */
static inline size_t GEMM_NAME(padded)(size_t k) { return (k + GEMM_NAME(kb) - 1) / GEMM_NAME(kb) * GEMM_NAME(kb); }

/* dst[0, width) = src[0, count) and zeros. */
static inline void GEMM_NAME(copy)(GEMM_T *dst, const GEMM_T *src, size_t count, size_t width)
{
    if (count == width) {
        for (size_t i = 0; i < width; i += GEMM_NAME(vl))
            GEMM_STORE(dst + i, GEMM_LOAD(src + i));
    } else {
        for (size_t i = 0; i < width; i++)
            dst[i] = i < count ? src[i] : 0;
    }
}

/* Packs m <= MR rows of A into a sliver: blocks of m x kb, rows of a block one after another. No transposition is
 * needed, as the micro-kernel broadcasts single elements and finds them at constant distances. */
static void GEMM_NAME(pack_a)(GEMM_T *dst, const GEMM_T *a, size_t lda, size_t m, size_t kc)
{
    const size_t kb = GEMM_NAME(kb);
    for (size_t k = 0; k < kc; k += kb)
        for (size_t i = 0; i < m; i++, dst += kb)
            GEMM_NAME(copy)(dst, a + i * lda + k, kc - k < kb ? kc - k : kb, kb);
}

/* Packs n columns of B into slivers of nr columns: rows of nr elements, zeros below up to a multiple of kb rows. Row by
 * row, as B lies in memory; the hardware follows a row but does not see the next one coming. */
static void GEMM_NAME(pack_b)(GEMM_T *dst, const GEMM_T *b, size_t ldb, size_t n, size_t kc)
{
    const size_t nr = GEMM_NAME(nr), deep = GEMM_NAME(padded)(kc), ahead = 4;
    for (size_t k = 0; k < deep; k++, dst += nr)
        for (size_t j = 0; j < n; j += nr) {
            const GEMM_T *row = b + k * ldb + j;
            for (size_t i = 0; k + ahead < kc && i < nr; i += GEMM_NAME(kb))
                __builtin_prefetch(row + ahead * ldb + i);
            GEMM_NAME(copy)(dst + j * deep, k < kc ? row : b, k < kc ? (n - j < nr ? n - j : nr) : 0, nr);
        }
}

/* C tile (rows x n, n at most nr) = alpha * sliver of A * sliver of B + beta * C. `rows` is a constant. Memory is asked
 * for little by little, a row of C and a line of `next` for each block of k: all at once would hold up the loads of B.
 */
static inline __attribute__((always_inline)) void GEMM_NAME(tile)(const size_t rows, size_t kc, const GEMM_T *a,
                                                                  const GEMM_T *b, GEMM_T alpha, GEMM_T beta, GEMM_T *c,
                                                                  size_t ldc, size_t n, const GEMM_T *next)
{
    const size_t kb = GEMM_NAME(kb), vl = GEMM_NAME(vl), nr = GEMM_NAME(nr);
    GEMM_V acc[GEMM_MR][GEMM_NV];
    NMB_EACH(i, rows)
    NMB_EACH(j, GEMM_NV)
    acc[i][j] = GEMM_SPLAT(0);
    const GEMM_T *soon = c, *last = c + (rows - 1) * ldc;
    for (size_t k = 0; k < kc; k += kb, a += rows * kb, next += kb) {
        NMB_EACH(j, GEMM_NV * sizeof(GEMM_V) / NMB_LINE + 1)
        if (j * kb < nr)
            __builtin_prefetch(soon + j * kb, 1);
        __builtin_prefetch(next, 0, 2);
        soon = soon < last ? soon + ldc : last;
#pragma GCC unroll 4
        for (size_t p = 0; p < GEMM_NAME(kb); p++, b += nr) {
            GEMM_V row[GEMM_NV];
            NMB_EACH(j, GEMM_NV)
            row[j] = GEMM_LOAD(b + j * vl);
            NMB_EACH(i, rows)
            {
                const GEMM_V x = GEMM_SPLAT(a[i * kb + p]);
                NMB_EACH(j, GEMM_NV)
                acc[i][j] = GEMM_FMA(x, row[j], acc[i][j]);
            }
        }
    }
    NMB_EACH(i, rows)
    NMB_EACH(j, GEMM_NV)
    acc[i][j] = GEMM_MUL(acc[i][j], GEMM_SPLAT(alpha));
    if (n == nr) {
        NMB_EACH(i, rows)
        NMB_EACH(j, GEMM_NV)
        GEMM_STORE(c + i * ldc + j * vl,
                   beta == 0 ? acc[i][j] : GEMM_FMA(GEMM_SPLAT(beta), GEMM_LOAD(c + i * ldc + j * vl), acc[i][j]));
        return;
    }
    GEMM_T edge[GEMM_MR * GEMM_NAME(nr)];
    NMB_EACH(i, rows)
    NMB_EACH(j, GEMM_NV)
    GEMM_STORE(edge + i * nr + j * vl, acc[i][j]);
    for (size_t i = 0; i < rows; i++, c += ldc)
        for (size_t j = 0; j < n; j++)
            c[j] = beta == 0 ? edge[i * nr + j] : edge[i * nr + j] + beta * c[j];
}

/* One sliver of A (`rows` x kc, a constant) times the packed block of B (kc x n): a strip of C. Meanwhile the sliver
 * that comes next is fetched, rows that are ld_next apart. */
static NMB_INLINE void GEMM_NAME(strip)(const size_t rows, size_t kc, const GEMM_T *a, const GEMM_T *b, GEMM_T alpha,
                                        GEMM_T beta, GEMM_T *c, size_t ldc, size_t n, const GEMM_T *next,
                                        size_t ld_next)
{
    const size_t nr = GEMM_NAME(nr), deep = GEMM_NAME(padded)(kc);
    for (size_t j = 0, i = 0; j < n; j += nr, b += deep * nr, i = i + 1 < rows ? i + 1 : 0)
        GEMM_NAME(tile)(rows, deep, a, b, alpha, beta, c + j, ldc, n - j < nr ? n - j : nr, next + i * ld_next);
}

#define GEMM_STRIP(rows)                                                                                               \
    case rows:                                                                                                         \
        if (rows <= GEMM_MR)                                                                                           \
            GEMM_NAME(strip)(rows, kc, a, b, alpha, beta, c, ldc, n, next, ld_next);                                   \
        break;
static void GEMM_NAME(rows)(size_t m, size_t kc, const GEMM_T *a, const GEMM_T *b, GEMM_T alpha, GEMM_T beta, GEMM_T *c,
                            size_t ldc, size_t n, const GEMM_T *next, size_t ld_next)
{
    switch (m) {
        GEMM_STRIP(1)
        GEMM_STRIP(2)
        GEMM_STRIP(3)
        GEMM_STRIP(4)
        GEMM_STRIP(5)
        GEMM_STRIP(6)
        GEMM_STRIP(7)
        GEMM_STRIP(8)
        GEMM_STRIP(9)
        GEMM_STRIP(10)
        GEMM_STRIP(11)
        GEMM_STRIP(12)
        GEMM_STRIP(13)
        GEMM_STRIP(14)
    }
}
#undef GEMM_STRIP

/* One multiplication; 0 when asked to stop. k = 0 runs once with empty slivers: C = beta C. */
static int GEMM_NAME(once)(const nmb_args *x, size_t mc, size_t kc, size_t nc)
{
    const GEMM_T *a = x->a, *b = x->b;
    GEMM_T *c = x->c, *packed_b = x->scratch, *packed_a = packed_b + kc * nc;
    for (size_t i = 0; i < x->m; i += mc) {
        const size_t mb = x->m - i < mc ? x->m - i : mc;
        /* Slivers of equal height: a short last one would use the hardware badly. */
        const size_t slivers = (mb + GEMM_MR - 1) / GEMM_MR;
        size_t k = 0;
        do {
            const size_t kn = x->k - k < kc ? x->k - k : kc, deep = GEMM_NAME(padded)(kn);
            for (size_t j = 0; j < x->n; j += nc) {
                const size_t nb = x->n - j < nc ? x->n - j : nc;
                if (x->stop && __atomic_load_n(x->stop, __ATOMIC_RELAXED))
                    return 0;
                if (kn)
                    GEMM_NAME(pack_b)(packed_b, b + k * x->ldb + j, x->ldb, nb, kn);
                for (size_t s = 0; s < slivers; s++) {
                    const size_t r = mb * s / slivers, after = mb * (s + 1) / slivers, rows = after - r;
                    const GEMM_T *source = a + (i + r) * x->lda + k;
                    GEMM_T *sliver = packed_a + r * deep;
                    if (kn && !j) /* just in time: its first use finds it in L1 */
                        GEMM_NAME(pack_a)(sliver, source, x->lda, rows, kn);
                    GEMM_NAME(rows)(rows, kn, sliver, packed_b, (GEMM_T)x->alpha, k ? 1 : (GEMM_T)x->beta,
                                    c + (i + r) * x->ldc + j, x->ldc, nb,
                                    s + 1 == slivers ? sliver
                                    : j              ? sliver + rows * deep
                                                     : source + rows * x->lda,
                                    j ? deep : x->lda);
                }
            }
            k += kn;
        } while (k < x->k);
    }
    return 1;
}

static uint64_t GEMM_CAT(nmb_gemm_, GEMM_TAG)(nmb_args *x, uint64_t loops)
{
    const GEMM_T *c = x->c;
    const size_t mc = nmb_gemm_block(x->m, x->mc ? x->mc : GEMM_MC, GEMM_MR);
    const size_t kc = nmb_gemm_block(x->k, x->kc ? x->kc : GEMM_KC, GEMM_NAME(kb));
    const size_t nc = nmb_gemm_block(x->n, x->nc ? x->nc : GEMM_NC, GEMM_NAME(nr));
    if (!x->m || !x->n)
        return 0;
    while (loops-- && GEMM_NAME(once)(x, mc, kc, nc)) {
    }
    union {
        GEMM_T value;
        uint64_t bits;
    } sink = {.bits = 0};
    sink.value = c[(x->m - 1) * x->ldc + x->n - 1];
    return sink.bits;
}

#undef GEMM_T
#undef GEMM_KC
#undef GEMM_TAG
#undef GEMM_V
#ifdef GEMM_X
#undef GEMM_X
#endif
