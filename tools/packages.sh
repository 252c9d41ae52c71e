#!/bin/sh
# Install the packages that building and testing need.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# Debian and Ubuntu: lists what is missing and, as root or after a 'y',
# installs it with apt-get. WAN_YES=1 does not ask. Elsewhere: prints the list.
#
# usage: packages.sh [tests]
#
#   tests   also what single tests want and skip without: nginx, as an RTMP
#           server. The package starts a web server, so it is asked for by name.

need="build-essential pkg-config xz-utils nasm ca-certificates
      libdnnl-dev libcjson-dev libutf8proc-dev
      zlib1g-dev libx264-dev libx265-dev libzmq3-dev
      libsrt-openssl-dev libssl-dev libopus-dev"
case ${1-} in
'') ;;
tests) need="$need libnginx-mod-rtmp" ;;
*) echo "packages: '$1' is not known, only: tests" >&2; exit 1 ;;
esac

if ! command -v apt-get > /dev/null || ! command -v dpkg-query > /dev/null; then
    echo "packages: no apt here. libwan needs a C compiler, make,"
    echo "pkg-config, oneDNN, cJSON, utf8proc; FFmpeg also nasm, xz,"
    echo "zlib and, if wanted, x264, x265, libzmq, libsrt, OpenSSL 3 and opus."
    exit 0
fi

missing=
for p in $need; do
    dpkg-query -W -f '${Status}' "$p" 2> /dev/null | grep -q 'ok installed' ||
        missing="$missing $p"
done
[ -n "$missing" ] || exit 0

echo "packages: missing:$missing"
if [ "$(id -u)" = 0 ]; then
    root=
else
    command -v sudo > /dev/null || {
        echo "packages: as root run: apt-get install$missing" >&2
        exit 1
    }
    root=sudo
    if [ "${WAN_YES:-0}" != 1 ]; then
        printf 'Install them with sudo apt-get? [y/N] '
        read -r answer || answer=n
        case $answer in [yY]*) ;; *) exit 1 ;; esac
    fi
fi
$root apt-get update -q > /dev/null || exit 1
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $root apt-get install -y -q \
    --no-install-recommends $missing > /dev/null || {
    echo "packages: apt-get could not install$missing" >&2
    exit 1
}
