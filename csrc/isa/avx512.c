/* SPDX-License-Identifier: Apache-2.0 */
#define NMB_TIER        nmb_tier_avx512
#define NMB_TIER_NAME   "avx512"
#define NMB_TIER_LEVEL  "x86-64-v4"
#define NMB_TIER_AVX512 1
#include "../kernels/tier.inc.h"
