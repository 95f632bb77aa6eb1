/* SPDX-License-Identifier: Apache-2.0 */
/* GEMM: C = alpha A B + beta C, row-major. This file picks vector type, operations and sizes for the tier;
 * gemm_body.inc.h is the algorithm, included once per element type. */
#include "gemm_blocks.inc.h"
#include "lanes.h"

#define GEMM_CAT_(a, b) a##b
#define GEMM_CAT(a, b)  GEMM_CAT_(a, b)
#define GEMM_NAME(name) GEMM_CAT(nmb_gemm_##name##_, GEMM_TAG)
#if NMB_TIER_AVX512 || NMB_TIER_AVX2
#include <immintrin.h>
#if NMB_TIER_AVX512
#define GEMM_OP(op) GEMM_CAT(_mm512_##op##_, GEMM_X)
#else
#define GEMM_OP(op) GEMM_CAT(_mm256_##op##_, GEMM_X)
#endif
#define GEMM_LOAD(p)      GEMM_OP(loadu)(p)
#define GEMM_STORE(p, v)  GEMM_OP(storeu)(p, v)
#define GEMM_SPLAT(x)     GEMM_OP(set1)(x)
#define GEMM_MUL(x, y)    GEMM_OP(mul)(x, y)
#define GEMM_FMA(x, y, z) GEMM_OP(fmadd)(x, y, z)
#elif NMB_TIER_NEON
#include <arm_neon.h>
#define GEMM_OP(op)       GEMM_CAT(op##_, GEMM_TAG)
#define GEMM_LOAD(p)      GEMM_OP(vld1q)(p)
#define GEMM_STORE(p, v)  GEMM_OP(vst1q)(p, v)
#define GEMM_SPLAT(x)     GEMM_OP(vdupq_n)(x)
#define GEMM_MUL(x, y)    GEMM_OP(vmulq)(x, y)
#define GEMM_FMA(x, y, z) GEMM_OP(vfmaq)(z, x, y)
#else
#define GEMM_LOAD(p)      (*(p))
#define GEMM_STORE(p, v)  ((void)(*(p) = (v)))
#define GEMM_SPLAT(x)     (x)
#define GEMM_MUL(x, y)    ((x) * (y))
#define GEMM_FMA(x, y, z) ((x) * (y) + (z))
#endif

/* DEPTH is KC in bytes. MR rows by NV vectors of accumulators fill the register file but for NV vectors of B and one
 * element of A. A packed block of B (KC x NC) takes half of L2, so that neither it nor the strip of C that passes by
 * has to go. KC is as deep as that allows: every block of KC reads and writes C once, and the loads of a tile come from
 * L2 in time anyway. */
#if NMB_TIER_AVX512
enum { GEMM_MR = 14, GEMM_NV = 2, GEMM_MC = 3584, GEMM_NC = 256, GEMM_DEPTH = 2048 };
#elif NMB_TIER_AVX2
enum { GEMM_MR = 6, GEMM_NV = 2, GEMM_MC = 3072, GEMM_NC = 512, GEMM_DEPTH = 1024 };
#elif NMB_TIER_NEON
enum { GEMM_MR = 8, GEMM_NV = 3, GEMM_MC = 2048, GEMM_NC = 288, GEMM_DEPTH = 1024 };
#else /* a vector is one element */
enum { GEMM_MR = 4, GEMM_NV = 4, GEMM_MC = 1024, GEMM_NC = 256, GEMM_DEPTH = 1024 };
#endif

#define GEMM_T   float
#define GEMM_KC  (GEMM_DEPTH / sizeof(float))
#define GEMM_TAG f32
#if NMB_TIER_AVX512
#define GEMM_X ps
#define GEMM_V __m512
#elif NMB_TIER_AVX2
#define GEMM_X ps
#define GEMM_V __m256
#elif NMB_TIER_NEON
#define GEMM_V float32x4_t
#else
#define GEMM_V float
#endif
#include "gemm_body.inc.h"

#define GEMM_T   double
#define GEMM_KC  (GEMM_DEPTH / sizeof(double))
#define GEMM_TAG f64
#if NMB_TIER_AVX512
#define GEMM_X pd
#define GEMM_V __m512d
#elif NMB_TIER_AVX2
#define GEMM_X pd
#define GEMM_V __m256d
#elif NMB_TIER_NEON
#define GEMM_V float64x2_t
#else
#define GEMM_V double
#endif
#include "gemm_body.inc.h"

#define NMB_GEMM_ROW(tag, type)                                                                                        \
    {.name = "gemm_" #tag,                                                                                             \
     .family = "gemm",                                                                                                 \
     .brief = "C = alpha A B + beta C",                                                                                \
     .fn = nmb_gemm_##tag,                                                                                             \
     .flags = NMB_COUNTED,                                                                                             \
     .arrays = 3,                                                                                                      \
     .element_bytes = sizeof(type),                                                                                    \
     .flops = 2,                                                                                                       \
     .sizes = {sizeof(type), sizeof(type), sizeof(type)},                                                              \
     .mr = GEMM_MR,                                                                                                    \
     .nr = nmb_gemm_nr_##tag,                                                                                          \
     .default_mc = GEMM_MC,                                                                                            \
     .default_kc = nmb_gemm_kc_##tag,                                                                                  \
     .default_nc = GEMM_NC}
#define NMB_GEMM_ROWS NMB_GEMM_ROW(f32, float), NMB_GEMM_ROW(f64, double)
