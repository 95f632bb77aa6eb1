/* SPDX-License-Identifier: Apache-2.0 */
/* Few rows times weights that are read once: C = alpha A B' + beta C, where B has n rows of k weights and A, m x k, is
 * packed beforehand. Lanes of a vector are rows of A, and consecutive weights where A has fewer rows than lanes: each
 * weight is read once, as part of a repeated group, and meets all rows of A at once. Two such vectors, so that each
 * group that is loaded serves twice: loads and not multiplications would set the pace otherwise, and loads of whole
 * vectors hold up the lines that arrive from memory. A single row of A walks B as it lies in memory: several rows side
 * by side are streams that prefetchers follow less well (0.7 to 0.8 of a read, Zen 5), but for the tier of older CPUs
 * (walk 0.7, four rows 0.98, Zen 3). An element of C is summed in an order
 * that depends on m and k only: however the rows of B are shared out, the result is the same to the bit. This file says
 * what a vector is for each type; gemv_body.inc.h is the algorithm, included once per type. */
#include "gemm_blocks.inc.h"
#include "lanes.h"

enum {
/* Rows of B, thus columns of C, in a tile. Two vectors of sums each have to fit the register file, beside A, of which
 * bf16 has twice as many vectors; FEW where A has one or two rows. */
#if NMB_TIER_AVX2
    GEMV_COLUMNS = 6,
    GEMV_WIDENED = 4,
    GEMV_FEW = 4,
    GEMV_WALKS = 0,   /* whether a single row of A walks B */
    GEMV_AHEAD = 512, /* bytes before its use at which a line of B is asked for */
#else
    GEMV_COLUMNS = 8,
    GEMV_WIDENED = 8,
    GEMV_FEW = 8,
    GEMV_WALKS = 1,
    GEMV_AHEAD = 1024,
#endif
    GEMV_STRIP = 48,       /* columns of C that are written at a time: whole tiles */
    GEMV_ROWS = 64,        /* rows of A packed at a time */
    GEMV_FAR = 4096,       /* bytes ahead, where a single row is walked */
    GEMV_CACHED = 1 << 18, /* bytes of packed A that stay near by while B passes */
    /* A packed row is padded to a line of B at most, 64 weights of 4 bytes. */
    GEMV_SCRATCH = GEMV_CACHED + GEMV_ROWS * 4 * NMB_LINE
};

/* A unit is what fills one lane: `UNIT` weights of type B, which meet `UNIT` elements of A in `PARTS` vectors. */
#define GEMV_TAG                f32
#define GEMV_A                  float
#define GEMV_X                  float
#define GEMV_B                  float
#define GEMV_C                  float
#define GEMV_S                  float
#define GEMV_V                  nmb_v_f32
#define GEMV_UNIT               1
#define GEMV_PARTS              1
#define GEMV_ZERO               nmb_splat_f32(0)
#define GEMV_LOAD_X(p)          nmb_load_f32(p)
#define GEMV_STORE(p, v)        nmb_store_f32(p, v)
#define GEMV_ADD(v, w)          nmb_add_f32(v, w)
#define GEMV_SUM(v)             nmb_sum_f32(v)
#define GEMV_MAC(part, w, x, v) nmb_fma_f32(w, x, v)
#if NMB_TIER_SCALAR
#define GEMV_LOAD_B(count, p) (*(p))
#else
#define GEMV_LOAD_B(count, p) nmb_as_f32(nmb_repeat(count * sizeof(float), p))
#endif
#include "gemv_body.inc.h"

#define GEMV_TAG                f64
#define GEMV_A                  double
#define GEMV_X                  double
#define GEMV_B                  double
#define GEMV_C                  double
#define GEMV_S                  double
#define GEMV_V                  nmb_v_f64
#define GEMV_UNIT               1
#define GEMV_PARTS              1
#define GEMV_ZERO               nmb_splat_f64(0)
#define GEMV_LOAD_X(p)          nmb_load_f64(p)
#define GEMV_STORE(p, v)        nmb_store_f64(p, v)
#define GEMV_ADD(v, w)          nmb_add_f64(v, w)
#define GEMV_SUM(v)             nmb_sum_f64(v)
#define GEMV_MAC(part, w, x, v) nmb_fma_f64(w, x, v)
#if NMB_TIER_SCALAR
#define GEMV_LOAD_B(count, p) (*(p))
#else
#define GEMV_LOAD_B(count, p) nmb_as_f64(nmb_repeat(count * sizeof(double), p))
#endif
#include "gemv_body.inc.h"

/* Weights stored as bf16, all else f32: widening is a shift or a mask, so that no tier needs bf16 instructions. */
#define GEMV_TAG         bf16
#define GEMV_WIDE        GEMV_WIDENED
#define GEMV_A           float
#define GEMV_X           float
#define GEMV_B           uint16_t
#define GEMV_C           float
#define GEMV_S           float
#define GEMV_V           nmb_v_f32
#define GEMV_ZERO        nmb_splat_f32(0)
#define GEMV_LOAD_X(p)   nmb_load_f32(p)
#define GEMV_STORE(p, v) nmb_store_f32(p, v)
#define GEMV_ADD(v, w)   nmb_add_f32(v, w)
#define GEMV_SUM(v)      nmb_sum_f32(v)
#if NMB_TIER_SCALAR
#define GEMV_UNIT               1
#define GEMV_PARTS              1
#define GEMV_LOAD_B(count, p)   nmb_float_of_bf16(*(p))
#define GEMV_MAC(part, w, x, v) nmb_fma_f32(w, x, v)
#else
#define GEMV_UNIT               2
#define GEMV_PARTS              2
#define GEMV_LOAD_B(count, p)   nmb_repeat(count * sizeof(float), p)
#define GEMV_MAC(part, w, x, v) nmb_fma_f32(part ? nmb_bf16_second(w) : nmb_bf16_first(w), x, v)
#endif
#include "gemv_body.inc.h"

/* int8 into int32, exact modulo 2^32: widened to int16, products added in pairs. */
#define GEMV_TAG         s8
#define GEMV_A           int8_t
#define GEMV_B           int8_t
#define GEMV_C           int32_t
#define GEMV_S           uint32_t
#define GEMV_V           nmb_v_s32
#define GEMV_PARTS       1
#define GEMV_ZERO        nmb_splat_s32(0)
#define GEMV_STORE(p, v) nmb_store_s32((int32_t *)(p), v)
#define GEMV_ADD(v, w)   nmb_add_s32(v, w)
#define GEMV_SUM(v)      nmb_sum_s32(v)
#if NMB_TIER_SCALAR
#define GEMV_X                  int32_t
#define GEMV_UNIT               1
#define GEMV_LOAD_X(p)          (+*(p)) /* a value: no const */
#define GEMV_LOAD_B(count, p)   (*(p))
#define GEMV_MAC(part, w, x, v) nmb_fma_s32(w, x, v)
#else
#define GEMV_X                  int16_t
#define GEMV_UNIT               2
#define GEMV_LOAD_B(count, p)   nmb_widen_s8(nmb_repeat_half(count * sizeof(int16_t), p))
#define GEMV_MAC(part, w, x, v) nmb_mac_s16(w, x, v)
#if NMB_TIER_NEON
#define GEMV_LOAD_X(p) vld1q_s16(p)
#else
#define GEMV_LOAD_X(p) nmb_load_s32((const void *)(p))
#endif
#endif
#if NMB_TIER_AVX2 /* once per weight and not per group: 1.2 times as fast at m = 4, 1.5 at 8 and beyond, Zen 3 */
#define GEMV_WIDENS              1
#define GEMV_WIDEN(to, from)     nmb_store_s32((int32_t *)(void *)(to), nmb_widen_s8(nmb_repeat_half(16, from)))
#define GEMV_LOAD_WIDE(count, p) nmb_repeat(count * sizeof(int32_t), p)
#endif
#include "gemv_body.inc.h"

/* The same by the instruction for it, which multiplies unsigned by signed bytes: to flip the sign bit of a weight is to
 * add 128 to it, and 128 times the sum of A's row is taken off at the end. */
#if NMB_TIER_AVX512
#define GEMV_TAG                s8_vnni
#define GEMV_TARGET             __attribute__((target("avx512vnni")))
#define GEMV_A                  int8_t
#define GEMV_X                  int8_t
#define GEMV_B                  int8_t
#define GEMV_C                  int32_t
#define GEMV_S                  uint32_t
#define GEMV_V                  __m512i
#define GEMV_UNIT               4
#define GEMV_PARTS              1
#define GEMV_ZERO               _mm512_setzero_si512()
#define GEMV_LOAD_X(p)          _mm512_loadu_si512(p)
#define GEMV_LOAD_B(count, p)   _mm512_xor_si512(nmb_repeat(count * sizeof(int32_t), p), _mm512_set1_epi8(-128))
#define GEMV_MAC(part, w, x, v) _mm512_dpbusd_epi32(v, w, x)
#define GEMV_STORE(p, v)        _mm512_storeu_si512(p, v)
#define GEMV_ADD(v, w)          nmb_add_s32(v, w)
#define GEMV_SUM(v)             nmb_sum_s32(v)
#define GEMV_OFFSET             128
#include "gemv_body.inc.h"
#define NMB_GEMV_VNNI_ROW NMB_GEMV_ROW(s8_vnni, gemv_s8, int8_t, int8_t, int32_t, "avx512_vnni", NMB_CPU_AVX512_VNNI),
#else
#define NMB_GEMV_VNNI_ROW
#endif

#define NMB_GEMV_ROW(tag, title, a, b, c, how, what)                                                                   \
    {.name = #title,                                                                                                   \
     .family = "gemv",                                                                                                 \
     .brief = "C = alpha A B' + beta C, B read once",                                                                  \
     .fn = nmb_gemv_##tag,                                                                                             \
     .flags = NMB_COUNTED,                                                                                             \
     .arrays = 3,                                                                                                      \
     .element_bytes = sizeof(b),                                                                                       \
     .flops = 2,                                                                                                       \
     .sizes = {sizeof(a), sizeof(b), sizeof(c)},                                                                       \
     .scratch = GEMV_SCRATCH,                                                                                          \
     .variant = how,                                                                                                   \
     .needs = what}
#define NMB_GEMV_ROWS                                                                                                  \
    NMB_GEMV_ROW(f32, gemv_f32, float, float, float, NULL, 0),                                                         \
        NMB_GEMV_ROW(f64, gemv_f64, double, double, double, NULL, 0),                                                  \
        NMB_GEMV_ROW(bf16, gemv_bf16, float, uint16_t, float, "widened", 0),                                           \
        NMB_GEMV_ROW(s8, gemv_s8, int8_t, int8_t, int32_t, "widened", 0), NMB_GEMV_VNNI_ROW
