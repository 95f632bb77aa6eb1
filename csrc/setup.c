/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "nmb.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { PAGE = 4096 }; /* MADV_POPULATE_WRITE wants page bounds; a larger base page only means one more attempt */

/* A dry pool or an exhausted node is an error here and would be a signal at the first store. Old systems (before Linux
 * 5.14) know no such request: the stores then fault the pages in. */
static int populate(const nmb_args *args)
{
    uintptr_t from = (uintptr_t)args->a / PAGE * PAGE, to = ((uintptr_t)args->a + args->bytes + PAGE - 1) / PAGE * PAGE;
    if (args->bytes == 0 || madvise((void *)from, to - from, MADV_POPULATE_WRITE) == 0 || errno == EINVAL ||
        errno == ENOSYS)
        return 0;
    return -errno;
}

static const uint64_t STEP = 0x9e3779b97f4a7c15u;

static uint64_t fill_f64(nmb_args *args, uint64_t loops)
{
    (void)loops;
    int rc = populate(args);
    if (rc)
        return (uint64_t)(int64_t)rc;
    uint64_t *to = args->a, x = args->seed * STEP + (uintptr_t)args->a;
    for (size_t i = 0, n = args->bytes / sizeof *to; i < n; i++, x += STEP)
        to[i] = (uint64_t)0x3fe << 52 | x >> 12;
    return 0;
}

static uint64_t fill_f32(nmb_args *args, uint64_t loops)
{
    (void)loops;
    int rc = populate(args);
    if (rc)
        return (uint64_t)(int64_t)rc;
    uint32_t *to = args->a, x = (uint32_t)(args->seed * STEP >> 32) + (uint32_t)((uintptr_t)args->a >> 2);
    for (size_t i = 0, n = args->bytes / sizeof *to; i < n; i++, x += (uint32_t)(STEP >> 32))
        to[i] = (uint32_t)0x7e << 23 | x >> 9;
    return 0;
}

static uint64_t ring_order(nmb_args *args, uint64_t loops)
{
    (void)loops;
    return (uint64_t)(int64_t)nmb_ring_order(args->shared, args->part, args->parts);
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
    {.name = "ring_order",
     .family = "setup",
     .brief = "order of the nodes",
     .fn = ring_order,
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
