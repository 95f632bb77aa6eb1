/* SPDX-License-Identifier: Apache-2.0 */
/* Multiplications and multiply-adds against plain loops. Operands are small whole numbers, so that sums are exact in
 * any order; every matrix ends where its block of memory ends, so that an address checker sees a read behind it. */

/* Bytes of an element say what it is: 8 f64, 4 f32 (or int32 beside int8), 2 bf16, 1 int8. */
static double element(const void *matrix, size_t i, unsigned size, int whole)
{
    const unsigned char *p = (const unsigned char *)matrix + i * size;
    union {
        uint32_t bits;
        int32_t number;
        float value;
    } u = {0};
    double x;
    if (size == 8) {
        memcpy(&x, p, sizeof x);
        return x;
    }
    if (size == 1)
        return (signed char)*p;
    memcpy((unsigned char *)&u + (size == 2) * 2 * (unsigned)(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__), p, size);
    return whole ? u.number : (double)u.value;
}

static void set_element(void *matrix, size_t i, unsigned size, int whole, double x)
{
    unsigned char *p = (unsigned char *)matrix + i * size;
    union {
        uint32_t bits;
        int32_t number;
        float value;
    } u;
    if (whole || size == 1)
        u.number = (int32_t)x;
    else
        u.value = (float)x;
    const uint16_t upper = (uint16_t)(u.bits >> 16);
    const signed char byte = (signed char)x;
    memcpy(p,
           size == 8   ? (const void *)&x
           : size == 2 ? (const void *)&upper
           : size == 1 ? (const void *)&byte
                       : &u,
           size);
}

static void *matrix_of(size_t count, unsigned size, int whole, unsigned factor)
{
    unsigned char *matrix = malloc(count * size + 1);
    for (size_t i = 0; matrix && i < count; i++)
        set_element(matrix, i, size, whole, (double)(i * factor % 9) - 4);
    return matrix;
}

static const char *check_product(const nmb_kernel *kernel, size_t m, size_t n, size_t k, double alpha, double beta,
                                 unsigned transposed)
{
    const int ta = transposed & NMB_A_TRANSPOSED, tb = transposed & NMB_B_TRANSPOSED || !strcmp(kernel->family, "gemv");
    const unsigned *all = (const unsigned[]){kernel->sizes[0], kernel->sizes[1], kernel->sizes[2]};
    const size_t lda = (ta ? m : k) + 1, ldb = (tb ? k : n) + 2, ldc = n + 3;
    const size_t count_a = ((ta ? k : m) - 1) * lda + (ta ? m : k);
    const size_t count_b = ((tb ? n : k) - 1) * ldb + (tb ? k : n);
    const size_t count_c = (m - 1) * ldc + n, room = nmb_gemm_scratch(kernel, m, n, k, 0, 0, 0);
    const int whole = all[0] == 1;
    const char *wrong = NULL;
    void *a = matrix_of(count_a, all[0], whole, 5), *b = matrix_of(count_b, all[1], whole, 7);
    void *c = matrix_of(count_c, all[2], whole, 2), *before = matrix_of(count_c, all[2], whole, 2);
    void *scratch = aligned_alloc(NMB_LINE, (room + NMB_LINE) / NMB_LINE * NMB_LINE);
    nmb_args args = {.a = a, .b = b, .c = c, .m = m, .n = n, .k = k, .lda = lda, .ldb = ldb, .ldc = ldc};
    args.alpha = alpha;
    args.beta = beta;
    args.transposed = transposed;
    args.scratch = scratch;
    args.scratch_bytes = room;
    if (!a || !b || !c || !before || !scratch)
        wrong = "no memory";
    else
        kernel->fn(&args, 1);
    for (size_t i = 0; i < count_c && !wrong; i++) {
        double want = element(before, i, all[2], whole);
        if (i % ldc < n) {
            double sum = 0;
            for (size_t p = 0; p < k; p++)
                sum += element(a, ta ? p * lda + i / ldc : i / ldc * lda + p, all[0], 0) *
                       element(b, tb ? i % ldc * ldb + p : p * ldb + i % ldc, all[1], 0);
            want = alpha * sum + beta * want;
        }
        if (element(c, i, all[2], whole) != want)
            wrong = i % ldc < n ? "a sum of products is another one" : "written outside of C";
    }
    free(a);
    free(b);
    free(c);
    free(before);
    free(scratch);
    return wrong;
}

static void check_products(const char *tier, const nmb_kernel *kernel)
{
    static const size_t shapes[][3] = {{1, 1, 1},   {1, 9, 700}, {2, 8, 65},   {3, 17, 33}, {5, 7, 130},
                                       {8, 16, 64}, {17, 3, 31}, {33, 13, 70}, {65, 9, 40}, {13, 67, 300}};
    const char *wrong = NULL;
    const unsigned layouts = strcmp(kernel->family, "gemm") ? 1 : 4;
    unsigned cases = 0;
    for (size_t s = 0; s < COUNT(shapes) * layouts && !wrong; s++, cases++) {
        const size_t *shape = shapes[s / layouts];
        wrong = check_product(kernel, shape[0], shape[1], shape[2], s % 3 ? 1 : -2, s % 5 % 2 ? 0 : 3,
                              (unsigned)(s % layouts));
    }
    report(tier, kernel, "products, tails, surroundings", cases, wrong);
}

/* One round of dot or axpy in place: what it returns. */
static uint64_t blas1_reference(const nmb_kernel *kernel, void *a, const void *b, size_t n, double scalar)
{
    const unsigned size = kernel->element_bytes;
    const int dot = kernel->bytes_written == 0, whole = size == 1;
    uint64_t digest = 0;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        const double x = element(a, i, size, 0), y = element(b, i, size, 0);
        sum += x * y;
        if (!dot)
            set_element(a, i, size, 0, x + scalar * y);
    }
    if (dot)
        set_element(&digest, 0, size < 4 ? 4 : size, whole, sum);
    return digest;
}

/* Lengths and misalignments, arrays beside pages that cannot be touched. `changed` of 0 to 2 n - 1: that element has
 * another value than usual; *result is what the kernel returned. */
static const char *blas1_case(const nmb_kernel *kernel, size_t n, size_t shift, int at_end, uint64_t loops,
                              size_t changed, uint64_t *result)
{
    const unsigned size = kernel->element_bytes;
    void *place[2], *want[2];
    for (size_t i = 0; i < 2; i++) {
        const size_t from = (shift + 3 * i * shift) % NMB_LINE / size * size;
        const size_t offset = at_end ? buffers[i].bytes - n * size - from : from;
        memset(buffers[i].base, 0x5a, buffers[i].bytes);
        place[i] = buffers[i].base + offset;
        want[i] = buffers[i].want + offset;
        for (size_t k = 0; k < n; k++)
            set_element(place[i], k, size, 0, (double)(k * (i + 3) % 7 + 1 + (i * n + k == changed)));
        memcpy(buffers[i].want, buffers[i].base, buffers[i].bytes);
    }
    nmb_args args = {.a = place[0], .b = place[1], .bytes = n * size, .scalar = -3};
    uint64_t truth = 0;
    *result = kernel->fn(&args, loops);
    for (uint64_t round = 0; round < loops; round++)
        truth = 2 * truth + blas1_reference(kernel, want[0], want[1], n, args.scalar);
    for (int i = 0; i < 2; i++)
        if (memcmp(buffers[i].base, buffers[i].want, buffers[i].bytes))
            return "arrays or their surroundings hold other values than the reference";
    return *result == truth ? NULL : "another sum than the reference";
}

static void check_blas1(const char *tier, const nmb_kernel *kernel)
{
    const size_t n = 600 / kernel->element_bytes + 3; /* a turn of the widest loop, vectors and single elements */
    const char *wrong = NULL;
    unsigned cases = 0;
    uint64_t usual, seen;
    for (size_t l = 0; l < COUNT(lengths) && !wrong; l++)
        for (size_t shift = 0; shift < NMB_LINE && !wrong; shift += kernel->element_bytes)
            for (int at_end = 0; at_end < 2 && !wrong; at_end++, cases++)
                wrong =
                    blas1_case(kernel, lengths[l], shift, at_end, shift / kernel->element_bytes % 3, SIZE_MAX, &seen);
    report(tier, kernel, "sums, tails, surroundings", cases, wrong);
    if (kernel->bytes_written) /* what is left has been compared element by element */
        return;
    blas1_case(kernel, n, 8, 0, 1, SIZE_MAX, &usual);
    for (size_t changed = 0; changed < 2 * n && !wrong; changed++) {
        blas1_case(kernel, n, 8, 0, 1, changed, &seen);
        wrong = seen == usual ? "an element counts for nothing" : NULL;
    }
    report(tier, kernel, "accounting", (unsigned)(2 * n), wrong);
}

static void check_peak(const char *tier, const nmb_kernel *kernel)
{
    static const size_t steps[] = {0, 1, 7, 100};
    const char *wrong = NULL;
    for (size_t s = 0; s < COUNT(steps); s++) {
        nmb_args args = {.k = steps[s]};
        if (kernel->fn(&args, 3) != 3 * steps[s] * kernel->mr * kernel->nr)
            wrong = "another number of multiply-adds than the row says";
    }
    report(tier, kernel, "multiply-adds counted", COUNT(steps), wrong);
}

/* Rows of a table with another table's worth of memory around it; every cut of the work into calls has the same sum. */
static void check_gather(const char *tier, const nmb_kernel *kernel)
{
    enum { ROWS = 37, COUNTED_ROWS = 41, MAX_WORDS = 8 * 64 };
    static uint64_t table[ROWS * MAX_WORDS];
    static uint32_t index[COUNTED_ROWS];
    static const uint64_t calls[] = {0, 1, 2, 3, COUNTED_ROWS - 1, COUNTED_ROWS, COUNTED_ROWS + 1, 200};
    const char *wrong = NULL;
    unsigned cases = 0;
    for (size_t i = 0; i < COUNT(table); i++)
        table[i] = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    for (uint32_t i = 0; i < COUNTED_ROWS; i++)
        index[i] = i * 29 % ROWS;
    for (unsigned lines = 1; lines <= 8; lines++)
        for (size_t c = 0; c < COUNT(calls); c++, cases++) {
            nmb_args args = {.a = table, .b = index, .k = COUNTED_ROWS, .chains = lines, .cursor = {index + 5}};
            uint64_t sum = 0, want = 0, at = 5;
            for (int turn = 0; turn < 3; turn++) {
                sum += kernel->fn(&args, calls[c]);
                for (uint64_t i = 0; i < calls[c]; i++, at = (at + 1) % COUNTED_ROWS)
                    for (unsigned w = 0; w < lines * 8; w++)
                        want += table[index[at] * lines * 8 + w];
            }
            if (sum != want || args.cursor[0] != (void *)&index[at])
                wrong = "other sum or cursor than the reference";
        }
    report(tier, kernel, "sums of rows", cases, wrong);
}

/* Called with nothing to do, every kernel still says what it was compiled as. */
static void check_tier(const char *tier, const nmb_kernel *kernel)
{
    static const char *const names[] = {"scalar", "avx2", "avx512", "neon"}; /* in the order of nmb_ran's bits */
    static _Alignas(NMB_PAD) unsigned char lines[2 * NMB_PAD];
    nmb_args args = {
        .parts = 1, .stride = sizeof(double), .chains = 1, .m = 1, .shared = lines, .a = lines, .b = lines};
    kernel->fn(&args, 0);
    for (unsigned i = 0; i < COUNT(names); i++)
        if (!strcmp(tier, names[i]))
            report(tier, kernel, "says its tier", 1, args.ran == 1u << i ? NULL : "it says another, or nothing");
}
