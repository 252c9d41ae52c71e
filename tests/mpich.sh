#!/bin/sh
# A clip over several processes with MPICH: tests/fate/mpi.sh with the module
# linked with that, all else as it is in B.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
launcher=$(command -v mpiexec.mpich || command -v mpiexec.hydra)
if ! pkg-config --exists mpich || [ -z "$launcher" ]; then
    skip 'MPICH' 'it is not installed: tools/packages.sh cluster'
    finish
    exit
fi
need "$ffmpeg" "$B/bin/wan-worker"
mkdir -p "$tmp/bin" "$tmp/lib" "$tmp/minimal/bin" && ln -s ../lib "$tmp/minimal/lib" &&
    cp "$ffmpeg" "$ffprobe" "$tmp/minimal/bin" && cp "$B/bin/wan-worker" "$tmp/bin" &&
    cp -P "$B"/lib/libwan.so* "$tmp/lib" || exit 1
# shellcheck disable=SC2046
if ! ${CC:-cc} -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -fPIC -fvisibility=hidden -shared -I"$SRC/wan" \
    $(pkg-config --cflags mpich) -o "$tmp/lib/libwan-mpi.so" "$SRC/wan/ranks_mpi.c" $(pkg-config --libs mpich) > "$tmp/log" 2>&1; then
    report 1 'its module' "$tmp/log"
    finish
    exit
fi
B=$tmp MPIRUN=$launcher FATE_BIN=$tmp/minimal/bin sh "$SRC/tests/fate/mpi.sh"
