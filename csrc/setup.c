/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "abi.h"
#include "nmb.h"

#include <errno.h>
#include <numaif.h>
#include <string.h>
#include <sys/mman.h>

#include "random.h"

/* PAGE: MADV_POPULATE_WRITE wants page bounds; a larger base page only means one more attempt. PIECE is populated and
 * filled in turn, so that what the system has just cleared is still in the cache when it is written. */
enum { PAGE = 4096, PIECE = 256 << 10 };

/* A dry pool or an exhausted node is an error here and would be a signal at the first store. Old systems (before Linux
 * 5.14) know no such request: the stores then fault the pages in. */
static int populate(void *at, size_t bytes)
{
    uintptr_t from = (uintptr_t)at / PAGE * PAGE, to = ((uintptr_t)at + bytes + PAGE - 1) / PAGE * PAGE;
    if (madvise((void *)from, to - from, MADV_POPULATE_WRITE) == 0 || errno == EINVAL || errno == ENOSYS)
        return 0;
    return -errno;
}

static const uint64_t STEP = 0x9e3779b97f4a7c15u;

static void fill_piece_f64(void *at, size_t bytes, uint64_t seed)
{
    uint64_t *to = at, x = seed * STEP + (uintptr_t)at;
    for (size_t i = 0, n = bytes / sizeof *to; i < n; i++, x += STEP)
        to[i] = (uint64_t)0x3fe << 52 | x >> 12;
}

static void fill_piece_f32(void *at, size_t bytes, uint64_t seed)
{
    uint32_t *to = at, x = (uint32_t)(seed * STEP >> 32) + (uint32_t)((uintptr_t)at >> 2);
    for (size_t i = 0, n = bytes / sizeof *to; i < n; i++, x += (uint32_t)(STEP >> 32))
        to[i] = (uint32_t)0x7e << 23 | x >> 9;
}

static uint64_t fill(const nmb_args *args, void (*piece)(void *, size_t, uint64_t))
{
    for (size_t done = 0, bytes; done < args->bytes; done += bytes) {
        char *at = (char *)args->a + done;
        bytes = args->bytes - done < PIECE ? args->bytes - done : PIECE;
        int rc = populate(at, bytes);
        if (rc)
            return (uint64_t)(int64_t)rc;
        piece(at, bytes, args->seed);
    }
    return 0;
}

static uint64_t fill_f64(nmb_args *args, uint64_t loops)
{
    (void)loops;
    return fill(args, fill_piece_f64);
}

static uint64_t fill_f32(nmb_args *args, uint64_t loops)
{
    (void)loops;
    return fill(args, fill_piece_f32);
}

/* Weights of a model: m rows of n elements, lda apart, of a matrix of which this is a part. The value of an element
 * depends on its place in the whole matrix alone (row `ldb` + i, column k + j), however it is cut up and wherever it
 * lies: taken from a table of a prime length that rows and columns step through. args->chains is the bytes of an
 * element: 4 f32, 2 bf16, both in [0.5, 1) times scalar, 1 int8 in [64, 127]. */
enum { TABLE = 8191, ROW_STEP = 2741 };

static uint64_t fill_rows(nmb_args *args, uint64_t loops)
{
    const size_t size = args->chains;
    uint64_t state = args->seed;
    char table[TABLE * sizeof(float)];

    (void)loops;
    for (size_t i = 0; i < TABLE; i++) {
        const uint64_t bits = nmb_random(&state);
        const float value = (0.5f + (float)(bits >> 40) * 0x1p-25f) * (float)args->scalar;
        uint32_t word;
        memcpy(&word, &value, sizeof word);
        if (size == sizeof(float))
            memcpy(table + i * size, &word, size);
        else if (size == sizeof(uint16_t))
            memcpy(table + i * size, &(uint16_t){(uint16_t)(word >> 16)}, size);
        else
            table[i] = (char)(64 + (bits >> 58));
    }
    for (size_t i = 0; i < args->m; i++) {
        char *to = (char *)args->a + i * args->lda * size;
        size_t at = ((args->ldb + i) * ROW_STEP + args->k) % TABLE;
        for (size_t left = args->n; left;) {
            const size_t run = left < TABLE - at ? left : TABLE - at;
            memcpy(to, table + at * size, run * size);
            to += run * size;
            left -= run;
            at = 0;
        }
        if (args->stop && __atomic_load_n(args->stop, __ATOMIC_RELAXED))
            break;
    }
    return 0;
}

static uint64_t ring_order(nmb_args *args, uint64_t loops)
{
    (void)loops;
    return (uint64_t)(int64_t)nmb_ring_order(args->shared, args->part, args->parts);
}

static uint64_t ring_shuffle(nmb_args *args, uint64_t loops)
{
    (void)loops;
    return (uint64_t)(int64_t)nmb_ring_shuffle(args->shared, args->part, args->parts);
}

static uint64_t ring_link(nmb_args *args, uint64_t loops)
{
    (void)loops;
    return (uint64_t)(int64_t)nmb_ring_link(args->shared, args->part, args->parts);
}

static uint64_t ring_prove(nmb_args *args, uint64_t loops)
{
    (void)loops;
    return (uint64_t)(int64_t)nmb_ring_prove(args->shared, args->part, args->parts);
}

/* Pages of args->k bytes to node args->part, as a load balancer of the system would move them. */
static uint64_t move(nmb_args *args, uint64_t loops)
{
    enum { BATCH = 512 };
    void *pages[BATCH];
    int nodes[BATCH], status[BATCH];
    (void)loops;
    for (size_t done = 0, step = args->k ? args->k : PAGE; done < args->bytes;) {
        unsigned long count = 0;
        for (; count < BATCH && done < args->bytes; count++, done += step) {
            pages[count] = (char *)args->a + done;
            nodes[count] = (int)args->part;
        }
        if (move_pages(0, count, pages, nodes, status, MPOL_MF_MOVE) < 0)
            return (uint64_t)(int64_t)-errno;
        for (unsigned long i = 0; i < count; i++)
            if (status[i] != nodes[i])
                return (uint64_t)(int64_t)(status[i] < 0 ? status[i] : -EBUSY);
    }
    return 0;
}

static const nmb_kernel kernels[] = {
    {.name = "fill_f64",
     .family = "setup",
     .brief = "a[i] = value in [0.5, 1)",
     .fn = fill_f64,
     .flags = NMB_SETUP | NMB_SLICED,
     .arrays = 1,
     .element_bytes = 8,
     .bytes_written = 8},
    {.name = "fill_f32",
     .family = "setup",
     .brief = "a[i] = value in [0.5, 1)",
     .fn = fill_f32,
     .flags = NMB_SETUP | NMB_SLICED,
     .arrays = 1,
     .element_bytes = 4,
     .bytes_written = 4},
    {.name = "fill_rows",
     .family = "rows",
     .brief = "weights by their place in the matrix",
     .fn = fill_rows,
     .flags = NMB_SETUP | NMB_COUNTED,
     .arrays = 1},
    {.name = "move",
     .family = "setup",
     .brief = "pages of a to another node",
     .fn = move,
     .flags = NMB_SETUP | NMB_SLICED,
     .arrays = 1,
     .element_bytes = 8},
    {.name = "ring_order",
     .family = "setup",
     .brief = "order of the nodes",
     .fn = ring_order,
     .flags = NMB_SETUP | NMB_COUNTED},
    {.name = "ring_shuffle",
     .family = "setup",
     .brief = "that order in large windows, second half",
     .fn = ring_shuffle,
     .flags = NMB_SETUP | NMB_COUNTED},
    {.name = "ring_link",
     .family = "setup",
     .brief = "pointers in that order",
     .fn = ring_link,
     .flags = NMB_SETUP | NMB_COUNTED},
    {.name = "ring_prove",
     .family = "setup",
     .brief = "pointers read back",
     .fn = ring_prove,
     .flags = NMB_SETUP | NMB_COUNTED},
};

const nmb_kernel *nmb_setup_kernel(const char *name)
{
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        if (strcmp(kernels[i].name, name) == 0)
            return &kernels[i];
    return NULL;
}
