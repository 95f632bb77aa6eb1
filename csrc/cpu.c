/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu.h"

#include "nmb.h"

#if defined(__x86_64__)
#include <cpuid.h>

/* Levels as the x86-64 psABI defines them; bit positions from the Intel SDM vol. 2, CPUID. */
enum {
    FMA = 1 << 12,
    MOVBE = 1 << 22,
    OSXSAVE = 1 << 27,
    AVX = 1 << 28,
    F16C = 1 << 29, /* leaf 1 ECX */
    BMI1 = 1 << 3,
    AVX2 = 1 << 5,
    BMI2 = 1 << 8,  /* leaf 7 EBX */
    LZCNT = 1 << 5, /* leaf 80000001h ECX */
    XCR0_AVX = 0x6,
    XCR0_AVX512 = 0xe6
};
static const unsigned AVX512 = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31; /* F DQ CD BW VL, leaf 7 EBX */

static int level(unsigned *leaf7_ebx, unsigned *xcr0)
{
    unsigned a, b, c1, d, c8, high;
    if (!__get_cpuid(1, &a, &b, &c1, &d) || !__get_cpuid(0x80000001u, &a, &b, &c8, &d) ||
        !__get_cpuid_count(7, 0, &a, leaf7_ebx, &b, &d))
        return 0;
    unsigned need = FMA | MOVBE | OSXSAVE | AVX | F16C;
    if ((c1 & need) != need || !(c8 & LZCNT))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(*xcr0), "=d"(high) : "c"(0));
    need = BMI1 | AVX2 | BMI2;
    return (*leaf7_ebx & need) == need && (*xcr0 & XCR0_AVX) == XCR0_AVX;
}

int nmb_cpu_has_avx2_tier(void)
{
    unsigned ebx, xcr0;
    return level(&ebx, &xcr0);
}

int nmb_cpu_has_avx512_tier(void)
{
    unsigned ebx, xcr0;
    return level(&ebx, &xcr0) && (ebx & AVX512) == AVX512 && (xcr0 & XCR0_AVX512) == XCR0_AVX512;
}

unsigned nmb_cpu_features(void)
{
    enum { VNNI = 1 << 11 /* leaf 7 ECX */, BF16 = 1 << 5 /* leaf 7.1 EAX */ };
    unsigned a, b, c, d, found = 0;
    if (!nmb_cpu_has_avx512_tier() || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    found |= c & VNNI ? NMB_CPU_AVX512_VNNI : 0;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d))
        found |= a & BF16 ? NMB_CPU_AVX512_BF16 : 0;
    return found;
}
#else
unsigned nmb_cpu_features(void) { return 0; }
int nmb_cpu_has_avx2_tier(void) { return 0; }
int nmb_cpu_has_avx512_tier(void) { return 0; }
#endif
