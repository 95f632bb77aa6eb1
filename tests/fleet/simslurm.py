# SPDX-License-Identifier: Apache-2.0
"""A real Slurm of many nodes on one machine: slurmctld, munged and one slurmd a node, all on 127.0.0.1.

Debian's build has multiple-slurmd. Daemons stay children of this process and are ended by their handles, nothing of
the machine's own configuration is used, ports are random.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

CONF = """\
ClusterName=nbtest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthInfo=socket={root}/munge/sock
SlurmUser=root
SlurmdUser=root
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/ctld.pid
SlurmdPidFile={root}/d.%n.pid
SlurmctldLogFile={root}/log/ctld.log
SlurmdLogFile={root}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=2
MinJobAge={age}
NodeName=n[1-{n}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=2 RealMemory=1000
PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP
"""
PROGRAMS = ("munged", "slurmctld", "slurmd")


def lacking() -> str:
    """Why no cluster can be started here; empty when one can."""
    if os.getuid():
        return "needs root"
    missing = [name for name in PROGRAMS if not shutil.which(name, path="/usr/sbin:/usr/bin")]
    return f"needs {', '.join(missing)} (apt-get install slurm-wlm munge)" if missing else ""


class SimSlurm:
    """``with SimSlurm(8) as slurm``: nodes n1..n8, and SLURM_CONF in this process's environment."""

    def __init__(self, n: int, min_job_age: int = 3600) -> None:
        self.n, self.age = n, min_job_age
        self.procs: dict[str, subprocess.Popen[bytes]] = {}
        self.root = Path(tempfile.mkdtemp(prefix="nbslurm-", dir="/tmp"))
        self.root.chmod(0o755)
        self.old = os.environ.get("SLURM_CONF")

    def __enter__(self) -> SimSlurm:
        try:
            self._up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _spawn(self, name: str, *words: str, user: str | None = None) -> None:
        with open(self.root / "log" / f"{name}.out", "wb") as log:
            extra: dict[str, object] = {"user": user, "group": user, "extra_groups": []} if user else {}
            self.procs[name] = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **extra,  # type: ignore[call-overload]
            )

    def _port(self) -> int:
        """A base so that it and one port a node are free, below those that outgoing connections are given meanwhile."""
        last = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]) - self.n - 1
        for _ in range(50):
            base = random.randint(10000, last if last > 10000 else 60000)
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                for port in range(base, base + self.n + 1):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                return base
        raise RuntimeError("no free ports")

    def _up(self) -> None:
        root, host, port = self.root, socket.gethostname().split(".")[0], self._port()
        for name in ("log", "state", "spool", "munge"):
            (root / name).mkdir()
        munge = pwd.getpwnam("munge")
        key = root / "munge" / "key"
        key.write_bytes(os.urandom(128))
        for path, mode in ((root / "munge", 0o711), (key, 0o400)):
            os.chown(path, munge.pw_uid, munge.pw_gid)
            path.chmod(mode)
        conf = root / "slurm.conf"
        conf.write_text(
            CONF.format(root=root, host=host, port=port, n=self.n, first=port + 1, last=port + self.n, age=self.age)
        )
        os.environ["SLURM_CONF"] = str(conf)
        own = {name: f"--{name}-file={root}/munge/{name}" for name in ("key", "log", "pid", "seed")}
        self._spawn("munged", "/usr/sbin/munged", "-F", f"--socket={root}/munge/sock", *own.values(), user="munge")
        until = time.monotonic() + max(120, self.n)
        while not (root / "munge" / "sock").exists():
            self._wait(until, "munged")
        self._spawn("slurmctld", "/usr/sbin/slurmctld", "-D", "-c")
        for at in range(1, self.n + 1):
            self._spawn(f"n{at}", "/usr/sbin/slurmd", "-D", "-N", f"n{at}")
        while self.call("sinfo", "-h", "-N", "-o", "%t").split().count("idle") < self.n:
            self._wait(until, "slurmd")

    def _wait(self, until: float, what: str) -> None:
        if time.monotonic() > until:
            states = self.call("sinfo", "-h", "-N", "-o", "%N %t").splitlines()
            away = [line.split()[0] for line in states if not line.endswith(" idle")][:3] or ["slurmctld", "munged"]
            logs = {name: (self.root / "log" / f"{name}.out").read_text(errors="replace")[-500:] for name in away}
            raise TimeoutError(f"{what} does not come up: {logs}")
        time.sleep(0.1)

    def call(self, *words: str) -> str:
        """Output of a Slurm command; empty when it fails."""
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout

    def kill_node(self, node: str) -> None:
        """As a power cut: its slurmd and the step daemons of that node."""
        self.procs[node].kill()
        self.procs[node].wait()
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (path / "cmdline").read_bytes().split(b"\0")
                    if words[0].startswith(b"slurmstepd") and self._node_of(int(path.name)) == node:
                        os.kill(int(path.name), signal.SIGKILL)

    def _node_of(self, pid: int) -> str:
        """The node of a step daemon, by the spool folder that its sockets or files are in."""
        spool = f"{self.root}/spool/"
        sockets = subprocess.run(["ss", "-lxp"], capture_output=True, text=True, check=False).stdout
        for line in sockets.splitlines():
            if spool in line and f"pid={pid}," in line:
                return line.partition(spool)[2].split("/")[0]
        return ""

    def __exit__(self, *exc: object) -> None:
        for proc in reversed(self.procs.values()):
            proc.terminate()
        until = time.monotonic() + 10
        for proc in reversed(self.procs.values()):
            try:
                proc.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                proc.kill()
                proc.wait()
        if self.old is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = self.old
        shutil.rmtree(self.root, ignore_errors=True)
