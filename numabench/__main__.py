# SPDX-License-Identifier: Apache-2.0
"""python -m numabench."""

from numabench.cli import main

main()
