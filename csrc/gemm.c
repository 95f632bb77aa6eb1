/* SPDX-License-Identifier: Apache-2.0 */
/* Scratch that one call needs: packed A and packed B, one block each, and a row that sums of B may take. */
#include "nmb.h"

#include "kernels/gemm_blocks.inc.h"

size_t nmb_gemm_scratch(const nmb_kernel *kernel, size_t m, size_t n, size_t k, size_t mc, size_t kc, size_t nc)
{
    if (!kernel->mr || !kernel->nr || !kernel->scratch) /* not gemm */
        return kernel->scratch;
    mc = nmb_gemm_block(m, mc ? mc : kernel->default_mc, kernel->mr);
    kc = nmb_gemm_block(k, kc ? kc : kernel->default_kc, NMB_LINE / kernel->scratch);
    nc = nmb_gemm_block(n, nc ? nc : kernel->default_nc, kernel->nr);
    return (mc + nc) * kc * kernel->scratch + nc * kernel->sizes[2];
}
