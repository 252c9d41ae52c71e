#!/bin/sh
#
# Get FFmpeg's source, and print the folder it is in as the only output line.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# usage: get-ffmpeg.sh SERIES DEST [--dir=GIVEN | --debian]
#
#   SERIES  9.0, 8.1, 7.1 or 5.1; auto: the newest of these that can be had
#   DEST    gets ffmpeg-SERIES/; what is there already is taken without asking
#           the network
#   --dir   a source tree of your own: only looked at
#   --debian  the distribution's source package as it is, in DEST/debian-SERIES;
#           what is printed is its .dsc; one that is there already is taken
#           where no newer one can be had
#
# Ways, in this order: the source repository of the system's own distribution
# (signed; unprivileged, with a private apt state in DEST, so nothing of the
# system's apt changes), then the release tarball of ffmpeg.org. Tarballs of
# the point releases in pin() must have the checksum there; a tarball that
# comes with neither a signature nor a known checksum is refused.

set -eu

fail() { echo "get-ffmpeg: $*" >&2; exit 1; }
note() { echo "get-ffmpeg: $*" >&2; }

all="9.0 8.1 7.1 5.1"
want='' dest='' given='' debian=
for arg; do
    case $arg in
    --debian) debian=yes ;;
    --dir=*) given=${arg#--dir=} ;;
    -*)      fail "unknown option '$arg'" ;;
    *)       if [ -z "$want" ]; then want=$arg
             elif [ -z "$dest" ]; then dest=$arg
             else fail "too many arguments at '$arg'"; fi ;;
    esac
done
[ -n "$dest" ] || fail "usage: get-ffmpeg.sh SERIES DEST [--dir=GIVEN]"
case " auto $all " in
*" $want "*) ;;
*) fail "no FFmpeg series '$want', only: auto $all" ;;
esac

# pin SERIES: 'RELEASE SHA256' of upstream's ffmpeg-RELEASE.tar.xz. Debian's
# .orig.tar.xz is the same file.
pin()
{
    case $1 in
    9.0) echo 9.0.2 8c3850283eb25fa026482078a04051e0be17347b09ef81a0849bec15a96e002e ;;
    8.1) echo 8.1.2 464beb5e7bf0c311e68b45ae2f04e9cc2af88851abb4082231742a74d97b524c ;;
    7.1) echo 7.1.5 de668509caf9e35e3cd162473441fdb29538c6d96ed080292b3cf9e6fc5d558f ;;
    5.1) echo 5.1.9 d9b593bb2ba93d4b50f74177e0cdcd41747e708596367deed0c30348a71dd176 ;;
    esac
}

# is_series TREE SERIES: TREE is FFmpeg source of that series
is_series()
{
    [ -f "$1/configure" ] && [ -f "$1/libavfilter/allfilters.c" ] || return 1
    case $(cat "$1/RELEASE" 2>/dev/null) in
    "$2" | "$2".*) return 0 ;;
    esac
    return 1
}

if [ -n "$given" ]; then
    for series in $all; do
        if [ "$want" = auto ] || [ "$want" = "$series" ]; then
            if is_series "$given" "$series"; then
                (cd "$given" && pwd)
                exit 0
            fi
        fi
    done
    [ "$want" = auto ] && want="$all"
    fail "'$given' is no FFmpeg source tree of a wanted series ($want)"
fi

mkdir -p "$dest" || fail "cannot make '$dest'"
dest=$(cd "$dest" && pwd)
[ "$want" = auto ] || all=$want
for series in $all; do
    if [ -z "$debian" ] && is_series "$dest/ffmpeg-$series" "$series"; then
        echo "$dest/ffmpeg-$series"
        exit 0
    fi
done

work=$dest/.get-ffmpeg.$$
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$work" || fail "cannot write to '$dest'"
tried=

sha256()
{
    if command -v sha256sum >/dev/null; then
        sha256sum <"$1"
    elif command -v shasum >/dev/null; then
        shasum -a 256 <"$1"
    else
        openssl dgst -sha256 -r <"$1"
    fi | sed 's/[ *].*//'
}

# accept TARBALL RELEASE HOW: check, unpack aside, rename, print, exit.
# HOW is 'signed' if a signature vouched for the tarball. Returns 1 with a
# reason in $why when it is not to be used.
accept()
{
    set -- "$1" "$2" "$3" $(pin "$series")
    if [ "$2" = "$4" ]; then
        sum=$(sha256 "$1")
        if [ "$sum" != "$5" ]; then
            why="FFmpeg $2 has the SHA-256 $sum instead of $5"
            return 1
        fi
    elif [ "$3" != signed ]; then
        why="no checksum is known for FFmpeg $2"
        return 1
    fi
    mkdir "$work/tree"
    if ! tar -xf "$1" -C "$work/tree" 2>"$work/tar.log"; then
        why="unpacking: $(head -n 1 "$work/tar.log")"
        rm -rf "$work/tree"
        return 1
    fi
    if ! is_series "$work/tree/ffmpeg-$2" "$series"; then
        why="the tarball does not hold ffmpeg-$2"
        rm -rf "$work/tree"
        return 1
    fi
    rm -rf "$dest/ffmpeg-$series"
    mv "$work/tree/ffmpeg-$2" "$dest/ffmpeg-$series" || exit 1
    note "FFmpeg $2 from $way"
    echo "$dest/ffmpeg-$series"
    exit 0
}

# ---- the distribution's repository

# The repositories of the distribution itself among the user's apt sources, one
# a line: 'main|security URI SIGNED-BY', '-' for none. They are known by
# suite and component; a foreign one that looks alike only fails to have FFmpeg.
apt_repositories()
{
    codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release 2>/dev/null)
    dir=$(apt-config shell d Dir::Etc/d) && eval "$dir"
    d=${d:-/etc/apt/}
    for f in "$d"sources.list "$d"sources.list.d/*.list "$d"sources.list.d/*.sources; do
        [ -r "$f" ] || continue
        case $f in
        *.sources) awk '
            function flush(   i, j, n, m, u, s) {
                if (on && f["uris"] != "" && f["types"] ~ /deb/) {
                    n = split(f["uris"], u, " ")
                    m = split(f["suites"], s, " ")
                    if (f["signed-by"] ~ /BEGIN|^$/) f["signed-by"] = "-"
                    gsub(/[ \t]+/, ",", f["signed-by"])
                    for (i = 1; i <= n; i++) for (j = 1; j <= m; j++)
                        print u[i], f["signed-by"], s[j], f["components"]
                }
                split("", f); on = 1; key = ""
            }
            BEGIN { on = 1 }
            /^#/ { next }
            /^[ \t]*$/ { flush(); next }
            /^[ \t]/ { sub(/^[ \t]+/, ""); f[key] = f[key] " " $0; next }
            {
                i = index($0, ":"); key = tolower(substr($0, 1, i - 1))
                v = substr($0, i + 1); gsub(/^[ \t]+|[ \t]+$/, "", v)
                f[key] = v
                if (key == "enabled" && tolower(v) ~ /^(no|false|0)/) on = 0
            }
            END { flush() }' "$f" ;;
        *) awk '
            $1 == "deb" || $1 == "deb-src" {
                by = "-"
                if (match($0, /\[[^]]*\]/)) {
                    o = substr($0, RSTART + 1, RLENGTH - 2)
                    $0 = substr($0, 1, RSTART - 1) substr($0, RSTART + RLENGTH)
                    n = split(o, a, " ")
                    for (i = 1; i <= n; i++)
                        if (tolower(a[i]) ~ /^signed-by=/) by = substr(a[i], 11)
                }
                sub(/#.*/, "")
                c = ""
                for (i = 4; i <= NF; i++) c = c " " $i
                print $2, by, $3, c
            }' "$f" ;;
        esac
    done | awk -v name="$codename" '
        {
            base = $3
            sub(/(-updates|-security|-backports|-proposed|-proposed-updates|\/updates)$/, "", base)
            if (base != name && base !~ /^(oldstable|stable|testing|unstable|sid|experimental|devel)$/)
                next
            for (i = 4; i <= NF && $i != "main"; i++) ;
            if (i > NF || $1 ~ /^cdrom:/) next
            sub(/\/$/, "", $1)
            line = ($3 ~ /security|\/updates/ ? "security" : "main") " " $1 " " $2
            if (!seen[line]++) print line
        }'
}

# suites KIND: where the series lives. Debian's sid keeps some older ones.
suites()
{
    case $(sed -n 's/^ID=//p' /etc/os-release 2>/dev/null) in
    ubuntu) case $1-$series in
            main-9.0 | main-8.1) echo devel ;;
            main-7.1)            echo plucky plucky-updates questing questing-updates devel ;;
            security-7.1)        echo plucky-security questing-security ;;
            esac ;;
    *)      case $1-$series in
            main-9.0)     echo forky sid experimental ;;
            security-9.0) echo forky-security ;;
            main-8.1)     echo sid experimental ;;
            main-7.1)     echo trixie ;;
            security-7.1) echo trixie-security ;;
            main-5.1)     echo bookworm ;;
            security-5.1) echo bookworm-security ;;
            esac ;;
    esac
}

from_apt()
{
    way="the distribution's source repository"
    why=
    command -v apt-get >/dev/null || { why="no apt-get here"; return 1; }
    apt=$work/apt-$series
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/empty"
    apt_repositories >"$work/repositories"
    while read -r kind uri by; do
        for suite in $(suites "$kind"); do
            opt=
            [ "$by" = - ] || opt="[signed-by=$by] "
            case $suite in
            plucky* | questing* | devel) echo "deb-src $opt$uri $suite main universe" ;;
            *)                           echo "deb-src $opt$uri $suite main" ;;
            esac
        done
    done <"$work/repositories" >"$apt/sources.list"
    [ -s "$apt/sources.list" ] || {
        why="no repository of the distribution in apt's sources, or no suite known for it"
        return 1
    }

    # read after the system's configuration: its proxies stay, its hooks go
    cat >"$apt/apt.conf" <<CONF
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "$apt/empty";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "$apt/empty";
Dir::State::lists "$apt/lists";
Dir::Cache "$apt/cache";
CONF
    # a suite that is not there fails the update, the others still serve
    apt-get -c "$apt/apt.conf" -qq update >"$apt/update.log" 2>&1 || :
    version=$(apt-cache -c "$apt/apt.conf" showsrc ffmpeg 2>/dev/null |
              sed -n "s/^Version: \(\([0-9]*:\)\{0,1\}$series\..*\)/\1/p" |
              sort -V | tail -n 1)
    [ -n "$version" ] || {
        why=$(sed -n 's/^[EW]: //p' "$apt/update.log" | head -n 1)
        why="no ffmpeg $series there${why:+ ($why)}"
        return 1
    }
    if [ -n "$debian" ] && [ -f "$dest/debian-$series/ffmpeg_${version#*:}.dsc" ]; then
        echo "$dest/debian-$series/ffmpeg_${version#*:}.dsc"
        exit 0
    fi
    mkdir "$apt/source"
    # shellcheck disable=SC2046
    if ! (cd "$apt/source" && apt-get -c "$apt/apt.conf" -qq source --download-only \
              $([ -n "$debian" ] || echo --tar-only) "ffmpeg=$version") \
            >"$apt/source.log" 2>&1; then
        why=$(sed -n 's/^E: //p' "$apt/source.log" | head -n 1)
        return 1
    fi
    if [ -n "$debian" ]; then
        rm -rf "$dest/debian-$series"
        mv "$apt/source" "$dest/debian-$series"
        ls "$dest/debian-$series"/*.dsc
        exit 0
    fi
    for tarball in "$apt"/source/ffmpeg_"$series".*.orig.tar.*; do
        release=${tarball##*/ffmpeg_}
        release=${release%.orig.tar.*}
        [ -f "$tarball" ] && accept "$tarball" "$release" signed
    done
    [ -n "$why" ] || why="apt-get source brought no tarball"
    return 1
}

# ---- upstream

from_upstream()
{
    way="ffmpeg.org"
    set -- $(pin "$series")
    url=https://ffmpeg.org/releases/ffmpeg-$1.tar.xz
    if command -v curl >/dev/null; then
        why=$(curl -fsSL --connect-timeout 15 --retry 1 -o "$work/up.tar.xz" "$url" 2>&1) || {
            why=$(printf '%s\n' "$why" | tail -n 1)
            return 1
        }
    elif command -v wget >/dev/null; then
        wget -q -T 15 -t 2 -O "$work/up.tar.xz" "$url" 2>/dev/null || {
            why="wget failed"
            return 1
        }
    else
        why="neither curl nor wget here"
        return 1
    fi
    accept "$work/up.tar.xz" "$1" unsigned
}

for series in $all; do
    for from in from_apt $([ -n "$debian" ] || echo from_upstream); do
        $from || tried="$tried; $series from $way: ${why:-no reason given}"
    done
    [ -z "$debian" ] || ! ls "$dest/debian-$series"/*.dsc 2>/dev/null || exit 0
done
fail "no FFmpeg source to be had${tried}; give a source tree with --dir=DIR" \
     "(./configure --ffmpeg=DIR)"
