/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "team.h"

#include <sys/resource.h>

#include "arch/arch.h"

enum { START_MARGIN_NS = 1000, NANO = 1000000000 };

static void *at(void *array, size_t offset) { return array ? (char *)array + offset : NULL; }

static double elements_of(const nmb_work *work, size_t bytes, uint64_t rounds)
{
    const nmb_kernel *kernel = work->kernel;
    const nmb_args *args = &work->args;
    if (kernel->flags & NMB_SLICED) {
        size_t apart = args->stride ? args->stride : kernel->element_bytes;
        size_t each = bytes < kernel->element_bytes ? 0 : (bytes - kernel->element_bytes) / apart + 1;
        return (double)each * (double)rounds;
    }
    double each = args->chains ? args->chains : (double)args->m * (double)args->n * (double)args->k;
    return each * (double)rounds;
}

/* Next call's share: a slice of the arrays, or several rounds over all of them. Moves *offset on; returns the rounds.
 */
static uint64_t next_share(const nmb_work *work, nmb_args *args, size_t *offset, uint64_t rounds_left)
{
    size_t bytes = work->args.bytes, block = work->block;
    if (!(work->kernel->flags & NMB_SLICED)) {
        uint64_t rounds = work->kernel->flags & NMB_COLLECTIVE ? rounds_left : block ? block : 1;
        return rounds < rounds_left ? rounds : rounds_left;
    }
    if (block == 0 || block >= bytes) {
        uint64_t rounds = block && bytes ? block / bytes : 1;
        return rounds < rounds_left ? rounds : rounds_left;
    }
    args->a = at(work->args.a, *offset);
    args->b = at(work->args.b, *offset);
    args->c = at(work->args.c, *offset);
    args->d = at(work->args.d, *offset);
    args->bytes = bytes - *offset < block ? bytes - *offset : block;
    *offset = *offset + args->bytes < bytes ? *offset + args->bytes : 0;
    return 1;
}

/* Whole pass done: slices are back at the start of the arrays. */
static int pass_done(const nmb_work *work, size_t offset) { return !(work->kernel->flags & NMB_SLICED) || offset == 0; }

static void run_kernel(nmb_team *team, nmb_work *work, nmb_stamp *stamp)
{
    nmb_args args = work->args;
    uint64_t left = work->loops ? work->loops : UINT64_MAX, end = team->start + team->window;
    uint64_t sink = 0, before, now = stamp->start;
    /* Short windows that began at the start each time would find what the one before left in the caches. */
    size_t offset = work->loops ? 0 : work->offset;
    double done = 0;

    args.stop = (const int *)&team->stop;
    args.clock = &team->clock;
    args.ran = 0;
    if (work->kernel->flags & NMB_COLLECTIVE)
        args.seed += team->start;     /* the same for all, never twice */
    if (!work->loops && now >= end) { /* more threads than CPUs: this one's turn came after the window */
        stamp->end = now;
        return;
    }
    do {
        uint64_t rounds = next_share(work, &args, &offset, left);
        uint64_t result = work->kernel->fn(&args, rounds);
        sink += result;
        stamp->calls++;
        args.seed++;
        double elements = elements_of(work, args.bytes, rounds);
        done += elements;
        before = now;
        if (work->loops) {
            if (pass_done(work, offset))
                left -= rounds;
            if (work->kernel->flags & NMB_SETUP && result) {
                stamp->error = (int)(int64_t)result;
                break;
            }
        } else {
            now = nmb_clock_now(&team->clock);
            if (now >= end) { /* the last block lies partly behind the window */
                done -= elements * (double)(now - end) / (double)(now - before);
                now = end;
                break;
            }
        }
    } while (left && !atomic_load_explicit(&team->stop, memory_order_relaxed));
    stamp->end = work->loops ? nmb_clock_now(&team->clock) : now;
    stamp->elements = work->kernel->flags & NMB_COLLECTIVE && atomic_load(&team->stop) ? 0 : done;
    stamp->sink = sink;
    stamp->ran = args.ran;
    if (!work->loops)
        work->offset = offset;
    for (unsigned i = 0; i < NMB_MAX_CHAINS; i++)
        work->args.cursor[i] = args.cursor[i];
    if (!(work->kernel->flags & NMB_COLLECTIVE))
        work->args.seed = args.seed;
}

static void set_start(void *arg)
{
    nmb_team *team = arg;
    uint64_t now = nmb_clock_now(&team->clock);
    /* A moment ahead, so that all threads can be told; without a common counter the barrier itself is the start. */
    team->start =
        now + (team->clock.source == NMB_CLOCK_COUNTER ? (uint64_t)(START_MARGIN_NS * team->clock.hz / NANO) : 0);
}

static void count_switches(nmb_stamp *stamp, int sign)
{
    struct rusage usage;
    if (getrusage(RUSAGE_THREAD, &usage))
        return;
    stamp->voluntary_switches += (uint64_t)(sign * usage.ru_nvcsw);
    stamp->involuntary_switches += (uint64_t)(sign * usage.ru_nivcsw);
    stamp->minor_faults += (uint64_t)(sign * usage.ru_minflt);
}

void nmb_run_one(nmb_worker *worker)
{
    nmb_team *team = worker->team;
    nmb_work *work = &team->works[worker->index];
    nmb_stamp *stamp = &worker->stamp;
    int node, timed = work->kernel && (team->flags & NMB_RUN_CORE_HZ);

    *stamp = (nmb_stamp){.cpu_start = -1, .cpu_end = -1};
    if (!work->kernel)
        return;
    if (timed) {
        stamp->core_hz_before = nmb_core_hz(&team->clock);
        stamp->width_before = nmb_core_width(&team->clock, stamp->core_hz_before);
    }
    count_switches(stamp, -1);
    stamp->error = nmb_affinity_where(&stamp->cpu_start, &node);
    nmb_barrier_wait(&team->barrier, team->active, NMB_WAIT_POLITE, NULL, set_start, team);
    do
        stamp->start = nmb_clock_now(&team->clock);
    while (stamp->start < team->start && team->clock.source == NMB_CLOCK_COUNTER);
    run_kernel(team, work, stamp);
    if (!stamp->error)
        stamp->error = nmb_affinity_where(&stamp->cpu_end, &node);
    count_switches(stamp, 1);
    if (timed) {
        stamp->core_hz_after = nmb_core_hz(&team->clock);
        stamp->width_after = nmb_core_width(&team->clock, stamp->core_hz_after);
    }
}
