/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NMB_CPU_H
#define NMB_CPU_H

/* Whether this CPU has a tier's instructions and the system saves their registers. */
int nmb_cpu_has_avx2_tier(void);   /* x86-64-v3 */
int nmb_cpu_has_avx512_tier(void); /* x86-64-v4 */

#endif
