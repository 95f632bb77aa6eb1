/* SPDX-License-Identifier: Apache-2.0 */
/* The tier's vectors of f32, f64 and s32 for the computing kernels, under the same names in every tier: nmb_v_f32 and
 * nmb_load_f32 and so on. fma(x, y, z) is x * y + z, in one rounding where the tier has it. Integers wrap around. first
 * and second are the halves of x0 y0 x1 y1 ... turn transposes a square as wide as a vector: what comes in is one long
 * row, whose halves are riffled as often as a column's number has bits. */
#ifndef NMB_KERNELS_LANES_H
#define NMB_KERNELS_LANES_H

#include <stddef.h>
#include <stdint.h>

#include "vec.h"

#define NMB_CAT_(a, b) a##b
#define NMB_CAT(a, b)  NMB_CAT_(a, b)
/* A loop that has to vanish: accumulators that are indexed at run time would live in memory. */
#ifdef __clang__
#define NMB_EACH(i, count) _Pragma("clang loop unroll(full)") for (size_t i = 0; i < (count); i++)
#else
#define NMB_EACH(i, count) _Pragma("GCC unroll 16") for (size_t i = 0; i < (count); i++)
#endif
#define NMB_INLINE inline __attribute__((always_inline))
/* Holds a vector in a register: compilers load it anew for each multiplication otherwise, which costs more loads than
 * a core has time for. */
#if NMB_TIER_AVX512 || NMB_TIER_AVX2
#define NMB_KEEP(x) __asm__ volatile("" : "+v"(x))
#elif NMB_TIER_NEON
#define NMB_KEEP(x) __asm__ volatile("" : "+w"(x))
#else
#define NMB_KEEP(x) (void)0
#endif

#define NMB_TYPE_LANES(tag, elem, vec, load, store, splat, add, sum, mul, fma, first, second)                          \
    typedef vec nmb_v_##tag;                                                                                           \
    static NMB_INLINE vec nmb_load_##tag(const elem *p) { return load; }                                               \
    static NMB_INLINE void nmb_store_##tag(elem *p, vec x) { store; }                                                  \
    static NMB_INLINE vec nmb_splat_##tag(elem x) { return splat; }                                                    \
    static NMB_INLINE vec nmb_add_##tag(vec x, vec y) { return add; }                                                  \
    static NMB_INLINE elem nmb_sum_##tag(vec x) { return sum; }                                                        \
    static NMB_INLINE vec nmb_mul_##tag(vec x, vec y) { return mul; }                                                  \
    static NMB_INLINE vec nmb_fma_##tag(vec x, vec y, vec z) { return fma; }                                           \
    static NMB_INLINE vec nmb_first_##tag(vec x, vec y) { return first; }                                              \
    static NMB_INLINE vec nmb_second_##tag(vec x, vec y) { return second; }                                            \
    static NMB_INLINE void nmb_turn_##tag(elem *to, size_t ld_to, const elem *from, size_t ld_from)                    \
    {                                                                                                                  \
        enum { vl = sizeof(vec) / sizeof(elem), half = vl / 2 };                                                       \
        vec x[vl], y[vl];                                                                                              \
        NMB_EACH(i, vl) x[i] = nmb_load_##tag(from + i * ld_from);                                                     \
        NMB_EACH(bit, 4)                                                                                               \
        if (1 << bit < vl) {                                                                                           \
            NMB_EACH(i, vl)                                                                                            \
            y[i] = i % 2 ? nmb_second_##tag(x[i / 2], x[i / 2 + half]) : nmb_first_##tag(x[i / 2], x[i / 2 + half]);   \
            NMB_EACH(i, vl) x[i] = y[i];                                                                               \
        }                                                                                                              \
        NMB_EACH(i, vl) nmb_store_##tag(to + i * ld_to, x[i]);                                                         \
    }

/* Words at any address, of whatever type they are. */
typedef uint64_t __attribute__((may_alias, aligned(1))) nmb_any64;
typedef uint32_t __attribute__((may_alias, aligned(1))) nmb_any32;
typedef uint16_t __attribute__((may_alias, aligned(1))) nmb_any16;

/* bf16 is the upper half of an f32. */
static NMB_INLINE float nmb_float_of_bf16(uint16_t x)
{
    const union {
        uint32_t bits;
        float value;
    } u = {.bits = (uint32_t)x << 16};
    return u.value;
}

#if NMB_TIER_AVX512 || NMB_TIER_AVX2
/* Halves added up, until one element is left. */
static NMB_INLINE float nmb_sum256_ps(__m256 x)
{
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}
static NMB_INLINE double nmb_sum256_pd(__m256d x)
{
    const __m128d h = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)));
}
static NMB_INLINE int32_t nmb_sum256_epi32(__m256i x)
{
    __m128i h = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    h = _mm_add_epi32(h, _mm_unpackhi_epi64(h, h));
    return _mm_cvtsi128_si32(_mm_add_epi32(h, _mm_shuffle_epi32(h, 1)));
}
#endif

#if NMB_TIER_AVX512
static NMB_INLINE float nmb_sum512_ps(__m512 x)
{
    return nmb_sum256_ps(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)));
}
static NMB_INLINE double nmb_sum512_pd(__m512d x)
{
    return nmb_sum256_pd(_mm256_add_pd(_mm512_castpd512_pd256(x), _mm512_extractf64x4_pd(x, 1)));
}
static NMB_INLINE int32_t nmb_sum512_epi32(__m512i x)
{
    return nmb_sum256_epi32(_mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1)));
}
#define NMB_RIFFLE_16(from)                                                                                            \
    _mm512_setr_epi32(from, from + 16, from + 1, from + 17, from + 2, from + 18, from + 3, from + 19, from + 4,        \
                      from + 20, from + 5, from + 21, from + 6, from + 22, from + 7, from + 23)
#define NMB_RIFFLE_8(from)                                                                                             \
    _mm512_setr_epi64(from, from + 8, from + 1, from + 9, from + 2, from + 10, from + 3, from + 11)
NMB_TYPE_LANES(f32, float, __m512, _mm512_loadu_ps(p), _mm512_storeu_ps(p, x), _mm512_set1_ps(x), _mm512_add_ps(x, y),
               nmb_sum512_ps(x), _mm512_mul_ps(x, y), _mm512_fmadd_ps(x, y, z),
               _mm512_permutex2var_ps(x, NMB_RIFFLE_16(0), y), _mm512_permutex2var_ps(x, NMB_RIFFLE_16(8), y))
NMB_TYPE_LANES(f64, double, __m512d, _mm512_loadu_pd(p), _mm512_storeu_pd(p, x), _mm512_set1_pd(x), _mm512_add_pd(x, y),
               nmb_sum512_pd(x), _mm512_mul_pd(x, y), _mm512_fmadd_pd(x, y, z),
               _mm512_permutex2var_pd(x, NMB_RIFFLE_8(0), y), _mm512_permutex2var_pd(x, NMB_RIFFLE_8(4), y))
NMB_TYPE_LANES(s32, int32_t, __m512i, _mm512_loadu_si512(p), _mm512_storeu_si512(p, x), _mm512_set1_epi32(x),
               _mm512_add_epi32(x, y), nmb_sum512_epi32(x), _mm512_mullo_epi32(x, y),
               _mm512_add_epi32(_mm512_mullo_epi32(x, y), z), _mm512_permutex2var_epi32(x, NMB_RIFFLE_16(0), y),
               _mm512_permutex2var_epi32(x, NMB_RIFFLE_16(8), y))
/* `bytes` at p (a power of two) over and over. */
static NMB_INLINE __m256i nmb_repeat_half(const size_t bytes, const void *p)
{
    if (bytes == 32)
        return _mm256_loadu_si256(p);
    if (bytes == 16)
        return _mm256_broadcastsi128_si256(_mm_loadu_si128(p));
    return bytes == 8   ? _mm256_set1_epi64x((long long)*(const nmb_any64 *)p)
           : bytes == 4 ? _mm256_set1_epi32((int)*(const nmb_any32 *)p)
                        : _mm256_set1_epi16((short)*(const nmb_any16 *)p);
}
static NMB_INLINE __m512i nmb_repeat(const size_t bytes, const void *p)
{
    if (bytes == 64)
        return _mm512_loadu_si512(p);
    if (bytes == 32)
        return _mm512_broadcast_i64x4(_mm256_loadu_si256(p));
    if (bytes == 16)
        return _mm512_broadcast_i32x4(_mm_loadu_si128(p));
    return bytes == 8 ? _mm512_set1_epi64((long long)*(const nmb_any64 *)p)
                      : _mm512_set1_epi32((int)*(const nmb_any32 *)p);
}
static NMB_INLINE __m512 nmb_as_f32(__m512i x) { return _mm512_castsi512_ps(x); }
static NMB_INLINE __m512d nmb_as_f64(__m512i x) { return _mm512_castsi512_pd(x); }
/* bf16 is the upper half of an f32: the first and the second of each pair. */
static NMB_INLINE __m512 nmb_bf16_first(__m512i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }
static NMB_INLINE __m512 nmb_bf16_second(__m512i x)
{
    return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32((int)0xffff0000)));
}
/* int8 as int16, and products of pairs added up. */
static NMB_INLINE __m512i nmb_widen_s8(__m256i x) { return _mm512_cvtepi8_epi16(x); }
static NMB_INLINE __m512i nmb_mac_s16(__m512i x, __m512i y, __m512i z)
{
    z = _mm512_add_epi32(z, _mm512_madd_epi16(x, y));
    __asm__("" : "+v"(z)); /* compilers add up products first otherwise, in more registers than there are */
    return z;
}

#elif NMB_TIER_AVX2
NMB_TYPE_LANES(f32, float, __m256, _mm256_loadu_ps(p), _mm256_storeu_ps(p, x), _mm256_set1_ps(x), _mm256_add_ps(x, y),
               nmb_sum256_ps(x), _mm256_mul_ps(x, y), _mm256_fmadd_ps(x, y, z),
               _mm256_permute2f128_ps(_mm256_unpacklo_ps(x, y), _mm256_unpackhi_ps(x, y), 0x20),
               _mm256_permute2f128_ps(_mm256_unpacklo_ps(x, y), _mm256_unpackhi_ps(x, y), 0x31))
NMB_TYPE_LANES(f64, double, __m256d, _mm256_loadu_pd(p), _mm256_storeu_pd(p, x), _mm256_set1_pd(x), _mm256_add_pd(x, y),
               nmb_sum256_pd(x), _mm256_mul_pd(x, y), _mm256_fmadd_pd(x, y, z),
               _mm256_permute2f128_pd(_mm256_unpacklo_pd(x, y), _mm256_unpackhi_pd(x, y), 0x20),
               _mm256_permute2f128_pd(_mm256_unpacklo_pd(x, y), _mm256_unpackhi_pd(x, y), 0x31))
NMB_TYPE_LANES(s32, int32_t, __m256i, _mm256_loadu_si256((const void *)p), _mm256_storeu_si256((void *)p, x),
               _mm256_set1_epi32(x), _mm256_add_epi32(x, y), nmb_sum256_epi32(x), _mm256_mullo_epi32(x, y),
               _mm256_add_epi32(_mm256_mullo_epi32(x, y), z),
               _mm256_permute2x128_si256(_mm256_unpacklo_epi32(x, y), _mm256_unpackhi_epi32(x, y), 0x20),
               _mm256_permute2x128_si256(_mm256_unpacklo_epi32(x, y), _mm256_unpackhi_epi32(x, y), 0x31))
static NMB_INLINE __m128i nmb_repeat_half(const size_t bytes, const void *p)
{
    if (bytes == 16)
        return _mm_loadu_si128(p);
    return bytes == 8   ? _mm_set1_epi64x((long long)*(const nmb_any64 *)p)
           : bytes == 4 ? _mm_set1_epi32((int)*(const nmb_any32 *)p)
                        : _mm_set1_epi16((short)*(const nmb_any16 *)p);
}
static NMB_INLINE __m256i nmb_repeat(const size_t bytes, const void *p)
{
    if (bytes == 32)
        return _mm256_loadu_si256(p);
    if (bytes == 16)
        return _mm256_broadcastsi128_si256(_mm_loadu_si128(p));
    return bytes == 8 ? _mm256_set1_epi64x((long long)*(const nmb_any64 *)p)
                      : _mm256_set1_epi32((int)*(const nmb_any32 *)p);
}
static NMB_INLINE __m256 nmb_as_f32(__m256i x) { return _mm256_castsi256_ps(x); }
static NMB_INLINE __m256d nmb_as_f64(__m256i x) { return _mm256_castsi256_pd(x); }
static NMB_INLINE __m256 nmb_bf16_first(__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
static NMB_INLINE __m256 nmb_bf16_second(__m256i x)
{
    return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32((int)0xffff0000)));
}
static NMB_INLINE __m256i nmb_widen_s8(__m128i x) { return _mm256_cvtepi8_epi16(x); }
static NMB_INLINE __m256i nmb_mac_s16(__m256i x, __m256i y, __m256i z)
{
    z = _mm256_add_epi32(z, _mm256_madd_epi16(x, y));
    __asm__("" : "+v"(z)); /* compilers add up products first otherwise, in more registers than there are */
    return z;
}

#elif NMB_TIER_NEON
NMB_TYPE_LANES(f32, float, float32x4_t, vld1q_f32(p), vst1q_f32(p, x), vdupq_n_f32(x), vaddq_f32(x, y), vaddvq_f32(x),
               vmulq_f32(x, y), vfmaq_f32(z, x, y), vzip1q_f32(x, y), vzip2q_f32(x, y))
NMB_TYPE_LANES(f64, double, float64x2_t, vld1q_f64(p), vst1q_f64(p, x), vdupq_n_f64(x), vaddq_f64(x, y), vaddvq_f64(x),
               vmulq_f64(x, y), vfmaq_f64(z, x, y), vzip1q_f64(x, y), vzip2q_f64(x, y))
NMB_TYPE_LANES(s32, int32_t, int32x4_t, vld1q_s32(p), vst1q_s32(p, x), vdupq_n_s32(x), vaddq_s32(x, y), vaddvq_s32(x),
               vmulq_s32(x, y), vmlaq_s32(z, x, y), vzip1q_s32(x, y), vzip2q_s32(x, y))
static NMB_INLINE int8x8_t nmb_repeat_half(const size_t bytes, const void *p)
{
    return bytes == 8   ? vcreate_s8(*(const nmb_any64 *)p)
           : bytes == 4 ? vreinterpret_s8_u32(vdup_n_u32(*(const nmb_any32 *)p))
                        : vreinterpret_s8_u16(vdup_n_u16(*(const nmb_any16 *)p));
}
static NMB_INLINE uint32x4_t nmb_repeat(const size_t bytes, const void *p)
{
    if (bytes == 16)
        return vreinterpretq_u32_u8(vld1q_u8(p));
    return bytes == 8 ? vreinterpretq_u32_u64(vdupq_n_u64(*(const nmb_any64 *)p)) : vdupq_n_u32(*(const nmb_any32 *)p);
}
static NMB_INLINE float32x4_t nmb_as_f32(uint32x4_t x) { return vreinterpretq_f32_u32(x); }
static NMB_INLINE float64x2_t nmb_as_f64(uint32x4_t x) { return vreinterpretq_f64_u32(x); }
static NMB_INLINE float32x4_t nmb_bf16_first(uint32x4_t x) { return vreinterpretq_f32_u32(vshlq_n_u32(x, 16)); }
static NMB_INLINE float32x4_t nmb_bf16_second(uint32x4_t x)
{
    return vreinterpretq_f32_u32(vandq_u32(x, vdupq_n_u32(0xffff0000)));
}
static NMB_INLINE int16x8_t nmb_widen_s8(int8x8_t x) { return vmovl_s8(x); }
static NMB_INLINE int32x4_t nmb_mac_s16(int16x8_t x, int16x8_t y, int32x4_t z)
{
    return vpadalq_s16(z, vmulq_s16(x, y)); /* products of int8, the largest is 2^14 */
}

#else /* NMB_TIER_SCALAR: a vector is one element */
NMB_TYPE_LANES(f32, float, float, *p, *p = x, x, x + y, x, x *y, x *y + z, ((void)y, x), ((void)x, y))
NMB_TYPE_LANES(f64, double, double, *p, *p = x, x, x + y, x, x *y, x *y + z, ((void)y, x), ((void)x, y))
NMB_TYPE_LANES(s32, int32_t, int32_t, *p, *p = x, x, (int32_t)((uint32_t)x + (uint32_t)y), x,
               (int32_t)((uint32_t)x * (uint32_t)y), (int32_t)((uint32_t)x * (uint32_t)y + (uint32_t)z), ((void)y, x),
               ((void)x, y))
#endif

#endif
