# SPDX-License-Identifier: Apache-2.0
"""Other programs and numabench in turn on this machine; one file per family of kernels."""
