#!/bin/sh
# Other compilers and C libraries than the build's: every file compiles without
# a word. Nothing is linked but what clang makes of the library.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
flags=$(sed -n 's/^DEP_CFLAGS = //p' config.mak)
onednn=0
! grep -q WAN_HAVE_ONEDNN=1 config.mak || onednn=1
# but the module for MPI, which is of the MPI that is there
files=$(ls "$SRC"/wan/*.c "$SRC"/wan/formats/*.c "$SRC"/wan/cpu/*.c "$SRC"/tools/*.c |
    grep -v /ranks_mpi.c)

# silent COMPILER...: on every file, all that it says
silent()
{
    for file in $files; do
        "$@" -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -fsyntax-only \
            -DWAN_HAVE_ONEDNN=$onednn -DWAN_HAVE_CUDA=0 -DWAN_DATADIR='"/"' -DWAN_LIBDIR='"/"' \
            -I"$SRC/wan" "$file" || return 1
    done
}
pedantic()
{
    # both are C23's
    silent clang -pedantic -Wno-gnu-zero-variadic-macro-arguments \
        -Wno-gnu-empty-initializer $flags
}
# No two files define a name that clang makes for functions in copies: clones.h.
linked()
{
    objects=
    for file in $(ls "$SRC"/wan/*.c "$SRC"/wan/formats/*.c "$SRC"/wan/cpu/*.c |
        grep -v /ranks_mpi.c); do
        object=$tmp/$(echo "$file" | tr / _).o
        clang -std=c11 -D_GNU_SOURCE -fPIC -fvisibility=hidden -DWAN_HAVE_ONEDNN=$onednn \
            -DWAN_HAVE_CUDA=0 -DWAN_DATADIR='"/"' -DWAN_LIBDIR='"/"' -I"$SRC/wan" $flags \
            -c "$file" -o "$object" || return 1
        objects="$objects $object"
    done
    clang -shared -Wl,-z,defs -o "$tmp/libwan.so" $objects \
        $(sed -n 's/^DEP_LIBS = //p' config.mak) -lm -lpthread
}
# The other libraries' headers alone, after musl's own.
musl()
{
    mkdir "$tmp/include" && ln -s /usr/include/cjson /usr/include/utf8proc.h \
        $(ls -d /usr/include/dnnl*.h /usr/include/oneapi 2> /dev/null) "$tmp/include" &&
        silent musl-gcc -idirafter "$tmp/include"
}
# Loops that are marked in simd.h's words: one that gcc leaves scalar for AVX2
# is ten times as slow, and nothing else tells.
vectors()
{
    for file in $(grep -l -E '^ *WAN_(APART|VECTORS)$' "$SRC"/wan/cpu/*.c); do
        gcc -std=c11 -D_GNU_SOURCE -O3 -fno-math-errno -march=x86-64-v3 -DWAN_NO_CLONES \
            -DWAN_HAVE_ONEDNN=$onednn -I"$SRC/wan" -fopt-info-vec-optimized \
            -c "$file" -o "$tmp/v.o" 2> "$tmp/said" || { cat "$tmp/said"; return 1; }
        # where the loop's head is, or its body's first line
        awk -v said="$tmp/said" -v file="$file" '
            BEGIN { while ((getline line < said) > 0)
                        if (line ~ /loop vectorized/) {
                            split(line, part, ":"); done[part[2]] = 1 } }
            /^ *WAN_(APART|VECTORS)$/ { n++; at = NR + 1
                if (!(at in done) && !(at + 1 in done)) { bad = 1
                    print file ":" at ": not vectorised" } }
            END { if (!n) print "no loop is marked"; exit bad || !n }' "$file" || return 1
    done
}
# arm64's products: their instructions are there, and clang takes their names.
arm64()
{
    set -- clang --target=aarch64-linux-gnu -std=c11 -D_GNU_SOURCE -pedantic -Wall -Wextra \
        -Werror -O2 -I"$SRC/wan" "$SRC/wan/cpu/neon.c"
    "$@" -c -o "$tmp/neon.o" && "$@" -S -o "$tmp/neon.s" &&
        grep -q bfdot "$tmp/neon.s" && grep -q sudot "$tmp/neon.s"
}
header()
{
    echo '#include "wan.h"' > "$tmp/h.c"
    "$@" -Wall -Wextra -Werror -fsyntax-only -I"$SRC/wan" "$tmp/h.c"
}
# with PROGRAM NAME COMMAND...: a check, where the program is
with()
{
    if command -v "$1" > /dev/null; then
        shift
        check "$@"
    else
        skip "$2" "no $1"
    fi
}

with clang 'clang, -std=c11 -pedantic' pedantic
with clang 'clang: all of it as one library' linked
with musl-gcc 'musl' musl
if [ -d /usr/aarch64-linux-gnu/include ]; then
    with clang "arm64's products, clang" arm64
else
    skip "arm64's products, clang" "no C library of arm64"
fi
case $(uname -m) in
x86_64) with gcc 'marked loops are vectorised for AVX2' vectors ;;
*) skip 'marked loops are vectorised for AVX2' "a machine without it" ;;
esac
for cc in gcc clang; do
    with $cc "wan.h in C99, $cc" header $cc -std=c99 -pedantic-errors
    with $cc "wan.h in C++11, $cc" header $cc -x c++ -std=c++11 -pedantic-errors
done

finish
