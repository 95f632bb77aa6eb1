# SPDX-License-Identifier: Apache-2.0
"""Comparisons and trials in words: for a terminal, and as markdown for a pull request. Pure text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from numabench.analysis.bounds import FLOPS, FLOPS_OF, traffic
from numabench.analysis.compare import ALPHA, POWER, Change
from numabench.analysis.diagnosis import Counter, Facts, Gain, Thread, busy, remote_share
from numabench.changes import CellChange, Comparison
from numabench.diagnose import Diagnosis, Tried
from numabench.trial import Trial
from numabench.units import format_bytes, format_count, format_numbers, format_value, plural

_SCALED = {"slower": "slower, so its threads help", "undecided": "the runs differ too much; more --blocks"}
MOST_THREADS, MOST_CPUS, LEAST_SHARE = 4, 4, 0.005
LONGEST_SIDE = 70  # letters of a side of a difference
ALL_OF_IT = 0.99  # a counter that ran for so much of the time needed no scaling
ORDER = ("worse", "better", "small change", "no detectable change", "equivalent", "not comparable")


def ratio(change: Change) -> str:
    """``1.034x [1.021, 1.048]``."""
    ci = f" [{change.ci[0]:.3f}, {change.ci[1]:.3f}]" if change.ci else ""
    return f"{change.ratio:.3f}x{ci}"


def verdict(change: Change) -> str:
    """The verdict, with what could have been seen where nothing was, and the reasons where there is none."""
    if change.verdict == "no detectable change" and change.mde is not None:
        return f"no detectable change (MDE {change.mde:.1%})"
    if change.verdict == "not comparable":
        return f"not comparable: {'; '.join(change.reasons)}"
    return change.verdict


def _rows(found: Comparison) -> list[tuple[str, ...]]:
    def row(cell: CellChange) -> tuple[str, ...]:
        values = [format_value(v) if v is not None else "-" for v in (cell.base, cell.new)]
        change = cell.change
        figure, mde = (ratio(change), f"{change.mde:.1%}") if change.mde is not None else ("-", "-")
        return (cell.experiment, cell.label, *values, cell.unit, figure, mde, verdict(change))

    cells = sorted(found.cells, key=lambda cell: ORDER.index(cell.change.verdict))
    if found.differences:
        return []  # said once, not for every cell
    return [row(cell) for cell in cells]


HEADS = ("experiment", "case", "base", "new", "unit", "ratio [95 %]", "MDE", "verdict")


def comparison(found: Comparison, markdown: bool = False) -> list[str]:
    """The table, what it means, how sure."""
    lines = [f"**{headline(found)}**" if markdown else headline(found), ""]
    rows = _rows(found)
    if rows and markdown:
        lines += [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
        lines += [f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows]
    elif rows:
        widths = [max(len(row[i]) for row in (HEADS, *rows)) for i in range(len(HEADS) - 1)]
        lines += [
            "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]) for row in (HEADS, *rows)
        ]
    bullet = "- " if markdown else "  "
    lines += [""] * bool(rows) + [bullet + line for line in _meaning(found)]
    return lines


def headline(found: Comparison) -> str:
    """One line: how many cells got which verdict."""
    if len(found.differences) == 1:
        return f"Not comparable: {_cut(found.differences[0])}"
    if found.differences:
        return f"Not comparable: {', '.join(line.split(':')[0] for line in found.differences)} differ"
    if not found.cells:
        return "Not comparable: the records have no case in common"
    said = [f"{found.count(name)} {name}" for name in ORDER if found.count(name)]  # type: ignore[arg-type]
    return f"{plural(len(found.cells), 'cell')}: " + ", ".join(said)


def _cut(difference: str) -> str:
    """Both sides of a difference, without the end of long ones; the JSON document has all of it."""
    sides = difference.split(" -> ")
    return " -> ".join(side if len(side) <= LONGEST_SIDE else side[: LONGEST_SIDE - 3] + "..." for side in sides)


def _meaning(found: Comparison) -> list[str]:
    said = []
    if found.differences:
        said += [_cut(line) for line in found.differences] if len(found.differences) > 1 else []
        names = " ".join(f"--allow {line.split(':')[0]}" for line in found.differences)
        said.append(f"If this difference is what you want to judge: {names}")
    if found.judged:
        said.append(
            f"better and worse hold for all cells together (false in {ALPHA:.0%} of comparisons at most, "
            f"Benjamini-Hochberg) and exceed {found.threshold:.1%}; intervals are of one cell each"
        )
        said.append(
            f"a change of a cell's MDE is found in {POWER:.0%} of comparisons (at the usual 80 % it were smaller)"
        )
    said += [f"deliberately different: {line}" for line in found.accepted]
    said += list(found.notes) if found.judged else []
    for name, only in (("base", found.only_base), ("new", found.only_new)):
        if only:
            more = f" and {len(only) - 3} more" if len(only) > 3 else ""
            said.append(f"only in {name}, not compared: {', '.join(only[:3])}{more}")
    return said


def _amount(value: float, unit: str) -> str:
    return format_bytes(value) if unit == "B" else f"{format_value(value)} {unit}".rstrip()


def trial(found: Trial, markdown: bool = False) -> list[str]:
    """Figures of both commands, what they mean, how sure."""
    from statistics import median

    metric, change = found.metric, found.change
    blocks = found.blocks or found.same
    lines = []
    for name, command in found.commands.items():
        values = [block.runs[name].value for block in blocks if name in block.runs]
        figure = _amount(median(values), metric.unit) if values else "not run"
        lines.append(f"{name}  {figure:>12}  {' '.join(command)}")
    if markdown:
        lines = ["```", *lines, "```"]
    said = []
    spread = found.spread
    if spread.ci:
        said.append(
            f"A against itself: {spread.ratio:.3f}x [{spread.ci[0]:.3f}, {spread.ci[1]:.3f}] over "
            f"{len(found.same)} blocks; noise +-{spread.half_width:.1%}"
        )
    if change is not None and change.mde is not None:
        said.append(
            f"B over A, {metric.name} ({metric.better} is better): {ratio(change)} over {change.n} blocks, "
            f"Wilcoxon p {change.wilcoxon_p:.3f}"
        )
        said.append(f"a change of {change.mde:.1%} is found in {POWER:.0%} of trials like this one (MDE)")
    title = "No verdict: " + "; ".join(found.reasons)
    if not found.reasons:
        title = f"Verdict: {verdict(change)}" if change else "A against itself: as it should be"
    lines += ["", f"**{title}**" if markdown else title, ""]
    lines += [("- " if markdown else "  ") + line for line in said]
    lines += [f"{'- ' if markdown else '  '}disturbed: {line}" for line in found.disturbed]
    return lines


def diagnosis(found: Diagnosis) -> list[str]:
    """What was seen, what it means, what trying showed, and what could not be seen."""
    facts = found.facts
    threads = busy(facts)
    ran = sum(facts.run_by_node.values()) or 1.0
    name = " ".join(found.target.split())
    name = name if len(name) <= 60 else name[:57] + "..."
    lines = [
        f"{name}: {len(threads)} busy of {plural(len(facts.threads), 'thread')}, watched for {facts.seconds:.1f} s",
        "",
    ]
    nodes = sorted({*facts.run_by_node, *facts.anonymous, *(n for pages in facts.files.values() for n in pages)})
    lines.append("          CPU time   own memory   mapped files")
    told = bool(facts.anonymous or facts.files)  # no process is without pages
    for node in nodes:
        sizes = facts.anonymous.get(node, 0), sum(pages.get(node, 0) for pages in facts.files.values())
        cells = [format_bytes(size) if told else "-" for size in sizes]
        lines.append(f"node {node:<4} {facts.run_by_node.get(node, 0.0) / ran:>8.0%}   {cells[0]:>10}   {cells[1]:>12}")
    lines += touches(facts)
    cpus = tuple(sorted({cpu for thread in threads for cpu in thread.cpus}))
    moves = sum(thread.migrations or 0 for thread in threads)
    used = f"CPUs used {format_numbers(cpus) or 'none'} of {format_numbers(facts.allowed)}"
    faults = f"{plural(facts.faults, 'page fault')} ({facts.major_faults} from disk)"
    lines += ["", f"{used}, {plural(moves, 'change')} of CPU, {faults}"]
    lines += [_thread(thread) for thread in sorted(threads, key=lambda t: -t.run_s)[:MOST_THREADS]] * (len(threads) > 1)
    lines += counted(facts.counters)
    lines += pressure(facts)
    lines += _balancing(facts.balancing)
    standing = found.standing()
    lines += ["", "What it means" if found.findings else "Healthy: nothing in its way that can be seen here"]
    for finding in found.findings:
        tried = next((t for t in found.tried if t.cause == finding.cause), None)
        word = finding.cause if finding in standing else f"{finding.cause} (withdrawn)"
        doubt = "" if finding.trusted else " (seen while the CPUs were contended: look again)"
        lines.append(f"  {word}: {finding.evidence}{doubt}")
        if finding.gain:
            lines += [f"    {line}" for line in _gain(finding.gain)]
        if tried:
            lines += [f"    {line}" for line in _tried(tried, finding.gain)]
        if finding in standing:
            lines.append(f"    change: {finding.change}")
    if found.findings and found.healthy:
        lines.append("Healthy: no cause survived being tried")
    lines += _bounds(found)
    lines += ["", "Not seen", *(f"  {line}" for line in facts.unseen)]
    return lines


def counted(counters: Sequence[Counter]) -> list[str]:
    """What was counted, and the ratios that people look at."""
    seen = {c.name: c.value for c in counters if c.value is not None}
    flops = sum(value * _lanes(name) for name, value in seen.items())
    shown = {name: value for name, value in seen.items() if name != "task-clock" and not _lanes(name)}
    shown |= {"flops": flops} if flops else {}
    said = [f"{name} {format_count(value)}" for name, value in shown.items() if value]
    said[:0] = [f"task-clock {seen['task-clock'] * 1e-9:.2f} s"] if "task-clock" in seen else []
    rates = []
    if seen.get("instructions") and seen.get("cycles"):
        rates.append(f"{seen['instructions'] / seen['cycles']:.2f} instructions a cycle")
    for name in ("LLC-load-misses", "dTLB-load-misses"):
        if seen.get("instructions") and name in seen:
            rates.append(f"{1000 * seen[name] / seen['instructions']:.2f} {name} a thousand instructions")
    far = remote_share(counters)
    if far is not None:
        rates.append(f"{far:.0%} of its loads from memory went to another node")
    shared = [f"{c.name} {c.counted:.0%}" for c in counters if c.value is not None and c.counted < ALL_OF_IT]
    lines = [f"counted: {', '.join(said)}"] if said else []
    lines += [f"  {', '.join(rates)}"] if rates else []
    return lines + ([f"  scaled, since counted for a part of the time only: {', '.join(shared)}"] if shared else [])


def touches(facts: Facts) -> list[str]:
    """Who touches whom, as far as it can be known without counts: by where time was spent and where pages are."""
    shares = {pair: share for pair, share in traffic(facts).items() if share >= LEAST_SHARE}
    if len({node for pair in shares for node in pair}) < 2:
        return []
    said = ", ".join(f"CPUs of {i} touch node {j} {share:.0%}" for (i, j), share in sorted(shares.items()))
    return ["", f"who touches whom, if every CPU second touches every page alike: {said}"]


def _thread(thread: Thread) -> str:
    looks = sum(thread.cpus.values()) or 1
    most = sorted(thread.cpus.items(), key=lambda item: -item[1])
    where = ", ".join(f"{cpu} {count / looks:.0%}" for cpu, count in most[:MOST_CPUS]) + " ..." * (
        len(most) > MOST_CPUS
    )
    waited = "" if thread.wait_s is None else f", waited {thread.wait_s:.2f} s"
    asleep = f", asleep for others {thread.blocked:.0%}" if thread.blocked else ""
    return f"  thread {thread.tid} {thread.name}: ran {thread.run_s:.2f} s{waited}{asleep}, on CPU {where or 'unknown'}"


def _balancing(rise: Mapping[str, int]) -> list[str]:
    """What automatic NUMA balancing did, and how local the accesses were that it sampled."""
    if not rise:
        return []
    all_of, near = rise.get("numa_hint_faults", 0), rise.get("numa_hint_faults_local", 0)
    local = f"; {near / all_of:.0%} of the accesses it sampled were local" if all_of else ""
    return ["NUMA balancing, whole system: " + ", ".join(f"{name} {count}" for name, count in rise.items()) + local]


def _lanes(name: str) -> int:
    """Flops that a count of an event stands for; 0 for an event of something else."""
    return FLOPS_OF[name][1] if name in FLOPS_OF else int(name == FLOPS)


def pressure(facts: Facts) -> list[str]:
    """PSI over the time watched."""
    shares = {"CPU": facts.cpu_pressure_share, "memory": facts.memory_pressure_share}
    told = [f"{name} {share:.0%}" for name, share in shares.items() if share is not None]
    return [f"pressure (PSI), whole system: some task waited for {', '.join(told)} of the time"] if told else []


def _bounds(found: Diagnosis) -> list[str]:
    """What it runs against, apart from faults; the figures where there is no bound; the try with half its threads."""
    if not found.healthy:
        return []  # what is in its way comes first
    lines = ["", "What bounds it"] if found.bounds or found.figures or found.halved else []
    for bound in found.bounds:
        gain = f"; at most {bound.gain:.2f}x to gain" if bound.gain else ""
        lines.append(
            f"  {bound.cause}{' (proven)' * (bound.proven and bound.cause != 'unexplained')}: {bound.evidence}{gain}"
        )
        lines.append(f"    change: {bound.change}")
    said = " ".join(bound.evidence for bound in found.bounds)
    for figure in found.figures:
        new = [part for part in figure.split("; ") if part not in said]
        lines += [f"  {'; '.join(new)}"] if new else []
    if found.halved and found.halved.outcome == "not tried":
        lines.append(f"  half of its threads not tried: {found.halved.reason}")
    elif found.halved and found.halved.outcome in ("slower", "undecided"):
        lines.append(f"  half of its threads: {_SCALED[found.halved.outcome]}")
    return lines


def _gain(gain: Gain) -> list[str]:
    """The prediction, and what it takes for granted."""
    return [
        f"expected from the record: these accesses take {gain.penalty:.2f}x the time of near ones, so it gains",
        f"  1.00x to {gain.at_most:.2f}x placed right from its start, "
        f"1.00x to {gain.at_most_after:.2f}x from when they are all there",
        f"  (1.00x if it never waits for memory; the most if all its user time, {gain.share:.0%} of all, "
        f"{gain.share_after:.0%} since then,",
        "  waits for these pages; caches, and threads that wait for each other, are not seen)",
    ]


def _tried(tried: Tried, gain: Gain | None) -> list[str]:
    if tried.outcome == "not tried":
        return [f"not tried: {tried.reason}"]
    ci = f" [{tried.ci[0]:.3f}, {tried.ci[1]:.3f}]" if tried.ci else ""
    said = f"{tried.outcome}: {tried.what} it takes {tried.ratio:.3f}x{ci} the time"
    mde = f" ({tried.mde:.1%} would show)" if tried.mde is not None and tried.outcome != "proven" else ""
    lines = [said + mde]
    if tried.predicted and gain and tried.ratio and tried.outcome == "proven":
        waited = gain.waited(tried.ratio)
        lines.append(
            f"measured gain {1 / tried.ratio:.2f}x, {tried.predicted:.2f}x at most were expected: "
            f"it waited {waited:.0%} of its time for these pages"
        )
    return lines
