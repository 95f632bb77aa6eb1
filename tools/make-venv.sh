#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# make-venv.sh DIRECTORY [PYTHON]: a virtual environment with the pinned groups of pyproject.toml. Works again on an
# existing one, and needs the network only for what is not there.
set -euo pipefail
venv=$1
here=$(dirname "$0")
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

python=${2:-}
if [ -z "$python" ]; then
    for each in python3 python3.14 python3.13 python3.12 python3.11; do
        if new_enough "$each"; then
            python=$each
            break
        fi
    done
fi
if [ -z "$python" ] || ! new_enough "$python"; then
    echo "numabench needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
wanted=("python$version-dev:$headers/Python.h")
"$python" -c 'import ensurepip' 2>/dev/null || wanted+=("python$version-venv:/nonexistent")
bash "$here/system-packages.sh" "${wanted[@]}"

[ -x "$venv/bin/pip" ] || "$python" -m venv "$venv"
"$venv/bin/python" - <<'END' || "$venv/bin/pip" install -q -U 'pip>=25.1'
import sys, pip
sys.exit(tuple(map(int, pip.__version__.split(".")[:2])) < (25, 1))  # --group is new in 25.1
END
"$venv/bin/pip" install -q --group build --group test --group lint
