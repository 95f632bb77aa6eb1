/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NMB_ARCH_X86_64_H
#define NMB_ARCH_X86_64_H

#include <cpuid.h>
#include <stdint.h>
#include <x86intrin.h>

#define NMB_COUNTER_NAME "tsc"

/* lfence on both sides: rdtsc neither runs ahead of earlier loads nor lets later ones start before it (Intel SDM vol.
 * 2, RDTSC). */
static inline uint64_t nmb_counter(void)
{
    _mm_lfence();
    uint64_t t = __rdtsc();
    _mm_lfence();
    return t;
}

static inline void nmb_pause(void) { _mm_pause(); }

/* CPUID 8000_0007h EDX[8]: the TSC runs at a constant rate in all states. */
static inline int nmb_counter_invariant(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(0x80000007u, &a, &b, &c, &d) && (d & (1u << 8));
}

static inline double nmb_counter_hz(void) { return 0; } /* not told reliably: calibrate */

/* `rounds` x 64 dependent additions, one cycle each. */
static inline void nmb_spin_adds(uint64_t rounds)
{
    uint64_t x = 1;
#define NMB_ADD4  "add %0, %0\n\tadd %0, %0\n\tadd %0, %0\n\tadd %0, %0\n\t"
#define NMB_ADD16 NMB_ADD4 NMB_ADD4 NMB_ADD4 NMB_ADD4
    for (; rounds; rounds--)
        __asm__ volatile(NMB_ADD16 NMB_ADD16 NMB_ADD16 NMB_ADD16 : "+r"(x) : : "cc");
#undef NMB_ADD16
#undef NMB_ADD4
}

/* `rounds` x 64 instructions, of which every eighth waits for one before: as wide as any core is. */
#define NMB_HAVE_WIDE 1
static inline void nmb_spin_wide(uint64_t rounds)
{
    uint64_t x = 1;
#define NMB_NOP1  "nopl 1(%%rax)\n\t" /* four bytes: shorter ones are more than some caches of decoded ones hold */
#define NMB_WIDE8 "add %0, %0\n\t" NMB_NOP1 NMB_NOP1 NMB_NOP1 NMB_NOP1 NMB_NOP1 NMB_NOP1 NMB_NOP1
    for (; rounds; rounds--)
        __asm__ volatile(NMB_WIDE8 NMB_WIDE8 NMB_WIDE8 NMB_WIDE8 NMB_WIDE8 NMB_WIDE8 NMB_WIDE8 NMB_WIDE8
                         : "+r"(x)
                         :
                         : "cc");
#undef NMB_WIDE8
#undef NMB_NOP1
}

#endif
