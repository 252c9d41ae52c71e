#!/bin/sh
# make demo: one video, what it took, and what to try next.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# environment: B build folder, GOLDEN its golden folder, MODEL a checkpoint or
# empty, PROMPT the text, DEMO more options of wan_t2v

set -eu

out=demo.mp4
prompt=${PROMPT:-a red ball bounces on a wet street}
text=$(mktemp "${TMPDIR:-/tmp}/wan-demo.XXXXXX")
trap 'rm -f "$text"' EXIT
printf '%s' "$prompt" > "$text"

if [ -n "${MODEL:-}" ]; then
    model=$MODEL options=${DEMO:-}
    "$B/bin/wan-info" "$model"
else
    model=$GOLDEN/tiny/wan-t2v
    options=size=160x96:frames=17:steps=8:${DEMO:-}
    echo "demo: no MODEL was given, so a tiny checkpoint of random weights is"
    echo "demo: used: the video is a moving texture and shows nothing else."
fi

# A colon, a comma or a quote in a path would end the option.
model=$(printf %s "$model" | sed -e "s/[\\\\:']/\\\\&/g" -e "s/[\\\\',;]/\\\\&/g")
start=$(date +%s)
"$B/bin/ffmpeg" -hide_banner -loglevel info -nostats -xerror -y \
    -f lavfi -i "wan_t2v=model=$model:promptfile=$text:$options" \
    -c:v libx264 -x264-params log=0 -pix_fmt yuv420p -movflags +faststart "$out"
echo
echo "demo: $out, $(wc -c < "$out") bytes, made in $(($(date +%s) - start)) s from: $prompt"
if [ -z "${MODEL:-}" ]; then
    echo "demo: next, with a real checkpoint (docs/models.md says where to get one):"
    echo "    make demo MODEL=Wan2.1-T2V-1.3B PROMPT='waves roll onto a beach'"
else
    echo "demo: next, an image from the same model:"
    echo "    $B/bin/ffmpeg -f lavfi -i \"wan_t2v=model=$MODEL:frames=1:prompt=a lighthouse\" image.png"
fi
