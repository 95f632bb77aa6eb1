# SPDX-License-Identifier: Apache-2.0
"""Builds the two extension modules over one static core library and one static library per ISA tier."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib

ROOT = Path(__file__).parent
BASE_FLAGS = ["-std=c11", "-fvisibility=hidden", "-fPIC", "-Wall", "-Wextra", "-Wshadow"]
# A loop that the compiler turns into memset or memcpy is no longer the loop that is measured.
KERNEL_FLAGS = ["-fno-builtin", "-fno-tree-loop-distribute-patterns"]
SCALAR_FLAGS = ["-O2", "-fno-tree-vectorize", "-fno-tree-slp-vectorize"]
# The only table of ISA flags: psABI levels, so that one binary runs everywhere and picks at run time.
TIERS = {
    "x86_64": {
        "scalar": SCALAR_FLAGS,
        "avx2": ["-O3", "-march=x86-64-v3"],
        "avx512": ["-O3", "-march=x86-64-v4"],
    },
    "aarch64": {"scalar": SCALAR_FLAGS, "neon": ["-O3"]},
}.get(platform.machine(), {"scalar": SCALAR_FLAGS})
PACKAGES = (
    "Debian/Ubuntu: libnuma-dev libhwloc-dev; Fedora/RHEL: numactl-devel hwloc-devel; Arch: numactl hwloc; "
    "SUSE: libnuma-devel hwloc-devel"
)


def extra_flags() -> list[str]:
    """Flags of our own builds: warnings as errors, sanitizers, coverage; users' builds have none."""
    flags = ["-Werror"] if os.environ.get("NUMABENCH_WERROR") else []
    return flags + os.environ.get("NUMABENCH_CFLAGS", "").split()


class BuildLibraries(build_clib):
    """build_clib that names the missing system package instead of showing a compiler's complaint."""

    def run(self) -> None:
        compiler = os.environ.get("CC", "cc").split()
        if shutil.which(compiler[0]) is None:
            sys.exit(f"numabench needs a C compiler ({compiler[0]} is not there) and these packages - {PACKAGES}")
        missing = [
            header
            for header in ("numaif.h", "hwloc.h")
            if subprocess.run(
                [
                    *compiler,
                    *os.environ.get("CFLAGS", "").split(),
                    "-E",
                    "-x",
                    "c",
                    "-include",
                    header,
                    os.devnull,
                ],
                capture_output=True,
                check=False,
            ).returncode
        ]
        if missing:
            sys.exit(f"numabench cannot be built: {' and '.join(missing)} not found. Install - {PACKAGES}")
        super().run()


def library(name: str, sources: list[str], flags: list[str]) -> tuple[str, dict[str, object]]:
    headers = [str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.h")]
    return name, {
        "sources": sources,
        "obj_deps": {"": headers},
        "cflags": [*BASE_FLAGS, *flags, *extra_flags()],
    }


core = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*.c"))
libraries = [library("nmb_core", core, ["-O2"])]
libraries += [library(f"nmb_{tier}", [f"csrc/isa/{tier}.c"], [*KERNEL_FLAGS, *flags]) for tier, flags in TIERS.items()]

link_flags = os.environ.get("NUMABENCH_LDFLAGS", "").split()
cython_flags = ["-O2", "-fvisibility=hidden", *os.environ.get("NUMABENCH_CFLAGS", "").split()]
extensions = [
    Extension(
        "numabench._core",
        ["numabench/_core.pyx"],
        include_dirs=["csrc"],
        libraries=[*(name for name, _ in libraries), "numa", "pthread"],
        extra_compile_args=cython_flags,
        extra_link_args=link_flags,
        depends=[
            "numabench/_nmb.pxd",
            # Headers too: kernels live there, and a stale module would be measured as the new one.
            *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.[ch]")),
        ],
    ),
    Extension(
        "numabench._hwloc",
        ["numabench/_hwloc.pyx"],
        libraries=["hwloc"],
        extra_compile_args=cython_flags,
        extra_link_args=link_flags,
        depends=["numabench/_hwloc.pxd"],
    ),
]

setup(
    libraries=libraries,
    ext_modules=cythonize(extensions, compiler_directives={"language_level": "3", "freethreading_compatible": False}),
    cmdclass={"build_clib": BuildLibraries},
)
