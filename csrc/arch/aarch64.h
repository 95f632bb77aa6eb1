/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NMB_ARCH_AARCH64_H
#define NMB_ARCH_AARCH64_H

#include <stdint.h>

#define NMB_COUNTER_NAME "cntvct"

static inline uint64_t nmb_counter(void)
{
    uint64_t t;
    __asm__ volatile("isb\n\tmrs %0, cntvct_el0\n\tisb" : "=r"(t) : : "memory");
    return t;
}

static inline void nmb_pause(void) { __asm__ volatile("yield" : : : "memory"); }

/* The generic timer runs at a constant rate by architecture. */
static inline int nmb_counter_invariant(void) { return 1; }

static inline double nmb_counter_hz(void)
{
    uint64_t hz;
    __asm__ volatile("mrs %0, cntfrq_el0" : "=r"(hz));
    return (double)hz;
}

static inline void nmb_spin_adds(uint64_t rounds)
{
    uint64_t x = 1;
#define NMB_ADD4  "add %0, %0, #1\n\tadd %0, %0, #1\n\tadd %0, %0, #1\n\tadd %0, %0, #1\n\t"
#define NMB_ADD16 NMB_ADD4 NMB_ADD4 NMB_ADD4 NMB_ADD4
    for (; rounds; rounds--)
        __asm__ volatile(NMB_ADD16 NMB_ADD16 NMB_ADD16 NMB_ADD16 : "+r"(x));
#undef NMB_ADD16
#undef NMB_ADD4
}

#define NMB_HAVE_WIDE 1
static inline void nmb_spin_wide(uint64_t rounds)
{
    uint64_t x = 1;
#define NMB_WIDE8 "add %0, %0, #1\n\tnop\n\tnop\n\tnop\n\tnop\n\tnop\n\tnop\n\tnop\n\t"
    for (; rounds; rounds--)
        __asm__ volatile(NMB_WIDE8 NMB_WIDE8 NMB_WIDE8 NMB_WIDE8 NMB_WIDE8 NMB_WIDE8 NMB_WIDE8 NMB_WIDE8 : "+r"(x));
#undef NMB_WIDE8
}

#endif
