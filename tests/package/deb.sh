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
# who builds it: an address that lintian takes for one, a name that sed would not
DEBFULLNAME="a/b & libwan" DEBEMAIL=nobody@example.org
export DEBFULLNAME DEBEMAIL
make_deb() { sh "$SRC/tools/make-deb.sh" "$@"; }

# system ID VERSION: another system's os-release
system()
{
    printf 'ID=%s\nVERSION_ID=%s\nPRETTY_NAME="%s %s"\n' "$1" "$2" "$1" "$2" > "$tmp/os-release"
    OS_RELEASE=$tmp/os-release
    export OS_RELEASE
}
elsewhere()
{
    system plan 9
    ! make_deb libwan "$out" > "$tmp/log" 2>&1 &&
        has 'on Debian 12 .* and Debian 13 .*; this is plan 9$' "$tmp/log"
}
check 'another system is told which can be' elsewhere
unset OS_RELEASE
if ! command -v dh > /dev/null; then
    skip 'the packages' 'no debhelper'
    finish
    exit
fi

built() { DEB_BUILD_OPTIONS="nocheck parallel=2" make_deb libwan "$out"; }
check 'the packages are built' built

unpacked()
{
    for package in libwan1 libwan-dev libwan-mpi wan-tools wan-demo; do
        dpkg-deb -x "$out/${package}_$version"-1_*.deb "$root" || return 1
    done
}
check 'they are five' unpacked
together()      # as apt install ./*.deb would, if the list of packages is there
{
    apt-get -s install "$out"/*.deb > "$tmp/log" 2>&1 || { cat "$tmp/log"; return 1; }
}
if [ "$(ls /var/lib/apt/lists 2> /dev/null | wc -l)" -gt 2 ]; then
    check 'they are installed together' together
else
    skip 'they are installed together' 'no list of packages'
fi
lib=$(ls -d "$root"/usr/lib/*-linux-gnu* 2> /dev/null)
check 'each file is where it belongs' test -L "$lib/libwan.so.${version%%.*}" \
    -a -f "$lib/libwan.so.$version" -a -f "$lib/pkgconfig/wan.pc" \
    -a -f "$lib/libwan-mpi.so" -a -f "$root/usr/include/wan.h" -a -f "$root/usr/share/man/man1/wan-info.1.gz" \
    -a -d "$root/usr/share/libwan/demo/t2v"
check 'the tools run' "$root/usr/bin/wan-info" "$root/usr/share/libwan/demo/t2v"

errors()
{
    lintian --fail-on error "$out/libwan_$version-1"_*.changes
}
if command -v lintian > /dev/null; then check 'lintian has no error' errors
else skip 'lintian has no error' 'no lintian'; fi

# prepared DEBIAN: the patches go on, and the package's own tools take the tree
prepared()
{
    make_deb ffmpeg "$tmp/ffmpeg-$1" --source || return 1
    tree=$tmp/ffmpeg-$1/work/ffmpeg
    ours=$(dpkg-parsechangelog -l "$tree/debian/changelog" -S Version)
    theirs=${ours%+wan*}
    dpkg --compare-versions "$ours" gt "$theirs" &&
        dpkg --compare-versions "$ours" lt "${theirs}1" &&
        find "$tree" -name '*.orig' -o -name '*.rej' > "$tmp/left" && lacks . "$tmp/left" &&
        (cd "$tree" && dpkg-source -b .) > "$tmp/log" 2>&1 &&
        lacks 'unexpected|local changes' "$tmp/log" &&
        grep -q ff_vf_wan_i2v "$tree/libavfilter/allfilters.c" &&
        has '^CONFIG \+= --enable-libwan' "$tree/debian/rules" &&
        has '^ libwan-dev,' "$tree/debian/control" &&
        has '^ avfilter_graph_set_interrupt_callback@LIBAVFILTER_[0-9]+ @DEB_VERSION@$' \
            "$tree"/debian/libavfilter*.symbols.in
}
# without a network the source that is there is taken
offline()
{
    http_proxy=http://127.0.0.1:1 sh "$SRC/tools/get-ffmpeg.sh" "$1" \
        "$tmp/ffmpeg-$2/work" --debian > "$tmp/log" 2>&1 &&
        has "/debian-$1/ffmpeg_$1.*\.dsc$" "$tmp/log"
}
for s in 5.1 7.1; do
    case $s in 5.1) debian=12 ;; 7.1) debian=13 ;; esac
    if sh "$SRC/tools/get-ffmpeg.sh" $s "$tmp/ffmpeg-$debian/work" --debian > "$tmp/log" 2>&1
    then
        system debian $debian
        check "the source package of Debian $debian" prepared $debian
        check 'again without a network' offline $s $debian
    else
        skip "the source package of Debian $debian" 'it is not to be had here'
    fi
done

finish
