# SPDX-License-Identifier: Apache-2.0
"""A ReFrame test class for sites that run a ReFrame suite: ``reframe -c .../reframe_check.py --distribute -r``.

Drop it in. NUMABENCH_BASELINE names a file of ``numabench baseline build``: its figures become ``reference``, with the
limits that validate itself takes; or derive from `NumabenchValidate` and set it as for any other test. The node is in
the message of a failure, as ReFrame's JUnit gives all nodes of ``--distribute`` one name; where a figure is past its
reference ReFrame writes the message, and the node is the ``nid`` in the test's name.
Imported by ReFrame only: numabench itself does not need it.
"""

# mypy: ignore-errors
from __future__ import annotations

import glob
import json
import math
import os

import reframe as rfm
import reframe.utility.sanity as sn
from reframe.core.builtins import performance_function, run_after, run_before, sanity_function, variable

FIGURES = ("latency.local", "latency.remote", "bw.read.local", "bw.read.remote")
FAIL, SIGMAS = 0.10, 6.0  # as numabench.validation.baseline has them


def references(cells, figures):
    """ReFrame's (value, lower, upper, unit) of each figure, from the cells of a baseline: its worst node or pair."""
    found = {}
    for name in FIGURES:
        stats, key = list(cells.get(name, {}).values()), name.replace(".", "_")
        if not stats or key not in figures:
            continue
        low = name.startswith("latency")
        worst = (max if low else min)(stats, key=lambda stat: stat["median"])
        share = max(FAIL, math.expm1(SIGMAS * (worst["sigma"] or 0.0)))
        found[key] = (worst["median"], *((None, share, "ns") if low else (-share / (1 + share), None, "GB/s")))
    return found


@rfm.simple_test
class NumabenchValidate(rfm.RunOnlyRegressionTest):
    """One node validated: fails when numabench gives no PASS or WARN, and checks figures against ``reference``."""

    descr = "numabench validate on one exclusive node"
    valid_systems = ["*"]  # noqa: RUF012 - ReFrame turns these into variables
    valid_prog_environs = ["*"]  # noqa: RUF012
    num_tasks = 1
    exclusive_access = True
    time_limit = "30m"
    # Words of the worker's command line; a site may add --spec or --baseline.
    command = variable(str, value=os.environ.get("NUMABENCH_COMMAND", "numabench validate"))

    baseline = variable(str, value=os.environ.get("NUMABENCH_BASELINE", ""))

    @run_before("run")
    def set_command(self):
        """The worker contract; the node's name is Slurm's where there is one."""
        words = self.command.split()
        self.executable = words[0]
        self.executable_opts = [*words[1:], "--node-name", '"${SLURMD_NODENAME:-$(hostname)}"', "--out", "."]

    @run_after("run")
    def read(self):
        """Nothing yet: the result is read when the job has ended."""
        self.result = None

    def _result(self):
        if self.result is None:
            self.result = {}
            for path in glob.glob(os.path.join(self.stagedir, "*.json")):
                with open(path) as file:
                    self.result = json.load(file)
        return self.result

    @sanity_function
    def validated(self):
        """PASS or WARN; the message of a failure names the node and why."""
        result = self._result()
        said = f"{result.get('host', 'no result')}: {result.get('verdict', 'MISSING')} {result.get('reason', '')}"
        return sn.assert_true(result.get("verdict") in ("PASS", "WARN"), msg=said)

    @run_before("performance")
    def figures(self):
        """The worst node or pair of each metric, best of its rounds."""
        made = {}
        for name, cells in self._result().get("values", {}).items():
            if name in FIGURES and cells:
                low = name.startswith("latency")
                best = [min(values) if low else max(values) for values in cells.values()]
                worst = max(best) if low else min(best)
                made[name.replace(".", "_")] = sn.make_performance_function(sn.defer(worst), "ns" if low else "GB/s")
        self.perf_variables = made
        if self.baseline:
            with open(self.baseline) as file:
                self.reference = {"*": references(json.load(file)["cells"], made)}

    @performance_function("1")
    def unused(self):
        """ReFrame wants one function in the class; figures() replaces it."""
        return 1
