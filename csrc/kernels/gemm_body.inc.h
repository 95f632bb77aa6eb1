/* SPDX-License-Identifier: Apache-2.0 */
/* One GEMM for elements GEMM_IN into GEMM_T in vectors of GEMM_V. Five loops around a micro-kernel as in BLIS (Van Zee,
 * van de Geijn, 2015) with the parts of A and B exchanged, since C is row-major: a sliver of A stays in L1, the packed
 * block of B in L2. */

#define GEMM_NAME(name) NMB_CAT(nmb_gemm_##name##_, GEMM_TAG)
#define GEMM_OF(op)     NMB_CAT(nmb_##op##_, GEMM_LANES)
#ifndef GEMM_TARGET
#define GEMM_TARGET
#endif
#ifndef GEMM_OFFSET
#define GEMM_OFFSET 0 /* what packing adds to each element of A */
#endif

/* A word is as large as an element of C: UNIT packed elements (GEMM_P), neighbours in k. All depths below are in words
 * but for those of the caller's arrays. */
enum {
    GEMM_NAME(vl) = sizeof(GEMM_V) / sizeof(GEMM_T), /* words per vector */
    GEMM_NAME(nr) = GEMM_NV * GEMM_NAME(vl),
    GEMM_NAME(mp) = (GEMM_MR + GEMM_NAME(vl) - 1) / GEMM_NAME(vl) * GEMM_NAME(vl), /* MR in whole vectors */
    GEMM_NAME(kb) = NMB_LINE / sizeof(GEMM_T), /* words of A packed together: one cache line per row */
    GEMM_NAME(unit) = sizeof(GEMM_T) / sizeof(GEMM_P),
    GEMM_NAME(line) = NMB_LINE / sizeof(GEMM_P), /* elements of the same */
    GEMM_NAME(kc) = GEMM_DEPTH / sizeof(GEMM_P),
    GEMM_NAME(sums) = GEMM_OFFSET != 0, /* one row more in a sliver of B: what its accumulators start from */
    GEMM_NAME(same) = sizeof(GEMM_IN) == sizeof(GEMM_P) /* packed elements are copies, but for an offset */
};

/* Words of a packed block: multiples of kb, so that the innermost loop has a constant length. The padding is zero in
 * both: whatever else A and B hold, it adds nothing. */
static inline size_t GEMM_NAME(padded)(size_t k) { return (k + GEMM_NAME(line) - 1) / GEMM_NAME(line) * GEMM_NAME(kb); }

/* Packs neighbours in depth, of which `count` are there, into a line of words. */
static NMB_INLINE void GEMM_NAME(along)(GEMM_W *to, const GEMM_IN *src, size_t count, const int offset)
{
    GEMM_P own[GEMM_NAME(line)]; /* which src cannot be part of, so that vectors are copied */
    if (count >= GEMM_NAME(line) && GEMM_NAME(same) && !offset) {
        __builtin_memcpy(to, src, sizeof own); /* compilers copy floats of a loop one by one */
        return;
    }
    if (count >= GEMM_NAME(line))
        for (size_t e = 0; e < GEMM_NAME(line); e++)
            own[e] = (GEMM_P)(offset ? GEMM_PACK(src[e]) + offset : GEMM_PACK(src[e]));
    else
        for (size_t e = 0; e < GEMM_NAME(line); e++)
            own[e] = (GEMM_P)(e < count ? GEMM_PACK(src[e]) + offset : 0);
    __builtin_memcpy(to, own, sizeof own);
}

/* Packs UNIT whole rows of `wide` elements (a constant). Words are put together in registers where they are of several
 * elements: compilers find vectors for that, but none for scattered bytes. The first element is the lowest. */
static NMB_INLINE void GEMM_NAME(weave)(GEMM_W *to, const size_t wide, const GEMM_IN *row, size_t ld, const int offset)
{
    enum { bits = 8 * sizeof(GEMM_P), most = GEMM_NAME(nr) > GEMM_NAME(mp) ? GEMM_NAME(nr) : GEMM_NAME(mp) };
    if (GEMM_NAME(unit) == 1 && GEMM_NAME(same) && !offset) {
        __builtin_memcpy(to, row, wide * sizeof *to);
        return;
    }
    if (GEMM_NAME(unit) == 1) {
        GEMM_P own[most];
        for (size_t i = 0; i < wide; i++)
            own[i] = (GEMM_P)(offset ? GEMM_PACK(row[i]) + offset : GEMM_PACK(row[i]));
        __builtin_memcpy(to, own, wide * sizeof *to);
        return;
    }
    uint32_t own[most];
    for (size_t i = 0; i < wide; i++) {
        uint32_t word = 0;
        NMB_EACH(u, GEMM_NAME(unit))
        word |= ((uint32_t)((int)GEMM_PACK(row[u * ld + i]) + offset) & (UINT32_MAX >> (32 - bits % 32) % 32))
                << u * bits % 32;
        own[i] = word;
    }
    __builtin_memcpy(to, own, wide * sizeof *to);
}

/* Packs UNIT rows, of which `deep` are there, into a row of `wide` words (a constant), of which `count` are there. */
static NMB_INLINE void GEMM_NAME(across)(GEMM_W *to, const size_t wide, const GEMM_IN *row, size_t ld, size_t count,
                                         size_t deep, const int offset)
{
    const size_t unit = GEMM_NAME(unit);
    GEMM_P *dst = (GEMM_P *)to;
    if (deep >= unit && count >= wide) {
        GEMM_NAME(weave)(to, wide, row, ld, offset);
        return;
    }
    for (size_t i = 0; i < wide; i++)
        for (size_t u = 0; u < unit; u++)
            dst[i * unit + u] = (GEMM_P)(u < deep && i < count ? GEMM_PACK(row[u * ld + i]) + offset : 0);
}

/* Packs m <= MR rows of A into a sliver: blocks of m lines, rows of a block one after another. No transposition is
 * needed, as the micro-kernel broadcasts single words and finds them at constant distances. */
static void GEMM_NAME(pack_a)(GEMM_W *to, const GEMM_IN *a, size_t lda, size_t m, size_t kc)
{
    const size_t line = GEMM_NAME(line);
    for (size_t k = 0; k < kc; k += line)
        for (size_t i = 0; i < m; i++, to += GEMM_NAME(kb))
            GEMM_NAME(along)(to, a + i * lda + k, kc - k, GEMM_OFFSET);
}

/* The same of an A that lies transposed; behind the m columns there are more, `count` in all. */
static void GEMM_NAME(pack_a_turned)(GEMM_W *to, const GEMM_IN *a, size_t lda, size_t m, size_t count, size_t kc)
{
    enum { kb = GEMM_NAME(kb), mp = GEMM_NAME(mp), line = GEMM_NAME(line), unit = GEMM_NAME(unit) };
    GEMM_W from[kb * mp], turned[mp * kb];
    for (size_t k = 0; k < kc; k += line, to += m * kb) {
        for (size_t w = 0, at = k; w < kb; w++, at += unit) {
            for (size_t u = 0; at + line + u < kc && u < unit; u++)
                __builtin_prefetch(a + (at + line + u) * lda);
            GEMM_NAME(across)(from + w * mp, mp, a + (at < kc ? at : 0) * lda, lda, count, at < kc ? kc - at : 0,
                              GEMM_OFFSET);
        }
        for (size_t i = 0; i < mp; i += GEMM_NAME(vl))
            for (size_t w = 0; w < kb; w += GEMM_NAME(vl))
                GEMM_OF(turn)((GEMM_T *)(turned + i * kb + w), kb, (const GEMM_T *)(from + w * mp + i), mp);
        __builtin_memcpy(to, turned, m * kb * sizeof *to);
    }
}

/* Adds GEMM_OFFSET times a row of packed words to their sums: what the offset of A adds to each column of the product.
 */
static NMB_INLINE GEMM_TARGET void GEMM_NAME(sum)(GEMM_W *sums, const GEMM_W *words)
{
    const size_t vl = GEMM_NAME(vl);
    if (GEMM_OFFSET)
        NMB_EACH(j, GEMM_NV)
    GEMM_OF(store)
    ((GEMM_T *)(sums + j * vl), GEMM_MAC(GEMM_SPLAT((GEMM_W)(GEMM_OFFSET * 0x01010101u)), GEMM_LOAD(words + j * vl),
                                         GEMM_OF(load)((const GEMM_T *)(sums + j * vl))));
}

/* Tiles start from what takes the sums off again. */
static inline void GEMM_NAME(negate)(GEMM_W *sums)
{
    for (size_t i = 0; GEMM_OFFSET && i < GEMM_NAME(nr); i++)
        sums[i] = (GEMM_W)(0 - sums[i]);
}

/* Packs n columns of B into slivers of nr columns: rows of nr words, zeros below up to a multiple of kb rows. Row by
 * row, as B lies in memory; the hardware follows a row but does not see the next one coming. */
static GEMM_TARGET void GEMM_NAME(pack_b)(GEMM_W *to, const GEMM_IN *b, size_t ldb, size_t n, size_t kc)
{
    const size_t nr = GEMM_NAME(nr), unit = GEMM_NAME(unit), deep = GEMM_NAME(padded)(kc), ahead = 4 * unit;
    const size_t each = (deep + GEMM_NAME(sums)) * nr;
    for (size_t j = 0; GEMM_OFFSET && j < n; j += nr)
        for (size_t i = 0; i < nr; i++)
            to[j / nr * each + deep * nr + i] = 0;
    for (size_t w = 0, k = 0; w < deep; w++, k += unit)
        for (size_t j = 0; j < n; j += nr) {
            const GEMM_IN *row = b + k * ldb + j;
            GEMM_W *words = to + j / nr * each;
            GEMM_P *dst = (GEMM_P *)(words + w * nr);
            for (size_t u = 0; k + u + ahead < kc && u < unit; u++)
                for (size_t i = 0; i < nr; i += NMB_LINE / sizeof(GEMM_IN))
                    __builtin_prefetch(row + (ahead + u) * ldb + i);
            if (k + unit <= kc && n - j >= nr)
                GEMM_NAME(weave)(words + w * nr, GEMM_NAME(nr), row, ldb, 0);
            else
                for (size_t i = 0; i < nr; i++)
                    for (size_t u = 0; u < unit; u++)
                        dst[i * unit + u] = (GEMM_P)(k + u < kc && j + i < n ? GEMM_PACK(row[u * ldb + i]) : 0);
            GEMM_NAME(sum)(words + deep * nr, words + w * nr);
        }
    for (size_t j = 0; GEMM_OFFSET && j < n; j += nr)
        GEMM_NAME(negate)(to + j / nr * each + deep * nr);
}

/* The same of a B that lies transposed: its rows are followed, some lines ahead, and squares of them turned. */
static GEMM_TARGET void GEMM_NAME(pack_b_turned)(GEMM_W *to, const GEMM_IN *b, size_t ldb, size_t n, size_t kc)
{
    enum { nr = GEMM_NAME(nr), kb = GEMM_NAME(kb), line = GEMM_NAME(line), ahead = 4 * line };
    const size_t deep = GEMM_NAME(padded)(kc);
    GEMM_W from[nr * kb];
    for (size_t j = 0; j < n; j += nr, to += (deep + GEMM_NAME(sums)) * nr) {
        for (size_t i = 0; GEMM_OFFSET && i < nr; i++)
            to[deep * nr + i] = 0;
        for (size_t k = 0, w = 0; k < kc; k += line, w += kb) {
            for (size_t i = 0; i < nr; i++) {
                const GEMM_IN *row = b + (i < n - j ? j + i : j) * ldb + k;
                if (k + ahead < kc)
                    __builtin_prefetch(row + ahead);
                GEMM_NAME(along)(from + i * kb, row, i < n - j ? kc - k : 0, 0);
            }
            for (size_t i = 0; i < nr; i += GEMM_NAME(vl))
                for (size_t p = 0; p < kb; p += GEMM_NAME(vl))
                    GEMM_OF(turn)((GEMM_T *)(to + (w + p) * nr + i), nr, (const GEMM_T *)(from + i * kb + p), kb);
            for (size_t p = 0; p < kb; p++)
                GEMM_NAME(sum)(to + deep * nr, to + (w + p) * nr);
        }
        GEMM_NAME(negate)(to + deep * nr);
    }
}

/* C tile (rows x n, n at most nr) = alpha * sliver of A * sliver of B + beta * C. `rows` is a constant. Memory is asked
 * for little by little, a row of C and a line of `next` for each block of k: all at once would hold up the loads of B.
 */
static NMB_INLINE GEMM_TARGET void GEMM_NAME(tile)(const size_t rows, size_t kc, const GEMM_W *a, const GEMM_W *b,
                                                   GEMM_S alpha, GEMM_S beta, GEMM_T *c, size_t ldc, size_t n,
                                                   const GEMM_IN *next)
{
    const size_t kb = GEMM_NAME(kb), vl = GEMM_NAME(vl), nr = GEMM_NAME(nr);
    GEMM_V acc[GEMM_MR][GEMM_NV];
    NMB_EACH(i, rows)
    NMB_EACH(j, GEMM_NV)
    acc[i][j] = GEMM_OFFSET ? GEMM_OF(load)((const GEMM_T *)(b + kc * nr + j * vl)) : GEMM_OF(splat)(0);
    const GEMM_T *soon = c, *last = c + (rows - 1) * ldc;
    for (size_t k = 0; k < kc; k += kb, a += rows * kb, next += NMB_LINE / sizeof(GEMM_IN)) {
        NMB_EACH(j, GEMM_NV * sizeof(GEMM_V) / NMB_LINE + 1)
        if (j * kb < nr)
            __builtin_prefetch(soon + j * kb, 1);
        __builtin_prefetch(next, 0, 2);
        soon = soon < last ? soon + ldc : last;
#pragma GCC unroll 4
        for (size_t p = 0; p < GEMM_NAME(kb); p++, b += nr) {
            __typeof__(GEMM_LOAD(b)) row[GEMM_NV];
            NMB_EACH(j, GEMM_NV)
            row[j] = GEMM_LOAD(b + j * vl);
            NMB_EACH(i, rows)
            {
                const __typeof__(GEMM_LOAD(b)) x = GEMM_SPLAT(a[i * kb + p]);
                NMB_EACH(j, GEMM_NV)
                acc[i][j] = GEMM_MAC(x, row[j], acc[i][j]);
            }
        }
    }
    NMB_EACH(i, rows)
    NMB_EACH(j, GEMM_NV)
    acc[i][j] = GEMM_OF(mul)(acc[i][j], GEMM_OF(splat)((GEMM_T)alpha));
    if (n == nr) {
        NMB_EACH(i, rows)
        NMB_EACH(j, GEMM_NV)
        GEMM_OF(store)(c + i * ldc + j * vl, beta == 0 ? acc[i][j]
                                                       : GEMM_OF(fma)(GEMM_OF(splat)((GEMM_T)beta),
                                                                      GEMM_OF(load)(c + i * ldc + j * vl), acc[i][j]));
        return;
    }
    GEMM_S edge[GEMM_MR * GEMM_NAME(nr)];
    NMB_EACH(i, rows)
    NMB_EACH(j, GEMM_NV)
    GEMM_OF(store)((GEMM_T *)edge + i * nr + j * vl, acc[i][j]);
    for (size_t i = 0; i < rows; i++, c += ldc)
        for (size_t j = 0; j < n; j++)
            c[j] = (GEMM_T)(beta == 0 ? edge[i * nr + j] : edge[i * nr + j] + beta * (GEMM_S)c[j]);
}

/* One sliver of A (`rows` x kc, a constant) times the packed block of B (kc x n): a strip of C. Meanwhile the sliver
 * that comes next is fetched, rows that are ld_next apart. */
static NMB_INLINE GEMM_TARGET void GEMM_NAME(strip)(const size_t rows, size_t kc, const GEMM_W *a, const GEMM_W *b,
                                                    GEMM_S alpha, GEMM_S beta, GEMM_T *c, size_t ldc, size_t n,
                                                    const GEMM_IN *next, size_t ld_next)
{
    const size_t nr = GEMM_NAME(nr), each = (kc + GEMM_NAME(sums)) * nr;
    for (size_t j = 0, i = 0; j < n; j += nr, b += each, i = i + 1 < rows ? i + 1 : 0)
        GEMM_NAME(tile)(rows, kc, a, b, alpha, beta, c + j, ldc, n - j < nr ? n - j : nr, next + i * ld_next);
}

/* A function for each height: compilers take very much longer over a single one with all of them inside. */
#define GEMM_STRIP(rows)                                                                                               \
    static __attribute__((noinline)) GEMM_TARGET void GEMM_NAME(strip_##rows)(                                         \
        size_t kc, const GEMM_W *a, const GEMM_W *b, GEMM_S alpha, GEMM_S beta, GEMM_T *c, size_t ldc, size_t n,       \
        const GEMM_IN *next, size_t ld_next)                                                                           \
    {                                                                                                                  \
        if (rows <= GEMM_MR)                                                                                           \
            GEMM_NAME(strip)(rows, kc, a, b, alpha, beta, c, ldc, n, next, ld_next);                                   \
    }
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
#undef GEMM_STRIP
static void (*const GEMM_NAME(strips)[])(size_t, const GEMM_W *, const GEMM_W *, GEMM_S, GEMM_S, GEMM_T *, size_t,
                                         size_t, const GEMM_IN *, size_t) = {
    GEMM_NAME(strip_1),  GEMM_NAME(strip_2),  GEMM_NAME(strip_3),  GEMM_NAME(strip_4), GEMM_NAME(strip_5),
    GEMM_NAME(strip_6),  GEMM_NAME(strip_7),  GEMM_NAME(strip_8),  GEMM_NAME(strip_9), GEMM_NAME(strip_10),
    GEMM_NAME(strip_11), GEMM_NAME(strip_12), GEMM_NAME(strip_13), GEMM_NAME(strip_14)};

/* One multiplication; 0 when asked to stop. k = 0 runs once with empty slivers: C = beta C. */
static GEMM_TARGET int GEMM_NAME(once)(const nmb_args *x, size_t mc, size_t kc, size_t nc)
{
    const GEMM_IN *a = x->a, *b = x->b;
    const int turned = (x->transposed & NMB_A_TRANSPOSED) != 0;
    GEMM_T *c = x->c;
    GEMM_W *packed_b = x->scratch, *packed_a = packed_b + (GEMM_NAME(padded)(kc) + GEMM_NAME(sums)) * nc;
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
                if (x->transposed & NMB_B_TRANSPOSED)
                    GEMM_NAME(pack_b_turned)(packed_b, b + j * x->ldb + k, x->ldb, nb, kn);
                else
                    GEMM_NAME(pack_b)(packed_b, b + k * x->ldb + j, x->ldb, nb, kn);
                for (size_t s = 0; s < slivers; s++) {
                    const size_t r = mb * s / slivers, after = mb * (s + 1) / slivers, rows = after - r;
                    const GEMM_IN *source = turned ? a + k * x->lda + i + r : a + (i + r) * x->lda + k;
                    GEMM_W *sliver = packed_a + r * deep;
                    if (!j && turned) /* just in time: its first use finds it in L1 */
                        GEMM_NAME(pack_a_turned)(sliver, source, x->lda, rows, x->m - i - r, kn);
                    else if (!j)
                        GEMM_NAME(pack_a)(sliver, source, x->lda, rows, kn);
                    const int packed = j || turned;
                    GEMM_NAME(strips)
                    [rows - 1](deep, sliver, packed_b, (GEMM_S)(GEMM_T)x->alpha, k ? 1 : (GEMM_S)(GEMM_T)x->beta,
                               c + (i + r) *x->ldc + j, x->ldc, nb,
                               s + 1 == slivers ? (const GEMM_IN *)sliver
                               : packed         ? (const GEMM_IN *)(sliver + rows *deep)
                                                : source + rows *x->lda,
                               packed ? deep *sizeof(GEMM_W) / sizeof(GEMM_IN) : x->lda);
                }
            }
            k += kn;
        } while (k < x->k);
    }
    return 1;
}

static GEMM_TARGET uint64_t NMB_CAT(nmb_gemm_, GEMM_TAG)(nmb_args *x, uint64_t loops)
{
    nmb_say_tier(x);
    const GEMM_T *c = x->c;
    const size_t mc = nmb_gemm_block(x->m, x->mc ? x->mc : GEMM_MC, GEMM_MR);
    const size_t kc = nmb_gemm_block(x->k, x->kc ? x->kc : GEMM_NAME(kc), GEMM_NAME(line));
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
#undef GEMM_TAG
#undef GEMM_TARGET
#undef GEMM_LANES
#undef GEMM_IN
#undef GEMM_P
#undef GEMM_W
#undef GEMM_S
#undef GEMM_V
#undef GEMM_PACK
#undef GEMM_OFFSET
#undef GEMM_LOAD
#undef GEMM_SPLAT
#undef GEMM_MAC
#undef GEMM_NAME
#undef GEMM_OF
