# SPDX-License-Identifier: Apache-2.0
"""Many machines: run on an engine that exists, collect, judge, act."""
