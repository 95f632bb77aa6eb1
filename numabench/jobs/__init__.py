# SPDX-License-Identifier: Apache-2.0
"""Families of jobs. To add one: its file, and its name in FAMILIES or ALONE."""

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
    peak,
    pipes,
    policy,
    shared,
    stream,
    sync,
    wander,
)
from numabench.jobs.base import Alone, Family, family_of
from numabench.series import Case

FAMILIES: dict[str, Family] = {
    "blas1": stream,
    "chase": chase,
    "contend": contend,
    "stream": stream,
    "stride": stream,
    "gemm": gemm,
    "gemv": gemm,
    "curve": curve,
    "fabric": fabric,
    "gather": gather,
    "hop": hop,
    "loaded": loaded,
    "mix": mix,
    "move": move,
    "pagecache": pagecache,
    "peak": peak,
    "policy": policy,
    "shared": shared,
    "sync": sync,
    "wander": wander,
}
ALONE: dict[str, Alone] = {"converge": converge, "instance": instance, "pipes": pipes}


def family(case: Case) -> Family:
    """The family that prepares a case."""
    return FAMILIES[family_of(case)]


def alone(case: Case) -> Alone | None:
    """What takes the samples of a case by itself; None: its family prepares it."""
    return ALONE.get(family_of(case))
