/* SPDX-License-Identifier: Apache-2.0 */
/* GEMM: C = alpha A B + beta C, row-major. This file picks vector type, operations and sizes for the tier;
 * gemm_body.inc.h is the algorithm, included once per element type. */
#include "gemm_blocks.inc.h"
#include "lanes.h"

/* DEPTH is KC in bytes of a packed operand. MR rows by NV vectors of accumulators fill the register file but for NV
 * vectors of B and one element of A. A packed block of B (KC x NC) takes half of L2, so that neither it nor the strip
 * of C that passes by has to go. KC is as deep as that allows: every block of KC reads and writes C once, and the loads
 * of a tile come from L2 in time anyway. */
#if NMB_TIER_AVX512
enum { GEMM_MR = 14, GEMM_NV = 2, GEMM_MC = 3584, GEMM_NC = 256, GEMM_DEPTH = 2048 };
#elif NMB_TIER_AVX2
enum { GEMM_MR = 6, GEMM_NV = 2, GEMM_MC = 3072, GEMM_NC = 512, GEMM_DEPTH = 1024 };
#elif NMB_TIER_NEON
enum { GEMM_MR = 8, GEMM_NV = 3, GEMM_MC = 2048, GEMM_NC = 288, GEMM_DEPTH = 1024 };
#else /* a vector is one element */
enum { GEMM_MR = 4, GEMM_NV = 4, GEMM_MC = 1024, GEMM_NC = 256, GEMM_DEPTH = 1024 };
#endif

#define GEMM_TAG          f32
#define GEMM_LANES        f32
#define GEMM_IN           float
#define GEMM_P            float
#define GEMM_W            float
#define GEMM_T            float
#define GEMM_S            float
#define GEMM_V            nmb_v_f32
#define GEMM_PACK(x)      (x)
#define GEMM_LOAD(p)      nmb_load_f32(p)
#define GEMM_SPLAT(x)     nmb_splat_f32(x)
#define GEMM_MAC(x, y, z) nmb_fma_f32(x, y, z)
#include "gemm_body.inc.h"

#define GEMM_TAG          f64
#define GEMM_LANES        f64
#define GEMM_IN           double
#define GEMM_P            double
#define GEMM_W            double
#define GEMM_T            double
#define GEMM_S            double
#define GEMM_V            nmb_v_f64
#define GEMM_PACK(x)      (x)
#define GEMM_LOAD(p)      nmb_load_f64(p)
#define GEMM_SPLAT(x)     nmb_splat_f64(x)
#define GEMM_MAC(x, y, z) nmb_fma_f64(x, y, z)
#include "gemm_body.inc.h"

/* bf16 into f32, widened by packing. */
#define GEMM_TAG          bf16
#define GEMM_LANES        f32
#define GEMM_IN           uint16_t
#define GEMM_P            float
#define GEMM_W            float
#define GEMM_T            float
#define GEMM_S            float
#define GEMM_V            nmb_v_f32
#define GEMM_PACK(x)      nmb_float_of_bf16(x)
#define GEMM_LOAD(p)      nmb_load_f32(p)
#define GEMM_SPLAT(x)     nmb_splat_f32(x)
#define GEMM_MAC(x, y, z) nmb_fma_f32(x, y, z)
#include "gemm_body.inc.h"

/* int8 into int32, exact modulo 2^32: widened by packing to int16, products added in pairs. */
typedef int32_t __attribute__((may_alias)) nmb_gemm_word;
#define GEMM_TAG     s8
#define GEMM_LANES   s32
#define GEMM_IN      int8_t
#define GEMM_W       nmb_gemm_word
#define GEMM_T       int32_t
#define GEMM_S       uint32_t
#define GEMM_V       nmb_v_s32
#define GEMM_PACK(x) (x)
#if NMB_TIER_SCALAR
#define GEMM_P            int32_t
#define GEMM_LOAD(p)      nmb_load_s32((const int32_t *)(p))
#define GEMM_SPLAT(x)     (x)
#define GEMM_MAC(x, y, z) nmb_fma_s32(x, y, z)
#elif NMB_TIER_NEON
#define GEMM_P            int16_t
#define GEMM_LOAD(p)      vreinterpretq_s16_s32(vld1q_s32((const int32_t *)(p)))
#define GEMM_SPLAT(x)     vreinterpretq_s16_s32(vdupq_n_s32(x))
#define GEMM_MAC(x, y, z) nmb_mac_s16(x, y, z)
#else
#define GEMM_P            int16_t
#define GEMM_LOAD(p)      nmb_load_s32((const int32_t *)(p))
#define GEMM_SPLAT(x)     nmb_splat_s32(x)
#define GEMM_MAC(x, y, z) nmb_mac_s16(x, y, z)
#endif
#include "gemm_body.inc.h"

#define NMB_GEMM_VARIANT(tag, title, in, packed, out, how, what)                                                       \
    {.name = #title,                                                                                                   \
     .family = "gemm",                                                                                                 \
     .brief = "C = alpha A B + beta C",                                                                                \
     .fn = nmb_gemm_##tag,                                                                                             \
     .flags = NMB_COUNTED,                                                                                             \
     .arrays = 3,                                                                                                      \
     .element_bytes = sizeof(in),                                                                                      \
     .flops = 2,                                                                                                       \
     .sizes = {sizeof(in), sizeof(in), sizeof(out)},                                                                   \
     .variant = how,                                                                                                   \
     .scratch = sizeof(packed),                                                                                        \
     .needs = what,                                                                                                    \
     .mr = GEMM_MR,                                                                                                    \
     .nr = nmb_gemm_nr_##tag,                                                                                          \
     .default_mc = GEMM_MC,                                                                                            \
     .default_kc = nmb_gemm_kc_##tag,                                                                                  \
     .default_nc = GEMM_NC}

#if NMB_TIER_AVX512
#define GEMM_TAG          bf16_dp
#define GEMM_TARGET       __attribute__((target("avx512bf16")))
#define GEMM_LANES        f32
#define GEMM_IN           uint16_t
#define GEMM_P            uint16_t
#define GEMM_W            nmb_gemm_word
#define GEMM_T            float
#define GEMM_S            float
#define GEMM_V            nmb_v_f32
#define GEMM_PACK(x)      (x)
#define GEMM_LOAD(p)      ((__m512bh)_mm512_loadu_si512(p))
#define GEMM_SPLAT(x)     ((__m512bh)_mm512_set1_epi32(x))
#define GEMM_MAC(x, y, z) _mm512_dpbf16_ps(z, x, y)
#include "gemm_body.inc.h"

/* The instruction multiplies unsigned by signed bytes: packing adds 128 to A, and sums start at -128 times B's. */
#define GEMM_TAG          s8_vnni
#define GEMM_TARGET       __attribute__((target("avx512vnni")))
#define GEMM_LANES        s32
#define GEMM_IN           int8_t
#define GEMM_P            int8_t
#define GEMM_W            nmb_gemm_word
#define GEMM_T            int32_t
#define GEMM_S            uint32_t
#define GEMM_V            nmb_v_s32
#define GEMM_PACK(x)      (x)
#define GEMM_LOAD(p)      _mm512_loadu_si512(p)
#define GEMM_SPLAT(x)     _mm512_set1_epi32(x)
#define GEMM_MAC(x, y, z) _mm512_dpbusd_epi32(z, x, y)
#define GEMM_OFFSET       128
#include "gemm_body.inc.h"
#define NMB_GEMM_MORE_ROWS                                                                                             \
    , NMB_GEMM_VARIANT(bf16_dp, gemm_bf16, uint16_t, uint16_t, float, "avx512_bf16", NMB_CPU_AVX512_BF16),             \
        NMB_GEMM_VARIANT(s8_vnni, gemm_s8, int8_t, int8_t, int32_t, "avx512_vnni", NMB_CPU_AVX512_VNNI)
#else
#define NMB_GEMM_MORE_ROWS
#endif
#if NMB_TIER_SCALAR
#define GEMM_PACKED_S8 int32_t
#else
#define GEMM_PACKED_S8 int16_t
#endif
#define NMB_GEMM_ROWS                                                                                                  \
    NMB_GEMM_VARIANT(f32, gemm_f32, float, float, float, NULL, 0),                                                     \
        NMB_GEMM_VARIANT(f64, gemm_f64, double, double, double, NULL, 0),                                              \
        NMB_GEMM_VARIANT(bf16, gemm_bf16, uint16_t, float, float, "widened", 0),                                       \
        NMB_GEMM_VARIANT(s8, gemm_s8, int8_t, GEMM_PACKED_S8, int32_t, "widened", 0) NMB_GEMM_MORE_ROWS
