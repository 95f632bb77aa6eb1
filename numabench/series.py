# SPDX-License-Identifier: Apache-2.0
"""What is measured and what came out: cases, samples with their evidence, series, tables. Plain frozen data."""

from __future__ import annotations

from typing import Literal

import msgspec

Trust = Literal["proven", "inferred", "untrusted", "unavailable"]
OddVerdict = Literal[
    "noise",  # measured again, it fits its class
    "allocation_dependent",  # some of its passes fit, others do not
    "link_direction",  # one ordered pair, latency and bandwidth both
    "node",  # a whole row or column: memory channel or controller suspected
    "mode_asymmetry",  # the same in every package: sub-NUMA clusters, cluster-on-die, home node
    "persistent_unexplained",
    "unconfirmed",  # not measured again
]

# A fatal flag keeps the value but takes it out of verdicts and ratios; a warning stands beside it.
FATAL = {
    "misplaced": "pages were not on the node asked for",
    "not_resident": "pages were absent, or the shared zero page",
    "unpinned": "a thread was not on the CPU asked for",
    "short_cycle": "the pointers are not one cycle over the buffer",
    "bad_result": "the result differs from the reference",
    "throttled": "the cgroup's CPU quota stopped the threads during the measurement",
    "migrated": "pages moved during the measurement",
    "stolen": "the hypervisor took more than 1 % of the CPU time",
    "clock_jumped": "the clock ran away from the system's by more than 1 %",
    "impossible_rate": "more was counted than a core can do: the loop did not run",
    "wrong_tier": "another instruction set ran than the one asked for",
    "generator_late": "requests were not sent in time: the latencies are not those of the load asked for",
}
WARNING = {
    "unverified_placement": "the system does not tell where the pages are",
    "migration_suspected": "the system moved pages meanwhile, perhaps these",
    "page_kind_mixed": "less than 99 % of the pages are of the kind asked for",
    "not_steady": "the figures had not settled when they were taken",
    "ci_wide": "the interval is wider than this profile asks for",
    "cut_short": "in the midst of the run it could not be measured any more",
    "odd_cell": "differs from the pairs of nodes that should be like it",
    "drift": "figures rise or fall over the run",
    "not_plateau": "a smaller buffer is faster: caches still hold part of this one",
    "chain_learned": "later rounds of the ring are faster than the first: something foresees it",
    "prefetch_suspect": "other distances between the loads are faster: something fetches ahead",
    "freq_moved": "the core's frequency changed by more than 2 %",
    "allocation_dependent": "fresh allocations differ more than samples do",
    "cache_suspect": "the buffer is smaller than four times the last-level cache",
    "contended": "other work wanted these CPUs or this memory",
    "balancing_on": "automatic NUMA balancing may move pages without a binding",
    "topology_unproven": "the virtual machine shows one thread per core, true or not",
    "sibling_busy": "other threads, shown by this system or not, worked on these cores",
    "cpus_moved": "the hypervisor moved these CPUs among cores nearer to or farther from each other",
    "timer_coarse": "the clock takes over 5 % of a window, its steps a thousandth, or a tenth is CPUs' clocks apart",
    "skewed": "threads started more than 2 % of the window apart",
    "oversubscribed": "more threads than CPUs",
}
FLAGS = FATAL | WARNING
HINDERED = frozenset({"contended", "stolen", "throttled"})  # by others, for a while


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One point of a plan: a kernel, the CPUs that run it, the nodes that hold its buffers.

    ``bytes`` is the size of all buffers together on ``target``; ``params`` holds what only this family needs (stride,
    window, chains; m, n, k; placement of single arrays). ``unavailable`` says why a case cannot run here.
    """

    experiment: str
    kernel: str
    unit: str
    better: Literal["low", "high"]
    initiator: int | None = None
    target: int | None = None
    cpus: tuple[int, ...] = ()
    touch_cpus: tuple[int, ...] = ()
    pages: str = "thp"
    tier: str = ""
    bytes: int = 0
    params: dict[str, int | float | str] = {}
    share: str = ""  # cases of one experiment with the same word are one curve: one allocation per pass serves them
    cache_suspect: bool = False  # the buffer is too small to keep caches out of it
    unavailable: str = ""
    job: str = ""  # the family that prepares it (numabench.jobs); empty: its kernel's
    targets: tuple[int, ...] = ()  # node of each thread's buffer, or the nodes a policy names, where one does not do

    @property
    def label(self) -> str:
        """Short unique name within its experiment, such as ``chase-n0-n1-t1-thp``."""
        parts = [self.kernel]
        if self.initiator is not None:
            parts.append(f"n{self.initiator}")
        if self.target is not None:
            parts.append(f"n{self.target}")
        parts += [f"t{len(self.cpus)}", self.pages]
        if self.tier:
            parts.append(self.tier)
        return "-".join(parts + [f"{key}={value}" for key, value in self.params.items()])


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for. Empty tuples and None mean the experiment's own choice."""

    profile: Literal["quick", "standard", "full"] = "standard"
    budget_s: float | None = None
    nodes: tuple[int, ...] = ()
    cpus: tuple[int, ...] = ()
    bytes: int | None = None
    pages: Literal["base", "thp", "2M", "1G"] | None = None
    tier: str = "best"
    kernels: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    ratios: tuple[tuple[int, int], ...] = ()  # reads to writes, for mixes
    passes: int | None = None
    p99_s: float | None = None  # what p99 may be, for divide and load
    precision: float | None = None  # half-width of the interval at which a case is done, as a share; else the profile's
    seed: int = 0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands, told after every sample."""

    done: int
    total: int
    label: str  # of the case just measured
    elapsed_s: float
    left_s: float
    taken: tuple[tuple[Case, float], ...] = ()  # figures that are new since the last time


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen while a sample was taken. Pages are of ``page_step_bytes``; CPUs are system numbers."""

    placement_requested: dict[int, float] = {}  # node: share of the pages
    placement_seen: dict[int, int] = {}  # node: pages
    placement_how: str = ""  # bind, first_touch
    proof: str = ""  # move_pages, numa_maps, get_mempolicy, none
    placement_timed: int | None = None  # without proof: the node that reads the buffer fastest, if one stands out
    pages_checked: int = 0
    pages_misplaced: int = 0
    pages_absent: int = 0
    page_step_bytes: int = 0
    page_kind_asked: str = ""
    page_kind_seen: str = ""
    page_kind_share: float = 0.0
    page_tables: str = ""  # initiator, target
    migrated: int = 0
    cpus_asked: tuple[int, ...] = ()
    cpus_seen: tuple[int, ...] = ()
    tier: str = ""  # as which what ran was compiled, by its own word; empty: only the system ran
    variant: str = ""  # which of the tier's ways the CPU took, where there are several
    clock: str = ""
    clock_share: float = 0.0  # of the windows that reading the clock takes
    # Of the windows, what calls of the kernel cost besides its elements, by its twin in the first cache; None: no twin
    call_share: float | None = None
    core_hz_seen: tuple[float, float] = (0.0, 0.0)  # lowest and highest over the windows
    core_width: tuple[float, float] = (0.0, 0.0)  # least and most instructions a cycle around the windows
    # Of those probes, in which a core gave so much less than it can that a second thread worked there; None: untold
    shared_share: float | None = None
    switches: int = 0  # involuntary context switches within the windows
    faults: int = 0
    voluntary_switches: int = 0
    cpu_moves: int | None = None  # to another CPU meanwhile, se.nr_migrations of the threads; None: not told
    steal_share: float | None = None  # None, here and below: this system does not tell
    throttled_us: int | None = None
    throttled_count: int | None = None
    cpu_pressure_us: int | None = None
    own_wait_us: int | None = None  # of that, what threads of the run itself waited after they were woken
    memory_pressure_us: int | None = None
    sibling_share: float | None = None  # of the busiest sibling's time that others used; None also without siblings
    nodes_allowed: tuple[str, str] | None = None  # before and after, when the cpuset's nodes changed meanwhile
    vmstat: dict[str, int] = {}  # counters of migration, collapse and demotion that rose: system-wide, hints only
    clock_off: float = 0.0  # drift of the clock against CLOCK_MONOTONIC_RAW over the windows, as a share
    skew_ns: float = 0.0
    # One way between the first and the last CPU, before and after the windows: CPUs of a virtual machine may move.
    hand_over_ns: tuple[float, float] | None = None
    awake: tuple[int, ...] = ()  # CPUs of the target that were kept from sleeping
    ring_nodes: int = 0
    # How much the figure depends on what must not matter, 1.0: not at all. ``half``: over that of half the buffer;
    # ``apart``: with loads twice as far apart, over that at their distance; ``laps``: first round over later ones;
    # ``asleep``: with all cores of the target idle, over one of them awake.
    twins: dict[str, float] = {}
    prefetch: str = ""  # sequential: fetching ahead belongs to it; insensitive, sensitive: by the twin; empty: untold
    checksum: str = ""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One pass over a case: a fresh allocation, several timed windows, and the evidence."""

    number: int  # of the pass, from 0
    position: int  # of this visit in the whole run, from 0
    value: float  # the pass's figure, in the case's unit
    windows: tuple[float, ...]
    evidence: Evidence
    flags: tuple[str, ...] = ()
    extras: dict[str, float] = {}  # further figures of the pass, such as typical_ns, start of a thread's rate
    tail: tuple[float, ...] = ()  # the longest of the pass's requests or steps, ns, longest first
    tail_of: int = 0  # how many there were
    again: bool = False  # taken because the case did not fit its class, or beside one that did not


class Odd(msgspec.Struct, frozen=True, kw_only=True):
    """How a cell of a matrix does not fit the ``alike`` cells of its class, itself included."""

    verdict: OddVerdict
    deviation: float  # as a share, positive is worse
    reference: float  # what its class shows, in the case's unit
    alike: int
    confidence: float  # that the scatter of the passes alone does not make it
    what: str = ""  # what it has in common with other odd cells, such as ``memory of node 2`` or ``link 1->3``


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """All samples of one case and what follows from them. ``ci`` is the 95 % interval of the median over passes.

    ``correlation`` is that of passes next to each other in time, which the interval allows for.
    """

    case: Case
    samples: tuple[Sample, ...] = ()
    estimate: float | None = None
    ci: tuple[float, float] | None = None
    correlation: float = 0.0
    spread_between: float = 0.0  # coefficient of variation over passes
    spread_within: float = 0.0  # and of the windows of one pass, median over passes
    outliers: int = 0  # passes with a modified z beyond 3.5; they count like all others
    flags: tuple[str, ...] = ()
    trust: Trust = "unavailable"
    unavailable: str = ""
    odd: Odd | None = None
    ended: str = ""  # why no more passes could be taken, where some had been

    @property
    def usable(self) -> bool:
        """Whether verdicts may rest on it: measured, and no fatal flag."""
        return self.estimate is not None and self.trust != "untrusted"


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of a table, or the reason why there is none."""

    value: float | None = None
    ci: tuple[float, float] | None = None
    ratio: float | None = None  # to the table's base, such as remote over local
    ratio_ci: tuple[float, float] | None = None
    flags: tuple[str, ...] = ()
    unavailable: str = ""
    text: str = ""  # instead of a figure


class Axis(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers that the columns (or rows) of a table stand for, so that it can be drawn as curves."""

    title: str  # with its unit, such as "threads"
    values: tuple[float, ...]
    along: Literal["columns", "rows"] = "columns"
    log: bool = True


class Marks(msgspec.Struct, frozen=True, kw_only=True):
    """What is drawn into one curve besides its points: where it bends, and the models that fit it, as (x, y)."""

    curve: str
    knee: float
    knee_ci: tuple[float, float] | None = None
    fits: dict[str, tuple[tuple[float, float], ...]] = {}


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A result as people read it. A ``matrix`` has initiators as rows and targets as columns and is shaded.

    With an ``axis`` the other direction is a set of curves over it.
    """

    experiment: str
    title: str
    unit: str
    better: Literal["low", "high"]
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    matrix: bool = False
    axis: Axis | None = None
    meaning: tuple[str, ...] = ()  # conclusions in words, each with its interval
    marks: tuple[Marks, ...] = ()
