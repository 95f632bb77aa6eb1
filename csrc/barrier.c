/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "nmb.h"

#include <sched.h>

#include "arch/arch.h"
#include "futex.h"

enum {
    SPINS_BETWEEN_LOOKS = 1024, /* at `stop`, so that looking does not slow the wait */
    SPINS_BEFORE_YIELD = 4096,
    SLEEP_NS = 100000000 /* then look at `stop`, which wakes nobody */
};

static int stopped(const int *stop) { return stop && __atomic_load_n(stop, __ATOMIC_RELAXED); }

static int wait_for_turn(nmb_barrier *barrier, unsigned turn, int wait, const int *stop)
{
    const struct timespec rest = {0, SLEEP_NS};
    for (unsigned spins = 1; __atomic_load_n(&barrier->turn, __ATOMIC_ACQUIRE) == turn; spins++) {
        if (wait == NMB_WAIT_FUTEX)
            (void)nmb_futex_wait(&barrier->turn, turn, &rest);
        else if (wait == NMB_WAIT_POLITE && spins < SPINS_BEFORE_YIELD)
            nmb_pause();
        else if (wait == NMB_WAIT_POLITE)
            sched_yield(); /* more threads than CPUs */
        if ((wait == NMB_WAIT_FUTEX || spins % SPINS_BETWEEN_LOOKS == 0) && stopped(stop))
            return -ECANCELED;
    }
    return 0;
}

int nmb_barrier_wait(nmb_barrier *barrier, unsigned count, int wait, const int *stop, void (*last)(void *), void *arg)
{
    /* Cannot change before this thread has arrived, so it need not be kept from one barrier to the next. */
    unsigned turn = __atomic_load_n(&barrier->turn, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&barrier->arrived, 1, __ATOMIC_ACQ_REL) != count)
        return wait_for_turn(barrier, turn, wait, stop);
    if (last)
        last(arg);
    __atomic_store_n(&barrier->arrived, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&barrier->turn, turn + 1, __ATOMIC_RELEASE);
    if (wait == NMB_WAIT_FUTEX)
        nmb_futex_wake_all(&barrier->turn);
    return 0;
}
