/* SPDX-License-Identifier: Apache-2.0 */
/* The system calls that the core makes through libnuma, for builds where there is no libnuma. */
#define _DEFAULT_SOURCE /* syscall */
#include <numaif.h>
#include <sys/syscall.h>
#include <unistd.h>

long mbind(void *start, unsigned long length, int mode, const unsigned long *mask, unsigned long max, unsigned flags)
{
    return syscall(SYS_mbind, start, length, mode, mask, max, flags);
}

long move_pages(int pid, unsigned long count, void **pages, const int *nodes, int *status, int flags)
{
    return syscall(SYS_move_pages, pid, count, pages, nodes, status, flags);
}

long get_mempolicy(int *mode, unsigned long *mask, unsigned long max, void *address, unsigned flags)
{
    return syscall(SYS_get_mempolicy, mode, mask, max, address, flags);
}

long set_mempolicy(int mode, const unsigned long *mask, unsigned long max)
{
    return syscall(SYS_set_mempolicy, mode, mask, max);
}
