/* SPDX-License-Identifier: Apache-2.0 */
#define NMB_TIER        nmb_tier_scalar
#define NMB_TIER_NAME   "scalar"
#define NMB_TIER_LEVEL  "baseline"
#define NMB_TIER_SCALAR 1
#include "../kernels/tier.inc.h"
