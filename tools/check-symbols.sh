#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# check-symbols.sh MODULE.so...: a module exports its init function and nothing else, so that nothing it links can be
# taken for, or replaced by, a symbol of another library in the process.
set -euo pipefail
status=0
for module in "$@"; do
    name=$(basename "$module")
    exported=$(nm -D --defined-only "$module" | awk '{ print $3 }')
    if [ "$exported" = "PyInit_${name%%.*}" ]; then
        echo "ok $name exports $exported"
    else
        echo "FAILED $name exports: $exported" >&2
        status=1
    fi
done
exit $status
