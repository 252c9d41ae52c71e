#!/bin/sh
# No kernel spills registers, by what ptxas said when it was compiled.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# Prints TAP. Wants B; without kernels in the build it is skipped.

set -- "$B"/wan/cuda/*.ptxas
if [ ! -f "$1" ]; then
    echo "ok 1 - kernels_spill_nothing # SKIP a build without CUDA"
    echo "1..1"
    exit 0
fi
bad=$(awk '/Compiling entry function/ { split($0, q, "\047"); f = q[2] " " q[4] }
    /spill stores/ { n++
        if ($0 !~ / 0 bytes spill stores, 0 bytes spill loads/)
            print FILENAME ": " f ": " $0 }
    END { if (!n) print "no kernel was reported" }' "$@")
if [ -n "$bad" ]; then
    echo "$bad" | sed 's/^/# /'
    echo "not ok 1 - kernels_spill_nothing"
else
    echo "# $(cat "$@" | grep -c 'spill stores') kernels," \
        "at most $(cat "$@" | sed -n 's/.*Used \([0-9]*\) registers.*/\1/p' |
            sort -n | tail -n 1) registers"
    echo "ok 1 - kernels_spill_nothing"
fi
echo "1..1"
