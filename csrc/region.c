/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "abi.h"
#include "nmb.h"

#include <errno.h>
#include <limits.h>
#include <numaif.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { NMB_MPOL_PREFERRED_MANY = 5, NMB_MPOL_WEIGHTED_INTERLEAVE = 6 };

enum { LONG_BITS = CHAR_BIT * sizeof(unsigned long), GUARD = 1 << 16 };

struct nmb_region {
    void *base;
    size_t bytes, page_bytes;
    void *map; /* with the guard pages */
    size_t map_bytes;
};

static size_t kind_bytes(int kind)
{
    switch (kind) {
    case NMB_PAGE_BASE:
    case NMB_PAGE_ANY:
        return (size_t)sysconf(_SC_PAGESIZE);
    case NMB_PAGE_THP:
    case NMB_PAGE_2M:
        return (size_t)2 << 20;
    case NMB_PAGE_1G:
        return (size_t)1 << 30;
    default:
        return 0;
    }
}

static int set_policy(const nmb_region *region, const nmb_region_spec *spec)
{
    static const int mode[] = {
        [NMB_POLICY_BIND] = MPOL_BIND,
        [NMB_POLICY_INTERLEAVE] = MPOL_INTERLEAVE,
        [NMB_POLICY_WEIGHTED] = NMB_MPOL_WEIGHTED_INTERLEAVE,
    };
    unsigned long mask[NMB_MAX_NODES / LONG_BITS + 1] = {0};
    if (spec->policy == NMB_POLICY_LOCAL)
        return 0;
    for (size_t i = 0; i < spec->node_count; i++)
        mask[(size_t)spec->nodes[i] / LONG_BITS] |= 1ul << ((size_t)spec->nodes[i] % LONG_BITS);
    int how;
    if (spec->policy == NMB_POLICY_PREFERRED)
        how = spec->node_count == 1 ? MPOL_PREFERRED : NMB_MPOL_PREFERRED_MANY;
    else
        how = mode[spec->policy];
    /* maxnode counts one bit more than it uses (mbind(2), BUGS). */
    return mbind(region->base, region->bytes, how, mask, NMB_MAX_NODES + 1, MPOL_MF_STRICT) ? -errno : 0;
}

static int map_pages(nmb_region *region, const nmb_region_spec *spec, const char **call)
{
    const int kind = spec->page_kind;
    int huge = kind == NMB_PAGE_2M || kind == NMB_PAGE_1G, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    size_t align = region->page_bytes > GUARD ? region->page_bytes : GUARD;

    *call = "mmap";
    /* One span of PROT_NONE with room for alignment; the buffer is mapped into its middle, so that no neighbour merges
     * with it and overruns fault. */
    region->map_bytes = region->bytes + align + 2 * (size_t)GUARD;
    region->map = mmap(NULL, region->map_bytes, PROT_NONE, flags, -1, 0);
    if (region->map == MAP_FAILED)
        return -errno;
    uintptr_t at = ((uintptr_t)region->map + GUARD + align - 1) / align * align;
    if (huge) /* reserved pages: a dry pool is ENOMEM here, not SIGBUS later */
        flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB |
                (kind == NMB_PAGE_2M ? 21 << MAP_HUGE_SHIFT : 30 << MAP_HUGE_SHIFT);
    if (spec->fd)
        flags = MAP_SHARED;
    void *base = mmap((void *)at, region->bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, spec->fd ? spec->fd : -1,
                      (off_t)spec->offset);
    if (base == MAP_FAILED) {
        int error = errno;
        munmap(region->map, region->map_bytes);
        return -error;
    }
    region->base = base;
    if (kind == NMB_PAGE_BASE || kind == NMB_PAGE_THP) {
        *call = "madvise";
        /* EINVAL means a kernel built without transparent huge pages: base pages are then certain, thp impossible. */
        if (madvise(base, region->bytes, kind == NMB_PAGE_BASE ? MADV_NOHUGEPAGE : MADV_HUGEPAGE) &&
            !(errno == EINVAL && kind == NMB_PAGE_BASE)) {
            int error = errno;
            munmap(region->map, region->map_bytes);
            return -error;
        }
    }
    /* A forked child must neither share nor move the pages. */
    (void)madvise(base, region->bytes, MADV_DONTFORK);
    return 0;
}

int nmb_region_create(const nmb_region_spec *spec, const char **call, nmb_region **out)
{
    size_t page = kind_bytes(spec->page_kind);
    *call = "spec";
    if (!page || spec->bytes == 0 || spec->bytes > SIZE_MAX / 4 || spec->policy < NMB_POLICY_LOCAL ||
        spec->policy > NMB_POLICY_WEIGHTED || (spec->policy != NMB_POLICY_LOCAL && spec->node_count == 0) ||
        spec->fd < 0 || (spec->fd && spec->page_kind != NMB_PAGE_ANY))
        return -EINVAL;
    for (size_t i = 0; i < spec->node_count; i++)
        if (spec->nodes[i] < 0 || spec->nodes[i] >= NMB_MAX_NODES)
            return -EINVAL;
    nmb_region *region = calloc(1, sizeof *region);
    if (!region)
        return -ENOMEM;
    region->page_bytes = page;
    region->bytes = (spec->bytes + page - 1) / page * page;
    int rc = map_pages(region, spec, call);
    if (rc) {
        free(region);
        return rc;
    }
    *call = "mbind";
    rc = set_policy(region, spec);
    if (rc) {
        nmb_region_destroy(region);
        return rc;
    }
    *call = "";
    *out = region;
    return 0;
}

void nmb_region_destroy(nmb_region *region)
{
    if (!region)
        return;
    munmap(region->map, region->map_bytes);
    free(region);
}

void *nmb_region_base(const nmb_region *region) { return region->base; }
size_t nmb_region_bytes(const nmb_region *region) { return region->bytes; }
size_t nmb_region_page_bytes(const nmb_region *region) { return region->page_bytes; }

int nmb_region_populate(nmb_region *region, size_t offset, size_t bytes)
{
    if (offset > region->bytes || bytes > region->bytes - offset)
        return -EINVAL;
    return madvise((char *)region->base + offset, bytes, MADV_POPULATE_WRITE) ? -errno : 0;
}

int nmb_region_collapse(nmb_region *region) { return madvise(region->base, region->bytes, MADV_COLLAPSE) ? -errno : 0; }
