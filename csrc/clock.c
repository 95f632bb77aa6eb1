/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "nmb.h"

#include <errno.h>
#include <time.h>

#include "arch/arch.h"

enum { NANO = 1000000000, READINGS = 1001, CALIBRATION_NS = 20000000, PAIRS = 16 };

static uint64_t raw_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return (uint64_t)t.tv_sec * NANO + (uint64_t)t.tv_nsec;
}

uint64_t nmb_clock_now(const nmb_clock *clock) { return clock->source == NMB_CLOCK_COUNTER ? nmb_counter() : raw_ns(); }

/* A counter reading and the system clock at the same moment: of several tries the one that took least. */
static void read_pair(uint64_t *counter, uint64_t *ns)
{
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < PAIRS; i++) {
        uint64_t before = nmb_counter(), t = raw_ns(), after = nmb_counter();
        if (after - before < best) {
            best = after - before;
            *counter = before + best / 2;
            *ns = t;
        }
    }
}

static void calibrate(nmb_clock *clock)
{
    uint64_t c0 = 0, t0 = 0, c1 = 0, t1 = 0;
    read_pair(&c0, &t0);
    do
        read_pair(&c1, &t1);
    while (t1 - t0 < CALIBRATION_NS);
    clock->hz = (double)(c1 - c0) * NANO / (double)(t1 - t0);
}

void nmb_clock_measure(nmb_clock *clock)
{
    uint64_t cost[READINGS], step = UINT64_MAX, begin = nmb_clock_now(clock);
    for (int i = 0; i < READINGS; i++) {
        uint64_t a = nmb_clock_now(clock), b = nmb_clock_now(clock);
        cost[i] = b - a;
        if (b > a && b - a < step)
            step = b - a;
    }
    uint64_t all = nmb_clock_now(clock) - begin;
    for (int i = 1; i < READINGS; i++) { /* insertion sort: the values are nearly all alike */
        uint64_t v = cost[i];
        int j = i;
        for (; j > 0 && cost[j - 1] > v; j--)
            cost[j] = cost[j - 1];
        cost[j] = v;
    }
    /* A counter that steps less often than it can be read, as on many aarch64 systems, shows no cost of one reading. */
    double ticks = cost[READINGS / 2] ? (double)cost[READINGS / 2] : (double)all / (2.0 * READINGS);
    clock->overhead_ns = ticks * NANO / clock->hz;
    clock->overhead_p99_ns = (double)cost[READINGS * 99 / 100] * NANO / clock->hz;
    clock->step_ns = step == UINT64_MAX ? 0 : (double)step * NANO / clock->hz;
}

int nmb_clock_init(int want, nmb_clock *out)
{
    if (want != NMB_CLOCK_COUNTER && want != NMB_CLOCK_MONOTONIC_RAW)
        return -EINVAL;
    out->invariant = nmb_counter_invariant();
    out->source = want == NMB_CLOCK_COUNTER && out->invariant ? NMB_CLOCK_COUNTER : NMB_CLOCK_MONOTONIC_RAW;
    out->hz = NANO;
    if (out->source == NMB_CLOCK_COUNTER && (out->hz = nmb_counter_hz()) <= 0)
        calibrate(out);
    nmb_clock_measure(out);
    return 0;
}

double nmb_core_hz(const nmb_clock *clock)
{
    enum { ROUNDS = 512, TRIES = 3, ADDS = ROUNDS * 64 };
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < TRIES; i++) { /* the shortest: an interrupt only lengthens it */
        uint64_t a = nmb_clock_now(clock);
        nmb_spin_adds(ROUNDS);
        uint64_t b = nmb_clock_now(clock);
        if (b - a < best)
            best = b - a;
    }
    return best ? ADDS * clock->hz / (double)best : 0;
}

double nmb_core_width(const nmb_clock *clock, double core_hz)
{
#if NMB_HAVE_WIDE
    enum { ROUNDS = 512, TRIES = 2, INSTRUCTIONS = ROUNDS * 64 };
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < TRIES; i++) {
        uint64_t a = nmb_clock_now(clock);
        nmb_spin_wide(ROUNDS);
        uint64_t b = nmb_clock_now(clock);
        if (b - a < best)
            best = b - a;
    }
    return best && core_hz > 0 ? INSTRUCTIONS * clock->hz / (double)best / core_hz : 0;
#else
    (void)clock, (void)core_hz;
    return 0;
#endif
}
