/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels of memory and of arithmetic in every usable tier against plain references, without an interpreter, so
 * that this runs under valgrind, sanitizers and emulators. Arrays end at, or begin behind, a page that
 * cannot be touched; what lies around them inside the pages is compared byte by byte. One line per check; the exit
 * status is the number of failed checks, at most 1. `time` as first argument: what is right is timed too. */
#define _GNU_SOURCE /* mmap's MAP_ANONYMOUS */
#include "nmb.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ARRAYS       4
#define MAX_ELEMENTS 1100

struct buffer {
    unsigned char *base; /* of the pages that may be touched */
    size_t bytes;
    unsigned char *want; /* what the pages must hold afterwards */
};

static struct buffer buffers[ARRAYS];
static unsigned failed;

static const size_t lengths[] = {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 63, 64, 65, 71, 127, 128, 129, 200, 511, 1000};
static const size_t shifts[] = {0, 8, 16, 24, 40, 56};
#define COUNT(x) (sizeof(x) / sizeof(*(x)))

static void buffers_create(void)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t bytes = (MAX_ELEMENTS * sizeof(double) / page + 2) * page;
    for (int i = 0; i < ARRAYS; i++) {
        unsigned char *p = mmap(NULL, bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        unsigned char *want = malloc(bytes);
        if (p == MAP_FAILED || !want || mprotect(p + page, bytes, PROT_READ | PROT_WRITE)) {
            perror("buffers");
            exit(1);
        }
        buffers[i] = (struct buffer){p + page, bytes, want};
    }
}

/* Small whole numbers everywhere: every operation is exact, with and without FMA. */
static void buffers_fill(void)
{
    uint64_t x = 42;
    for (int i = 0; i < ARRAYS; i++) {
        double *p = (double *)(void *)buffers[i].base;
        for (size_t k = 0; k < buffers[i].bytes / sizeof(double); k++) {
            x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            p[k] = (double)(x >> 50) + 3.0;
        }
        memcpy(buffers[i].want, buffers[i].base, buffers[i].bytes);
    }
}

static int buffers_differ(void)
{
    for (int i = 0; i < ARRAYS; i++)
        if (memcmp(buffers[i].base, buffers[i].want, buffers[i].bytes))
            return 1;
    return 0;
}

/* Array i of n elements, `shift` bytes after the first page boundary or before the last one. */
static size_t place(int i, size_t n, size_t shift, int at_end)
{
    return at_end ? buffers[i].bytes - n * sizeof(double) - shift : shift;
}

static double *array(int i, size_t offset) { return (double *)(void *)(buffers[i].base + offset); }
static double *wanted(int i, size_t offset) { return (double *)(void *)(buffers[i].want + offset); }

static int is(const nmb_kernel *kernel, const char *name)
{
    const size_t length = strlen(name);
    return !strncmp(kernel->name, name, length) &&
           (kernel->name[length] == 0 || ((kernel->flags & NMB_NT) && !strcmp(kernel->name + length, "_nt")));
}

static uint64_t bits(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

/* What the kernel must leave in `want` and return; 0 if there is no reference for it. `seen` is an element it wrote. */
static int reference(const nmb_kernel *kernel, const nmb_args *args, const size_t *offset, size_t n, uint64_t loops,
                     double seen, uint64_t *result)
{
    double *a = wanted(0, offset[0]);
    const double *b = wanted(1, offset[1]), *c = wanted(2, offset[2]), *d = wanted(3, offset[3]);
    const size_t step = strcmp(kernel->family, "stride") ? 1 : args->stride / sizeof(double);
    *result = 0;
    for (uint64_t round = 0; round < loops; round++) {
        uint64_t digest = 0;
        for (size_t i = 0; i < n; i += step) {
            if (is(kernel, "read") || is(kernel, "stride_read"))
                digest ^= bits(a[i]);
            else if (is(kernel, "write") || is(kernel, "stride_write"))
                a[i] = seen;
            else if (is(kernel, "copy"))
                a[i] = b[i];
            else if (is(kernel, "scale"))
                a[i] = args->scalar * b[i];
            else if (is(kernel, "add"))
                a[i] = b[i] + c[i];
            else if (is(kernel, "triad"))
                a[i] = b[i] + args->scalar * c[i];
            else if (is(kernel, "update"))
                a[i] = args->scalar * a[i];
            else if (!strcmp(kernel->name, "mix_2_1"))
                a[i] = b[i] - a[i];
            else if (!strcmp(kernel->name, "mix_3_1"))
                a[i] = b[i] + c[i] - a[i];
            else if (!strcmp(kernel->name, "mix_2_1_nt"))
                a[i] = b[i] + c[i];
            else if (!strcmp(kernel->name, "mix_3_1_nt"))
                a[i] = b[i] + c[i] + d[i];
            else
                return 0;
        }
        *result = 2 * *result + digest;
    }
    return 1;
}

static void report(const char *tier, const nmb_kernel *kernel, const char *what, unsigned cases, const char *wrong)
{
    printf("%s %s/%s/%s: %s, %u cases%s%s\n", wrong ? "FAILED" : "ok", tier, kernel->family, kernel->name, what, cases,
           wrong ? ": " : "", wrong ? wrong : "");
    failed += wrong != NULL;
}

static nmb_args arguments(const size_t *offset, size_t n, size_t stride)
{
    nmb_args args = {
        .a = array(0, offset[0]), .b = array(1, offset[1]), .c = array(2, offset[2]), .d = array(3, offset[3])};
    args.bytes = n * sizeof(double);
    args.stride = stride;
    args.scalar = -3.0;
    args.seed = 7;
    return args;
}

/* Best of several, in arrays that L1 holds, at the given shift: what checking has shown right is then timed. */
static void time_kernel(const char *tier, const nmb_kernel *kernel, const nmb_clock *clock)
{
    enum { ELEMENTS = 1000, LOOPS = 200, TRIES = 20 };
    printf("time %s/%s:", tier, kernel->name);
    for (size_t s = 0; s < COUNT(shifts); s++) {
        const size_t offset[ARRAYS] = {shifts[s], shifts[s], shifts[s], shifts[s]};
        uint64_t best = UINT64_MAX;
        buffers_fill();
        for (int i = 0; i < TRIES; i++) {
            nmb_args args = arguments(offset, ELEMENTS, sizeof(double));
            args.seed = (uint64_t)i;
            const uint64_t begin = nmb_clock_now(clock);
            kernel->fn(&args, LOOPS);
            const uint64_t took = nmb_clock_now(clock) - begin;
            best = took < best ? took : best;
        }
        const double elements = (double)(ELEMENTS * sizeof(double) / kernel->element_bytes) * LOOPS;
        const double bytes = (double)(kernel->bytes_read + kernel->bytes_written) * elements;
        printf(" %.1f", bytes / ((double)best * 1e9 / clock->hz));
    }
    printf(" GB/s at shifts of 0, 8, 16, 24, 40, 56 bytes\n");
}

static const char *check_case(const nmb_kernel *kernel, const size_t *offset, size_t n, size_t stride, uint64_t loops)
{
    buffers_fill();
    nmb_args args = arguments(offset, n, stride);
    args.delay = strcmp(kernel->family, "stream") ? 0 : n % 4; /* none or a few cycles, to the same effect */
    nmb_args before = args;
    uint64_t want;
    const uint64_t got = kernel->fn(&args, loops);
    before.ran = args.ran;
    if (!reference(kernel, &args, offset, n, loops, n ? *array(0, offset[0]) : 0.0, &want))
        return "no reference";
    if (buffers_differ())
        return "arrays or their surroundings hold other values than the reference";
    if (memcmp(&before, &args, sizeof args))
        return "arguments changed";
    return kernel->bytes_written || got == want ? NULL : "other return value than the reference";
}

static void check_values(const char *tier, const nmb_kernel *kernel)
{
    static const size_t strides[] = {8, 16, 64, 72, 192, 4096};
    const size_t stride_count = strcmp(kernel->family, "stride") ? 1 : COUNT(strides);
    const char *wrong = NULL;
    unsigned cases = 0;
    for (size_t l = 0; l < COUNT(lengths) && !wrong; l++)
        for (size_t s = 0; s < COUNT(shifts) * 2 && !wrong; s++)
            for (size_t t = 0; t < stride_count && !wrong; t++, cases++) {
                size_t offset[ARRAYS];
                for (int i = 0; i < ARRAYS; i++)
                    offset[i] = place(i, lengths[l], shifts[(s + 2 * (size_t)i * t) % COUNT(shifts)], s & 1);
                wrong = check_case(kernel, offset, lengths[l], strides[t], s % 3);
            }
    report(tier, kernel, "values, tails, surroundings", cases, wrong);
}

/* Bytes per element by experiment: an element counts as written if it changes, as read if one bit changed in it shows
 * in what the kernel stores or returns. The bit is one that arithmetic cannot round away, the sign, but any bit of any
 * byte in turn for kernels that only read. */
static void check_accounting(const char *tier, const nmb_kernel *kernel)
{
    static double out[MAX_ELEMENTS];
    const size_t n = 333, offset[ARRAYS] = {8, 24, 56, 40}, stride = 24;
    const size_t step = strcmp(kernel->family, "stride") ? 1 : stride / sizeof(double);
    const size_t elements = (n + step - 1) / step;
    nmb_args args = arguments(offset, n, stride);
    size_t written = 0, read = 0;

    buffers_fill();
    const uint64_t plain = kernel->fn(&args, 1);
    memcpy(out, args.a, n * sizeof(double));
    for (size_t i = 0; i < n; i++)
        written += bits(out[i]) != bits(wanted(0, offset[0])[i]);
    for (int i = 0; i < ARRAYS; i++)
        for (size_t element = 0; element < n; element++) {
            const unsigned bit = kernel->bytes_written ? 63 : (unsigned)(element * 5 % 64);
            buffers_fill();
            buffers[i].base[offset[i] + element * sizeof(double) + bit / 8] ^= (unsigned char)(1 << bit % 8);
            int shows = kernel->fn(&args, 1) != plain;
            for (size_t k = 0; kernel->bytes_written && k < n; k += step)
                shows |= bits(array(0, offset[0])[k]) != bits(out[k]);
            read += (size_t)shows;
        }
    report(tier, kernel, "accounting", (unsigned)(n * ARRAYS + 1),
           written * sizeof(double) != elements * kernel->bytes_written ? "bytes written"
           : read * sizeof(double) != elements * kernel->bytes_read     ? "bytes read"
                                                                        : NULL);
}

/* Stored values: never zero bits, never denormal, and another one for each seed and number of rounds. */
static void check_stored_values(const char *tier, const nmb_kernel *kernel)
{
    enum { SEEDS = 100, ROUNDS = 3, CASES = SEEDS * ROUNDS };
    static uint64_t seen[CASES];
    const size_t offset[ARRAYS] = {0};
    const char *wrong = NULL;
    for (unsigned i = 0; i < CASES; i++) {
        nmb_args args = arguments(offset, 1, sizeof(double));
        args.seed = i / ROUNDS;
        kernel->fn(&args, i % ROUNDS + 1);
        const double value = *array(0, 0);
        if (!(value >= 1.0 && value < 2.0))
            wrong = "value outside [1, 2)";
        seen[i] = bits(value);
        for (unsigned k = 0; k < i; k++)
            if (seen[k] == seen[i])
                wrong = "two calls stored the same value";
    }
    report(tier, kernel, "stored values", CASES, wrong);
}

static void check_chase(const char *tier, const nmb_kernel *kernel)
{
    enum { NODES = 97 };
    static void *ring[NMB_MAX_CHAINS][NODES];
    static const uint64_t loops[] = {0, 1, 2, 15, 16, 17, 31, 32, 33, 96, 97, 127, 128, 129, 255, 256, 1000};
    const char *wrong = NULL;
    unsigned cases = 0;
    for (size_t c = 0; c < NMB_MAX_CHAINS; c++)
        for (size_t i = 0; i < NODES; i++) /* another step for each chain; 97 is prime, so each is one cycle */
            ring[c][i] = &ring[c][(i + 5 + c) % NODES];
    for (unsigned chains = 1; chains <= NMB_MAX_CHAINS; chains++)
        for (size_t l = 0; l < COUNT(loops); l++, cases++) {
            nmb_args args = {.chains = chains};
            for (size_t c = 0; c < NMB_MAX_CHAINS; c++)
                args.cursor[c] = &ring[c][c];
            kernel->fn(&args, loops[l]);
            for (size_t c = 0; c < NMB_MAX_CHAINS; c++) {
                const size_t steps = c < chains ? (size_t)loops[l] : 0;
                if (args.cursor[c] != (void *)&ring[c][(c + (5 + c) * steps) % NODES])
                    wrong = "a cursor stands elsewhere than after `loops` loads";
            }
        }
    report(tier, kernel, "cursors", cases, wrong);
}

/* Whether a line holds one value in [1, 2) everywhere (`written`), else 1, 2, 3 ... times `first`. */
static int holds(const double *line, unsigned words, double first, int written)
{
    const double value = line[0];
    if (written && !(value >= 1 && value < 2))
        return 0;
    for (unsigned w = 0; w < words; w++)
        if (line[w] != (written ? value : first * (w + 1)))
            return 0;
    return 1;
}

/* Rows of a table that are written: those and no others, and between two tables' worth of memory nothing else. */
static void check_scatter(const char *tier, const nmb_kernel *kernel)
{
    enum { ROWS = 37, ROUND = 23, MAX_WORDS = 4 * 8 };
    static _Alignas(NMB_LINE) double memory[(ROWS + 2) * MAX_WORDS];
    static uint32_t index[ROUND];
    const char *wrong = NULL;
    unsigned cases = 0;
    for (uint32_t i = 0; i < ROUND; i++)
        index[i] = i * 29 % ROWS;
    for (unsigned lines = 1; lines <= 4; lines++)
        for (unsigned calls = 0; calls <= ROUND; calls += 1 + calls / 4, cases++) {
            const unsigned words = lines * 8;
            nmb_args args = {.a = memory + words, .b = index, .k = ROUND, .chains = lines, .scalar = -1};
            uint64_t seen = 0;
            for (unsigned r = 0; r < ROWS + 2; r++)
                for (unsigned w = 0; w < words; w++)
                    memory[r * words + w] = (r + 7) * (w + 1.0);
            args.cursor[0] = index + ROUND - 2; /* round the end of the list */
            for (unsigned i = 0; i < calls; i++)
                seen |= UINT64_C(1) << index[(ROUND - 2 + i) % ROUND];
            kernel->fn(&args, calls / 3);
            kernel->fn(&args, calls - calls / 3);
            for (unsigned r = 0; r < ROWS + 2; r++) {
                const int visited = r > 0 && r <= ROWS && seen >> (r - 1) & 1, updated = visited && kernel->bytes_read;
                if (!holds(memory + r * words, words, updated ? -(r + 7.0) : r + 7, visited && !updated))
                    wrong = "other contents than the reference";
            }
            if (args.cursor[0] != (void *)&index[(ROUND - 2 + calls) % ROUND])
                wrong = "other cursor than the reference";
        }
    report(tier, kernel, "rows written", cases, wrong);
}

#include "kernels_compute.inc.h"

int main(int argc, char **argv)
{
    const int timed = argc > 1 && !strcmp(argv[1], "time");
    nmb_clock clock;
    nmb_tier tiers[8];
    const size_t count = nmb_tiers(tiers, COUNT(tiers));
    const unsigned features = nmb_cpu_features();
    setvbuf(stdout, NULL, _IOLBF, 0);
    buffers_create();
    if (nmb_clock_init(NMB_CLOCK_COUNTER, &clock))
        return 1;
    for (size_t t = 0; t < count; t++) {
        if (!tiers[t].usable) {
            printf("unavailable %s: this CPU is below %s\n", tiers[t].name, tiers[t].level);
            continue;
        }
        for (size_t k = 0; k < tiers[t].count; k++) {
            const nmb_kernel *kernel = &tiers[t].kernels[k];
            if (!(kernel->needs & ~features))
                check_tier(tiers[t].name, kernel);
            if (!strcmp(kernel->family, "stream") || !strcmp(kernel->family, "stride")) {
                check_values(tiers[t].name, kernel);
                check_accounting(tiers[t].name, kernel);
                if (kernel->bytes_written && !kernel->bytes_read)
                    check_stored_values(tiers[t].name, kernel);
                if (timed)
                    time_kernel(tiers[t].name, kernel, &clock);
            } else if (!strcmp(kernel->family, "chase")) {
                check_chase(tiers[t].name, kernel);
            } else if (!strcmp(kernel->family, "gather")) {
                (kernel->bytes_written ? check_scatter : check_gather)(tiers[t].name, kernel);
            } else if (!strcmp(kernel->family, "contend")) {
                _Alignas(NMB_PAD) uint64_t line = 7;
                nmb_args args = {.shared = &line};
                uint64_t last = kernel->fn(&args, 5);
                report(tiers[t].name, kernel, "counts", 1, line == 12 && last == 11 ? NULL : "five additions to 7");
            } else if (kernel->needs & ~features) {
                printf("unavailable %s/%s: this CPU has no %s\n", tiers[t].name, kernel->name, kernel->variant);
            } else if (!strcmp(kernel->family, "blas1")) {
                check_blas1(tiers[t].name, kernel);
                if (timed)
                    time_kernel(tiers[t].name, kernel, &clock);
            } else if (!strncmp(kernel->family, "gem", 3)) {
                check_products(tiers[t].name, kernel);
            } else if (!strcmp(kernel->family, "peak")) {
                check_peak(tiers[t].name, kernel);
            }
        }
    }
    printf("%s\n", failed ? "FAILED" : "all ok");
    return failed != 0;
}
