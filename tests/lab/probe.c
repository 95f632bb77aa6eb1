// SPDX-License-Identifier: Apache-2.0
// What the lab measures its own machines with, so that the plugin is checked by something that is not numabench.
//   probe tsc                                            cycles of the time stamp counter per second
//   probe chase BYTES STEPS ROUNDS SEED INITIATORS TARGETS
//   probe read  BYTES MS    ROUNDS SEED INITIATORS TARGETS
//   probe taken BYTES STORE ROUNDS SEED INITIATORS TARGETS
// INITIATORS is a list of CPU lists, one a node ("0,1:2,3"), TARGETS a list of nodes ("0:1").
// chase writes "INITIATOR TARGET ns-per-load", from the first CPU of each list; read "INITIATOR TARGET bytes-per-s",
// from all CPUs of the list at once; taken "INITIATOR TARGET ns-per-line": for the first CPU of this list to load (with
// STORE 1: store to) lines that the first CPU of the next list has just stored to (loaded).
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

enum { LINE = 64, MAX_NODES = 16, MAX_CPUS = 16, MPOL_BIND_MODE = 2 };

struct share {
    const char *base;
    size_t bytes;
    int cpu;
    double seconds;
    double read;
    pthread_barrier_t *start;
};

static int fail(const char *what)
{
    perror(what);
    exit(1);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        fail("sched_setaffinity");
}

static char *bound(size_t bytes, int node)
{
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        fail("mmap");
    unsigned long mask = 1UL << node;
    if (syscall(SYS_mbind, p, bytes, MPOL_BIND_MODE, &mask, 8 * sizeof mask, 0UL))
        fail("mbind");
    memset(p, 1, bytes);
    return p;
}

static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

// One cycle through all lines (Sattolo's shuffle), so that a lap visits each line once.
static void make_ring(char *base, size_t lines, uint64_t seed)
{
    uint32_t *order = malloc(lines * sizeof *order);
    if (!order)
        fail("malloc");
    for (size_t i = 0; i < lines; i++)
        order[i] = (uint32_t)i;
    for (size_t i = lines - 1; i > 0; i--) {
        size_t j = random_next(&seed) % i;
        uint32_t swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    for (size_t i = 0; i < lines; i++)
        *(void **)(base + (size_t)LINE * i) = base + (size_t)LINE * order[i];
    free(order);
}

static double chase_ns(char **at, long steps)
{
    void *p = *at;
    // Untimed: the CPU may just have been changed, and then has to translate the ring's pages anew.
    for (long i = 0; i < steps / 2; i++)
        p = *(void *volatile *)p;
    double start = now_s();
    for (long i = 0; i < steps; i++)
        p = *(void *volatile *)p;
    double end = now_s();
    *at = p;
    return (end - start) * 1e9 / (double)steps;
}

static void *reader(void *argument)
{
    struct share *s = argument;
    pin(s->cpu);
    pthread_barrier_wait(s->start);
    double start = now_s(), end = start;
    size_t at = 0, lines = 0;
    while (end - start < s->seconds) {
        for (int i = 0; i < 256; i++) {
            (void)*(const volatile char *)(s->base + at);
            at = at + LINE < s->bytes ? at + LINE : 0;
        }
        lines += 256;
        end = now_s();
    }
    s->read = (double)lines * LINE / (end - start);
    return NULL;
}

static double read_rate(char *base, size_t bytes, double seconds, const int *cpus, int count)
{
    pthread_t threads[MAX_CPUS];
    struct share shares[MAX_CPUS];
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, (unsigned)count);
    double total = 0;
    for (int i = 0; i < count; i++) {
        size_t part = bytes / (size_t)count / LINE * LINE;
        shares[i] = (struct share){base + part * (size_t)i, part, cpus[i], seconds, 0, &start};
        if (pthread_create(&threads[i], NULL, reader, &shares[i]))
            fail("pthread_create");
    }
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        total += shares[i].read;
    }
    pthread_barrier_destroy(&start);
    return total;
}

static double touch_ns(char *base, size_t bytes, int store)
{
    double start = now_s();
    for (size_t at = 0; at < bytes; at += LINE) {
        volatile char *line = base + at;
        if (store)
            *line = 1;
        else
            (void)*line;
    }
    return (now_s() - start) * 1e9 / (double)(bytes / LINE);
}

static double taken_ns(char *base, size_t bytes, int store, int mine, int other)
{
    pin(other);
    touch_ns(base, bytes, !store);
    pin(mine);
    return touch_ns(base, bytes, store);
}

static int numbers(const char *text, int *into, int most)
{
    int count = 0;
    while (count < most) {
        char *end;
        into[count++] = (int)strtol(text, &end, 10);
        if (*end != ',' && *end != ':')
            break;
        text = end + 1;
    }
    return count;
}

static uint64_t tsc_hz(void)
{
    double start = now_s(), end;
    uint64_t first = __rdtsc();
    do
        end = now_s();
    while (end - start < 0.25);
    return (uint64_t)((double)(__rdtsc() - first) / (end - start));
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "tsc")) {
        printf("%llu\n", (unsigned long long)tsc_hz());
        return 0;
    }
    if (argc != 8)
        return 2;
    int chase = !strcmp(argv[1], "chase"), taken = !strcmp(argv[1], "taken"), rounds = atoi(argv[4]);
    size_t bytes = strtoull(argv[2], NULL, 10);
    long amount = atol(argv[3]);
    uint64_t seed = strtoull(argv[5], NULL, 10) * 2654435761u + 1;
    int cpus[MAX_NODES][MAX_CPUS], counts[MAX_NODES], targets[MAX_NODES], initiators = 0;
    for (char *list = strtok(argv[6], ":"); list && initiators < MAX_NODES; list = strtok(NULL, ":"), initiators++)
        counts[initiators] = numbers(list, cpus[initiators], MAX_CPUS);
    int nodes = numbers(argv[7], targets, MAX_NODES);
    char *base[MAX_NODES], *at[MAX_NODES];
    for (int t = 0; t < nodes; t++) {
        at[t] = base[t] = bound(bytes, targets[t]);
        if (chase)
            make_ring(base[t], bytes / LINE, seed + (uint64_t)t);
    }
    // Cell by cell within a round, so that a disturbance of seconds does not fall on one cell alone.
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < initiators; i++)
            for (int k = 0; k < nodes; k++) {
                // Another order each round: the first cell after a change of CPU is slower by tens of ns, since the
                // emulator adapts its translation cache within a tenth of a second.
                int t = (k + round) % nodes;
                if (chase)
                    pin(cpus[i][0]);
                double value = chase ? chase_ns(&at[t], amount)
                               : taken
                                   ? taken_ns(base[t], bytes, (int)amount, cpus[i][0], cpus[(i + 1) % initiators][0])
                                   : read_rate(base[t], bytes, 1e-3 * (double)amount, cpus[i], counts[i]);
                printf("%d %d %.1f\n", i, targets[t], value);
                fflush(stdout);
            }
    return 0;
}
