#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Arguments PACKAGE:FILE-or-COMMAND, packages by their Debian names. Installs those whose file or command is missing
# when it may, and otherwise says what to type and fails.
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

sudo=
[ "$(id -u)" -eq 0 ] || sudo="sudo -n"
if command -v apt-get >/dev/null && { [ -z "$sudo" ] || sudo -n true 2>/dev/null; }; then
    echo "Installing ${missing[*]}" >&2
    install() { $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; }
    # A new machine has no package lists yet.
    install >/dev/null 2>&1 || { $sudo apt-get update -qq && install >/dev/null; } && exit 0
    echo "apt-get could not install them." >&2
fi

# The same package elsewhere: Debian, Fedora/RHEL, Arch, SUSE; - where there is none.
names() {
    local column=$1 each row
    for each in "${missing[@]}"; do
        case $each in
        python3*-dev) row="x ${each%-dev}-devel python ${each%-dev}-devel" ;;
        python3*-venv) row="x ${each%-venv} python ${each%-venv}" ;;
        libc6-dev) row="x glibc-devel glibc glibc-devel" ;;
        libnuma-dev) row="x numactl-devel numactl libnuma-devel" ;;
        libhwloc-dev) row="x hwloc-devel hwloc hwloc-devel" ;;
        qemu-user-static) row="x qemu-user-static qemu-user-static qemu-linux-user" ;;
        gcc-aarch64-linux-gnu) row="x gcc-aarch64-linux-gnu aarch64-linux-gnu-gcc cross-aarch64-gcc12" ;;
        libc6-dev-arm64-cross) row="x sysroot-aarch64-fc41-glibc aarch64-linux-gnu-glibc cross-aarch64-glibc-devel" ;;
        qemu-system-x86) row="x qemu-system-x86-core qemu-system-x86 qemu-x86" ;;
        seabios) row="x seabios-bin seabios qemu-seabios" ;;
        busybox-static) row="x busybox busybox busybox-static" ;;
        *) row="x $each $each $each" ;;
        esac
        set -- $row
        [ "$column" = 1 ] && echo -n " $each" || echo -n " ${!column}"
    done
}
debian="sudo apt-get install$(names 1)"
fedora="sudo dnf install$(names 2)"
arch="sudo pacman -S$(names 3)"
suse="sudo zypper install$(names 4)"
echo "System packages are missing. Type this, then make again:" >&2
if command -v apt-get >/dev/null; then
    echo "  $debian" >&2
elif command -v dnf >/dev/null; then
    echo "  $fedora" >&2
elif command -v pacman >/dev/null; then
    echo "  $arch" >&2
elif command -v zypper >/dev/null; then
    echo "  $suse" >&2
else
    printf '  %s\n' "Debian/Ubuntu: $debian" "Fedora/RHEL:   $fedora" "Arch:          $arch" "SUSE:          $suse" >&2
fi
exit 1
