# SPDX-License-Identifier: Apache-2.0
"""pytest: fixtures and markers for tests of NUMA code, and the driver of ``pytest benchmarks/``.

Nothing heavy is imported before a fixture is used, so that a suite that does not use it pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from numabench._core import Team
    from numabench.machine import Machine
    from numabench.memory import Buffer
    from numabench.record import Record
    from numabench.series import Options

RECORD: pytest.StashKey[Any] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the benchmarks."""
    group = parser.getgroup("numabench")
    group.addoption("--numabench-profile", default="quick", choices=["quick", "standard", "full"], help="how sure")
    group.addoption("--numabench-size", metavar="SIZE", help="bytes of each working set, such as 1GiB")
    group.addoption("--numabench-passes", type=int, metavar="N", help="exactly so many passes")
    group.addoption("--numabench-spec", metavar="SPEC", help="fail the benchmarks when the machine is not as specified")
    group.addoption("--numabench-record", metavar="FILE", help="write the record of the benchmarks there")
    group.addoption("--numabench-report", metavar="FILE.html", help="and a page made of it")


def pytest_configure(config: pytest.Config) -> None:
    """Markers of the plugin; options that make no sense end the run here."""
    if config.getoption("--numabench-size") or config.getoption("--numabench-passes") is not None:
        options_of(config)
    config.addinivalue_line("markers", "needs_nodes(n): skipped on a machine with fewer nodes that have memory")
    spec = config.getoption("--numabench-spec")
    if spec:
        from numabench.errors import UsageError
        from numabench.validation import spec as specs

        try:
            specs.load(spec)
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None
    config.addinivalue_line(
        "markers", "needs_capability(name): skipped where the system refuses: mbind, move_pages, thp, 2M, 1G"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot do, naming what is missing."""
    for mark in item.iter_markers("needs_nodes"):
        from numabench.machine import Machine

        have = len(Machine.load().targets())
        if have < mark.args[0]:
            pytest.skip(f"needs {mark.args[0]} nodes with memory, this machine has {have}")
    for mark in item.iter_markers("needs_capability"):
        reason = _missing(mark.args[0])
        if reason:
            pytest.skip(f"needs {mark.args[0]}: {reason}")


def _missing(name: str) -> str:
    """Why a capability is missing here, found by trying it; empty when it is there."""
    from numabench.errors import NumabenchError
    from numabench.machine import Machine
    from numabench.memory import allocate

    machine = Machine.load()
    pages = name if name in ("thp", "2M", "1G") else "base"
    try:
        with allocate(
            1 << 30 if name == "1G" else 2 << 20, machine.targets()[0], pages=pages, machine=machine
        ) as buffer:
            proof = buffer.proof()
            if name == "mbind" and buffer.how != "bind":
                return "mbind is refused"
            if name == "move_pages" and proof.how != "move_pages":
                return "move_pages is refused"
            return "" if proof.kind_share >= 0.99 else f"the system gave {proof.kind_seen} pages"
    except NumabenchError as error:
        return str(error)


@pytest.fixture(scope="session")
def numa_machine() -> Machine:
    """The machine as numabench sees it."""
    from numabench.machine import Machine

    return Machine.load()


@pytest.fixture
def numa_buffer(numa_machine: Machine) -> Iterator[Callable[..., Buffer]]:
    """Make buffers (arguments of numabench.allocate); each is proven on its node and closed at the end."""
    from numabench.memory import allocate

    made: list[Buffer] = []

    def make(size: int | str, node: int | None = None, **options: Any) -> Buffer:
        buffer = allocate(size, node, machine=numa_machine, **options)
        made.append(buffer)
        wrong = buffer.proof().misplaced(buffer.nodes) if buffer.nodes else 0
        assert wrong == 0, f"{wrong} pages are not on node {node}"
        return buffer

    yield make
    for buffer in made:
        buffer.close()


@pytest.fixture
def pinned_team() -> Iterator[Callable[..., Team]]:
    """Make teams of threads pinned to the given CPUs; ended at the end."""
    from numabench._core import Team

    made: list[Team] = []

    def make(cpus: tuple[int, ...]) -> Team:
        made.append(Team(cpus))
        return made[-1]

    yield make
    for team in made:
        team.close()


def options_of(config: pytest.Config) -> Options:
    """What the command line of pytest asks of the benchmarks. Raises pytest.UsageError."""
    from numabench.errors import UsageError
    from numabench.series import Options
    from numabench.units import parse_bytes

    size, passes = config.getoption("--numabench-size"), config.getoption("--numabench-passes")
    if passes is not None and not 1 <= passes <= 30:
        raise pytest.UsageError(f"--numabench-passes {passes}: 1 to 30 are allowed")
    try:
        return Options(
            profile=config.getoption("--numabench-profile"),
            bytes=parse_bytes(size) if size else None,
            passes=passes,
        )
    except UsageError as error:
        raise pytest.UsageError(f"--numabench-size: {error}") from error


@pytest.fixture(scope="session")
def numabench_record(request: pytest.FixtureRequest, numa_machine: Machine) -> Record:
    """Every case of the experiments asked for, measured once in interleaved passes before the first benchmark."""
    from numabench import session
    from numabench.record import save

    modules = [getattr(item, "module", None) for item in request.session.items]
    names = dict.fromkeys(name for name in (getattr(module, "EXPERIMENT", "") for module in modules) if name)
    found = session.run(tuple(names), options_of(request.config), machine=numa_machine)
    request.config.stash[RECORD] = found
    target = request.config.getoption("--numabench-record")
    if target:
        save(found, target)
    return found


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Put the NUMA facts into pytest-benchmark's machine info."""
    from numabench.machine import Machine

    machine = Machine.load()
    machine_info["numabench"] = {
        "machine": machine.describe(),
        "nodes": len(machine.nodes),
        "initiators": list(machine.initiators()),
        "targets": list(machine.targets()),
    }


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The matrices, the penalty and the evidence below pytest-benchmark's tables."""
    found = config.stash.get(RECORD, None)
    if found is None:
        return
    from rich.console import Console

    from numabench.reports import terminal

    terminalreporter.section("numabench")
    writer = terminalreporter._tw
    console = Console(file=writer._file, width=writer.fullwidth, force_terminal=writer.hasmarkup)
    terminal.show(found, console, config.getoption("--numabench-record") or "")
    page = config.getoption("--numabench-report")
    if page:
        from numabench import record as records
        from numabench.errors import NumabenchError
        from numabench.reports import html

        try:
            records.write(page, html.page([found]).encode())
            terminalreporter.write_line(f"Report: {Path(page).absolute().as_uri()}")
        except NumabenchError as error:
            terminalreporter.write_line(f"No report: {error}", red=True)
