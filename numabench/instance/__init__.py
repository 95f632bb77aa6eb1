# SPDX-License-Identifier: Apache-2.0
"""The synthetic model instance: built in memory (build), served by processes (worker), driven by a parent (drive)."""
