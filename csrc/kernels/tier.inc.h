/* SPDX-License-Identifier: Apache-2.0 */
/* One tier: every family compiled for it, and the table that names them. Included by each isa/<tier>.c, which sets
 * NMB_TIER, NMB_TIER_NAME, NMB_TIER_LEVEL and one of NMB_TIER_SCALAR, _AVX2, _AVX512, _NEON. */
#include "../nmb.h"
#include "vec.h"

#include "blas1.inc.h"
#include "chase.inc.h"
#include "gather.inc.h"
#include "gemm.inc.h"
#include "gemv.inc.h"
#include "mix.inc.h"
#include "peak.inc.h"
#include "shared.inc.h"
#include "stream.inc.h"
#include "stride.inc.h"
#include "sync.inc.h"

static const nmb_kernel kernels[] = {NMB_CHASE_ROWS NMB_STRIDE_ROWS NMB_STREAM_ROWS NMB_MIX_ROWS NMB_GATHER_ROWS
                                         NMB_SHARED_ROWS NMB_SYNC_ROWS NMB_BLAS1_ROWS,
                                     NMB_GEMV_ROWS NMB_PEAK_ROWS NMB_GEMM_ROWS};

extern const nmb_tier NMB_TIER;
const nmb_tier NMB_TIER = {NMB_TIER_NAME, NMB_TIER_LEVEL, kernels, sizeof kernels / sizeof *kernels, 0};
