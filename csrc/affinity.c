/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "nmb.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel answers EINVAL to a mask shorter than its own; no kernel has more CPUs than this. */
enum { FIRST_CPUS = 1024, MOST_CPUS = 1 << 16 };

int nmb_affinity_get(int tid, int *cpus, size_t max, size_t *count)
{
    for (int room = FIRST_CPUS; room <= MOST_CPUS; room *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)room);
        if (!set)
            return -ENOMEM;
        size_t bytes = CPU_ALLOC_SIZE((size_t)room);
        CPU_ZERO_S(bytes, set);
        if (sched_getaffinity(tid, bytes, set)) {
            int error = errno;
            CPU_FREE(set);
            if (error == EINVAL)
                continue;
            return -error;
        }
        *count = 0;
        for (int cpu = 0; cpu < room; cpu++)
            if (CPU_ISSET_S((size_t)cpu, bytes, set)) {
                if (*count < max)
                    cpus[*count] = cpu;
                ++*count;
            }
        CPU_FREE(set);
        return 0;
    }
    return -EINVAL;
}

int nmb_affinity_set(int tid, const int *cpus, size_t count)
{
    int most = 0;
    for (size_t i = 0; i < count; i++) {
        if (cpus[i] < 0 || cpus[i] >= MOST_CPUS)
            return -EINVAL;
        if (cpus[i] > most)
            most = cpus[i];
    }
    cpu_set_t *set = CPU_ALLOC((size_t)most + 1);
    if (!set)
        return -ENOMEM;
    size_t bytes = CPU_ALLOC_SIZE((size_t)most + 1);
    CPU_ZERO_S(bytes, set);
    for (size_t i = 0; i < count; i++)
        CPU_SET_S((size_t)cpus[i], bytes, set);
    int rc = sched_setaffinity(tid, bytes, set) ? -errno : 0;
    CPU_FREE(set);
    return rc;
}

int nmb_affinity_where(int *cpu, int *node)
{
    unsigned c = 0, n = 0;
    if (syscall(SYS_getcpu, &c, &n, NULL))
        return -errno;
    *cpu = (int)c;
    *node = (int)n;
    return 0;
}
