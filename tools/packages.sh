#!/bin/sh
# Install the packages that building and testing need.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# Debian and Ubuntu: lists what is missing and, as root or after a 'y',
# installs it with apt-get. WAN_YES=1 does not ask. Elsewhere: prints the list.
#
# usage: packages.sh [tests] [ffmpeg] [deb] [cross] [cluster] [numa]
#
#   tests   also what single tests want and skip without: nginx, as an RTMP
#           server. The package starts a web server, so it is asked for by name.
#   ffmpeg  the libraries of a whole FFmpeg, tools/ffmpeg-libraries. One that
#           the distribution has not is left out.
#   deb     what makes packages: debhelper, and lintian to look at them
#   cross   what builds and runs for another processor: make check-arm64
#   cluster MPICH beside Open MPI, and Slurm: make check-mpich, check-slurm. The
#           packages start services, so they are asked for by name.
#   numa    what plays a machine with two nodes of memory: make check-numa, which
#           fetches a kernel by itself

need="build-essential pkg-config xz-utils nasm ca-certificates
      libdnnl-dev libcjson-dev libutf8proc-dev
      zlib1g-dev libx264-dev libx265-dev libzmq3-dev
      libssl-dev libopus-dev libopenmpi-dev openmpi-bin"
# Of SRT's twins the one that Debian's FFmpeg is built with, or the other if that
# is there.
pkg-config --exists srt 2> /dev/null || need="$need libsrt-gnutls-dev"

# The column of this distribution in the table; one made of it has its names.
column()
{
    . /etc/os-release 2> /dev/null || :
    case " ${ID-} ${ID_LIKE-} " in
    *" ubuntu "*)              echo 5 ;;
    *)  case "${ID-} ${VERSION_ID-}" in
        "debian 12") echo 3 ;;
        *)           echo 4 ;;
        esac ;;
    esac
}
libraries()     # those that are not there by another package either
{
    awk -v column="$(column)" '
        /^#/ || !NF { next }
        { for (i = column; $i == "="; i--) ; if ($i != "-") print $2, $i }' \
        "$(dirname "$0")/ffmpeg-libraries" |
    while read -r check packages; do
        case $check in '<'*) false ;; *) pkg-config --exists "$check" 2> /dev/null ;; esac ||
            echo "$packages" | tr , ' '
    done
}
optional=
for what; do
    case $what in
    tests)  need="$need libnginx-mod-rtmp" ;;
    ffmpeg) optional=$(libraries) ;;
    deb)    need="$need debhelper lintian fakeroot" ;;
    cross)  need="$need gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user" ;;
    cluster) need="$need mpich libmpich-dev slurmctld slurmd slurm-client munge libpmi2-0-dev" ;;
    numa)   need="$need qemu-system-x86 busybox-static numactl e2fsprogs" ;;
    *) echo "packages: '$what' is not known, only: tests ffmpeg deb cross cluster numa" >&2; exit 1 ;;
    esac
done

if ! command -v apt-get > /dev/null || ! command -v dpkg-query > /dev/null; then
    echo "packages: no apt here. libwan needs a C compiler, make,"
    echo "pkg-config, oneDNN, cJSON, utf8proc; FFmpeg also nasm, xz,"
    echo "zlib and, if wanted, what tools/ffmpeg-libraries lists;"
    echo "for clips over several machines Open MPI or MPICH."
    exit 0
fi

# absent PACKAGE...: those that are not installed, each after a blank
absent()
{
    for p; do
        dpkg-query -W -f '${Status}' "$p" 2> /dev/null | grep -q 'ok installed' ||
            printf ' %s' "$p"
    done
}
# shellcheck disable=SC2086
missing=$(absent $need) optional=$(absent $optional)
[ -n "$missing$optional" ] || exit 0

echo "packages: missing:$missing$optional"
if [ "$(id -u)" = 0 ]; then
    root=
else
    command -v sudo > /dev/null || {
        echo "packages: as root run: apt-get install$missing$optional" >&2
        exit 1
    }
    root=sudo
    if [ "${WAN_YES:-0}" != 1 ]; then
        printf 'Install them with sudo apt-get? [y/N] '
        read -r answer || answer=n
        case $answer in [yY]*) ;; *) exit 1 ;; esac
    fi
fi
# Nothing is removed for it.
install()
{
    DEBIAN_FRONTEND=noninteractive $root apt-get install -y -q --no-remove \
        --no-install-recommends "$@" > /dev/null 2>&1
}
$root apt-get update -q > /dev/null || exit 1
# shellcheck disable=SC2086
[ -z "$missing" ] || install $missing || {
    echo "packages: apt-get could not install$missing" >&2
    exit 1
}
# shellcheck disable=SC2086
[ -z "$optional" ] || install $optional || for p in $optional; do
    install "$p" || echo "packages: apt-get could not install $p; it is left out" >&2
done
