/* SPDX-License-Identifier: Apache-2.0 */
/* What is done to, and counted of, a process that is not this one. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "nmb.h"

enum { BITS = 8 * sizeof(long) };

int nmb_move_process(int pid, int from, int to)
{
    unsigned long old[NMB_MAX_NODES / BITS] = {0}, new[NMB_MAX_NODES / BITS] = {0};
    if (pid <= 0 || from < 0 || from >= NMB_MAX_NODES || to < 0 || to >= NMB_MAX_NODES)
        return -EINVAL;
    old[(size_t)from / BITS] = 1ul << ((size_t)from % BITS);
    new[(size_t)to / BITS] = 1ul << ((size_t)to % BITS);
    long left = syscall(SYS_migrate_pages, pid, (unsigned long)NMB_MAX_NODES + 1, old, new);
    if (left < 0)
        return -errno;
    return left > INT_MAX ? INT_MAX : (int)left;
}

int nmb_counter_open(int tid, uint32_t type, uint64_t config, int scope)
{
    struct perf_event_attr attr = {
        .type = type,
        .size = sizeof attr,
        .config = config,
        .disabled = !!(scope & NMB_COUNT_FROM_EXEC),
        .enable_on_exec = !!(scope & NMB_COUNT_FROM_EXEC),
        .exclude_kernel = !(scope & NMB_COUNT_KERNEL),
        .exclude_hv = 1,
        .inherit = 1,
        .read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING,
    };
    if (tid <= 0)
        return -EINVAL;
    long fd = syscall(SYS_perf_event_open, &attr, tid, -1, -1, PERF_FLAG_FD_CLOEXEC);
    return fd < 0 ? -errno : (int)fd;
}
