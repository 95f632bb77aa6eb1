/* SPDX-License-Identifier: Apache-2.0 */
/* One tier: every family compiled for it, and the table that names them. Included by each isa/<tier>.c, which sets
 * NMB_TIER, NMB_TIER_NAME, NMB_TIER_LEVEL and one of NMB_TIER_SCALAR, _AVX2, _AVX512, _NEON. */
#include "../nmb.h"
#include "vec.h"

/* What the compiler was told to compile this file as, by its own word: not what the file or the build calls it. On
 * AArch64 every tier may use the same instructions. */
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define NMB_COMPILED NMB_RAN_AVX512
#elif defined(__AVX2__) && defined(__FMA__)
#define NMB_COMPILED NMB_RAN_AVX2
#elif NMB_TIER_NEON && defined(__ARM_NEON)
#define NMB_COMPILED NMB_RAN_NEON
#else
#define NMB_COMPILED NMB_RAN_SCALAR
#endif

/* The first thing every kernel does, once a call. */
static inline void nmb_say_tier(nmb_args *args) { args->ran |= NMB_COMPILED; }

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
