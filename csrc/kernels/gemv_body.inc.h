/* SPDX-License-Identifier: Apache-2.0 */
/* C = alpha A B' + beta C for one set of types: gemv.inc.h sets GEMV_* and says what this is. */
#define GEMV_NAME(name) NMB_CAT(nmb_gemv_##name##_, GEMV_TAG)
#ifndef GEMV_TARGET
#define GEMV_TARGET
#endif
#ifndef GEMV_WIDE
#define GEMV_WIDE GEMV_COLUMNS /* rows of B in a tile of more than two rows of A */
#endif
#define GEMV_TILE(mb) ((size_t)((mb) > 1 ? GEMV_WIDE : GEMV_FEW))
#ifndef GEMV_OFFSET
#define GEMV_OFFSET 0 /* what GEMV_LOAD_B adds to each weight */
#endif
#ifndef GEMV_WIDEN /* a vector of weights, for pieces of it to be loaded by GEMV_LOAD_WIDE */
#define GEMV_WIDENS              0
#define GEMV_WIDEN(to, from)     (void)0
#define GEMV_LOAD_WIDE(count, p) GEMV_LOAD_B(count, p)
#endif

enum {
    GEMV_NAME(lanes) = sizeof(GEMV_V) / sizeof(GEMV_C),
    GEMV_NAME(line) = NMB_LINE / sizeof(GEMV_B) /* weights of one line: A and B are handled so many at a time */
};

/* Packs m <= nv * mb rows of A, k deep, padded with zeros: for each group of as many weights as are repeated in a
 * vector, PARTS times nv vectors whose lanes are the rows and, within a row, the units of the group. A line of each row
 * is brought into that order by itself, then the rows' pieces of a group are put side by side. */
static NMB_INLINE void GEMV_NAME(pack)(const size_t mb, const size_t nv, GEMV_X *to, const GEMV_A *a, size_t lda,
                                       size_t m, size_t k)
{
    enum { line = GEMV_NAME(line), lanes = GEMV_NAME(lanes), word = GEMV_UNIT / GEMV_PARTS };
    const size_t count = lanes / mb, group = count * GEMV_UNIT, piece = count * word, rows = nv * mb;
    GEMV_X own[2 * lanes * line];
    for (size_t i = m * line; i < rows * line; i++)
        own[i] = 0;
    for (size_t p = 0; p < k; p += line, to += rows * line) {
        for (size_t i = 0; i < m; i++) {
            const GEMV_A *from = a + i * lda + p;
            GEMV_A last[line];
            if (k - p < line) {
                for (size_t e = 0; e < line; e++)
                    last[e] = p + e < k ? from[e] : 0;
                from = last;
            }
            GEMV_X *row = own + i * line;
            for (size_t g = 0; g < line; g += group)
                NMB_EACH(part, GEMV_PARTS)
            for (size_t unit = 0; unit < count; unit++)
                for (size_t e = 0; e < word; e++)
                    row[g + part * piece + unit * word + e] = from[g + unit * GEMV_UNIT + part * word + e];
        }
        if (mb == 1 && nv == 1)
            __builtin_memcpy(to, own, line * sizeof *own);
        else if (lanes > 1 && mb == lanes && sizeof(GEMV_X) * word == sizeof(float)) {
            nmb_clobber(); /* words are moved, of whatever type */
            for (size_t v = 0; v < nv; v++)
                for (size_t w = 0; w < line / word; w += lanes)
                    nmb_turn_f32((float *)to + (w * nv + v) * lanes, nv * lanes,
                                 (const float *)own + v * lanes * line / word + w, line / word);
        } else
            for (size_t g = 0; g < line; g += piece)
                for (size_t i = 0; i < rows; i++)
                    __builtin_memcpy(to + g * rows + i * piece, own + i * line + g, piece * sizeof *own);
    }
}

/* A line of each row of B; the line at `ahead` elements is asked for. Returns where packed A goes on. */
static NMB_INLINE GEMV_TARGET const GEMV_X *GEMV_NAME(step)(const size_t mb, const size_t nv, const size_t columns,
                                                            GEMV_V acc[GEMV_COLUMNS][2], const GEMV_X *x,
                                                            const GEMV_B *b, size_t ldb, const GEMV_B *ahead)
{
    enum { line = GEMV_NAME(line), whole = GEMV_NAME(lanes) * GEMV_UNIT };
    const size_t count = GEMV_NAME(lanes) / mb, group = count * GEMV_UNIT;
    const int widens = GEMV_WIDENS && mb > 1; /* of a vector comes more than one group */
    GEMV_X wide[GEMV_COLUMNS][line];
    NMB_EACH(j, columns)
    __builtin_prefetch(ahead + j * ldb);
    for (size_t j = 0; widens && j < columns; j++)
        for (size_t p = 0; p < line; p += whole)
            GEMV_WIDEN(wide[j] + p, b + j * ldb + p);
#pragma GCC unroll 4
    for (size_t p = 0; p < line; p += group, x += GEMV_PARTS * nv * (sizeof(GEMV_V) / sizeof(GEMV_X))) {
        __typeof__(GEMV_LOAD_X(x)) a[2 * GEMV_PARTS];
        NMB_EACH(v, GEMV_PARTS * nv)
        {
            a[v] = GEMV_LOAD_X(x + v * (sizeof(GEMV_V) / sizeof(GEMV_X)));
            if (columns > 1)
                NMB_KEEP(a[v]);
        }
        NMB_EACH(j, columns)
        {
            const __typeof__(GEMV_LOAD_B(count, b)) w =
                widens ? GEMV_LOAD_WIDE(count, wide[j] + p) : GEMV_LOAD_B(count, b + j * ldb + p);
            NMB_EACH(part, GEMV_PARTS)
            NMB_EACH(v, nv)
            acc[j][v] = GEMV_MAC(part, w, a[part * nv + v], acc[j][v]);
        }
    }
    return x;
}

/* The sum of a row of A, packed in x, times a row of B, k deep, lines dealt in turn to GEMV_COLUMNS vectors; the row of
 * B that is next lies `next` elements behind. */
static NMB_INLINE GEMV_TARGET GEMV_S GEMV_NAME(walk)(const GEMV_X *x, const GEMV_B *b, size_t k, size_t next)
{
    const size_t line = GEMV_NAME(line), turn = GEMV_COLUMNS * line, far = GEMV_FAR / sizeof(GEMV_B);
    GEMV_V acc[GEMV_COLUMNS][2];
    size_t p = 0;
    NMB_EACH(j, GEMV_COLUMNS)
    acc[j][0] = GEMV_ZERO;
    for (; p + turn <= k; p += turn) {
        const GEMV_B *ahead = b + p + far + (p + far < k ? 0 : next - k);
        NMB_EACH(j, GEMV_COLUMNS)
        x = GEMV_NAME(step)(1, 1, 1, acc + j, x, b + p + j * line, 0, ahead + j * line);
    }
    for (; p + line <= k; p += line)
        x = GEMV_NAME(step)(1, 1, 1, acc, x, b + p, 0, b + p);
    if (p < k) {
        GEMV_B last[NMB_LINE / sizeof(GEMV_B)] = {0};
        for (size_t e = 0; p + e < k; e++)
            last[e] = b[p + e];
        GEMV_NAME(step)(1, 1, 1, acc, x, last, 0, last);
    }
    NMB_EACH(j, GEMV_COLUMNS - 1)
    acc[0][0] = GEMV_ADD(acc[0][0], acc[j + 1][0]);
    return (GEMV_S)GEMV_SUM(acc[0][0]);
}

/* Sums of m rows and `columns` rows of B from the lanes of a tile's accumulators, into `strip`. */
static __attribute__((noinline)) void GEMV_NAME(finish)(const GEMV_S *sums, size_t mb, size_t nv, size_t m,
                                                        size_t columns, GEMV_S *strip)
{
    const size_t units = GEMV_NAME(lanes) / mb;
    for (size_t j = 0; j < columns; j++, sums += nv * GEMV_NAME(lanes))
        for (size_t i = 0; i < m; i++) {
            GEMV_S sum = 0;
            for (size_t unit = 0; unit < units; unit++)
                sum += sums[i * units + unit];
            strip[i * GEMV_STRIP + j] = sum;
        }
}

/* C = alpha (sums - offset) + beta C for `columns` columns, row by row: rows of C may be a power of two apart, and what
 * is stored a few elements at a time then never stays in a cache. */
static GEMV_TARGET void GEMV_NAME(flush)(const GEMV_S *strip, const nmb_args *args, size_t m, size_t columns, GEMV_C *c,
                                         GEMV_S beta, const GEMV_S *offset)
{
    const GEMV_S alpha = (GEMV_S)(GEMV_C)args->alpha;
    for (size_t i = 0; i < m; i++, strip += GEMV_STRIP) {
        GEMV_S *out = (GEMV_S *)(c + i * args->ldc);
        for (size_t j = 0; beta == 0 && j < columns; j++)
            out[j] = alpha * (strip[j] - offset[i]);
        for (size_t j = 0; beta != 0 && j < columns; j++)
            out[j] = alpha * (strip[j] - offset[i]) + beta * out[j];
    }
}

/* The sums of a tile: mb * nv rows, packed in x, by GEMV_TILE rows of B that are ldb apart (0: the same one over and
 * over, at the end of a narrow B), k deep; the tile that is next lies `next` elements behind. */
static NMB_INLINE GEMV_TARGET void GEMV_NAME(tile)(const size_t mb, const size_t nv, GEMV_S *sums, const GEMV_X *x,
                                                   const GEMV_B *b, size_t ldb, size_t k, size_t next)
{
    const size_t line = GEMV_NAME(line), columns = GEMV_TILE(mb);
    const size_t whole = k - k % line, far = GEMV_AHEAD / sizeof(GEMV_B);
    const size_t turn = whole < far ? 0 : whole - far; /* from here on the next tile is asked for */
    GEMV_V acc[GEMV_COLUMNS][2];
    NMB_EACH(j, columns)
    NMB_EACH(v, nv)
    acc[j][v] = GEMV_ZERO;
    for (size_t p = 0; p < whole; p += line)
        x = GEMV_NAME(step)(mb, nv, columns, acc, x, b + p, ldb, p < turn ? b + p + far : b + next + p - turn);
    if (whole < k) {
        GEMV_B last[GEMV_COLUMNS][NMB_LINE / sizeof(GEMV_B)];
        for (size_t j = 0; j < columns; j++)
            for (size_t p = 0; p < line; p++)
                last[j][p] = whole + p < k ? b[j * ldb + whole + p] : 0;
        GEMV_NAME(step)(mb, nv, columns, acc, x, last[0], line, last[0]);
    }
    NMB_EACH(j, columns)
    NMB_EACH(v, nv)
    GEMV_STORE(sums + (j * nv + v) * GEMV_NAME(lanes), acc[j][v]);
}

/* One depth of m <= GEMV_ROWS rows of A by all rows of B; 0 when asked to stop. */
static NMB_INLINE GEMV_TARGET int GEMV_NAME(sweep)(const size_t mb, const size_t nv, const nmb_args *args, size_t m,
                                                   size_t k, const GEMV_A *a, const GEMV_B *b, GEMV_C *c, GEMV_S beta)
{
    const size_t line = GEMV_NAME(line), deep = (k + line - 1) / line * line;
    GEMV_S offset[GEMV_ROWS] = {0};
    GEMV_X *x = args->scratch;
    for (size_t i = 0; i < m; i += nv * mb)
        GEMV_NAME(pack)(mb, nv, x + i * deep, a + i * args->lda, args->lda, m - i < nv * mb ? m - i : nv * mb, k);
    for (size_t i = 0; GEMV_OFFSET && i < m; i++)
        for (size_t p = 0; p < k; p++)
            offset[i] += (GEMV_S)(GEMV_OFFSET * a[i * args->lda + p]);
    GEMV_S sums[GEMV_COLUMNS * 2 * sizeof(GEMV_V) / sizeof(GEMV_C)], strip[GEMV_ROWS * GEMV_STRIP];
    const int walks = GEMV_WALKS && nv * mb == 1;
    const size_t whole = walks ? 1 : GEMV_TILE(mb);
    for (size_t from = 0, count; from < args->n; from += count) {
        const size_t left = args->n - from;
        count = left <= GEMV_STRIP ? left : GEMV_STRIP - (left - GEMV_STRIP < whole ? whole : 0);
        if (args->stop && __atomic_load_n(args->stop, __ATOMIC_RELAXED))
            return 0;
        for (size_t j = 0, columns; j < count; j += columns) {
            /* The last columns with some of those before once more; one by one if there are no more than these. */
            columns = count < whole ? 1 : whole;
            if (count - j < columns)
                j = count - columns;
            const GEMV_B *rows = b + (from + j) * args->ldb;
            if (walks)
                strip[j] = GEMV_NAME(walk)(x, rows, k, args->ldb);
            for (size_t i = 0; !walks && i < m; i += nv * mb) {
                GEMV_NAME(tile)(mb, nv, sums, x + i * deep, rows, columns == 1 ? 0 : args->ldb, k, columns * args->ldb);
                GEMV_NAME(finish)(sums, mb, nv, m - i < nv * mb ? m - i : nv * mb, columns, strip + i * GEMV_STRIP + j);
            }
        }
        GEMV_NAME(flush)(strip, args, m, count, c + from, beta, offset);
    }
    return 1;
}

/* A function for each shape: compilers take very much longer over a single one with all of them inside. */
#define GEMV_SWEEP(mb, nv)                                                                                             \
    static __attribute__((noinline)) GEMV_TARGET int GEMV_NAME(sweep_##mb##_##nv)(                                     \
        const nmb_args *args, size_t m, size_t k, const GEMV_A *a, const GEMV_B *b, GEMV_C *c, GEMV_S beta)            \
    {                                                                                                                  \
        return mb > GEMV_NAME(lanes) || GEMV_NAME(sweep)(mb, nv, args, m, k, a, b, c, beta);                           \
    }
GEMV_SWEEP(1, 1)
GEMV_SWEEP(1, 2)
GEMV_SWEEP(2, 2)
GEMV_SWEEP(4, 2)
GEMV_SWEEP(8, 2)
GEMV_SWEEP(16, 2)
#undef GEMV_SWEEP

static GEMV_TARGET int GEMV_NAME(once)(const nmb_args *args)
{
    const size_t lanes = GEMV_NAME(lanes);
    for (size_t i = 0; i < args->m; i += GEMV_ROWS) {
        const size_t m = args->m - i < GEMV_ROWS ? args->m - i : GEMV_ROWS;
        const size_t padded = m > lanes ? (m + 2 * lanes - 1) / (2 * lanes) * 2 * lanes : 2 * m; /* at most */
        const size_t deep = nmb_gemm_block(args->k, GEMV_CACHED / sizeof(GEMV_X) / padded, GEMV_NAME(line));
        size_t from = 0;
        do {
            const size_t k = args->k - from < deep ? args->k - from : deep;
            const GEMV_A *a = (const GEMV_A *)args->a + i * args->lda + from;
            const GEMV_B *b = (const GEMV_B *)args->b + from;
            GEMV_C *c = (GEMV_C *)args->c + i * args->ldc;
            const GEMV_S beta = from ? 1 : (GEMV_S)(GEMV_C)args->beta;
            /* Two vectors of as few rows each as will do: a group of weights that is loaded serves both. */
            int on;
            if (lanes >= 16 && m > 16)
                on = GEMV_NAME(sweep_16_2)(args, m, k, a, b, c, beta);
            else if (lanes >= 8 && m > 8)
                on = GEMV_NAME(sweep_8_2)(args, m, k, a, b, c, beta);
            else if (lanes >= 4 && m > 4)
                on = GEMV_NAME(sweep_4_2)(args, m, k, a, b, c, beta);
            else if (lanes >= 2 && m > 2)
                on = GEMV_NAME(sweep_2_2)(args, m, k, a, b, c, beta);
            else if (m > 1)
                on = GEMV_NAME(sweep_1_2)(args, m, k, a, b, c, beta);
            else
                on = GEMV_NAME(sweep_1_1)(args, m, k, a, b, c, beta);
            if (!on)
                return 0;
            from += k;
        } while (from < args->k);
    }
    return 1;
}

static GEMV_TARGET uint64_t NMB_CAT(nmb_gemv_, GEMV_TAG)(nmb_args *args, uint64_t loops)
{
    nmb_say_tier(args);
    if (!args->m || !args->n)
        return 0;
    while (loops-- && GEMV_NAME(once)(args)) {
    }
    union {
        GEMV_C value;
        uint64_t bits;
    } sink = {.bits = 0};
    sink.value = ((const GEMV_C *)args->c)[(args->m - 1) * args->ldc + args->n - 1];
    return sink.bits;
}

#undef GEMV_TAG
#undef GEMV_TARGET
#undef GEMV_A
#undef GEMV_B
#undef GEMV_C
#undef GEMV_S
#undef GEMV_X
#undef GEMV_V
#undef GEMV_UNIT
#undef GEMV_PARTS
#undef GEMV_ZERO
#undef GEMV_LOAD_X
#undef GEMV_LOAD_B
#undef GEMV_MAC
#undef GEMV_STORE
#undef GEMV_ADD
#undef GEMV_SUM
#undef GEMV_OFFSET
#undef GEMV_WIDE
#undef GEMV_WIDEN
#undef GEMV_WIDENS
#undef GEMV_LOAD_WIDE
#undef GEMV_TILE
#undef GEMV_NAME
