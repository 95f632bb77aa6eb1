/* SPDX-License-Identifier: Apache-2.0 */
/* One 8-byte access at every args->stride bytes of a, in linear order, none waiting for another: at offsets 0, stride,
 * 2 stride, ... below bytes, hence ceil(bytes / stride) accesses. The same scalar code in every tier: a gather or a
 * vectorised loop would be another access pattern. */

/* The empty asm ties each access to its own place: nothing is merged into vectors, a memory operand still fuses. */
#define NMB_STRIDE_LOAD(acc, offset)                                                                                   \
    do {                                                                                                               \
        (acc) ^= *(const uint64_t *)(const void *)(p + (offset));                                                      \
        __asm__ volatile("" : "+r"(acc));                                                                              \
    } while (0)

static uint64_t nmb_stride_read(nmb_args *args, uint64_t loops)
{
    nmb_say_tier(args);
    const size_t s = args->stride, s3 = 3 * s, s5 = 5 * s, s7 = 7 * s;
    const size_t count = args->bytes / s + (args->bytes % s != 0);
    uint64_t total = 0;

    for (; loops; loops--) {
        const char *p = args->a;
        size_t left = count;
        uint64_t x0 = 0, x1 = 0, x2 = 0, x3 = 0;
        for (; left >= 8; left -= 8, p += 8 * s) {
            NMB_STRIDE_LOAD(x0, 0);
            NMB_STRIDE_LOAD(x1, s);
            NMB_STRIDE_LOAD(x2, 2 * s);
            NMB_STRIDE_LOAD(x3, s3);
            NMB_STRIDE_LOAD(x0, 4 * s);
            NMB_STRIDE_LOAD(x1, s5);
            NMB_STRIDE_LOAD(x2, 2 * s3);
            NMB_STRIDE_LOAD(x3, s7);
        }
        for (; left; left--, p += s)
            NMB_STRIDE_LOAD(x0, 0);
        total = 2 * total + (x0 ^ x1 ^ x2 ^ x3);
        nmb_clobber();
    }
    return total;
}

#define NMB_STRIDE_STORE(offset) (*(double volatile *)(void *)(p + (offset)) = value)

static uint64_t nmb_stride_write(nmb_args *args, uint64_t loops)
{
    nmb_say_tier(args);
    const size_t s = args->stride, s3 = 3 * s, s5 = 5 * s, s7 = 7 * s;
    const size_t count = args->bytes / s + (args->bytes % s != 0);

    for (uint64_t round = 0; round < loops; round++) {
        const double value = nmb_write_value(args->seed, round);
        char *p = args->a;
        size_t left = count;
        for (; left >= 8; left -= 8, p += 8 * s) {
            NMB_STRIDE_STORE(0);
            NMB_STRIDE_STORE(s);
            NMB_STRIDE_STORE(2 * s);
            NMB_STRIDE_STORE(s3);
            NMB_STRIDE_STORE(4 * s);
            NMB_STRIDE_STORE(s5);
            NMB_STRIDE_STORE(2 * s3);
            NMB_STRIDE_STORE(s7);
        }
        for (; left; left--, p += s)
            NMB_STRIDE_STORE(0);
    }
    return 0;
}

#define NMB_STRIDE_ROWS                                                                                                \
    {.name = "stride_read",                                                                                            \
     .family = "stride",                                                                                               \
     .brief = "x ^= a[i * stride]",                                                                                    \
     .fn = nmb_stride_read,                                                                                            \
     .flags = NMB_SLICED,                                                                                              \
     .arrays = 1,                                                                                                      \
     .element_bytes = 8,                                                                                               \
     .bytes_read = 8},                                                                                                 \
        {.name = "stride_write",                                                                                       \
         .family = "stride",                                                                                           \
         .brief = "a[i * stride] = s",                                                                                 \
         .fn = nmb_stride_write,                                                                                       \
         .flags = NMB_SLICED,                                                                                          \
         .arrays = 1,                                                                                                  \
         .element_bytes = 8,                                                                                           \
         .bytes_written = 8,                                                                                           \
         .bytes_allocated = 8},
