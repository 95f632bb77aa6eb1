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
