/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NMB_RANDOM_H
#define NMB_RANDOM_H

#include <stdint.h>

/* SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): one addition and one mixer, any 64-bit state is a good seed. */
static inline uint64_t nmb_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline uint64_t nmb_random(uint64_t *state) { return nmb_mix(*state += 0x9e3779b97f4a7c15u); }

/* Unbiased number in [0, bound): multiply and reject (Lemire, ACM TOMACS 29(1), 2019). */
static inline uint32_t nmb_random_below(uint64_t *state, uint32_t bound)
{
    uint64_t product = (nmb_random(state) >> 32) * bound;
    if ((uint32_t)product < bound)
        for (uint32_t least = -bound % bound; (uint32_t)product < least;)
            product = (nmb_random(state) >> 32) * bound;
    return (uint32_t)(product >> 32);
}

#endif
