# SPDX-License-Identifier: Apache-2.0
"""Boot a described machine, run one command in it, take its output and exit status."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import image
from .errors import BootError, LabError, Stuck, TimeLimit, find_tools
from .machines import Machine, Penalties

PROJECT = Path(__file__).resolve().parents[2]
# Where the guest sees the folder with its script and its output (see image.INIT).
CONTROL = "/run/numabench-lab"
SHARE = "trans=virtio,version=9p2000.L,msize=1048576,cache=none"
POLL_S = 0.05
TAIL_CHARS = 4096  # of the console that are looked through
LINE_BYTES = 64
# A link may catch up on so much lost time: the host may keep the virtual CPUs that use it from running.
BURST_S = 1e-3
# Now and then QEMU loses the timer of a virtual CPU, and all others wait for it for good. A host that was only paused
# goes on, so a short standstill is none.
STUCK = re.compile(r"soft lockup - CPU#(\d+) stuck for (\d+)s")
STUCK_S = 120
NICE = -10
PLUGIN_QEMU = {(7, 2)}


@dataclass(frozen=True)
class Result:
    """What a command did in a machine: exit status, output, the kernel's messages, seconds of it all."""

    status: int
    stdout: str
    stderr: str
    console: str
    seconds: float


def boot(
    machine: Machine,
    command: Sequence[str],
    *,
    timeout: float = 120.0,
    stream: Callable[[str], None] | None = None,
    scratch: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Result:
    """Run `command` in `machine`, in the project's folder, and return when the machine has powered off.

    The command sees the host's files as they are, may change them only for itself, and has `scratch` (on the
    same path, also in $LAB_SCRATCH) to leave files in. `stream` is given output as it comes, both streams.
    `environment` is added to the guest's. `timeout` is in seconds, the boot included.

    A machine that stands still says nothing of the command: it is booted once more, by the same limit.

    Raises BootError when no exit status came back, TimeLimit when the machine had to be killed, Stuck when it was
    because it stood still both times, MissingTool, LabError. A status other than 0 is no error.
    """
    if not command:
        raise LabError("no command to run")
    try:
        return _boot(machine, command, timeout, stream, scratch, environment)
    except Stuck as error:
        print(error, file=sys.stderr)
        return _boot(machine, command, timeout, stream, scratch, environment)


def _boot(
    machine: Machine,
    command: Sequence[str],
    timeout: float,
    stream: Callable[[str], None] | None,
    scratch: Path | None,
    environment: Mapping[str, str] | None,
) -> Result:
    with tempfile.TemporaryDirectory(prefix="numabench-lab-") as temporary:
        control = Path(temporary)
        shared = (scratch or control / "scratch").resolve()
        shared.mkdir(exist_ok=True)
        (control / "run.sh").write_text(_script(machine, command, shared, environment or {}))
        for name in ("stdout", "stderr", "console"):
            (control / name).touch()
        argv = qemu_argv(machine, control, shared, ["-serial", f"file:{control / 'console'}"])
        start = time.monotonic()
        ended = _supervise(argv, control, start + timeout, stream, first=machine.penalties is not None)
        seconds = time.monotonic() - start
        console, out, err = ((control / name).read_text(errors="replace") for name in ("console", "stdout", "stderr"))
        stuck = _stuck(console)
        if stuck and not (control / "status").exists():
            raise Stuck(f"{machine.name}: {stuck}", console, out, err)
        if not ended:
            raise TimeLimit(f"{machine.name}: killed after {timeout:g} s", console, out, err)
        try:
            return Result(int((control / "status").read_text()), out, err, console, seconds)
        except (OSError, ValueError):
            failure = control / "failure"
            reason = failure.read_text().strip() if failure.exists() else "no exit status came back"
            complaint = (control / "qemu").read_text(errors="replace").strip()
            message = ": ".join(filter(None, [machine.name, reason, complaint]))
            raise BootError(message, console, out, err) from None


def interact(machine: Machine) -> None:
    """Give the terminal to a shell in `machine` until it ends."""
    with tempfile.TemporaryDirectory(prefix="numabench-lab-") as temporary:
        control = Path(temporary)
        shared = control / "scratch"
        shared.mkdir()
        terminal = {"TERM": os.environ.get("TERM", "dumb")}
        (control / "run.sh").write_text(_script(machine, None, shared, terminal))
        serial = ["-serial", f"file:{control / 'console'}", "-chardev", "stdio,id=tty,signal=off"]
        argv = qemu_argv(machine, control, shared, [*serial, "-serial", "chardev:tty"])
        subprocess.run(argv, check=False)
        if not (control / "status").exists():
            raise BootError(f"{machine.name}: the shell did not start", (control / "console").read_text())


def _script(machine: Machine, command: Sequence[str] | None, scratch: Path, extra: Mapping[str, str]) -> str:
    """What the guest runs once the host's tree is its root. `command` None is an interactive shell."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(Path.home()),
        "LANG": "C.UTF-8",
        "PYTHON": sys.executable,
        "LAB_MACHINE": machine.name,
        "LAB_SCRATCH": str(scratch),
        **extra,
    }
    if sys.prefix != sys.base_prefix:
        environment["VIRTUAL_ENV"] = sys.prefix
    steps = [
        f"mkdir -p {shlex.quote(str(scratch))}",
        f"mount -t 9p -o {SHARE} scratch {shlex.quote(str(scratch))}",
        f"cd {shlex.quote(str(PROJECT))}",
        *machine.setup,
    ]
    lines = ["#!/bin/sh", 'export PATH="$PATH:/usr/sbin:/usr/bin:/sbin:/bin"']
    for step in steps:
        lines.append(f"{{ {step}; }} || {{ echo {shlex.quote('failed: ' + step)} > {CONTROL}/failure; exit 1; }}")
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    if command is None:
        lines += [f"setsid -c env -i {variables} bash -i < /dev/ttyS1 > /dev/ttyS1 2>&1"]
    else:
        run = f"env -i {variables} {shlex.join(command)}"
        lines += [f"{run} < /dev/null >> {CONTROL}/stdout 2>> {CONTROL}/stderr"]
    return "\n".join([*lines, f"echo $? > {CONTROL}/status", ""])


def qemu_argv(machine: Machine, control: Path, scratch: Path, serial: Sequence[str]) -> list[str]:
    """QEMU's command line for a machine."""
    tools = find_tools("qemu-system-x86_64", "setpriv")
    files = image.image()
    khz = image.tsc_hz() // 1000
    kernel = [
        "console=ttyS0 quiet panic=-1 mitigations=off nokaslr audit=0 cpu_init_udelay=0 random.trust_cpu=on",
        # The guest's time stamp counter is the host's, but nothing tells the guest how fast and how steady it
        # is, and to find out by an emulated timer goes wrong on a busy host.
        f"tsc=reliable tsc_early_khz={khz}",
        *machine.kernel,
    ]
    # QEMU dies with this process, however that ends.
    argv = [tools["setpriv"], "--pdeathsig", "KILL", tools["qemu-system-x86_64"]]
    argv += ["-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", machine.cpu]
    cores = machine.cpus // machine.packages
    argv += ["-smp", f"{machine.cpus},sockets={machine.packages},cores={cores},threads=1"]
    argv += ["-m", f"{machine.memory_mib}M"]
    argv += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", *serial]
    argv += ["-kernel", str(files.kernel), "-initrd", str(files.initramfs), "-append", " ".join(kernel)]
    for tag, path, options in (
        ("host", "/", "readonly=on,multidevs=remap"),
        ("control", str(control), "multidevs=remap"),
        ("scratch", str(scratch), "multidevs=remap"),
    ):
        argv += ["-fsdev", f"local,id={tag},path={path},security_model=none,{options}"]
        argv += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    for number, node in enumerate(machine.nodes):
        fields = [f"node,nodeid={number}"]
        cpus = machine.cpus_of(number)
        if cpus:
            fields.append(f"cpus={cpus[0]}-{cpus[-1]}")
        if node.memory_mib:
            argv += ["-object", f"memory-backend-ram,id=m{number},size={node.memory_mib}M"]
            fields.append(f"memdev=m{number}")
        argv += ["-numa", ",".join(fields)]
    for i, row in enumerate(machine.distances or ()):
        for j, value in enumerate(row):
            argv += ["-numa", f"dist,src={i},dst={j},val={value}"]
    if machine.penalties:
        argv += ["-plugin", ",".join([str(image.plugin()), *plugin_arguments(machine, machine.penalties)])]
    return argv


def plugin_arguments(machine: Machine, penalties: Penalties) -> list[str]:
    """The arguments of plugin/delay.c for a machine. Raises LabError when QEMU's version is not one known."""
    qemu = find_tools("qemu-system-x86_64")["qemu-system-x86_64"]
    version = re.search(rb"version (\d+)\.(\d+)", image.run_tool([qemu, "--version"]))
    if version is None or (int(version[1]), int(version[2])) not in PLUGIN_QEMU:
        raise LabError("penalties need QEMU 7.2: another version may number memory otherwise for its plugins")
    hz = image.tsc_hz()
    arguments = [f"lines={penalties.cache_bytes // LINE_BYTES}", f"burst={int(BURST_S * hz)}"]
    nodes = range(len(machine.nodes))
    arguments.append("cpus=" + ":".join(str(node) for node in nodes for _ in machine.cpus_of(node)))
    base = 0
    for number, node in enumerate(machine.nodes):
        size = node.memory_mib << 20
        if size:
            # QEMU 7.2 gives plugins the place of a memory backend among all memory blocks, plus its place in
            # guest memory, plus the offset in it: twice the sum of the nodes before it, and no PCI hole.
            arguments.append(f"ram={2 * base:x}-{size:x}-{number}")
        base += size
    for i in nodes:
        for j in nodes:
            if penalties.cycles[i][j]:
                arguments.append(f"delay={i}-{j}-{penalties.cycles[i][j]}")
            if penalties.bytes_per_s and penalties.bytes_per_s[i][j]:
                arguments.append(f"cap={i}-{j}-{LINE_BYTES * hz // penalties.bytes_per_s[i][j]}")
    return arguments


def _stuck(console: str) -> str:
    """Which CPU the guest's kernel said to stand still for too long; empty when none did."""
    long = [(cpu, seconds) for cpu, seconds in STUCK.findall(console) if int(seconds) >= STUCK_S]
    return f"killed: its CPU {long[-1][0]} stood still for {long[-1][1]} s; boot it again" if long else ""


def _come_first(pid: int) -> None:
    """Before other work of the host, where the system allows it: neighbours of virtual CPUs blur what is planted."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
        Path(f"/proc/{pid}/autogroup").write_text(str(NICE))  # a session of its own, which nice is relative to


def _supervise(
    argv: Sequence[str], control: Path, deadline: float, stream: Callable[[str], None] | None, first: bool
) -> bool:
    """Run QEMU to its end, passing output on as it comes; False when it had to be killed: at `deadline`, or stuck."""
    with (
        open(control / "qemu", "wb") as complaints,
        open(control / "stdout", errors="replace") as out,
        open(control / "stderr", errors="replace") as err,
        open(control / "console", errors="replace") as console,
    ):
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=complaints, stderr=complaints, start_new_session=True
        )
        if first:
            _come_first(process.pid)
        try:
            ended, said = False, ""
            while not ended and not _stuck(said) and time.monotonic() < deadline:
                said = (said + console.read())[-TAIL_CHARS:]
                try:
                    process.wait(POLL_S)
                    ended = True
                except subprocess.TimeoutExpired:
                    pass
                for source in (out, err):
                    text = source.read()
                    if text and stream:
                        stream(text)
            return ended
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
