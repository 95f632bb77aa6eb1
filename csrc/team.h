/* SPDX-License-Identifier: Apache-2.0 */
/* What team.c (threads that wait) and run.c (one timed run) share. */
#ifndef NMB_TEAM_H
#define NMB_TEAM_H

#include <pthread.h>
#include <stdatomic.h>

#include "nmb.h"

typedef struct nmb_worker {
    _Alignas(NMB_PAD) nmb_team *team;
    pthread_t thread;
    int cpu;
    unsigned index;
    nmb_stamp stamp;
} nmb_worker;

struct nmb_team {
    _Alignas(NMB_PAD) atomic_uint generation;
    atomic_uint asleep; /* workers that need a wake-up */
    _Alignas(NMB_PAD) atomic_uint pending;
    atomic_uint awaited; /* somebody sleeps until nothing is pending */
    _Alignas(NMB_PAD) atomic_int stop;
    atomic_int quit;
    nmb_barrier barrier;
    _Alignas(NMB_PAD) nmb_clock clock;
    size_t count;
    nmb_worker *workers;
    nmb_stamp *stamps;
    nmb_work *works;
    uint64_t window;
    unsigned flags, active;
    uint64_t start; /* common start of the run, set by the last to arrive */
};

void nmb_run_one(nmb_worker *worker);

#endif
