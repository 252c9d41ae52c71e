#!/bin/sh
# The tests of the filter in FFmpeg's own FATE, against the references here.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# With GEN=1 the references are written instead: say why they change.

. "$SRC/tests/fate/common.sh"
need "$ffmpeg"
build=$B/ffmpeg-$series
refs=$build/source/tests/ref/fate
samples=$B/fate-samples

# The layout of a FATE suite.
rm -rf "$samples"
mkdir -p "$samples/wan"
cp "$SRC/tests/fate/samples/wan/prompt.txt" "$samples/wan"
ln -s "$tiny/wan-t2v" "$samples/wan/t2v"
ln -s "$tiny/wan-i2v" "$samples/wan/i2v"

# ours make's variables are not FFmpeg's
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
fate() { make -C "$build" "$@" SAMPLES="$samples"; }

# FATE leaves a test out without a word when a part that it needs is missing.
listed() { fate fate-list > "$tmp/list" && has "^fate-$1\$" "$tmp/list"; }

for name in filter-wan-t2v filter-wan-t2v-gbrp filter-wan-i2v \
            filter-wan-i2v-extend; do
    check "$name is there" listed $name
    if [ "${GEN:-0}" != 0 ]; then
        fate fate-$name GEN=1 > /dev/null 2>&1
        fate fate-$name GEN=1 > "$tmp/log" 2>&1
        cp "$refs/$name" "$SRC/tests/fate/$name"
    fi
    cp "$SRC/tests/fate/$name" "$refs/$name" && fate fate-$name > "$tmp/log" 2>&1
    report $? $name "$tmp/log"
done

finish
