# SPDX-License-Identifier: Apache-2.0
"""What all tests need of their process."""

from __future__ import annotations

import signal

# A shell that starts a command in the background lets it ignore SIGINT, and its children after it: then nothing that
# the tests start could be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
