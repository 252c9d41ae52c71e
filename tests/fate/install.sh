#!/bin/sh
# make install: what a packager gets, and a program built against it.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
dest=$tmp/root
cc=$(sed -n 's/^CC = //p' config.mak)
prefix=$(sed -n 's/^PREFIX = //p' config.mak)
libdir=$(sed -n 's/^LIBDIR = //p' config.mak)

check 'make install DESTDIR=' make -s install DESTDIR="$dest"
check 'library, header, tool and wan.pc are there' \
    test -f "$dest$libdir/libwan.so" -a -f "$dest$prefix/include/wan.h" \
        -a -x "$dest$prefix/bin/wan-info" \
        -a -f "$dest$libdir/pkgconfig/wan.pc"

cat > "$tmp/t.c" <<'C'
#include <wan.h>
int main(void) { return wan_version() >> 16 != WAN_VERSION_MAJOR; }
C
PKG_CONFIG_PATH=$dest$libdir/pkgconfig PKG_CONFIG_SYSROOT_DIR=$dest
export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR
build() { $cc "$tmp/t.c" -o "$tmp/t" $(pkg-config --cflags --libs wan) && LD_LIBRARY_PATH=$dest$libdir "$tmp/t"; }
check 'a program by pkg-config' build
# The public functions, and nothing else, can be seen from outside.
symbols() { nm -D --defined-only "$dest$libdir/libwan.so" | sed -n 's/.* [TDBR] //p' | sort > "$tmp/seen"
            sed -n 's/^WAN_API.*[ *]\(wan_[a-z0-9_]*\)(.*/\1/p' "$prefix_h" | sort > "$tmp/public"
            diff "$tmp/public" "$tmp/seen"; }
prefix_h=$dest$prefix/include/wan.h
check 'only what wan.h names is exported' symbols

finish
