/* SPDX-License-Identifier: Apache-2.0 */
#include "nmb.h"

#include "cpu.h"

extern const nmb_tier nmb_tier_scalar;
#if defined(__x86_64__)
extern const nmb_tier nmb_tier_avx2, nmb_tier_avx512;
#elif defined(__aarch64__)
extern const nmb_tier nmb_tier_neon;
#endif

size_t nmb_tiers(nmb_tier *out, size_t max)
{
    nmb_tier all[] = {
        nmb_tier_scalar,
#if defined(__x86_64__)
        nmb_tier_avx2,
        nmb_tier_avx512,
#elif defined(__aarch64__)
        nmb_tier_neon,
#endif
    };
    size_t count = sizeof all / sizeof *all;
    all[0].usable = 1;
#if defined(__x86_64__)
    all[1].usable = nmb_cpu_has_avx2_tier();
    all[2].usable = nmb_cpu_has_avx512_tier();
#elif defined(__aarch64__)
    all[1].usable = 1; /* AArch64 includes Advanced SIMD */
#endif
    for (size_t i = 0; i < count && i < max; i++)
        out[i] = all[i];
    return count;
}
