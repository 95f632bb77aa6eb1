/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "nmb.h"

#include <errno.h>
#include <numaif.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 4096 };

int nmb_placement_query(const void *base, size_t pages, size_t page_bytes, int16_t *node_of_page)
{
    void *address[BATCH];
    int status[BATCH];
    if (page_bytes == 0)
        return -EINVAL;
    for (size_t done = 0; done < pages;) {
        size_t n = pages - done < BATCH ? pages - done : BATCH;
        for (size_t i = 0; i < n; i++)
            address[i] = (char *)(uintptr_t)base + (done + i) * page_bytes;
        if (move_pages(0, n, address, NULL, status, 0) < 0)
            return -errno;
        for (size_t i = 0; i < n; i++) {
            /* ENOENT: not present; EFAULT: zero page, and on kernels 4.3 to 6.11 absent pages too. */
            if (status[i] >= 0)
                node_of_page[done + i] = (int16_t)status[i];
            else
                node_of_page[done + i] =
                    status[i] == -ENOENT || status[i] == -EFAULT ? NMB_NOT_RESIDENT : NMB_UNKNOWN_NODE;
        }
        done += n;
    }
    return 0;
}

void nmb_placement_count(const int16_t *node_of_page, size_t pages, uint64_t *per_node, uint64_t *not_resident)
{
    memset(per_node, 0, NMB_MAX_NODES * sizeof *per_node);
    *not_resident = 0;
    for (size_t i = 0; i < pages; i++) {
        if (node_of_page[i] >= 0 && node_of_page[i] < NMB_MAX_NODES)
            per_node[node_of_page[i]]++;
        else
            ++*not_resident;
    }
}

uint64_t nmb_placement_moved(const int16_t *before, const int16_t *after, size_t pages)
{
    uint64_t moved = 0;
    for (size_t i = 0; i < pages; i++)
        moved += before[i] != after[i];
    return moved;
}

/* Calls `line` for each line of the entry of /proc/self/<file> that covers `base`; stops reading behind it. In smaps an
 * entry is a header and its attribute lines, in numa_maps one line that starts with the address. */
static int read_entry(const char *path, const void *base, int header_has_end, void (*line)(const char *, void *),
                      void *out)
{
    FILE *file = fopen(path, "re");
    char *text = NULL;
    size_t room = 0;
    int inside = 0, found = 0;
    if (!file)
        return -errno;
    while (getline(&text, &room, file) > 0) {
        unsigned long long from, to = 0;
        char gap;
        int fields =
            header_has_end ? sscanf(text, "%llx-%llx%c", &from, &to, &gap) : sscanf(text, "%llx%c", &from, &gap);
        if (fields == (header_has_end ? 3 : 2) && gap == ' ') {
            if (inside)
                break;
            inside = header_has_end ? (uintptr_t)base >= from && (uintptr_t)base < to : (uintptr_t)base == from;
            found |= inside;
        }
        if (inside)
            line(text, out);
    }
    free(text);
    fclose(file);
    return found ? 0 : -ENOENT;
}

static void smaps_line(const char *text, void *out)
{
    nmb_smaps *s = out;
    unsigned long long kb;
    if (sscanf(text, "Rss: %llu", &kb) == 1)
        s->rss = kb << 10;
    else if (sscanf(text, "AnonHugePages: %llu", &kb) == 1)
        s->anon_huge = kb << 10;
    else if (sscanf(text, "Swap: %llu", &kb) == 1)
        s->swap = kb << 10;
    else if (sscanf(text, "KernelPageSize: %llu", &kb) == 1)
        s->kernel_page = kb << 10;
    else if (sscanf(text, "MMUPageSize: %llu", &kb) == 1)
        s->mmu_page = kb << 10;
}

int nmb_smaps_query(const void *base, nmb_smaps *out)
{
    memset(out, 0, sizeof *out);
    return read_entry("/proc/self/smaps", base, 1, smaps_line, out);
}

struct numa_maps {
    uint64_t *pages; /* per node */
    uint64_t kernel_page;
};

static void numa_maps_line(const char *text, void *out)
{
    struct numa_maps *m = out;
    for (const char *word = text; word; word = strchr(word, ' ')) {
        unsigned long long node, count;
        word += *word == ' ';
        if (sscanf(word, "N%llu=%llu", &node, &count) == 2 && node < NMB_MAX_NODES)
            m->pages[node] = count;
        else if (sscanf(word, "kernelpagesize_kB=%llu", &count) == 1)
            m->kernel_page = count << 10;
    }
}

int nmb_numa_maps_query(const void *base, uint64_t *bytes_per_node, uint64_t *kernel_page)
{
    struct numa_maps m = {bytes_per_node, 0};
    memset(bytes_per_node, 0, NMB_MAX_NODES * sizeof *bytes_per_node);
    int rc = read_entry("/proc/self/numa_maps", base, 0, numa_maps_line, &m);
    if (rc)
        return rc;
    for (int node = 0; node < NMB_MAX_NODES; node++)
        bytes_per_node[node] *= m.kernel_page;
    *kernel_page = m.kernel_page;
    return 0;
}
