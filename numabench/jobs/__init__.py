# SPDX-License-Identifier: Apache-2.0
"""Families of jobs. To add one: its file, and its name in FAMILIES."""

from __future__ import annotations

from numabench.jobs import (
    chase,
    contend,
    converge,
    curve,
    fabric,
    gather,
    gemm,
    hop,
    instance,
    loaded,
    mix,
    move,
    pagecache,
    pipes,
    policy,
    shared,
    stream,
    sync,
    wander,
)
from numabench.jobs.base import Family, family_of
from numabench.series import Case

FAMILIES: dict[str, Family] = {
    "blas1": stream,
    "chase": chase,
    "contend": contend,
    "converge": converge,
    "stream": stream,
    "stride": stream,
    "gemm": gemm,
    "curve": curve,
    "fabric": fabric,
    "gather": gather,
    "hop": hop,
    "loaded": loaded,
    "mix": mix,
    "move": move,
    "pagecache": pagecache,
    "pipes": pipes,
    "policy": policy,
    "shared": shared,
    "sync": sync,
    "wander": wander,
    "instance": instance,
}


def family(case: Case) -> Family:
    """The family that prepares a case."""
    return FAMILIES[family_of(case)]
