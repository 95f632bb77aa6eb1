/* SPDX-License-Identifier: Apache-2.0 */
/* Lines that two threads hand to each other: part 0 begins, part 1 answers. The home of the lines is where args->shared
 * lies. Each turn has a value of its own, counted up from one that both sides derive from args->seed, so whatever the
 * lines held before is no answer. Nothing pauses: a pause of the polling side becomes part of the hand-over, and its
 * length differs by model (Intel SDM vol. 2, PAUSE). The same scalar code in every tier. */

enum { NMB_SPINS = 1024, NMB_LINE_WORDS = NMB_LINE / sizeof(uint64_t) };

static inline int nmb_stopped(const nmb_args *args)
{
    return args->stop && __atomic_load_n(args->stop, __ATOMIC_RELAXED);
}

/* Odd multiples of 2^32, so that a run's values stay apart from those of the runs around it. */
static inline uint64_t nmb_turn_zero(const nmb_args *args)
{
    return (args->seed * UINT64_C(0x9e3779b97f4a7c15) >> 32 | 1) << 32;
}

/* Ends a round; 0 when there shall be no further one. */
static inline int nmb_round_done(const nmb_args *args, uint64_t round)
{
    if (args->ticks)
        args->ticks[round] = nmb_clock_now(args->clock);
    return round % NMB_SPINS != NMB_SPINS - 1 || !nmb_stopped(args);
}

static inline uint64_t nmb_look(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }

/* Polls by loads until the word holds the value; 0 when the run is stopped. */
static inline int nmb_await(const nmb_args *args, const uint64_t *word, uint64_t value)
{
    for (;;) {
        for (unsigned spins = NMB_SPINS; spins; spins--)
            if (nmb_look(word) == value)
                return 1;
        if (nmb_stopped(args))
            return 0;
    }
}

/* Two lines with one writer each: a store is seen by the loads of the other side. */
static uint64_t nmb_pingpong_flag(nmb_args *args, uint64_t loops)
{
    nmb_say_tier(args);
    uint64_t *ask = args->shared, *answer = ask + NMB_PAD / sizeof *ask, value = nmb_turn_zero(args), round;
    uint64_t *own = args->part ? answer : ask, *other = args->part ? ask : answer;
    for (round = 0; round < loops; round++) {
        value++;
        if (args->part && !nmb_await(args, other, value))
            break;
        __atomic_store_n(own, value, __ATOMIC_RELEASE);
        if (!args->part && !nmb_await(args, other, value))
            break;
        if (!nmb_round_done(args, round))
            break;
    }
    return round;
}

/* One line; polls by the compare-and-swap itself, as core-to-core-latency (N. Viennot) does. */
static uint64_t nmb_pingpong_cas(nmb_args *args, uint64_t loops)
{
    nmb_say_tier(args);
    uint64_t *line = args->shared, value = nmb_turn_zero(args) + args->part, round;
    if (!args->part)
        __atomic_store_n(line, value, __ATOMIC_RELEASE);
    for (round = 0; round < loops; round++, value += 2) {
        for (unsigned spins = 0;; spins++) {
            uint64_t seen = value;
            if (__atomic_compare_exchange_n(line, &seen, value + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
                break;
            if (spins % NMB_SPINS == NMB_SPINS - 1 && nmb_stopped(args))
                return round;
        }
        if (!nmb_round_done(args, round))
            return round;
    }
    /* The last answer belongs to the last round. */
    return args->part || !loops || nmb_await(args, line, value) ? round : round - 1;
}

/* One line; polls by loads, takes its turn by an atomic addition. */
static uint64_t nmb_pingpong_add(nmb_args *args, uint64_t loops)
{
    nmb_say_tier(args);
    uint64_t *line = args->shared, value = nmb_turn_zero(args) + args->part, round;
    if (!args->part)
        __atomic_store_n(line, value, __ATOMIC_RELEASE);
    for (round = 0; round < loops; round++, value += 2) {
        if (!nmb_await(args, line, value))
            return round;
        __atomic_fetch_add(line, 1, __ATOMIC_ACQ_REL);
        if (!nmb_round_done(args, round))
            return round;
    }
    return args->part || !loops || nmb_await(args, line, value) ? round : round - 1;
}

/* A queue with one writer and one reader: slots of one line in a, a turn's value behind seven words of message. The
 * reader's count in args->shared is read by the writer only when the queue looks full (Lamport, ACM TOPLAS 5(2), 1983,
 * with the counts kept apart). One round is one message; the reader returns the sum of all words, sum of
 * 7 (round + 1). */
static uint64_t nmb_queue(nmb_args *args, uint64_t loops)
{
    nmb_say_tier(args);
    const uint64_t slots = args->bytes / NMB_LINE, zero = nmb_turn_zero(args);
    uint64_t *slot = args->a, *const end = slot + slots * NMB_LINE_WORDS, *count = args->shared;
    uint64_t sum = 0, taken = 0;
    for (uint64_t round = 0; round < loops; round++) {
        if (args->part) {
            if (!nmb_await(args, slot + NMB_LINE_WORDS - 1, zero + round + 1))
                break;
            for (unsigned i = 0; i < NMB_LINE_WORDS - 1; i++)
                sum += slot[i];
            __atomic_store_n(count, zero + round + 1, __ATOMIC_RELEASE);
        } else {
            for (unsigned spins = 0; round - taken >= slots; spins++) {
                uint64_t seen = nmb_look(count) - zero;
                if (seen <= round) /* else what the line held before this run */
                    taken = seen;
                if (spins % NMB_SPINS == NMB_SPINS - 1 && nmb_stopped(args))
                    return sum;
            }
            for (unsigned i = 0; i < NMB_LINE_WORDS - 1; i++)
                slot[i] = round + 1;
            __atomic_store_n(slot + NMB_LINE_WORDS - 1, zero + round + 1, __ATOMIC_RELEASE);
        }
        if (!nmb_round_done(args, round))
            break;
        if ((slot += NMB_LINE_WORDS) == end)
            slot = args->a;
    }
    return sum;
}

/* One line that all threads of a team add to as fast as they can; nobody waits for anybody. Returns the highest count
 * that the additions found. */
static uint64_t nmb_contend_add(nmb_args *args, uint64_t loops)
{
    nmb_say_tier(args);
    uint64_t *line = args->shared, last = 0;
    for (uint64_t round = 0; round < loops; round++)
        last = __atomic_fetch_add(line, 1, __ATOMIC_ACQ_REL);
    return last;
}

#define NMB_SHARED_ROW(kernel, text)                                                                                   \
    {.name = #kernel,                                                                                                  \
     .family = "shared",                                                                                               \
     .brief = text,                                                                                                    \
     .fn = nmb_##kernel,                                                                                               \
     .flags = NMB_COUNTED | NMB_DEPENDENT | NMB_COLLECTIVE}

#define NMB_SHARED_ROWS                                                                                                \
    NMB_SHARED_ROW(pingpong_flag, "store, await the other's store"),                                                   \
        NMB_SHARED_ROW(pingpong_cas, "compare and swap in turn"),                                                      \
        NMB_SHARED_ROW(pingpong_add, "await, fetch and add in turn"),                                                  \
        {.name = "queue",                                                                                              \
         .family = "shared",                                                                                           \
         .brief = "64-byte messages, one writer, one reader",                                                          \
         .fn = nmb_queue,                                                                                              \
         .flags = NMB_COUNTED | NMB_COLLECTIVE,                                                                        \
         .arrays = 1,                                                                                                  \
         .element_bytes = NMB_LINE,                                                                                    \
         .bytes_read = NMB_LINE,                                                                                       \
         .bytes_written = NMB_LINE},                                                                                   \
        {.name = "contend_add",                                                                                        \
         .family = "contend",                                                                                          \
         .brief = "all fetch and add to one line",                                                                     \
         .fn = nmb_contend_add,                                                                                        \
         .flags = NMB_COUNTED},
