/* SPDX-License-Identifier: Apache-2.0 */
#define NMB_TIER       nmb_tier_neon
#define NMB_TIER_NAME  "neon"
#define NMB_TIER_LEVEL "armv8-a"
#define NMB_TIER_NEON  1
#include "../kernels/tier.inc.h"
