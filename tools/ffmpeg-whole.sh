# The configuration of a whole FFmpeg; sourced by build-ffmpeg.sh.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# What FFmpeg finds by itself stays so; what wants an option gets it if the
# library of tools/ffmpeg-libraries is there in the version that the release
# asks for.

# libraries COLUMN...: these columns of the table, of what the release knows
libraries()
{
    awk -v columns="$*" '
        BEGIN { n = split(columns, c, " ") }
        FNR == NR { if ($1 ~ /^--(en|dis)able-/) known[substr($1, index($1, "able-") + 5)] = $1
                    next }
        /^#/ || !NF || !($1 in known) { next }
        { line = known[$1]
          for (i = 1; i <= n; i++) line = line " " $(c[i])
          print line }' "$tree/configure" "$root/tools/ffmpeg-libraries"
}

# asked FUNCTION OPTION MODULE: what the release asks of it, such as
# 'aom >= 2.0.0', by that function: require_pkg_config, or check_pkg_config,
# which something else may follow
asked()
{
    case $3 in '<'*) return 0 ;; esac
    sed -n "s/.*enabled $2 .*$1 [a-z0-9_]* \"\\($3 [^\"]*\\)\".*/\\1/p" \
        "$tree/configure" | head -n 1
}

# there MODULE|<HEADER> [SPEC]
there()
{
    case $1 in
    '<'*) printf '#include <stddef.h>\n#include <stdio.h>\n#include %s\n' "$1" |
              ${CC:-cc} -E - >/dev/null 2>&1 ;;
    *)    have "${2:-$1}" ;;
    esac
}

# Two that exclude each other: openssl is taken for TLS, and libvpl for Intel's
# cards where the release knows it.
whole_libraries()
{
    libs="--enable-gpl --enable-version3"
    libraries 1 2 >"$obj/libraries"
    while read -r switch option check; do
        case $switch in --disable-*) continue ;; esac       # found by itself
        there "$check" "$(asked require_pkg_config "$option" "$check")" || continue
        case $option-$libs in libmfx-*--enable-libvpl*) continue ;; esac
        libs="$libs --enable-$option"
    done <"$obj/libraries"
    case $(uname -m) in
    i?86|x86_64|amd64)
        command -v nasm >/dev/null || libs="$libs --disable-x86asm" ;;
    esac
}

# refused: the option whose library the release refused after all, from the log
refused()
{
    words=$(sed -n 's/^ERROR: \(.*\) not found.*/\1/p' "$obj/configure.log" | head -n 1)
    [ -n "$words" ] || return 1
    for option in ${words%% *} $(grep -F -e "$words" "$tree/configure" |
            sed -n 's/^enabled \([a-z0-9_]*\) .*/\1/p'); do
        case "$libs " in *" --enable-$option "*) return 0 ;; esac
    done
    return 1
}

# configured without those that the release refuses, however many they are
configure_whole()
{
    cd "$obj" || return 1
    until "$tree/configure" "$@" $libs >"$obj/configure.log" 2>&1 </dev/null; do
        refused || {
            echo "build-ffmpeg: configure failed, the last lines of $obj/configure.log:" >&2
            tail -n 25 "$obj/configure.log" >&2
            exit 1
        }
        libs=$(echo "$libs" | sed "s/ --enable-$option\\( \\|\$\\)/\\1/")
    done
}

# A line for each library that the release knows and that is not in it.
left_out()
{
    libraries 1 2 >"$obj/libraries"
    while read -r switch option check; do
        name=CONFIG_$(echo "$option" | tr a-z A-Z)
        ! grep -q "^#define $name 1" "$obj/config.h" || continue
        spec=$(asked '[a-z_]*pkg_config' "$option" "$check")
        case $check in '<'*) version='' ;;
        *) version=$(pkg-config --modversion "$check" 2>/dev/null) || version='' ;; esac
        if [ -n "$version" ]; then
            why="FFmpeg $series wants ${spec:-another version}, here is $version"
        else
            why="it is not installed"
        fi
        echo "without $option: $why"
    done <"$obj/libraries"
}
