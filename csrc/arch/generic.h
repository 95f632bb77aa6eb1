/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NMB_ARCH_GENERIC_H
#define NMB_ARCH_GENERIC_H

#include <stdint.h>

#define NMB_COUNTER_NAME "none"

static inline uint64_t nmb_counter(void) { return 0; }
static inline void nmb_pause(void) { __asm__ volatile("" : : : "memory"); }
static inline int nmb_counter_invariant(void) { return 0; }
static inline double nmb_counter_hz(void) { return 0; }

static inline void nmb_spin_adds(uint64_t rounds)
{
    uint64_t x = 1;
    for (rounds *= 64; rounds; rounds--)
        __asm__ volatile("" : "+r"(x));
}

#endif
