# SPDX-License-Identifier: Apache-2.0
"""The experiments. To add one: its file, and its name in ALL."""

from __future__ import annotations

from numabench.errors import UsageError
from numabench.experiments.bandwidth import Bandwidth
from numabench.experiments.base import Experiment
from numabench.experiments.c2c import CoreToCore
from numabench.experiments.divide import Divide
from numabench.experiments.fabric import Fabric
from numabench.experiments.frontend import Frontend
from numabench.experiments.gemm import Gemm
from numabench.experiments.hierarchy import Hierarchy
from numabench.experiments.latency import Latency
from numabench.experiments.load import Load
from numabench.experiments.loaded import Loaded
from numabench.experiments.migration import Migration
from numabench.experiments.mixes import Mixes
from numabench.experiments.mlp import Mlp
from numabench.experiments.neighbour import Neighbour
from numabench.experiments.pagecache import PageCache
from numabench.experiments.pages import Pages
from numabench.experiments.policy import Policy
from numabench.experiments.prefetch import Prefetch
from numabench.experiments.roofline import Roofline
from numabench.experiments.scaling import Scaling
from numabench.experiments.smt import Smt
from numabench.experiments.story import Story
from numabench.experiments.stride import Stride
from numabench.experiments.sync import Sync
from numabench.kernels import nearest

ALL: tuple[Experiment, ...] = (
    Latency(),
    Bandwidth(),
    Stride(),
    Gemm(),
    Roofline(),
    Scaling(),
    Hierarchy(),
    Mlp(),
    Mixes(),
    Pages(),
    Smt(),
    Loaded(),
    Divide(),
    Load(),
    Neighbour(),
    Frontend(),
    Story(),
    Fabric(),
    Policy(),
    CoreToCore(),
    Sync(),
    Migration(),
    PageCache(),
    Prefetch(),
)


def find(name: str) -> Experiment:
    """The experiment of that name. Raises UsageError with the nearest names."""
    for experiment in ALL:
        if experiment.name == name:
            return experiment
    raise UsageError(f"experiment {name!r}: {nearest(name, [e.name for e in ALL])}")
