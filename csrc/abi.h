/* SPDX-License-Identifier: Apache-2.0 */
/* What only newer headers of the system have: the values are the kernel's ABI (include/uapi/asm-generic/mman*.h). */
#ifndef NMB_ABI_H
#define NMB_ABI_H

#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif

#endif
