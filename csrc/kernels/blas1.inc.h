/* SPDX-License-Identifier: Apache-2.0 */
/* BLAS level 1 over arrays that start wherever an element may and have any length: dot, x += a[i] * b[i], and axpy,
 * a[i] = a[i] + s * b[i]. bf16 is summed in f32, int8 in int32 modulo 2^32. As in stream.inc.h `a` decides where
 * vectors start, and a round's sum is doubled into the result so that no round can be left out. */
#include "lanes.h"

enum { BLAS1_TURN = 8 }; /* vectors of sums: more than a multiply-add takes cycles, by two of them a cycle */

/* Elements of `size` bytes before p reaches a line boundary. */
static inline size_t nmb_blas1_head(const void *p, size_t size, size_t n)
{
    const size_t head = (size_t)(-(uintptr_t)p & (NMB_LINE - 1)) / size;
    return head < n ? head : n;
}

/* V holds sums, STEP elements meet at a time: MAC(p, q, v) adds those at p and q to v, ONE(x, y, s) a single pair to s
 * of type S, END(v) is the sum of what v holds. */
#define NMB_DOT(tag, target, elem, S, V, ZERO, STEP, MAC, ADD, END, ONE)                                               \
    static target uint64_t nmb_dot_##tag(nmb_args *args, uint64_t loops)                                               \
    {                                                                                                                  \
        nmb_say_tier(args);                                                                                            \
        const elem *const a = args->a, *const b = args->b;                                                             \
        const size_t n = args->bytes / sizeof(elem), head = nmb_blas1_head(a, sizeof(elem), n), step = (STEP);         \
        uint64_t total = 0;                                                                                            \
        for (; loops; loops--) {                                                                                       \
            union {                                                                                                    \
                S sum;                                                                                                 \
                uint64_t bits;                                                                                         \
            } u = {.bits = 0};                                                                                         \
            V v[BLAS1_TURN];                                                                                           \
            size_t i = 0;                                                                                              \
            NMB_EACH(j, BLAS1_TURN) v[j] = ZERO;                                                                       \
            for (; i < head; i++) {                                                                                    \
                u.sum = ONE(a[i], b[i], u.sum);                                                                        \
                nmb_clobber();                                                                                         \
            }                                                                                                          \
            for (; n - i >= BLAS1_TURN * step; i += BLAS1_TURN * step)                                                 \
                NMB_EACH(j, BLAS1_TURN) v[j] = MAC(a + i + j * step, b + i + j * step, v[j]);                          \
            for (; n - i >= step; i += step)                                                                           \
                v[0] = MAC(a + i, b + i, v[0]);                                                                        \
            for (; i < n; i++) {                                                                                       \
                u.sum = ONE(a[i], b[i], u.sum);                                                                        \
                nmb_clobber();                                                                                         \
            }                                                                                                          \
            NMB_EACH(j, BLAS1_TURN - 1) v[0] = ADD(v[0], v[j + 1]);                                                    \
            u.sum += (S)END(v[0]);                                                                                     \
            total = 2 * total + u.bits;                                                                                \
            nmb_clobber();                                                                                             \
        }                                                                                                              \
        return total;                                                                                                  \
    }

/* All loads of a turn come before its stores, as in stream.inc.h. */
#define NMB_AXPY(tag, elem)                                                                                            \
    static uint64_t nmb_axpy_##tag(nmb_args *args, uint64_t loops)                                                     \
    {                                                                                                                  \
        nmb_say_tier(args);                                                                                            \
        elem *const a = args->a;                                                                                       \
        const elem *const b = args->b, s = (elem)args->scalar;                                                         \
        const size_t n = args->bytes / sizeof(elem), head = nmb_blas1_head(a, sizeof(elem), n);                        \
        const size_t step = sizeof(nmb_v_##tag) / sizeof(elem);                                                        \
        const nmb_v_##tag vs = nmb_splat_##tag(s);                                                                     \
        for (; loops; loops--) {                                                                                       \
            size_t i = 0;                                                                                              \
            for (; i < head; i++) {                                                                                    \
                a[i] = NMB_ONE(s, b[i], a[i]);                                                                         \
                nmb_clobber();                                                                                         \
            }                                                                                                          \
            for (; n - i >= BLAS1_TURN * step; i += BLAS1_TURN * step) {                                               \
                nmb_v_##tag v[BLAS1_TURN];                                                                             \
                NMB_EACH(j, BLAS1_TURN)                                                                                \
                {                                                                                                      \
                    v[j] = nmb_fma_##tag(vs, nmb_load_##tag(b + i + j * step), nmb_load_##tag(a + i + j * step));      \
                    NMB_KEEP(v[j]);                                                                                    \
                }                                                                                                      \
                NMB_EACH(j, BLAS1_TURN) nmb_store_##tag(a + i + j * step, v[j]);                                       \
            }                                                                                                          \
            for (; n - i >= step; i += step)                                                                           \
                nmb_store_##tag(a + i, nmb_fma_##tag(vs, nmb_load_##tag(b + i), nmb_load_##tag(a + i)));               \
            for (; i < n; i++) {                                                                                       \
                a[i] = NMB_ONE(s, b[i], a[i]);                                                                         \
                nmb_clobber();                                                                                         \
            }                                                                                                          \
            nmb_clobber();                                                                                             \
        }                                                                                                              \
        return 0;                                                                                                      \
    }

#define NMB_ONE(x, y, s)      ((x) * (y) + (s))
#define NMB_ONE_BF16(x, y, s) (nmb_float_of_bf16(x) * nmb_float_of_bf16(y) + (s))
#define NMB_ONE_S8(x, y, s)   ((s) + (uint32_t)((x) * (y)))

#define NMB_DOT_MAC_F32(p, q, v) nmb_fma_f32(nmb_load_f32(p), nmb_load_f32(q), v)
#define NMB_DOT_MAC_F64(p, q, v) nmb_fma_f64(nmb_load_f64(p), nmb_load_f64(q), v)
NMB_DOT(f32, , float, float, nmb_v_f32, nmb_splat_f32(0), sizeof(nmb_v_f32) / sizeof(float), NMB_DOT_MAC_F32,
        nmb_add_f32, nmb_sum_f32, NMB_ONE)
NMB_DOT(f64, , double, double, nmb_v_f64, nmb_splat_f64(0), sizeof(nmb_v_f64) / sizeof(double), NMB_DOT_MAC_F64,
        nmb_add_f64, nmb_sum_f64, NMB_ONE)
NMB_AXPY(f32, float)
NMB_AXPY(f64, double)

#if NMB_TIER_SCALAR
#define NMB_DOT_MAC_BF16(p, q, v) NMB_ONE_BF16(*(p), *(q), v)
#define NMB_DOT_MAC_S8(p, q, v)   nmb_fma_s32(*(p), *(q), v)
#define NMB_DOT_STEP_BF16         1
#define NMB_DOT_STEP_S8           1
#else
static NMB_INLINE nmb_v_f32 nmb_dot_mac_bf16(const uint16_t *p, const uint16_t *q, nmb_v_f32 v)
{
    const __typeof__(nmb_repeat(sizeof v, p)) x = nmb_repeat(sizeof v, p), y = nmb_repeat(sizeof v, q);
    v = nmb_fma_f32(nmb_bf16_first(x), nmb_bf16_first(y), v);
    return nmb_fma_f32(nmb_bf16_second(x), nmb_bf16_second(y), v);
}
static NMB_INLINE nmb_v_s32 nmb_dot_mac_s8(const int8_t *p, const int8_t *q, nmb_v_s32 v)
{
    return nmb_mac_s16(nmb_widen_s8(nmb_repeat_half(sizeof v / 2, p)), nmb_widen_s8(nmb_repeat_half(sizeof v / 2, q)),
                       v);
}
#define NMB_DOT_MAC_BF16  nmb_dot_mac_bf16
#define NMB_DOT_MAC_S8    nmb_dot_mac_s8
#define NMB_DOT_STEP_BF16 (sizeof(nmb_v_f32) / sizeof(uint16_t))
#define NMB_DOT_STEP_S8   (sizeof(nmb_v_s32) / 2)
#endif
NMB_DOT(bf16, , uint16_t, float, nmb_v_f32, nmb_splat_f32(0), NMB_DOT_STEP_BF16, NMB_DOT_MAC_BF16, nmb_add_f32,
        nmb_sum_f32, NMB_ONE_BF16)
NMB_DOT(s8, , int8_t, uint32_t, nmb_v_s32, nmb_splat_s32(0), NMB_DOT_STEP_S8, NMB_DOT_MAC_S8, nmb_add_s32, nmb_sum_s32,
        NMB_ONE_S8)

#if NMB_TIER_AVX512
#define NMB_DOT_MAC_DP(p, q, v) _mm512_dpbf16_ps(v, (__m512bh)_mm512_loadu_si512(p), (__m512bh)_mm512_loadu_si512(q))
NMB_DOT(bf16_dp, __attribute__((target("avx512bf16"))), uint16_t, float, nmb_v_f32, nmb_splat_f32(0), 32,
        NMB_DOT_MAC_DP, nmb_add_f32, nmb_sum_f32, NMB_ONE_BF16)

/* The instruction multiplies unsigned by signed bytes: to flip the sign bit of one is to add 128 to it, and 128 times
 * the sum of the others is taken off at the end. */
typedef struct nmb_dot_pair {
    __m512i sum, off;
} nmb_dot_pair;
static NMB_INLINE __attribute__((target("avx512vnni"))) nmb_dot_pair nmb_dot_mac_vnni(const int8_t *p, const int8_t *q,
                                                                                      nmb_dot_pair v)
{
    const __m512i flip = _mm512_set1_epi8(-128), y = _mm512_loadu_si512(q);
    return (nmb_dot_pair){_mm512_dpbusd_epi32(v.sum, _mm512_xor_si512(_mm512_loadu_si512(p), flip), y),
                          _mm512_dpbusd_epi32(v.off, flip, y)};
}
static NMB_INLINE nmb_dot_pair nmb_dot_add_vnni(nmb_dot_pair v, nmb_dot_pair w)
{
    return (nmb_dot_pair){_mm512_add_epi32(v.sum, w.sum), _mm512_add_epi32(v.off, w.off)};
}
static NMB_INLINE uint32_t nmb_dot_end_vnni(nmb_dot_pair v)
{
    return (uint32_t)nmb_sum_s32(_mm512_sub_epi32(v.sum, v.off));
}
#define NMB_DOT_NONE ((nmb_dot_pair){_mm512_setzero_si512(), _mm512_setzero_si512()})
NMB_DOT(s8_vnni, __attribute__((target("avx512vnni"))), int8_t, uint32_t, nmb_dot_pair, NMB_DOT_NONE, 64,
        nmb_dot_mac_vnni, nmb_dot_add_vnni, nmb_dot_end_vnni, NMB_ONE_S8)
#define NMB_BLAS1_MORE_ROWS                                                                                            \
    , NMB_DOT_ROW(bf16_dp, dot_bf16, uint16_t, "avx512_bf16", NMB_CPU_AVX512_BF16),                                    \
        NMB_DOT_ROW(s8_vnni, dot_s8, int8_t, "avx512_vnni", NMB_CPU_AVX512_VNNI)
#else
#define NMB_BLAS1_MORE_ROWS
#endif

#define NMB_BLAS1_ROW(function, title, text, elem, writes, how, what)                                                  \
    {.name = #title,                                                                                                   \
     .family = "blas1",                                                                                                \
     .brief = text,                                                                                                    \
     .fn = nmb_##function,                                                                                             \
     .flags = NMB_SLICED,                                                                                              \
     .arrays = 2,                                                                                                      \
     .element_bytes = sizeof(elem),                                                                                    \
     .bytes_read = 2 * sizeof(elem),                                                                                   \
     .bytes_written = writes,                                                                                          \
     .flops = 2,                                                                                                       \
     .variant = how,                                                                                                   \
     .needs = what}
#define NMB_DOT_ROW(tag, title, elem, how, what) NMB_BLAS1_ROW(dot_##tag, title, "x += a[i] * b[i]", elem, 0, how, what)
#define NMB_BLAS1_ROWS                                                                                                 \
    NMB_DOT_ROW(f32, dot_f32, float, NULL, 0), NMB_DOT_ROW(f64, dot_f64, double, NULL, 0),                             \
        NMB_DOT_ROW(bf16, dot_bf16, uint16_t, "widened", 0), NMB_DOT_ROW(s8, dot_s8, int8_t, "widened", 0),            \
        NMB_BLAS1_ROW(axpy_f32, axpy_f32, "a[i] = a[i] + s * b[i]", float, sizeof(float), NULL, 0),                    \
        NMB_BLAS1_ROW(axpy_f64, axpy_f64, "a[i] = a[i] + s * b[i]", double, sizeof(double), NULL, 0)                   \
            NMB_BLAS1_MORE_ROWS
