/* SPDX-License-Identifier: Apache-2.0 */
/* A model that serves: a team that runs the same program of kernels for each request, and the board of requests that
 * processes share. Board words are futexes between processes, so not FUTEX_PRIVATE ones. */
#define _GNU_SOURCE
#include "nmb.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "arch/arch.h"

enum {
    SPINS_BETWEEN_LOOKS = 256,
    SPIN_BEFORE_NS = 60000, /* a sleeping thread wakes later than asked: so much before the time it wakes to spin */
    SLEEP_NS = 20000000,    /* then look at `stop`, which wakes nobody */
    NANO = 1000000000
};

struct nmb_instance {
    nmb_barrier barrier;
    nmb_serve serve;
    unsigned threads;
    int wait;
    size_t length, barriers;
    nmb_board *board;
    nmb_work *works;    /* thread by thread */
    uint64_t *results;  /* of the last call of each work, likewise */
    uint64_t *op_ticks; /* between barriers, on thread 0 */
    _Alignas(NMB_PAD) uint64_t steps;
    _Alignas(NMB_PAD) int64_t next; /* request being served, or -1: no more */
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * NANO + t.tv_nsec;
}

int64_t nmb_monotonic_ns(void) { return now_ns(); }

static int stopped(const int *stop) { return stop && __atomic_load_n(stop, __ATOMIC_RELAXED); }

static void wait_word(uint32_t *word, uint32_t seen)
{
    const struct timespec rest = {0, SLEEP_NS};
    syscall(SYS_futex, word, FUTEX_WAIT, seen, &rest, NULL, 0);
}

static void wake_word(uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0); }

/* Sleeps, then spins, until `at`. 0, or -ECANCELED. */
static int wait_until(int64_t at, const int *stop)
{
    for (int64_t now; (now = now_ns()) < at;) {
        int64_t left = at - now - SPIN_BEFORE_NS;
        if (stopped(stop))
            return -ECANCELED;
        if (left > 0) {
            int64_t to = left > SLEEP_NS ? now + SLEEP_NS : now + left;
            const struct timespec wake = {to / NANO, to % NANO};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wake, NULL);
        }
    }
    return 0;
}

/* ---- the board ------------------------------------------------------------------------------------------------- */

size_t nmb_board_bytes(size_t capacity) { return sizeof(nmb_board) + capacity * sizeof(nmb_request); }

void nmb_board_clear(nmb_board *board, size_t capacity)
{
    memset(board, 0, nmb_board_bytes(capacity));
    board->capacity = capacity;
}

int nmb_board_send(nmb_board *board, size_t from, size_t to, int64_t origin, const int *stop)
{
    if (to > board->capacity || from > to)
        return -EINVAL;
    for (size_t i = from; i < to; i++) {
        nmb_request *request = &board->requests[i];
        if (wait_until(origin + request->scheduled, stop))
            return -ECANCELED;
        request->sent = now_ns() - origin;
        __atomic_store_n(&board->published, (uint32_t)(i + 1), __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&board->waiting, __ATOMIC_SEQ_CST))
            wake_word(&board->published);
    }
    return 0;
}

void nmb_board_close(nmb_board *board)
{
    __atomic_store_n(&board->closed, 1, __ATOMIC_SEQ_CST);
    wake_word(&board->published);
}

/* The next request that nobody else serves, or -1 when there are no more. */
static int64_t claim_sent(nmb_instance *x, const int *stop)
{
    nmb_board *board = x->board;
    for (unsigned spins = 1;; spins++) {
        uint32_t published = __atomic_load_n(&board->published, __ATOMIC_SEQ_CST);
        uint32_t claimed = __atomic_load_n(&board->claimed, __ATOMIC_ACQUIRE);
        if (claimed < published) {
            if (__atomic_compare_exchange_n(&board->claimed, &claimed, claimed + 1, 0, __ATOMIC_ACQ_REL,
                                            __ATOMIC_ACQUIRE))
                return claimed;
            continue;
        }
        if (__atomic_load_n(&board->closed, __ATOMIC_SEQ_CST) &&
            published == __atomic_load_n(&board->published, __ATOMIC_SEQ_CST))
            return -1;
        if (x->wait == NMB_WAIT_FUTEX) {
            __atomic_fetch_add(&board->waiting, 1, __ATOMIC_SEQ_CST);
            if (__atomic_load_n(&board->published, __ATOMIC_SEQ_CST) == published)
                wait_word(&board->published, published);
            __atomic_fetch_sub(&board->waiting, 1, __ATOMIC_SEQ_CST);
        } else {
            nmb_pause();
        }
        if ((x->wait == NMB_WAIT_FUTEX || spins % SPINS_BETWEEN_LOOKS == 0) && stopped(stop))
            return -1;
    }
}

/* Closed loop: the next request is sent when the one before is done. */
static int64_t claim_own(nmb_instance *x, const int *stop)
{
    if (now_ns() >= x->serve.until || stopped(stop))
        return -1;
    uint32_t claimed = __atomic_fetch_add(&x->board->claimed, 1, __ATOMIC_ACQ_REL);
    return claimed < x->board->capacity ? (int64_t)claimed : -1;
}

/* The request that the first of the ranks has claimed, on all of them. */
static int64_t agree(nmb_instance *x, int64_t next, const int *stop)
{
    const nmb_serve *how = &x->serve;
    nmb_ranks *ranks = how->ranks;
    if (!ranks)
        return next;
    if (!how->rank)
        __atomic_store_n(&ranks->next, next, __ATOMIC_RELAXED);
    /* Futexes of barriers are those of one process. */
    if (nmb_barrier_wait(&ranks->barrier, how->rank_count, x->wait == NMB_WAIT_FUTEX ? NMB_WAIT_POLITE : x->wait, stop,
                         NULL, NULL))
        return -1;
    return __atomic_load_n(&ranks->next, __ATOMIC_RELAXED);
}

/* ---- the instance ----------------------------------------------------------------------------------------------- */

int nmb_instance_create(const nmb_work *works, unsigned threads, size_t length, int wait, nmb_board *board,
                        nmb_instance **out)
{
    /* Without a barrier at its end, a request would be done before the others are. */
    if (!threads || !length || !nmb_is_barrier(&works[length - 1]))
        return -EINVAL;
    nmb_instance *x = aligned_alloc(NMB_PAD, (sizeof *x + NMB_PAD - 1) / NMB_PAD * NMB_PAD);
    size_t count = threads * length, barriers = 0;
    for (size_t i = 0; i < length; i++)
        barriers += nmb_is_barrier(&works[i]);
    nmb_work *copy = malloc(count * sizeof *copy);
    uint64_t *results = calloc(count, sizeof *results), *ticks = calloc(barriers + 1, sizeof *ticks);
    if (!x || !copy || !results || !ticks) {
        free(x);
        free(copy);
        free(results);
        free(ticks);
        return -ENOMEM;
    }
    memcpy(copy, works, count * sizeof *copy);
    memset(x, 0, sizeof *x);
    x->threads = threads;
    x->wait = wait;
    x->length = length;
    x->barriers = barriers;
    x->board = board;
    x->works = copy;
    x->results = results;
    x->op_ticks = ticks;
    *out = x;
    return 0;
}

void nmb_instance_destroy(nmb_instance *x)
{
    if (!x)
        return;
    free(x->works);
    free(x->results);
    free(x->op_ticks);
    free(x);
}

void nmb_instance_prepare(nmb_instance *x, const nmb_serve *serve)
{
    x->serve = *serve;
    x->barrier = (nmb_barrier){0};
    x->steps = 0;
    memset(x->op_ticks, 0, (x->barriers + 1) * sizeof *x->op_ticks);
}

uint64_t nmb_instance_steps(const nmb_instance *x) { return x->steps; }
size_t nmb_instance_barriers(const nmb_instance *x) { return x->barriers; }
const uint64_t *nmb_instance_op_ticks(const nmb_instance *x) { return x->op_ticks; }
uint64_t nmb_instance_result(const nmb_instance *x, unsigned thread, size_t work)
{
    return x->results[thread * x->length + work];
}

/* One pass through the program from its `skip`th barrier on. 0, or -ECANCELED. */
static int step(nmb_instance *x, nmb_args *args, unsigned skip)
{
    nmb_work *works = x->works + args->part * x->length;
    uint64_t *results = x->results + args->part * x->length;
    uint64_t before = args->part ? 0 : nmb_clock_now(args->clock);
    size_t at = 0;
    for (size_t i = 0; i < x->length; i++) {
        if (at < skip) {
            at += nmb_is_barrier(&works[i]);
        } else if (works[i].kernel) {
            works[i].args.stop = args->stop;
            works[i].args.clock = args->clock;
            results[i] = works[i].kernel->fn(&works[i].args, works[i].loops);
            args->ran |= works[i].args.ran;
        } else if (nmb_is_barrier(&works[i])) {
            if (nmb_barrier_wait(&x->barrier, x->threads, x->wait, args->stop, NULL, NULL))
                return -ECANCELED;
            if (!args->part) {
                uint64_t now = nmb_clock_now(args->clock);
                x->op_ticks[at++] += now - before;
                before = now;
            }
        }
    }
    return 0;
}

static void stall(const nmb_serve *serve, int64_t request)
{
    if (serve->stall_ns && request == serve->stall_at) {
        const struct timespec rest = {serve->stall_ns / NANO, serve->stall_ns % NANO};
        nanosleep(&rest, NULL);
    }
}

static uint64_t serve(nmb_args *args, uint64_t loops)
{
    nmb_instance *x = args->shared;
    const nmb_serve *how = &x->serve;
    uint64_t served = 0;
    if (!args->part && wait_until(how->origin, args->stop))
        loops = 0;
    for (;; served++) {
        nmb_request *request = NULL;
        if (!args->part) {
            int64_t next = -1;
            if (!how->rank && served < loops)
                next = how->until ? claim_own(x, args->stop) : claim_sent(x, args->stop);
            x->next = next = agree(x, next, args->stop);
            if (next >= 0 && !how->rank) {
                request = &x->board->requests[next];
                request->start = now_ns() - how->origin;
                request->server = how->server;
                if (how->until)
                    request->scheduled = request->sent = request->start;
                stall(how, next);
            }
        }
        if (nmb_barrier_wait(&x->barrier, x->threads, x->wait, args->stop, NULL, NULL) || x->next < 0)
            return served;
        for (unsigned i = 0; i < how->steps; i++)
            if (step(x, args, i ? how->opening : 0))
                return served;
        if (request) {
            request->done = now_ns() - how->origin;
            x->steps += how->steps;
            if (how->until && how->duty) /* a stop is seen when the next request is claimed */
                wait_until(how->origin + request->start + (request->done - request->start) * 100 / how->duty,
                           args->stop);
        }
    }
}

const nmb_kernel nmb_serve_kernel = {.name = "serve",
                                     .family = "instance",
                                     .brief = "the program once per step of each request",
                                     .fn = serve,
                                     .flags = NMB_COUNTED | NMB_COLLECTIVE};
