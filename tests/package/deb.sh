#!/bin/sh
# make deb: libwan's packages, what is in them and what lintian says; and the
# distribution's FFmpeg made ready with our patches. FFmpeg itself is not built
# here: make deb does.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
version=$(sed -n 's/^.define WAN_VERSION_M[AIJNORC]* *//p' "$SRC/wan/wan.h" | paste -sd.)
out=$tmp/deb root=$tmp/root
make_deb() { sh "$SRC/tools/make-deb.sh" "$@"; }

elsewhere()
{
    ! DEB_SERIES= make_deb libwan "$out" > "$tmp/log" 2>&1 || . /etc/os-release
    case "${ID-} ${VERSION_ID-}" in
    "debian 12" | "debian 13") return 0 ;;
    *) has 'packages can be made on Debian 12 .* and Debian 13' "$tmp/log" ;;
    esac
}
if ! command -v dh > /dev/null; then
    check 'without debhelper it says so' elsewhere
    skip 'the packages' 'no debhelper'
    finish
    exit
fi

built() { DEB_BUILD_OPTIONS="nocheck parallel=2" make_deb libwan "$out"; }
check 'the packages are built' built

unpacked()
{
    for package in libwan1 libwan-dev wan-tools wan-demo; do
        dpkg-deb -x "$out/${package}_$version"-1_*.deb "$root" || return 1
    done
}
check 'they are four' unpacked
lib=$(ls -d "$root"/usr/lib/*-linux-gnu* 2> /dev/null)
check 'each file is where it belongs' test -L "$lib/libwan.so.${version%%.*}" \
    -a -f "$lib/libwan.so.$version" -a -f "$lib/pkgconfig/wan.pc" \
    -a -f "$root/usr/include/wan.h" -a -f "$root/usr/share/man/man1/wan-info.1.gz" \
    -a -d "$root/usr/share/libwan/demo/t2v"
check 'the tools run' "$root/usr/bin/wan-info" "$root/usr/share/libwan/demo/t2v"

errors()
{
    lintian --fail-on error --suppress-tags bogus-mail-host-in-debian-changelog \
        "$out/libwan_$version-1"_*.changes
}
if command -v lintian > /dev/null; then check 'lintian has no error' errors
else skip 'lintian has no error' 'no lintian'; fi

# prepared SERIES: the patches go on, and the package's own tools take the tree
prepared()
{
    DEB_SERIES=$1 make_deb ffmpeg "$tmp/ffmpeg-$1" --source || return 1
    cd "$tmp/ffmpeg-$1/work/ffmpeg" || return 1
    ours=$(dpkg-parsechangelog -S Version)
    theirs=${ours%+wan*}
    dpkg --compare-versions "$ours" gt "$theirs" &&
        dpkg --compare-versions "$ours" lt "${theirs}1" &&
        ! find . -name '*.orig' -o -name '*.rej' | grep . &&
        dpkg-source -b . > "$tmp/log" 2>&1 &&
        lacks 'unexpected|local changes' "$tmp/log" &&
        grep -q ff_vf_wan_i2v libavfilter/allfilters.c &&
        has '^CONFIG \+= --enable-libwan' debian/rules &&
        has '^ libwan-dev,' debian/control
}
for s in 5.1 7.1; do
    if (cd "$tmp" && sh "$SRC/tools/get-ffmpeg.sh" $s "$tmp/ffmpeg-$s/work" --debian) \
            > "$tmp/log" 2>&1; then
        check "the source package of FFmpeg $s" prepared $s
    else
        skip "the source package of FFmpeg $s" 'it is not to be had here'
    fi
done

finish
