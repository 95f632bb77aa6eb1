# SPDX-License-Identifier: Apache-2.0
"""What a lab machine boots from, built once into a cache folder: kernel, initramfs, plugin, host programs."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError, find_tools

HERE = Path(__file__).parent
META_PACKAGE = "linux-image-amd64"
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")

# Runs as process 1. Any step that fails ends it, which is a kernel panic, which ends QEMU: the missing
# exit status then makes the boot a failure.
INIT = """#!/bin/sh
set -e
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
share=trans=virtio,version=9p2000.L,msize=1048576
mount -t 9p -o $share,cache=loose,ro host /host
mount -t tmpfs -o mode=755 tmpfs /cow
mkdir /cow/upper /cow/work
mount -t overlay -o lowerdir=/host,upperdir=/cow/upper,workdir=/cow/work overlay /root
mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
mount --move /dev /root/dev
ln -s /proc/self/fd /root/dev/fd
for stream in 0:stdin 1:stdout 2:stderr; do ln -s /proc/self/fd/${stream%:*} /root/dev/${stream#*:}; done
mkdir -p /root/dev/shm /root/dev/pts /root/run/numabench-lab
mount -t tmpfs tmpfs /root/dev/shm
mount -t devpts devpts /root/dev/pts
mount -t 9p -o $share,cache=none control /root/run/numabench-lab
chroot /root /bin/sh /run/numabench-lab/run.sh || true
sync
poweroff -f
"""


@dataclass(frozen=True)
class Image:
    """Files that QEMU is started with."""

    kernel: Path
    initramfs: Path


def cache_folder() -> Path:
    """The folder that holds everything the lab builds."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "numabench-lab"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / "lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def run_tool(argv: Sequence[str], cwd: Path | None = None, stdin: bytes | None = None) -> bytes:
    """Standard output of a host program. Raises LabError with its last line of complaint."""
    done = subprocess.run(argv, cwd=cwd, input=stdin, capture_output=True, check=False)
    if done.returncode:
        complaint = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise LabError(f"{' '.join(argv[:3])} ...: exit status {done.returncode}: {complaint[0]}")
    return done.stdout


def _digest(*inputs: str | bytes) -> str:
    total = hashlib.sha256()
    for item in inputs:
        data = item.encode() if isinstance(item, str) else item
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:16]


def _fetch_kernel(folder: Path) -> None:
    """Unpack the distribution's kernel into `folder`: vmlinuz, and the needed modules in loading order."""
    tools = find_tools("apt-get", "apt-cache", "dpkg", "depmod")
    depends = run_tool([tools["apt-cache"], "depends", META_PACKAGE]).decode()
    package = re.search(r"Depends: (linux-image-\S+)", depends)
    if package is None:
        raise LabError(f"{META_PACKAGE} is unknown to apt: apt-get update")
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        work = Path(temporary)
        run_tool([tools["apt-get"], "download", package[1]], cwd=work)
        tree = work / "tree"
        run_tool([tools["dpkg"], "-x", str(next(work.glob("*.deb"))), str(tree)])
        kernel = next((tree / "boot").glob("vmlinuz-*"))
        release = kernel.name.removeprefix("vmlinuz-")
        run_tool([tools["depmod"], "-b", str(tree), release])
        root = tree / "lib" / "modules" / release
        ready = work / "ready"
        ready.mkdir()
        order = []
        for number, module in enumerate(_loading_order((root / "modules.dep").read_text())):
            data = (root / module).read_bytes()
            if module.endswith(".xz"):
                data = lzma.decompress(data)
            order.append(f"{number:02}-{Path(module).name.removesuffix('.xz')}")
            (ready / order[-1]).write_bytes(data)
        (ready / "order").write_text("\n".join(order) + "\n")
        (ready / "kernel").write_bytes(_unpacked(kernel.read_bytes()))
        shutil.move(ready, folder)


def _unpacked(bzimage: bytes) -> bytes:
    """The ELF kernel inside a bzImage, which QEMU starts by its PVH entry: then no emulated CPU has to unpack
    it, which takes half of the time to boot. The bzImage itself when its compression is another.

    Offsets are those of the x86 boot protocol: setup_sects, payload_offset and payload_length.
    """
    start = (bzimage[0x1F1] + 1) * 512 + int.from_bytes(bzimage[0x248:0x24C], "little")
    payload = bzimage[start : start + int.from_bytes(bzimage[0x24C:0x250], "little")]
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(payload)
    return bzimage


def _loading_order(modules_dep: str) -> list[str]:
    needs = {}
    for line in modules_dep.splitlines():
        path, _, rest = line.partition(":")
        needs[Path(path).name.split(".")[0].replace("-", "_")] = (path, rest.split())
    order: list[str] = []
    for name in MODULES:
        path, dependencies = needs[name]
        # modules.dep lists the whole closure, the deepest dependency last.
        for item in [*reversed(dependencies), path]:
            if item not in order:
                order.append(item)
    return order


def _pack(kernel: Path, busybox: bytes, target: Path) -> None:
    tools = find_tools("cpio")
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        root = Path(temporary)
        for name in ("bin", "dev", "proc", "sys", "modules", "host", "cow", "root"):
            (root / name).mkdir()
        (root / "bin" / "busybox").write_bytes(busybox)
        for applet in ("sh", "mount", "mkdir", "cat", "ln", "insmod", "chroot", "sync", "poweroff"):
            (root / "bin" / applet).symlink_to("busybox")
        (root / "init").write_text(INIT)
        for program in (root / "init", root / "bin" / "busybox"):
            program.chmod(0o755)
        for name in ["order", *(kernel / "order").read_text().split()]:
            shutil.copyfile(kernel / name, root / "modules" / name)
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        archive = run_tool([tools["cpio"], "--quiet", "-o", "-H", "newc"], cwd=root, stdin=names.encode())
        packed = root / "packed"
        packed.write_bytes(gzip.compress(archive, 6))
        packed.rename(target)


def image() -> Image:
    """Kernel and initramfs, built when they are missing or when what they are made from has changed.

    Raises MissingTool, or LabError when the kernel's package cannot be fetched.
    """
    folder = cache_folder()
    busybox = Path(find_tools("busybox")["busybox"]).read_bytes()
    kernel = folder / f"kernel-{_digest('unpacked', META_PACKAGE, *MODULES)}"
    initramfs = folder / f"initramfs-{_digest(kernel.name, INIT, busybox)}.gz"
    if not (kernel.is_dir() and initramfs.is_file()):
        with _locked(folder):
            if not kernel.is_dir():
                _fetch_kernel(kernel)
            if not initramfs.is_file():
                _pack(kernel, busybox, initramfs)
    return Image(kernel / "kernel", initramfs)


def compiled(source: Path, *flags: str) -> Path:
    """A C source of the lab built by gcc into the cache folder; the same source is built once."""
    folder = cache_folder()
    target = folder / f"{source.stem}-{_digest(source.read_bytes(), *flags)}"
    if not target.is_file():
        gcc = find_tools("gcc")["gcc"]
        with _locked(folder), tempfile.TemporaryDirectory(dir=folder) as temporary:
            built = Path(temporary) / "built"
            warnings = ("-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-Werror")
            run_tool([gcc, "-O2", *warnings, *flags, str(source), "-o", str(built)])
            built.rename(target)
    return target


def plugin() -> Path:
    """The QEMU plugin that adds the described penalties to memory accesses."""
    return compiled(HERE / "plugin" / "delay.c", "-shared", "-fPIC", "-fvisibility=hidden")


def probe() -> Path:
    """The lab's own measuring program, static so that it runs in any machine."""
    return compiled(HERE / "probe.c", "-static", "-pthread")


def tsc_hz() -> int:
    """Rate of the host's time stamp counter, measured once per boot of the host."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    store = cache_folder() / f"tsc-{boot}.json"
    if not store.is_file():
        measured = int(run_tool([str(probe()), "tsc"]))
        partial = store.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(measured))
        partial.rename(store)
    return int(json.loads(store.read_text()))
