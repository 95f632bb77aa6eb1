/* SPDX-License-Identifier: Apache-2.0 */
/* The ceiling of the computing kernels: multiply-adds on registers, PEAK_CHAINS of them independent of each other, more
 * than latency times throughput of any CPU we know. A round is args.k steps of a multiply-add on each; operands are
 * ones, so that what a round returns, less what it started from, is the number of multiply-adds done. */
#include "lanes.h"

#if NMB_TIER_AVX512
enum { PEAK_CHAINS = 16 };
#else
enum { PEAK_CHAINS = 12 };
#endif

/* x is computed here, as far as the compiler can tell: a product of constants would be no work. */
#if defined(__x86_64__)
#define PEAK_KEEP(x) __asm__ volatile("" : "+v"(x))
#elif defined(__aarch64__)
#define PEAK_KEEP(x) __asm__ volatile("" : "+w"(x))
#else
#define PEAK_KEEP(x) __asm__ volatile("" : "+g"(x))
#endif
#if NMB_TIER_AVX512 || NMB_TIER_AVX2 || NMB_TIER_NEON
#define PEAK_KEEP_INT(x) PEAK_KEEP(x)
#else
#define PEAK_KEEP_INT(x) __asm__ volatile("" : "+r"(x))
#endif

#define NMB_PEAK(tag, target, elem, vec, operand, zero, store, one, keep, mac)                                         \
    static target uint64_t nmb_peak_##tag(nmb_args *args, uint64_t loops)                                              \
    {                                                                                                                  \
        nmb_say_tier(args);                                                                                            \
        vec acc[PEAK_CHAINS];                                                                                          \
        operand x = one, y = one;                                                                                      \
        elem lanes[sizeof(vec) / sizeof(elem)];                                                                        \
        double sum = 0;                                                                                                \
        NMB_EACH(i, PEAK_CHAINS)                                                                                       \
        {                                                                                                              \
            acc[i] = zero;                                                                                             \
            keep(acc[i]); /* a chain of its own, not a copy of another */                                              \
        }                                                                                                              \
        for (; loops; loops--)                                                                                         \
            for (size_t k = 0; k < args->k; k++)                                                                       \
                NMB_EACH(i, PEAK_CHAINS)                                                                               \
                {                                                                                                      \
                    vec z = acc[i];                                                                                    \
                    keep(x); /* each chain has a product of its own */                                                 \
                    acc[i] = mac;                                                                                      \
                }                                                                                                      \
        NMB_EACH(i, PEAK_CHAINS)                                                                                       \
        {                                                                                                              \
            store(lanes, acc[i]);                                                                                      \
            for (size_t lane = 0; lane < sizeof(vec) / sizeof(elem); lane++)                                           \
                sum += (double)lanes[lane];                                                                            \
        }                                                                                                              \
        return (uint64_t)sum;                                                                                          \
    }

NMB_PEAK(f32, , float, nmb_v_f32, nmb_v_f32, nmb_splat_f32(0), nmb_store_f32, nmb_splat_f32(1), PEAK_KEEP,
         nmb_fma_f32(x, y, z))
NMB_PEAK(f64, , double, nmb_v_f64, nmb_v_f64, nmb_splat_f64(0), nmb_store_f64, nmb_splat_f64(1), PEAK_KEEP,
         nmb_fma_f64(x, y, z))
#if NMB_TIER_SCALAR
enum { PEAK_S8 = 1 };
NMB_PEAK(s8, , int32_t, nmb_v_s32, nmb_v_s32, nmb_splat_s32(0), nmb_store_s32, nmb_splat_s32(1), PEAK_KEEP_INT,
         nmb_fma_s32(x, y, z))
#elif NMB_TIER_NEON
enum { PEAK_S8 = 2 };
NMB_PEAK(s8, , int32_t, nmb_v_s32, int16x8_t, nmb_splat_s32(0), nmb_store_s32, vdupq_n_s16(1), PEAK_KEEP_INT,
         nmb_mac_s16(x, y, z))
#else
enum { PEAK_S8 = 2 };
NMB_PEAK(s8, , int32_t, nmb_v_s32, nmb_v_s32, nmb_splat_s32(0), nmb_store_s32, nmb_splat_s32(0x00010001), PEAK_KEEP_INT,
         nmb_mac_s16(x, y, z))
#endif

#define NMB_PEAK_ROW(tag, title, bytes, elem, vec, macs, how, what)                                                    \
    {.name = #title,                                                                                                   \
     .family = "peak",                                                                                                 \
     .brief = "x = x + y * z in registers",                                                                            \
     .fn = nmb_peak_##tag,                                                                                             \
     .flags = NMB_COUNTED,                                                                                             \
     .element_bytes = bytes,                                                                                           \
     .flops = 2,                                                                                                       \
     .variant = how,                                                                                                   \
     .needs = what,                                                                                                    \
     .mr = PEAK_CHAINS,                                                                                                \
     .nr = sizeof(vec) / sizeof(elem) * (macs)}

#if NMB_TIER_AVX512
#define PEAK_ONES_BF16 ((__m512bh)_mm512_set1_epi32(0x3f803f80))
NMB_PEAK(s8_vnni, __attribute__((target("avx512vnni"))), int32_t, nmb_v_s32, nmb_v_s32, nmb_splat_s32(0), nmb_store_s32,
         nmb_splat_s32(0x01010101), PEAK_KEEP_INT, _mm512_dpbusd_epi32(z, x, y))
NMB_PEAK(bf16_dp, __attribute__((target("avx512bf16"))), float, nmb_v_f32, __m512bh, nmb_splat_f32(0), nmb_store_f32,
         PEAK_ONES_BF16, PEAK_KEEP, _mm512_dpbf16_ps(z, x, y))
#define NMB_PEAK_MORE_ROWS                                                                                             \
    NMB_PEAK_ROW(s8_vnni, peak_s8, 1, int32_t, nmb_v_s32, 4, "avx512_vnni", NMB_CPU_AVX512_VNNI),                      \
        NMB_PEAK_ROW(bf16_dp, peak_bf16, 2, float, nmb_v_f32, 2, "avx512_bf16", NMB_CPU_AVX512_BF16),
#else
#define NMB_PEAK_MORE_ROWS
#endif
#define NMB_PEAK_ROWS                                                                                                  \
    NMB_PEAK_ROW(f32, peak_f32, 4, float, nmb_v_f32, 1, NULL, 0),                                                      \
        NMB_PEAK_ROW(f64, peak_f64, 8, double, nmb_v_f64, 1, NULL, 0),                                                 \
        NMB_PEAK_ROW(s8, peak_s8, 1, int32_t, nmb_v_s32, PEAK_S8, "widened", 0),                                       \
        NMB_PEAK_ROW(f32, peak_bf16, 2, float, nmb_v_f32, 1, "widened", 0), NMB_PEAK_MORE_ROWS
