#!/bin/sh
# make dist: the tarball, unpacked, builds without git and passes its tests.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
version=$(sed -n 's/^.define WAN_VERSION_M[AIJNORC]* *//p' "$SRC/wan/wan.h" | paste -sd.)
chmod 755 "$tmp"        # its tests look at it as somebody else
mkdir "$tmp/bin"
printf '#!/bin/sh\necho "git is not to be called" >&2\nexit 1\n' > "$tmp/bin/git"
chmod +x "$tmp/bin/git"

built()
{
    cd "$tmp/libwan-$version" && PATH=$tmp/bin:$PATH &&
        ./configure --debug && make -s -j2 libs tools unit && make -s install DESTDIR="$tmp/root"
}
if [ -e "$SRC/.git" ]; then
    check 'make dist' make -s dist
    check 'unpacked, in one folder' tar -xJf "$B/libwan-$version.tar.xz" -C "$tmp"
    check 'the folder is named by the version' test -x "$tmp/libwan-$version/configure"
    check 'it builds without git' built
    check 'it says the version' has "^Version: $version\$" \
        "$(find "$tmp/root" -name wan.pc)"
else
    skip 'make dist' 'no git clone'
fi

finish
