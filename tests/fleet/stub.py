# SPDX-License-Identifier: Apache-2.0
"""A worker that keeps the contract and measures nothing: all simulated nodes share two CPUs.

``stub.py TEMPLATES [options of validate]``: TEMPLATES is a folder with pass.json, weak.json, fail.json and behave.json
({host: what it does}).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("templates", type=Path)
    parser.add_argument("--node-name", required=True)
    parser.add_argument("--out", type=Path, required=True)
    words = parser.parse_args()
    host = words.node_name
    what = json.loads((words.templates / "behave.json").read_text()).get(host, "pass")
    (words.templates / f"ran.{host}.{os.getpid()}").touch()
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang":
        time.sleep(600)
    if what == "nothing":
        return 0
    if what == "truncated":
        (words.out / f"{host}.json").write_text('{"schema": 1,')
        return 0
    if what == "slow":
        time.sleep(3)
    result = json.loads((words.templates / (f"{what}.json" if what in ("fail", "weak") else "pass.json")).read_text())
    result["host"] = host
    temporary = words.out / f".{host}.json.{os.getpid()}"
    temporary.write_text(json.dumps(result))
    temporary.replace(words.out / f"{host}.json")
    return 1 if what == "fail" else 0


if __name__ == "__main__":
    sys.exit(main())
