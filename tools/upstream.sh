#!/bin/sh
#
# The patch series as FFmpeg would be sent it: filters with their file, options
# and tests in one patch, everything else after it.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# usage: upstream.sh TREE OUT
#
#   TREE  a git checkout of FFmpeg, clean, of a series that has patches; the
#         series is applied to what is checked out there
#   OUT   gets the mails of git format-patch
#
# What is in libavfilter/, docs/filters.texi and tests/fate/ of this repository
# is put into the first patch, which leaves it out because libwan's own build
# copies it in.

set -eu

fail() { echo "upstream: $*" >&2; exit 1; }

[ $# -eq 2 ] || fail "usage: upstream.sh TREE OUT"
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
cd "$1" || exit 1
series=$(sed -n '1s/^\([0-9][0-9]*\.[0-9][0-9]*\).*/\1/p' RELEASE 2>/dev/null) || :
patches=$root/patches/ffmpeg-$series
[ -n "$series" ] && [ -d "$patches" ] || fail "'$1' is no FFmpeg with patches here"
[ -z "$(git status --porcelain)" ] || fail "'$1' has changes"
base=$(git rev-parse HEAD)

# section NAME: of our manual, with its anchor
section()
{
    awk -v name="$1" '
        /^@anchor\{wan_[a-z0-9]+\}$/ || /^@section / { on = $0 == "@anchor{" name "}" || $0 == "@section " name }
        on' "$root/docs/filters.texi"
}

# replace NAME: that section of FFmpeg's manual by ours
replace()
{
    section "$1" >"$out/section"
    [ -s "$out/section" ] || fail "docs/filters.texi has no section $1"
    awk -v name="$1" -v file="$out/section" '
        $0 == "@section " name {
            while ((getline line < file) > 0) print line
            skip = 1
            next
        }
        /^@section / || /^@anchor\{/ && !inside || /^@c man end/ { skip = 0 }
        { inside = skip }
        !skip' doc/filters.texi >"$out/texi"
    cat "$out/texi" >doc/filters.texi
    rm "$out/section" "$out/texi"
}

git am -q "$patches"/0001-*.patch
cp "$root"/libavfilter/* libavfilter/
for ref in "$root"/tests/fate/filter-wan-*; do
    cp "$ref" tests/ref/fate/
done
for name in $(sed -n 's/^+@section \(wan_[a-z0-9]*\)$/\1/p' "$patches"/0001-*.patch); do
    replace "$name"
done
git add -A
git log -1 --format=%B | sed '/^The filters. own file/,/^in this patch/d' |
    git commit -q --amend -F -
git am -q $(ls "$patches"/*.patch | grep -v /0001-)
git format-patch -q -o "$out" "$base"
echo "$out: $(git rev-list --count "$base"..HEAD) patches"
