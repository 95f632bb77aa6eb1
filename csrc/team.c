/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "team.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <time.h>

#include "arch/arch.h"
#include "futex.h"

/* Spins before a waiter gives its CPU away: about 10 us, longer than a run's start takes. */
enum { SPINS_BEFORE_SLEEP = 256 };

static unsigned await_generation(nmb_team *team, unsigned seen)
{
    for (int spins = 0; spins < SPINS_BEFORE_SLEEP; spins++) {
        unsigned now = atomic_load_explicit(&team->generation, memory_order_acquire);
        if (now != seen)
            return now;
        nmb_pause();
    }
    unsigned now;
    /* Sequentially consistent, as in wake: either this thread sees the new generation or the waker sees it asleep. */
    atomic_fetch_add(&team->asleep, 1);
    while ((now = atomic_load(&team->generation)) == seen)
        (void)nmb_futex_wait((const unsigned *)&team->generation, seen, NULL);
    atomic_fetch_sub(&team->asleep, 1);
    return now;
}

/* Pins, reads the pin back and reports through `pending` before any work is taken. */
static int settle(const nmb_worker *worker)
{
    int cpu = -1, node;
    size_t count = 0;
    if (worker->cpu == NMB_ANY_CPU)
        return 0;
    int rc = nmb_affinity_set(0, &worker->cpu, 1);
    if (!rc)
        rc = nmb_affinity_get(0, &cpu, 1, &count);
    if (!rc && (count != 1 || cpu != worker->cpu))
        rc = -EXDEV;
    if (!rc)
        rc = nmb_affinity_where(&cpu, &node);
    return !rc && cpu != worker->cpu ? -EXDEV : rc;
}

static void finish(nmb_team *team)
{
    if (atomic_fetch_sub(&team->pending, 1) == 1 && atomic_load(&team->awaited))
        nmb_futex_wake_all((const unsigned *)&team->pending);
}

static void *worker_main(void *arg)
{
    nmb_worker *worker = arg;
    nmb_team *team = worker->team;
    unsigned generation = 0;

    worker->stamp.error = settle(worker);
    finish(team);
    for (;;) {
        generation = await_generation(team, generation);
        if (atomic_load_explicit(&team->quit, memory_order_relaxed))
            return NULL;
        nmb_run_one(worker);
        finish(team);
    }
}

static void wake(nmb_team *team)
{
    atomic_fetch_add(&team->generation, 1);
    if (atomic_load(&team->asleep))
        nmb_futex_wake_all((const unsigned *)&team->generation);
}

int nmb_team_create(const nmb_clock *clock, const int *cpus, size_t count, nmb_team **out)
{
    if (count == 0 || count > INT_MAX)
        return -EINVAL;
    nmb_team *team = aligned_alloc(NMB_PAD, (sizeof *team + NMB_PAD - 1) / NMB_PAD * NMB_PAD);
    nmb_worker *workers = aligned_alloc(NMB_PAD, count * sizeof *workers);
    nmb_stamp *stamps = calloc(count, sizeof *stamps);
    if (!team || !workers || !stamps) {
        free(team);
        free(workers);
        free(stamps);
        return -ENOMEM;
    }
    *team = (nmb_team){.clock = *clock, .workers = workers, .stamps = stamps};
    atomic_init(&team->pending, 0);
    int rc = 0;
    for (; team->count < count; team->count++) {
        nmb_worker *worker = &workers[team->count];
        *worker = (nmb_worker){.team = team, .cpu = cpus[team->count], .index = (unsigned)team->count};
        atomic_fetch_add(&team->pending, 1);
        if ((rc = -pthread_create(&worker->thread, NULL, worker_main, worker))) {
            atomic_fetch_sub(&team->pending, 1);
            break;
        }
    }
    while (nmb_team_wait(team, 1000)) {
    }
    for (size_t i = 0; !rc && i < team->count; i++)
        rc = workers[i].stamp.error;
    if (rc) {
        nmb_team_destroy(team);
        return rc;
    }
    *out = team;
    return 0;
}

void nmb_team_destroy(nmb_team *team)
{
    if (!team)
        return;
    nmb_team_cancel(team);
    while (nmb_team_wait(team, 1000)) {
    }
    atomic_store(&team->quit, 1);
    wake(team);
    for (size_t i = 0; i < team->count; i++)
        pthread_join(team->workers[i].thread, NULL);
    free(team->workers);
    free(team->stamps);
    free(team);
}

size_t nmb_team_size(const nmb_team *team) { return team->count; }

int nmb_team_start(nmb_team *team, nmb_work *works, uint64_t window_ticks, unsigned flags)
{
    if (atomic_load(&team->pending))
        return -EBUSY;
    unsigned active = 0;
    for (size_t i = 0; i < team->count; i++) {
        if (works[i].kernel && works[i].loops == 0 && (window_ticks == 0 || works[i].kernel->flags & NMB_COLLECTIVE))
            return -EINVAL; /* would never end */
        active += works[i].kernel != NULL;
    }
    team->works = works;
    team->window = window_ticks;
    team->flags = flags;
    team->active = active;
    atomic_store(&team->stop, 0);
    atomic_store(&team->pending, (unsigned)team->count);
    wake(team);
    return 0;
}

/* Whether the caller would spin on a CPU that a thread of the team needs. */
static int in_the_way(const nmb_team *team)
{
    int cpu, node;
    if (nmb_affinity_where(&cpu, &node))
        return 1;
    for (size_t i = 0; i < team->count; i++)
        if (team->workers[i].cpu == cpu)
            return 1;
    return 0;
}

int nmb_team_wait(nmb_team *team, unsigned timeout_ms)
{
    struct timespec now, end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += timeout_ms / 1000;
    end.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    unsigned pending;
    /* A short run ends sooner than a wake-up takes. */
    int spins = in_the_way(team) ? 0 : SPINS_BEFORE_SLEEP;
    while (atomic_load_explicit(&team->pending, memory_order_acquire) && spins--)
        nmb_pause();
    atomic_store(&team->awaited, 1);
    while ((pending = atomic_load(&team->pending)) != 0) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        long long left = (end.tv_sec - now.tv_sec) * 1000000000ll + end.tv_nsec - now.tv_nsec;
        if (left <= 0)
            return -ETIMEDOUT;
        struct timespec rest = {(time_t)(left / 1000000000), (long)(left % 1000000000)};
        (void)nmb_futex_wait((const unsigned *)&team->pending, pending, &rest);
    }
    atomic_store(&team->awaited, 0);
    for (size_t i = 0; i < team->count; i++)
        team->stamps[i] = team->workers[i].stamp;
    return 0;
}

void nmb_team_cancel(nmb_team *team) { atomic_store(&team->stop, 1); }

const nmb_stamp *nmb_team_stamps(const nmb_team *team) { return team->stamps; }
