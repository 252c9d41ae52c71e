#!/bin/sh
# The pictures of the README and of docs/recipes.md: what the demo models make,
# by the commands that stand beside them there.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# From the repository's root, after make: tools/demo-model/readme_sheet.sh
# writes docs/demo/*.gif and the README's table of them to standard output; with
# the word recipes, only what the README has not; with live, the scene that goes
# on. That wants the filter drawtext (make ffmpeg).

set -eu

ffmpeg=${FFMPEG:-build/bin/ffmpeg}
out=docs/demo
mkdir -p $out

# 256 colours of its own for each clip
gif='split[a][b];[a]palettegen=stats_mode=diff[p];[b][p]paletteuse=dither=bayer:bayer_scale=4'

make_gif() { "$ffmpeg" -v error -nostdin -xerror -y "$@" -loop 0 "$out/$name.gif"; }

if [ "${1-}" = recipes ]; then
    name=side
    make_gif -filter_complex "wan_t2v=prompt=a blue ring moves to the right:seed=5[l];wan_t2v=prompt=a pink triangle rises:seed=4[r];[l][r]hstack,$gif"
    name=loop
    make_gif -f lavfi -i "wan_t2v=prompt=an orange square grows:seed=3" \
        -vf "split[f][g];[g]reverse[h];[f][h]concat,$gif"
    "$ffmpeg" -v error -nostdin -xerror -y -f lavfi \
        -i "wan_t2v=prompt=a red ball bounces over a grassy field:seed=1:frames=17" \
        -vf "select=not(mod(n\,2)),tile=3x3:padding=2" -frames:v 1 $out/sheet.png
    exit 0
fi

# A prompt for two seconds each, 32 frames; a command meets the block behind it.
if [ "${1-}" = live ]; then
    name=stream
    commands=$(mktemp)
    trap 'rm -f "$commands"' EXIT
    at=32
    while read -r prompt; do
        awk -v at=$at 'BEGIN { printf "%.5f wan_t2v prompt ", (at - 1.5) / 16 }'
        echo "'$prompt';"
        at=$((at + 32))
    done > "$commands" << 'END'
a yellow star bounces above the sea
a yellow star spins above the sea
a red heart grows above the sea
a red heart moves to the left in front of the night sky
a white ball circles in front of the night sky
END
    make_gif -f lavfi -i "wan_t2v=model=share/demo/causal:clips=0:ahead=0:seed=5:prompt=a blue star circles above the sea,sendcmd=f=$commands" \
        -vf "trim=end_frame=192,scale=240:144:flags=bicubic,pad=240:162:0:0:black,drawtext=text='%{metadata\\:lavfi.wan.prompt}':x=4:y=149:fontsize=9:fontcolor=white,fps=8,${gif%%[[]p];*}:max_colors=96[p];[b][p]paletteuse=dither=none"
    exit 0
fi

echo '| | |'
echo '| --- | --- |'

# row COMMAND
row() { printf '| ![](docs/demo/%s.gif) | `%s` |\n' "$name" "$1"; }

# t2v NAME SEED PROMPT
t2v()
{
    name=$1
    source="wan_t2v=prompt=$3:seed=$2"
    make_gif -f lavfi -i "$source" -vf "$gif"
    row "ffmpeg -f lavfi -i \"$source\" $name.mp4"
}

t2v ball 1 'a red ball bounces over a grassy field'
t2v heart 2 'a purple heart moves down on a gradient'
t2v square 3 'an orange square shrinks on a plain background'
t2v triangle 4 'a pink triangle rises over the sea'
t2v ring 5 'a blue ring moves to the right on a gradient background'
t2v star 6 '夜空，一个黄色的星星变大'

[ -d share/demo/i2v ] || exit 0
name=still
"$ffmpeg" -v error -nostdin -xerror -y -f lavfi \
    -i 'wan_t2v=prompt=a red heart above the sea:seed=7:frames=1:format=rgb24' \
    -frames:v 1 $out/still.png
printf '| ![](docs/demo/still.png) | `%s` |\n' \
    'ffmpeg -f lavfi -i "wan_t2v=prompt=a red heart above the sea:seed=7:frames=1:format=rgb24" -frames:v 1 still.png'

# i2v NAME SEED PROMPT
i2v()
{
    name=$1
    filter="wan_i2v=prompt=$3:seed=$2"
    make_gif -i $out/still.png -vf "$filter,$gif"
    row "ffmpeg -i still.png -vf \"$filter\" $name.mp4"
}

i2v falls 1 'a red heart moves down above the sea'
i2v spins 2 'a red heart spins above the sea'
