#!/bin/sh
# The whole ffmpeg: it has the filters that the distribution's has, and what one
# expects of an ffmpeg works in it.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
need "$ffmpeg" "$ffprobe"
objects=$B/ffmpeg-$series
configure=$objects/source/configure

names() { sed -n 's/^ *[T.][S.][C.|]* \([a-z0-9_]*\) .*->.*/\1/p'; }

# The distribution's own, where it is installed, else as Debian 12 has it.
if theirs=$(PATH=/usr/bin command -v ffmpeg); then
    "$theirs" -hide_banner -filters | names | sort > "$tmp/theirs"
else
    sort "$SRC/tests/package/filters-debian-12" > "$tmp/theirs"
fi
"$ffmpeg" -hide_banner -filters | names | sort > "$tmp/ours"

# explained FILTER: the release has no such filter, or a library that it stands on
# is older here than the release asks for, or in no distribution
explained()
{
    grep -Eq "ff_[a-z]*_$1;" "$objects/source/libavfilter/allfilters.c" || return 0
    deps=$(sed -n "s/^$1_filter_[a-z_]*=\"\\(.*\\)\"/\\1/p" "$configure")
    for dep in $deps; do
        ! grep -q "^without $dep: FFmpeg" "$objects/whole/left-out" || return 0
        backends=$(sed -n "s/^${dep}_deps_any=\"\(.*\)\"/\1/p" "$configure" | tr ' ' '\n')
        [ -z "$backends" ] || cut -d' ' -f1 "$SRC/tools/ffmpeg-libraries" |
            grep -Fxq -e "$backends" || return 0
    done
    return 1
}
filters()
{
    [ "$(wc -l < "$tmp/theirs")" -gt 300 ] || { echo 'no list of filters'; return 1; }
    for filter in $(comm -23 "$tmp/theirs" "$tmp/ours"); do
        explained "$filter" || { echo "$filter is missing"; return 1; }
        echo "# not in FFmpeg $series with this system's libraries: $filter" >&3
    done
}
exec 3>&1
check 'the filters of the distribution' filters
check 'and ours' has '^wan_t2v$' "$tmp/ours"

# The table's lines are whole, and what stands in them is in the build or is told.
table()
{
    awk '/^#/ || !NF { next } NF != 5 { print; bad = 1 } END { exit bad }' \
        "$SRC/tools/ffmpeg-libraries" || return 1
    for option in $(sed -n 's/^\([a-z0-9_]*\) .*/\1/p' "$SRC/tools/ffmpeg-libraries"); do
        grep -Eq "^  --(en|dis)able-$option " "$configure" || continue
        name=CONFIG_$(echo "$option" | tr a-z A-Z)
        grep -q "^#define $name 1" "$objects/whole/config.h" ||
            grep -q "^without $option: " "$objects/whole/left-out" ||
            { echo "$option is neither in nor told"; return 1; }
    done
}
check 'each library is in or told' table
left_out_is_told()
{
    while read -r line; do
        echo "$line" | grep -Eq '^without [a-z0-9_]+: [a-zA-Z].*$' ||
            { echo "$line"; return 1; }
    done < "$objects/whole/left-out"
}
check 'what is left out is told by a line' left_out_is_told

tiny_demo
t2v=wan_t2v=$small
webm()
{
    good -f lavfi -i "$t2v,scale=128:128" -f lavfi -i sine=duration=1 -shortest \
        -c:v libsvtav1 -c:a libopus "$tmp/a.webm" && same "$(frames "$tmp/a.webm")" 5
}
sheet() { good -f lavfi -i "$t2v,tile=5x1" -frames:v 1 "$tmp/a.tiff" && [ -s "$tmp/a.tiff" ]; }
written()
{
    good -f lavfi -i "$t2v,drawtext=text=AI:fontsize=12" "$tmp/a.mkv" &&
        same "$(frames "$tmp/a.mkv")" 5
}
played()
{
    SDL_VIDEODRIVER=dummy SDL_AUDIODRIVER=dummy timeout $patience "$bin/ffplay" \
        -v error -autoexit -f lavfi "$t2v" 2> "$tmp/log" || { cat "$tmp/log"; return 1; }
}
if have encoders libsvtav1; then recipe 'AV1 and Opus in WebM' webm
else skip 'AV1 and Opus in WebM' 'no libsvtav1'; fi
recipe 'a contact sheet as TIFF' sheet
if have filters drawtext; then recipe 'a visible mark' written
else skip 'a visible mark' 'no drawtext'; fi
if [ -x "$bin/ffplay" ]; then recipe 'ffplay shows it' played
else skip 'ffplay shows it' 'no SDL2'; fi
for protocol in https srt rtmps; do
    check "the protocol $protocol" sh -c "'$ffmpeg' -v error -protocols | grep -qw $protocol"
done

finish
