# SPDX-License-Identifier: Apache-2.0
"""ReFrame run on the simulated cluster with the test class that numabench ships."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from numabench import fleet

from . import stub

CHECK = Path(fleet.__file__).with_name("reframe_check.py")
TIMEOUT = 40
CONFIG = """
site_configuration = {
    "systems": [{
        "name": "sim", "hostnames": [".*"], "modules_system": "nomod",
        "partitions": [{"name": "cpu", "scheduler": "squeue", "launcher": "srun", "environs": ["builtin"],
                        "max_jobs": 8, "access": ["--mem=0"]}],
    }],
    "environments": [{"name": "builtin"}],
}
"""


def run(
    templates: Path, folder: Path, baseline: Path | None = None
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """reframe over all nodes; what it said and its JSON report."""
    config, report = folder / "site.py", folder / "report.json"
    config.write_text(CONFIG)
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("reframe")), "-C", str(config), "-c", str(CHECK), "-r",
            "--prefix", str(folder), "--distribute=idle", "--exec-policy=async", "--report-file", str(report),
        ],
        capture_output=True, text=True, timeout=TIMEOUT, check=False,
        env={
            **os.environ,
            "NUMABENCH_COMMAND": f"{sys.executable} {stub.__file__} {templates}",
            "NUMABENCH_BASELINE": str(baseline or ""),
        },
    )  # fmt: skip
    return done, json.loads(report.read_text()) if report.exists() else {}


def failed(report: dict[str, Any]) -> list[str]:
    """The hosts that the failure messages name."""
    found = []
    for session in report["runs"]:
        for case in session["testcases"]:
            if case["result"] == "fail":
                match = re.search(r"(n\d+): FAIL", str(case["fail_reason"]))
                node = case["display_name"].rpartition("%.nid=")[2]  # of a figure, ReFrame itself writes the message
                found.append(match[1] if match else f"{node}: {case['fail_reason']}")
    return found
