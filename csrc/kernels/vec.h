/* SPDX-License-Identifier: Apache-2.0 */
/* The tier's vector of f64 and of u64 lanes, under the same names in every tier. Loads and stores take any 8-byte
 * alignment; stream_pair writes two neighbouring vectors past the caches and wants the pair aligned to its own size,
 * because AArch64 has non-temporal stores of register pairs only. NMB_HAVE_NT is defined where the tier has them. */
#ifndef NMB_KERNELS_VEC_H
#define NMB_KERNELS_VEC_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define NMB_HAVE_NT 1
/* Drains the write-combining buffers: NT stores are done when it retires. */
static inline void nmb_fence(void) { _mm_sfence(); }
#elif defined(__aarch64__)
#include <arm_neon.h>
#define NMB_HAVE_NT 1
static inline void nmb_fence(void) { __asm__ volatile("dmb ish" ::: "memory"); }
#else
static inline void nmb_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
#endif

/* Memory may have changed: keeps rounds apart and scalar loops scalar. */
static inline void nmb_clobber(void) { __asm__ volatile("" ::: "memory"); }

#if NMB_TIER_AVX512

typedef __m512d nmb_vd;
typedef __m512i nmb_vu;
static inline nmb_vd nmb_vd_set(double x) { return _mm512_set1_pd(x); }
static inline nmb_vd nmb_vd_load(const double *p) { return _mm512_loadu_pd(p); }
static inline void nmb_vd_store(double *p, nmb_vd v) { _mm512_storeu_pd(p, v); }
static inline void nmb_vd_stream_pair(double *p, nmb_vd v, nmb_vd w)
{
    _mm512_stream_pd(p, v);
    _mm512_stream_pd(p + 8, w);
}
static inline nmb_vd nmb_vd_add(nmb_vd x, nmb_vd y) { return _mm512_add_pd(x, y); }
static inline nmb_vd nmb_vd_sub(nmb_vd x, nmb_vd y) { return _mm512_sub_pd(x, y); }
static inline nmb_vd nmb_vd_mul(nmb_vd x, nmb_vd y) { return _mm512_mul_pd(x, y); }
static inline nmb_vd nmb_vd_fma(nmb_vd x, nmb_vd y, nmb_vd z) { return _mm512_fmadd_pd(x, y, z); }
static inline double nmb_fma(double x, double y, double z) { return __builtin_fma(x, y, z); }
static inline nmb_vu nmb_vu_zero(void) { return _mm512_setzero_si512(); }
static inline nmb_vu nmb_vu_load(const uint64_t *p) { return _mm512_loadu_si512(p); }
static inline nmb_vu nmb_vu_xor(nmb_vu x, nmb_vu y) { return _mm512_xor_si512(x, y); }
static inline nmb_vu nmb_vu_add(nmb_vu x, nmb_vu y) { return _mm512_add_epi64(x, y); }
static inline uint64_t nmb_vu_sum(nmb_vu v) /* the reduction intrinsic adds signed numbers */
{
    const __m256i w = _mm256_add_epi64(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
    return (uint64_t)_mm_cvtsi128_si64(half) + (uint64_t)_mm_extract_epi64(half, 1);
}
static inline nmb_vu nmb_vu_xor3(nmb_vu x, nmb_vu y, nmb_vu z) { return _mm512_ternarylogic_epi64(x, y, z, 0x96); }
static inline uint64_t nmb_vu_fold(nmb_vu v)
{
    const __m256i w = _mm256_xor_si256(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    const __m128i half = _mm_xor_si128(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
    return (uint64_t)_mm_cvtsi128_si64(half) ^ (uint64_t)_mm_extract_epi64(half, 1);
}

#elif NMB_TIER_AVX2

typedef __m256d nmb_vd;
typedef __m256i nmb_vu;
static inline nmb_vd nmb_vd_set(double x) { return _mm256_set1_pd(x); }
static inline nmb_vd nmb_vd_load(const double *p) { return _mm256_loadu_pd(p); }
static inline void nmb_vd_store(double *p, nmb_vd v) { _mm256_storeu_pd(p, v); }
static inline void nmb_vd_stream_pair(double *p, nmb_vd v, nmb_vd w)
{
    _mm256_stream_pd(p, v);
    _mm256_stream_pd(p + 4, w);
}
static inline nmb_vd nmb_vd_add(nmb_vd x, nmb_vd y) { return _mm256_add_pd(x, y); }
static inline nmb_vd nmb_vd_sub(nmb_vd x, nmb_vd y) { return _mm256_sub_pd(x, y); }
static inline nmb_vd nmb_vd_mul(nmb_vd x, nmb_vd y) { return _mm256_mul_pd(x, y); }
static inline nmb_vd nmb_vd_fma(nmb_vd x, nmb_vd y, nmb_vd z) { return _mm256_fmadd_pd(x, y, z); }
static inline double nmb_fma(double x, double y, double z) { return __builtin_fma(x, y, z); }
static inline nmb_vu nmb_vu_zero(void) { return _mm256_setzero_si256(); }
static inline nmb_vu nmb_vu_load(const uint64_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline nmb_vu nmb_vu_xor(nmb_vu x, nmb_vu y) { return _mm256_xor_si256(x, y); }
static inline nmb_vu nmb_vu_add(nmb_vu x, nmb_vu y) { return _mm256_add_epi64(x, y); }
static inline uint64_t nmb_vu_sum(nmb_vu v)
{
    const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    return (uint64_t)_mm_cvtsi128_si64(half) + (uint64_t)_mm_extract_epi64(half, 1);
}
static inline nmb_vu nmb_vu_xor3(nmb_vu x, nmb_vu y, nmb_vu z) { return nmb_vu_xor(nmb_vu_xor(x, y), z); }
static inline uint64_t nmb_vu_fold(nmb_vu v)
{
    const __m128i half = _mm_xor_si128(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    return (uint64_t)_mm_cvtsi128_si64(half) ^ (uint64_t)_mm_extract_epi64(half, 1);
}

#elif NMB_TIER_NEON

typedef float64x2_t nmb_vd;
typedef uint64x2_t nmb_vu;
static inline nmb_vd nmb_vd_set(double x) { return vdupq_n_f64(x); }
static inline nmb_vd nmb_vd_load(const double *p) { return vld1q_f64(p); }
static inline void nmb_vd_store(double *p, nmb_vd v) { vst1q_f64(p, v); }
static inline void nmb_vd_stream_pair(double *p, nmb_vd v, nmb_vd w)
{
    __asm__ volatile("stnp %q1, %q2, [%0]" : : "r"(p), "w"(v), "w"(w) : "memory");
}
static inline nmb_vd nmb_vd_add(nmb_vd x, nmb_vd y) { return vaddq_f64(x, y); }
static inline nmb_vd nmb_vd_sub(nmb_vd x, nmb_vd y) { return vsubq_f64(x, y); }
static inline nmb_vd nmb_vd_mul(nmb_vd x, nmb_vd y) { return vmulq_f64(x, y); }
static inline nmb_vd nmb_vd_fma(nmb_vd x, nmb_vd y, nmb_vd z) { return vfmaq_f64(z, x, y); }
static inline double nmb_fma(double x, double y, double z) { return __builtin_fma(x, y, z); }
static inline nmb_vu nmb_vu_zero(void) { return vdupq_n_u64(0); }
static inline nmb_vu nmb_vu_load(const uint64_t *p) { return vld1q_u64(p); }
static inline nmb_vu nmb_vu_xor(nmb_vu x, nmb_vu y) { return veorq_u64(x, y); }
static inline nmb_vu nmb_vu_add(nmb_vu x, nmb_vu y) { return vaddq_u64(x, y); }
static inline uint64_t nmb_vu_sum(nmb_vu v) { return vaddvq_u64(v); }
static inline nmb_vu nmb_vu_xor3(nmb_vu x, nmb_vu y, nmb_vu z) { return nmb_vu_xor(nmb_vu_xor(x, y), z); }
static inline uint64_t nmb_vu_fold(nmb_vu v) { return vgetq_lane_u64(v, 0) ^ vgetq_lane_u64(v, 1); }

#else /* NMB_TIER_SCALAR: one lane, so that every family has one body */

typedef double nmb_vd;
typedef uint64_t nmb_vu;
static inline nmb_vd nmb_vd_set(double x) { return x; }
static inline nmb_vd nmb_vd_load(const double *p) { return *p; }
static inline void nmb_vd_store(double *p, nmb_vd v) { *p = v; }
static inline void nmb_vd_stream_pair(double *p, nmb_vd v, nmb_vd w)
{
#if defined(__x86_64__)
    _mm_stream_si64((long long *)(void *)p, _mm_cvtsi128_si64(_mm_castpd_si128(_mm_set_sd(v))));
    _mm_stream_si64((long long *)(void *)(p + 1), _mm_cvtsi128_si64(_mm_castpd_si128(_mm_set_sd(w))));
#elif defined(__aarch64__)
    __asm__ volatile("stnp %d1, %d2, [%0]" : : "r"(p), "w"(v), "w"(w) : "memory");
#else
    p[0] = v;
    p[1] = w;
#endif
}
static inline nmb_vd nmb_vd_add(nmb_vd x, nmb_vd y) { return x + y; }
static inline nmb_vd nmb_vd_sub(nmb_vd x, nmb_vd y) { return x - y; }
static inline nmb_vd nmb_vd_mul(nmb_vd x, nmb_vd y) { return x * y; }
/* Baseline x86-64 has no FMA; a library call would be no kernel. */
static inline nmb_vd nmb_vd_fma(nmb_vd x, nmb_vd y, nmb_vd z) { return x * y + z; }
static inline double nmb_fma(double x, double y, double z) { return x * y + z; }
static inline nmb_vu nmb_vu_zero(void) { return 0; }
static inline nmb_vu nmb_vu_load(const uint64_t *p) { return *p; }
static inline nmb_vu nmb_vu_xor(nmb_vu x, nmb_vu y) { return x ^ y; }
static inline nmb_vu nmb_vu_add(nmb_vu x, nmb_vu y) { return x + y; }
static inline uint64_t nmb_vu_sum(nmb_vu v) { return v; }
static inline nmb_vu nmb_vu_xor3(nmb_vu x, nmb_vu y, nmb_vu z) { return x ^ y ^ z; }
static inline uint64_t nmb_vu_fold(nmb_vu v) { return v; }

#endif

/* v itself, computed here: vector code reaches memory in the order in which it is written. */
static inline nmb_vd nmb_vd_keep(nmb_vd v)
{
#if defined(__x86_64__)
    __asm__ volatile("" : "+x"(v));
#elif defined(__aarch64__)
    __asm__ volatile("" : "+w"(v));
#endif
    return v;
}

/* Value that round `round` of a write kernel stores: in [1, 2), thus never zero bits (hardware may drop zeros written
 * over zeros) and never a denormal for the kernel that reads the array next; another one each round, and for callers
 * that count the seed up by call another one than any round of the calls around. */
static inline double nmb_write_value(uint64_t seed, uint64_t round)
{
    union {
        uint64_t bits;
        double value;
    } u;
    u.bits = UINT64_C(0x3ff0000000000000) |
             (seed * UINT64_C(0x9e3779b97f4a7c15) + round * UINT64_C(0xbf58476d1ce4e5b9)) >> 12;
    return u.value;
}

#define NMB_LANES (sizeof(nmb_vd) / sizeof(double))

#endif
