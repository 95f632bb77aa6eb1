/* SPDX-License-Identifier: Apache-2.0 */
/* System calls tried for real, so that nobody has to guess from capabilities or names what a container allows. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/perf_event.h>
#include <numaif.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "abi.h"
#include "nmb.h"

enum { LONG_BITS = 8 * sizeof(long), HUGE = 2 << 20 };

static int result(long rc) { return rc < 0 ? -errno : 0; }

static int try_perf(uint32_t type, uint64_t config)
{
    int fd = nmb_counter_open((int)syscall(SYS_gettid), type, config, 0);
    if (fd < 0)
        return fd;
    close(fd);
    return 0;
}

static int try_hugetlb(int shift)
{
    size_t bytes = (size_t)1 << shift;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (shift << MAP_HUGE_SHIFT), -1, 0);
    if (base == MAP_FAILED)
        return -errno;
    munmap(base, bytes);
    return 0;
}

static int try_affinity(void)
{
    cpu_set_t mask[64]; /* 65536 CPUs; the mask is written back as it was */
    long bytes = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
    return bytes < 0 ? -errno : result(syscall(SYS_sched_setaffinity, 0, bytes, mask));
}

/* The calls on memory, on two huge pages' worth of a mapping of their own. */
static int try_on(enum nmb_call call, int node, char *base)
{
    unsigned long mask[NMB_MAX_NODES / LONG_BITS] = {0};
    void *page = base;
    int status = 0;
    mask[(size_t)node / LONG_BITS] = 1ul << ((size_t)node % LONG_BITS);
    switch (call) {
    case NMB_CALL_MBIND:
        return result(mbind(base, HUGE, MPOL_BIND, mask, NMB_MAX_NODES + 1, 0));
    case NMB_CALL_SET_MEMPOLICY: /* of the calling thread, which lives only for this */
        return result(set_mempolicy(MPOL_BIND, mask, NMB_MAX_NODES + 1));
    case NMB_CALL_GET_MEMPOLICY:
        *base = 1;
        return result(get_mempolicy(&status, NULL, 0, base, MPOL_F_NODE | MPOL_F_ADDR));
    case NMB_CALL_MOVE_PAGES:
        *base = 1;
        return result(move_pages(0, 1, &page, NULL, &status, 0));
    case NMB_CALL_MADV_HUGEPAGE:
        return result(madvise(base, HUGE, MADV_HUGEPAGE));
    case NMB_CALL_MADV_COLLAPSE:
        for (char *p = base; p < base + HUGE; p += 4096)
            *p = 1;
        return result(madvise(base, HUGE, MADV_COLLAPSE));
    case NMB_CALL_MADV_POPULATE_WRITE:
        return result(madvise(base, HUGE, MADV_POPULATE_WRITE));
    default:
        return -EINVAL;
    }
}

struct attempt {
    enum nmb_call call;
    int node, rc;
};

static void *attempt(void *arg)
{
    struct attempt *a = arg;
    switch (a->call) {
    case NMB_CALL_SCHED_SETAFFINITY:
        a->rc = try_affinity();
        return NULL;
    case NMB_CALL_PERF_SOFTWARE:
        a->rc = try_perf(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CONTEXT_SWITCHES);
        return NULL;
    case NMB_CALL_PERF_HARDWARE:
        a->rc = try_perf(PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS);
        return NULL;
    case NMB_CALL_HUGETLB_2M:
        a->rc = try_hugetlb(21);
        return NULL;
    case NMB_CALL_HUGETLB_1G:
        a->rc = try_hugetlb(30);
        return NULL;
    default:
        break;
    }
    char *map = mmap(NULL, 2 * (size_t)HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) {
        a->rc = -errno;
        return NULL;
    }
    a->rc = try_on(a->call, a->node, (char *)(((uintptr_t)map + HUGE - 1) / HUGE * HUGE));
    munmap(map, 2 * (size_t)HUGE);
    return NULL;
}

int nmb_try(int call, int node)
{
    struct attempt a = {(enum nmb_call)call, node, 0};
    pthread_t thread;
    if (call < 0 || call >= NMB_CALLS || node < 0 || node >= NMB_MAX_NODES)
        return -EINVAL;
    int rc = pthread_create(&thread, NULL, attempt, &a);
    if (rc)
        return -rc;
    pthread_join(thread, NULL);
    return a.rc;
}

int nmb_placement_ask(const void *base, size_t pages, size_t page_bytes, int16_t *node_of_page)
{
    for (size_t i = 0; i < pages; i++) {
        int node = -1;
        if (get_mempolicy(&node, NULL, 0, (char *)(uintptr_t)base + i * page_bytes, MPOL_F_NODE | MPOL_F_ADDR) < 0) {
            if (errno != EFAULT)
                return -errno;
            node = NMB_NOT_RESIDENT;
        }
        node_of_page[i] = (int16_t)node;
    }
    return 0;
}
