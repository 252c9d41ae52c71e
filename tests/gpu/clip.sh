#!/bin/sh
# A clip of T2V-1.3B through ffmpeg, of random weights: in a few steps, then with
# 4 GB for all of it, which must give the same bits.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# usage: clip.sh BIN DEVICE     with the programs of a bundle, by one card or by
#                               some (cuda:0-1); WAN_GOLDEN for the tokenizer.
#                               Lines '# clip' say what it took.

bin=$1 device=$2
tmp=$(mktemp -d "${TMPDIR:-/tmp}/wan-clip.XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
size=832x480 frames=81 layers=
case $device in cuda*) ;; *) size=64x64 frames=5 layers='--dit-layers 2' ;; esac
graph_device=$(echo "$device" | sed 's/:/\\\\:/')

free=$(df -Pk "$tmp" | awk 'END { print int($4 / 1048576) }')
[ "$free" -ge 8 ] || { echo "ok 1 - a clip # SKIP $free GB free in $tmp, 8 are wanted"; echo 1..1; exit; }
# What encodes the prompt is as wide as it is, and has 2 layers of 24.
# shellcheck disable=SC2086
"$bin/wan-random" "$tmp/model" --shapes t2v-1.3B --text-layers 2 $layers \
    --tokenizer "$WAN_GOLDEN/tokenizer/spiece.model" || exit 1

# clip NAME OPTIONS
clip()
{
    "$bin/ffmpeg" -hide_banner -nostdin -nostats -v verbose -f lavfi -i \
        "wan_t2v=model=$tmp/model:prompt=a cat:size=$size:frames=$frames:steps=4:seed=1:device=$graph_device$2" \
        -f framemd5 "$tmp/$1.md5" > "$tmp/$1.log" 2>&1 || { tail -n 20 "$tmp/$1.log"; return 1; }
    grep -E 'memory|resident|clip over|NCCL|clip 1: [0-9]* frames' "$tmp/$1.log" | sed "s/^/# clip $1: /"
    grep -qc '^0' "$tmp/$1.md5"
}
failed=0
report() { [ $1 -eq 0 ] || { failed=1; printf 'not '; }; echo "ok $2"; }
clip whole ''
report $? '1 - a clip'
clip budget :memory=4G
report $? '2 - a clip in 4 GB'
cmp "$tmp/whole.md5" "$tmp/budget.md5"
report $? '3 - the same bits'
echo 1..3
exit $failed
