/* SPDX-License-Identifier: Apache-2.0 */
/* futex(2) for words of this process. Users define _GNU_SOURCE before any include. */
#ifndef NMB_FUTEX_H
#define NMB_FUTEX_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Sleeps while *word is `seen`, at most `timeout`. */
static inline int nmb_futex_wait(const unsigned *word, unsigned seen, const struct timespec *timeout)
{
    return syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, timeout, NULL, 0) ? -errno : 0;
}

static inline void nmb_futex_wake_all(const unsigned *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

#endif
