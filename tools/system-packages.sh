#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Arguments package:FILE-or-COMMAND. Installs the Debian packages whose file or command is missing, or prints the line.
set -u
missing=()
for pair in "$@"; do
    need=${pair#*:}
    case $need in
    /*) [ -e "$need" ] || missing+=("${pair%%:*}") ;;
    *) command -v "$need" >/dev/null || missing+=("${pair%%:*}") ;;
    esac
done
[ ${#missing[@]} -eq 0 ] && exit 0
as_root=
[ "$(id -u)" -eq 0 ] || { sudo -n true 2>/dev/null && as_root=sudo; } || as_root=none
if command -v apt-get >/dev/null && [ "$as_root" != none ]; then
    $as_root apt-get update -qq >/dev/null
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq "${missing[@]}" >/dev/null && exit 0
fi
echo "Missing system packages. Type one of these, then make again:" >&2
echo "  Debian/Ubuntu: sudo apt-get install ${missing[*]}" >&2
echo "  Fedora/RHEL:   sudo dnf install gcc numactl-devel hwloc-devel valgrind" >&2
echo "  Arch:          sudo pacman -S gcc numactl hwloc valgrind" >&2
echo "  SUSE:          sudo zypper install gcc libnuma-devel hwloc-devel valgrind" >&2
exit 1
