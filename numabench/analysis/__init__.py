# SPDX-License-Identifier: Apache-2.0
"""Pure statistics and verdicts; nothing here touches hardware."""
