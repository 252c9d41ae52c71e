#!/bin/sh
# make install: what a packager gets, a program built against it, and what runs
# from there.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
dest=$tmp/root
cc=$(sed -n 's/^CC = //p' config.mak)
prefix=$(sed -n 's/^PREFIX = //p' config.mak)
libdir=$(sed -n 's/^LIBDIR = //p' config.mak)
datadir=$(sed -n 's/^DATADIR = //p' config.mak)

check 'make install DESTDIR=' make -s install DESTDIR="$dest"
check 'library, header and wan.pc are there' \
    test -f "$dest$libdir/libwan.so" -a -f "$dest$prefix/include/wan.h" \
        -a -f "$dest$libdir/pkgconfig/wan.pc"

# Every tool has its page, in which every option of its help stands, and which
# the typesetter has nothing to say of.
pages()
{
    tools=$(sed -n 's/^TOOLS = //p' "$SRC/Makefile")
    same "$(cd "$dest$prefix/bin" && echo wan-* | tr ' ' '\n' | sort)" \
         "$(echo $tools | tr ' ' '\n' | sort)" || return 1
    for tool in $tools; do
        page=$dest$prefix/share/man/man1/$tool.1
        tr -d '\\' < "$page" > "$tmp/page" || return 1
        for word in '\.SH NAME' '\.SH SYNOPSIS' '\.SH "?EXIT STATUS' \
                $("$dest$prefix/bin/$tool" --help | grep -o -e '--[a-z][a-z-]*'); do
            has "$word" "$tmp/page" || return 1
        done
        ! command -v groff > /dev/null || {
            groff -man -ww -Tutf8 -z "$page" > "$tmp/typeset" 2>&1 &&
                lacks . "$tmp/typeset"
        } || return 1
    done
}
check 'every tool is there and has its page' pages

cat > "$tmp/t.c" <<'C'
#include <wan.h>
int main(void) { return wan_version() >> 16 != WAN_VERSION_MAJOR; }
C
PKG_CONFIG_PATH=$dest$libdir/pkgconfig PKG_CONFIG_SYSROOT_DIR=$dest
export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR
build() { $cc "$tmp/t.c" -o "$tmp/t" $(pkg-config --cflags --libs wan) && LD_LIBRARY_PATH=$dest$libdir "$tmp/t"; }
check 'a program by pkg-config' build
# The demo model: beside the library, wherever that was moved to; else in the
# data directory that was configured, which is named if it is not there.
cat > "$tmp/demo.c" <<'C'
#include <stdio.h>
#include <wan.h>
int main(int argc, char **argv)
{
    WanDemo demo;
    int ret = wan_demo_model(&demo, argc > 1 ? WAN_TASK_I2V : WAN_TASK_T2V);
    (void)argv;
    printf("%s %s\n%s\n", ret == WAN_ERR(ENOENT) ? "missing" : ret ? "error" : "found",
           demo.model, demo.manual);
    return wan_demo_model(&demo, WAN_TASK_FLF2V) != WAN_ERR(ENOSYS);
}
C
found() { LD_LIBRARY_PATH=$1/lib "$tmp/demo" $2; }
demo()
{
    $cc "$tmp/demo.c" -o "$tmp/demo" $(pkg-config --cflags --libs wan) || return 1
    mkdir -p "$tmp/moved/lib" "$tmp/moved/share/libwan/demo"
    cp "$dest$libdir"/libwan.so.* "$tmp/moved/lib"
    there=missing
    [ ! -d "$datadir/demo/t2v" ] || there=found
    same "$(found "$tmp/moved" | head -n 1)" "$there $datadir/demo/t2v" || return 1
    mkdir "$tmp/moved/share/libwan/demo/t2v" "$tmp/moved/share/libwan/demo/i2v"
    at=$(cd "$tmp/moved/share/libwan" && pwd -P)
    same "$(found "$tmp/moved" | tr '\n' ' ')" \
         "found $at/demo/t2v $tmp/moved/lib/../share/libwan/models.md " || return 1
    : > "$at/models.md"
    same "$(found "$tmp/moved" i2v | tr '\n' ' ')" "found $at/demo/i2v $at/models.md "
}
check 'the demo model is found' demo
installed()
{
    cmp "$SRC/docs/models.md" "$dest$datadir/models.md" || return 1
    [ ! -d "$SRC/share/demo" ] ||
        diff -r "$SRC/share/demo" "$dest$datadir/demo"
}
check 'models.md and the demo models are installed' installed
# An ffmpeg too, when it is asked for; all of it elsewhere than it was installed
# to, and nothing there is written to.
moved()
{
    mkdir -p "$tmp/away" && cp -R "$dest$prefix/." "$tmp/away" &&
        chmod -R a-w "$tmp/away" && : > "$tmp/now" || return 1
    good_ffmpeg=$ffmpeg ffmpeg=$tmp/away/bin/ffmpeg
    good -f lavfi -i "wan_t2v=prompt=a red ball:frames=1:steps=1:seed=1" \
        -f framemd5 "$tmp/moved.md5" && has '^0,.*[0-9a-f]{32}$' "$tmp/moved.md5" &&
        "$tmp/away/bin/wan-info" "$tmp/away/share/libwan/demo/t2v" > "$tmp/moved.info" &&
        find "$tmp/away" -newer "$tmp/now" > "$tmp/written" && lacks . "$tmp/written"
    moved_status=$?
    ffmpeg=$good_ffmpeg
    chmod -R u+w "$tmp/away"
    return $moved_status
}
check 'make install-ffmpeg' make -s install-ffmpeg DESTDIR="$dest"
case $libdir/$datadir in
"$prefix/lib/$prefix/share/libwan") check 'moved, and read only' moved ;;
*) skip 'moved, and read only' 'the library or its data is not below the prefix' ;;
esac

uninstalled()
{
    make -s uninstall DESTDIR="$dest" && find "$dest" ! -type d > "$tmp/left" &&
        lacks . "$tmp/left"
}
# Another version beside it keeps its library, its link and the ffmpeg.
beside()
{
    make -s install DESTDIR="$dest" || return 1
    : > "$dest$libdir/libwan.so.1.999.0" &&
        ln -sf libwan.so.1.999.0 "$dest$libdir/libwan.so.1" &&
        cp "$ffmpeg" "$dest$prefix/bin/ffmpeg" && make -s uninstall DESTDIR="$dest" &&
        find "$dest" ! -type d | sed 's/.*\///' | sort > "$tmp/left" &&
        same "$(tr '\n' ' ' < "$tmp/left")" 'ffmpeg libwan.so.1 libwan.so.1.999.0 '
}
# The public functions, and nothing else, can be seen from outside.
symbols() { nm -D --defined-only "$dest$libdir/libwan.so" | sed -n 's/.* [TDBR] //p' | sort > "$tmp/seen"
            sed -n 's/^WAN_API.*[ *]\(wan_[a-z0-9_]*\)(.*/\1/p' "$prefix_h" | sort > "$tmp/public"
            diff "$tmp/public" "$tmp/seen"; }
prefix_h=$dest$prefix/include/wan.h
check 'only what wan.h names is exported' symbols

check 'make uninstall leaves no file' uninstalled
check 'make uninstall leaves another version' beside

finish
