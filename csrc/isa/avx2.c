/* SPDX-License-Identifier: Apache-2.0 */
#define NMB_TIER       nmb_tier_avx2
#define NMB_TIER_NAME  "avx2"
#define NMB_TIER_LEVEL "x86-64-v3"
#define NMB_TIER_AVX2  1
#include "../kernels/tier.inc.h"
