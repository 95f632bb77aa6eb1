# SPDX-License-Identifier: Apache-2.0
"""Verdicts on one machine: metrics of a record, facts, a specification or a baseline, the machine against itself."""
