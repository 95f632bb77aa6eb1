/* SPDX-License-Identifier: Apache-2.0 */
/* Pointer chase: each load's address is the value of the load before, on 1 to NMB_MAX_CHAINS chains side by side. The
 * asm keeps every load, the loads of several chains in turn, and each chain in its register; a turn of the loop does so
 * many that its counter, which no load waits for, cannot be seen. Each number of chains is a function of its own for
 * the sake of the register allocator; the empty asm hides the bound of the last loop from compilers that would unroll
 * it.
 *
 * Registers: x86-64 has 15 besides the stack pointer, so 14 chains and the counter fit. With 15 or 16 chains the last
 * ones stand in vector registers and visit one general register for each load: two moves, about 2 ns, on those chains
 * (spilling would put a store and its forwarding into the chain instead). AArch64 has registers for 16. More chains
 * rest in the first cache between their loads, where the forwarding, about as long, is on every chain. */

#if defined(__x86_64__)
#define NMB_CHASE_STEP(i) __asm__ volatile("movq (%0), %0" : "+r"(p##i)::"memory");
#define NMB_CHASE_PARKED_STEP(i)                                                                                       \
    {                                                                                                                  \
        void *q = (void *)_mm_cvtsi128_si64(p##i);                                                                     \
        __asm__ volatile("movq (%0), %0" : "+r"(q)::"memory");                                                         \
        p##i = _mm_cvtsi64_si128((long long)(uintptr_t)q);                                                             \
        __asm__ volatile("" : "+x"(p##i));                                                                             \
    }
#define NMB_CHASE_PARKED_TAKE(i)                                                                                       \
    __m128i p##i = _mm_cvtsi64_si128((long long)(uintptr_t)cursor[i]);                                                 \
    __asm__ volatile("" : "+x"(p##i));
#define NMB_CHASE_PARKED_GIVE(i) cursor[i] = (void *)_mm_cvtsi128_si64(p##i);
#else
#if defined(__aarch64__)
#define NMB_CHASE_STEP(i) __asm__ volatile("ldr %0, [%0]" : "+r"(p##i)::"memory");
#else
#define NMB_CHASE_STEP(i) p##i = *(void *volatile *)p##i;
#endif
#define NMB_CHASE_PARKED_STEP(i) NMB_CHASE_STEP(i)
#define NMB_CHASE_PARKED_TAKE(i) NMB_CHASE_TAKE(i)
#define NMB_CHASE_PARKED_GIVE(i) NMB_CHASE_GIVE(i)
#endif
#define NMB_CHASE_TAKE(i) void *p##i = cursor[i];
#define NMB_CHASE_GIVE(i) cursor[i] = p##i;

/* X(i) for each of the first so many chains; Y(i) for the parked ones. */
#define NMB_CHAINS_1(X, Y)  X(0)
#define NMB_CHAINS_2(X, Y)  NMB_CHAINS_1(X, Y) X(1)
#define NMB_CHAINS_3(X, Y)  NMB_CHAINS_2(X, Y) X(2)
#define NMB_CHAINS_4(X, Y)  NMB_CHAINS_3(X, Y) X(3)
#define NMB_CHAINS_5(X, Y)  NMB_CHAINS_4(X, Y) X(4)
#define NMB_CHAINS_6(X, Y)  NMB_CHAINS_5(X, Y) X(5)
#define NMB_CHAINS_7(X, Y)  NMB_CHAINS_6(X, Y) X(6)
#define NMB_CHAINS_8(X, Y)  NMB_CHAINS_7(X, Y) X(7)
#define NMB_CHAINS_9(X, Y)  NMB_CHAINS_8(X, Y) X(8)
#define NMB_CHAINS_10(X, Y) NMB_CHAINS_9(X, Y) X(9)
#define NMB_CHAINS_11(X, Y) NMB_CHAINS_10(X, Y) X(10)
#define NMB_CHAINS_12(X, Y) NMB_CHAINS_11(X, Y) X(11)
#define NMB_CHAINS_13(X, Y) NMB_CHAINS_12(X, Y) X(12)
#define NMB_CHAINS_14(X, Y) NMB_CHAINS_13(X, Y) X(13)
#define NMB_CHAINS_15(X, Y) NMB_CHAINS_13(X, Y) Y(13) Y(14)
#define NMB_CHAINS_16(X, Y) NMB_CHAINS_15(X, Y) Y(15)

#define NMB_CHASE_2(body)   body body
#define NMB_CHASE_4(body)   NMB_CHASE_2(NMB_CHASE_2(body))
#define NMB_CHASE_16(body)  NMB_CHASE_4(NMB_CHASE_4(body))
#define NMB_CHASE_32(body)  NMB_CHASE_2(NMB_CHASE_16(body))
#define NMB_CHASE_128(body) NMB_CHASE_4(NMB_CHASE_32(body))

/* Not formatted: macros that stand without a semicolon are taken for the head of the statement that follows. */
/* clang-format off */
#define NMB_CHASE_BODY(chains, unroll)                                                                                 \
    __attribute__((noinline)) static void nmb_chase_##chains(void **cursor, uint64_t loops)                            \
    {                                                                                                                  \
        uint64_t turns = loops / (unroll), rest = loops % (unroll);                                                    \
        NMB_CHAINS_##chains(NMB_CHASE_TAKE, NMB_CHASE_PARKED_TAKE)                                                     \
        for (; turns; turns--) {                                                                                       \
            NMB_CHASE_##unroll(NMB_CHAINS_##chains(NMB_CHASE_STEP, NMB_CHASE_PARKED_STEP))                             \
        }                                                                                                              \
        __asm__ volatile("" : "+r"(rest));                                                                             \
        for (; rest; rest--) {                                                                                         \
            NMB_CHAINS_##chains(NMB_CHASE_STEP, NMB_CHASE_PARKED_STEP)                                                 \
        }                                                                                                              \
        NMB_CHAINS_##chains(NMB_CHASE_GIVE, NMB_CHASE_PARKED_GIVE)                                                     \
    }
/* clang-format on */

NMB_CHASE_BODY(1, 128)
NMB_CHASE_BODY(2, 128)
NMB_CHASE_BODY(3, 128)
NMB_CHASE_BODY(4, 32)
NMB_CHASE_BODY(5, 32)
NMB_CHASE_BODY(6, 32)
NMB_CHASE_BODY(7, 32)
NMB_CHASE_BODY(8, 32)
NMB_CHASE_BODY(9, 16)
NMB_CHASE_BODY(10, 16)
NMB_CHASE_BODY(11, 16)
NMB_CHASE_BODY(12, 16)
NMB_CHASE_BODY(13, 16)
NMB_CHASE_BODY(14, 16)
NMB_CHASE_BODY(15, 16)
NMB_CHASE_BODY(16, 16)

/* More chains than registers hold. */
static void nmb_chase_many(void **cursor, unsigned chains, uint64_t loops)
{
    for (; loops; loops--)
        for (unsigned chain = 0; chain < chains; chain++) {
            void *p0 = cursor[chain];
            NMB_CHASE_STEP(0)
            cursor[chain] = p0;
        }
}

/* One chain, each load timed by itself: ticks[] counts loads by what each took. */
static uint64_t nmb_chase_timed(nmb_args *args, uint64_t loops)
{
    void **const cursor = args->cursor;
    NMB_CHASE_TAKE(0)
    for (; loops; loops--) {
        const uint64_t before = nmb_clock_now(args->clock);
        NMB_CHASE_STEP(0)
        const uint64_t bin = (nmb_clock_now(args->clock) - before) / NMB_TICKS_A_BIN;
        args->ticks[bin < NMB_BINS ? bin : NMB_BINS - 1]++;
    }
    NMB_CHASE_GIVE(0)
    return (uint64_t)(uintptr_t)p0;
}

static uint64_t nmb_chase(nmb_args *args, uint64_t loops)
{
    nmb_say_tier(args);
    uint64_t sum = 0;
    if (args->ticks)
        return nmb_chase_timed(args, loops);
    switch (args->chains) {
#define NMB_CHASE_CASE(chains)                                                                                         \
    case chains:                                                                                                       \
        nmb_chase_##chains(args->cursor, loops);                                                                       \
        break;
        NMB_CHASE_CASE(1)
        NMB_CHASE_CASE(2)
        NMB_CHASE_CASE(3)
        NMB_CHASE_CASE(4)
        NMB_CHASE_CASE(5)
        NMB_CHASE_CASE(6)
        NMB_CHASE_CASE(7)
        NMB_CHASE_CASE(8)
        NMB_CHASE_CASE(9)
        NMB_CHASE_CASE(10)
        NMB_CHASE_CASE(11)
        NMB_CHASE_CASE(12)
        NMB_CHASE_CASE(13)
        NMB_CHASE_CASE(14)
        NMB_CHASE_CASE(15)
        NMB_CHASE_CASE(16)
#undef NMB_CHASE_CASE
    default:
        nmb_chase_many(args->cursor, args->chains, loops);
    }
    for (unsigned chain = 0; chain < args->chains; chain++)
        sum += (uint64_t)(uintptr_t)args->cursor[chain];
    return sum;
}

#define NMB_CHASE_ROWS                                                                                                 \
    {.name = "chase",                                                                                                  \
     .family = "chase",                                                                                                \
     .brief = "p = *p",                                                                                                \
     .fn = nmb_chase,                                                                                                  \
     .flags = NMB_COUNTED | NMB_DEPENDENT,                                                                             \
     .arrays = 1,                                                                                                      \
     .element_bytes = 8,                                                                                               \
     .bytes_read = 8},
