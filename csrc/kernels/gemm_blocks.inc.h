/* SPDX-License-Identifier: Apache-2.0 */
/* Block sizes of the GEMM kernels: one rule for the kernels and for those who size their scratch. */
#ifndef NMB_GEMM_BLOCKS_INC_H
#define NMB_GEMM_BLOCKS_INC_H

#include <stddef.h>

/* Cuts `total` into equal blocks of at most `most` (at least one unit), each a multiple of `unit`. Equal, because a
 * short last block would pay the whole cost of packing for little work. */
static inline size_t nmb_gemm_block(size_t total, size_t most, size_t unit)
{
    most = most < unit ? unit : most - most % unit;
    size_t parts = total ? (total - 1) / most + 1 : 1;
    size_t each = total ? (total - 1) / parts + 1 : 1;
    return each + (unit - each % unit) % unit;
}

#endif
