#!/bin/sh
# Debian packages: libwan's, and the distribution's FFmpeg with the filters.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# usage: make-deb.sh libwan OUT
#        make-deb.sh ffmpeg OUT [--source]
#
#   libwan    libwan1, libwan-dev, libwan-mpi, wan-tools and wan-demo, of what is
#             committed, or, where git isn't, of what is there
#   ffmpeg    the distribution's own source package with our patches and a
#             version that is higher than its own and lower than its next;
#             installs libwan's from OUT and what the package is built with, as
#             root or after a 'y'. --source: made ready, but not built
#   OUT       folder that gets the packages, which can be installed together;
#             twins of some with more codecs are in OUT/extra, logs and sources
#             in OUT/work
#
# DEBFULLNAME and DEBEMAIL, as other tools for packages have them, are who built
# it; DEB_BUILD_OPTIONS=nocheck leaves the tests out. WAN_YES=1 does not ask.

set -eu

fail() { echo "make-deb: $*" >&2; exit 1; }
say()  { echo "make-deb: $*"; }

[ $# -ge 2 ] || fail "usage: make-deb.sh libwan|ffmpeg OUT [--source]"
what=$1
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$2/work"
out=$(cd "$2" && pwd)
work=$out/work
source_only=no
[ "${3-}" != --source ] || source_only=yes

ID='' VERSION_ID=''
# OS_RELEASE: a file that tells of another system, to make its source ready.
. "${OS_RELEASE:-/etc/os-release}" 2> /dev/null || :
case "$ID $VERSION_ID" in
"debian 12") series=5.1 ;;
"debian 13") series=7.1 ;;
*) fail "packages can be made on Debian 12 (FFmpeg 5.1) and Debian 13 (7.1);" \
        "this is ${PRETTY_NAME:-neither}" ;;
esac
command -v dpkg-buildpackage > /dev/null && command -v dh > /dev/null ||
    fail "debhelper is missing; tools/packages.sh deb installs it"

version=$(sed -n 's/^.define WAN_VERSION_M[AIJNORC]* *//p' "$root/wan/wan.h" | paste -sd.)
builder="${DEBFULLNAME:-libwan} <${DEBEMAIL:-$(id -un)@$(hostname -f 2> /dev/null || uname -n)}>"
# no packages of symbols: they are larger than all others
export DEB_BUILD_OPTIONS="${DEB_BUILD_OPTIONS-} noautodbgsym"
# FFmpeg's test of its sources asks git, which would find libwan's clone around it
export GIT_CEILING_DIRECTORIES="$work"

# changelog PACKAGE VERSION WHAT: its newest entry
changelog()
{
    printf '%s (%s) %s; urgency=medium\n\n  * %s\n\n -- %s  %s\n\n' "$1" "$2" \
        "${VERSION_CODENAME:-unstable}" "$3" "$builder" "$(date -R -u)"
}

# logged NAME COMMAND...: its output in a log, the log's end where it fails
logged()
{
    log=$work/$1.log
    shift
    "$@" > "$log" 2>&1 < /dev/null || {
        echo "make-deb: '$1' failed, the last lines of $log:" >&2
        tail -n 25 "$log" >&2
        exit 1
    }
}

# deliver NAME: the packages of the build that ended beside the source. Debian 12
# makes a second libavcodec and libavfilter each, which exclude the first.
deliver()
{
    for f in "$work"/*-extra*.deb; do
        [ ! -f "$f" ] || { mkdir -p "$out/extra" && mv -f "$f" "$out/extra"; }
    done
    for f in "$work"/*.deb "$work"/*.changes "$work"/*.buildinfo; do
        [ ! -f "$f" ] || mv -f "$f" "$out"
    done
    say "$1 is in $out"
}

libwan()
{
    tree=$work/libwan-$version
    rm -rf "$tree"
    mkdir "$tree"
    if [ -e "$root/.git" ] && command -v git > /dev/null; then
        git -C "$root" archive -o "$work/libwan.tar" HEAD ||
            fail "git can't read $root"
    else
        tar -C "$root" -cf "$work/libwan.tar" --exclude=./build --exclude=./config.mak \
            --exclude=./config.log --exclude=./.git .
    fi
    tar -C "$tree" -xf "$work/libwan.tar"
    rm "$work/libwan.tar"
    cp -R "$root/packages/debian" "$tree/"
    for f in "$tree"/debian/control.in "$tree"/debian/rules; do
        sed -i -e "s/@MAINTAINER@/$(printf %s "$builder" | sed 's/[\/&\\]/\\&/g')/" \
            -e "s/@SERIES@/${version%.*}/" "$f"
    done
    mv "$tree/debian/control.in" "$tree/debian/control"
    chmod +x "$tree/debian/rules"
    changelog libwan "$version-1" "The packages of libwan's own source." \
        > "$tree/debian/changelog"
    cd "$tree"
    say "building libwan $version, log in $work/libwan.log"
    logged libwan dpkg-buildpackage -b -us -uc
    deliver "libwan $version"
}

# as_root ARGUMENT...: apt-get, which removes nothing and waits for nobody
as_root()
{
    sudo=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo > /dev/null || fail "as root run: apt-get $*"
        sudo=sudo
        if [ "${WAN_YES:-0}" != 1 ]; then
            printf 'Run sudo apt-get %s? [y/N] ' "$*"
            read -r answer || answer=n
            case $answer in [yY]*) ;; *) exit 1 ;; esac
        fi
    fi
    logged apt env DEBIAN_FRONTEND=noninteractive $sudo apt-get -y -q --no-remove \
        --no-install-recommends "$@"
}

# enable_libwan: what the source package's own files have to know
enable_libwan()
{
    grep -q '^# The standard configuration' debian/rules ||
        fail "debian/rules has changed: there is no place for --enable-libwan"
    sed -i '/^# The standard configuration/i CONFIG += --enable-libwan\n' debian/rules
    sed -i 's/^Build-Depends:/&\n libwan-dev,/' debian/control
    # Who calls it needs a libavfilter that has it: ours.
    sed -i 's/^ avfilter_graph_set_auto_convert@\([A-Z_0-9]*\) .*/&\n avfilter_graph_set_interrupt_callback@\1 @DEB_VERSION@/' \
        debian/libavfilter*.symbols.in
    grep -q set_interrupt_callback debian/libavfilter*.symbols.in ||
        fail "the symbols of libavfilter have changed: there is no place for ours"
}

# One patch of the source package: the filters' files and what patches/ changes.
add_patches()
{
    name=libwan.patch
    rm -rf "$work/a" "$work/b"
    mkdir -p "$work/a" "$work/b" debian/patches
    tar -cf - --exclude=./debian --exclude=./.pc . | tar -C "$work/a" -xf -
    cp "$root"/libavfilter/* libavfilter/
    for p in "$root/patches/ffmpeg-$series"/*.patch; do
        patch -p1 -N -s --no-backup-if-mismatch -i "$p" || return 1
    done
    for ref in "$root"/tests/fate/filter-wan-*; do
        cp "$ref" tests/ref/fate/
    done
    tar -cf - --exclude=./debian --exclude=./.pc . | tar -C "$work/b" -xf -
    (cd "$work" && { diff -urN a b || [ $? -eq 1 ]; }) > "debian/patches/$name" || return 1
    [ -s "debian/patches/$name" ] || return 1
    echo $name >> debian/patches/series
    # dpkg-source knows by this that it is applied
    mkdir -p .pc
    echo 2 > .pc/.version
    echo debian/patches > .pc/.quilt_patches
    echo series > .pc/.quilt_series
    echo $name >> .pc/applied-patches
    rm -rf "$work/a" "$work/b"
}

ffmpeg()
{
    dsc=$(sh "$root/tools/get-ffmpeg.sh" "$series" "$work" --debian) ||
        fail "no source package of FFmpeg $series"
    rm -rf "$work/ffmpeg"
    logged unpack dpkg-source --no-check -x "$dsc" "$work/ffmpeg"
    cd "$work/ffmpeg"
    theirs=$(dpkg-parsechangelog -S Version)
    logged patch add_patches
    enable_libwan
    {
        changelog ffmpeg "$theirs+wan$version" \
            "The filters of libwan $version, with what they want of FFmpeg."
        cat debian/changelog
    } > "$work/changelog"
    mv "$work/changelog" debian/changelog
    if [ $source_only = yes ]; then
        say "FFmpeg $theirs+wan$version is ready in $work/ffmpeg"
        return 0
    fi
    # the manual as pages, which wants doxygen and node, is not built
    profile=pkg.ffmpeg.noextra
    as_root install --reinstall \
        "$out/libwan1_$version"-1_*.deb "$out/libwan-dev_$version"-1_*.deb
    # --no-remove: of twins such as libsrt-gnutls-dev and -openssl-dev it wants one
    dpkg-checkbuilddeps -B -P $profile 2> /dev/null || {
        as_root update
        as_root build-dep --arch-only -P $profile "$work/ffmpeg"
    }
    say "building FFmpeg $theirs+wan$version, log in $work/ffmpeg.log"
    logged ffmpeg dpkg-buildpackage -B -P$profile -us -uc
    deliver "FFmpeg $theirs+wan$version"
}

case $what in
libwan) libwan ;;
ffmpeg) ffmpeg ;;
*) fail "'$what' is not known, only: libwan ffmpeg" ;;
esac
