#!/bin/sh
# The libraries that libwan stands on, for arm64, in a folder.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# usage: sysroot.sh FOLDER
#
# Debian's packages, from the system's own repositories by a private state of
# apt: the system gets no foreign architecture. The C library is that of the
# cross compiler. No network is used when FOLDER is there already.

set -eu

fail() { echo "sysroot: $*" >&2; exit 1; }

[ $# -eq 1 ] || fail "usage: sysroot.sh FOLDER"
[ ! -f "$1/.complete" ] || exit 0
mkdir -p "$1/apt/lists/partial" "$1/apt/cache/archives/partial"
root=$(cd "$1" && pwd)
apt="-qq -o APT::Architecture=arm64 -o APT::Architectures=arm64
     -o APT::Sandbox::User=root -o Acquire::Languages=none
     -o Dir::State::lists=$root/apt/lists -o Dir::State::status=/dev/null
     -o Dir::Cache=$root/apt/cache"
# shellcheck disable=SC2086
apt-get $apt update > "$root/apt/log" 2>&1 || :   # other repositories may lack it
# shellcheck disable=SC2086
(cd "$root/apt" && apt-get $apt download libcjson1 libcjson-dev libutf8proc-dev \
    "$(apt-cache $apt pkgnames libutf8proc | grep -x 'libutf8proc[0-9]*')") \
    >> "$root/apt/log" 2>&1 ||
    fail "no packages for arm64: $(grep '^E:' "$root/apt/log" | head -n 1)"
for package in "$root"/apt/*.deb; do
    dpkg-deb -x "$package" "$root"
done
rm -rf "$root/apt"
: > "$root/.complete"
