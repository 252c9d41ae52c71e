#!/bin/sh
# make demo: a video, what it took, and what to try next.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# Without MODEL, the demo models: a clip from a sentence, then its last frame
# as a picture that goes on by another sentence, both in one file. With MODEL:
# one clip.
#
# environment: B build folder, MODEL a text-to-video checkpoint or empty, PROMPT
# the text, NEXT that of the second clip, DEMO more options of the filters

set -eu

out=demo.mp4
parts=$B/demo
prompt=${PROMPT:-a red ball bounces over a grassy field}
next=${NEXT:-a red ball moves to the left over a grassy field}
options=:seed=1${DEMO:+:$DEMO}
model=
mkdir -p "$parts"
printf '%s' "$prompt" > "$parts/t2v.txt"
printf '%s' "$next" > "$parts/i2v.txt"
began=$(date +%s)

# run NAME ARGUMENT...: ffmpeg, its messages also in NAME.log
run()
{
    log=$parts/$1.log
    shift
    FFREPORT=file=$log:level=32 "$B/bin/ffmpeg" -hide_banner -nostats -xerror \
        -y "$@"
}

# encoded NAME ARGUMENT...: the same into H.264; sets $took
encoded()
{
    start=$(date +%s)
    run "$@" -c:v libx264 -x264-params log=0 -pix_fmt yuv420p \
        -movflags +faststart "$parts/$1.mp4"
    took=$(($(date +%s) - start))
}

# told NAME: the time of each stage, as the filter says it
told() { sed -n 's/.*clip 1: \([0-9]* frames in .*\)$/\1/p' "$parts/$1.log"; }

# A colon, a comma or a quote in a path would end the option.
quote() { printf %s "$1" | sed -e "s/[\\\\:']/\\\\&/g" -e "s/[\\\\',;]/\\\\&/g"; }

if [ -n "${MODEL:-}" ]; then
    model=model=$(quote "$MODEL"):
    "$B/bin/wan-info" "$MODEL"
fi

encoded t2v -f lavfi -i "wan_t2v=${model}promptfile=$(quote "$parts")/t2v.txt$options"
t2v_took=$took
more=                           # whether it goes on: with both demo models
[ -n "$model" ] || [ ! -d "$B/share/libwan/demo/i2v" ] || more=1
if [ -z "$more" ]; then
    cp "$parts/t2v.mp4" "$out"
else
    run still -v error -sseof -1 -i "$parts/t2v.mp4" -update 1 "$parts/still.png"
    size=$("$B/bin/ffprobe" -v error -show_entries stream=width,height \
        -of csv=p=0:s=x "$parts/still.png")
    encoded i2v -i "$parts/still.png" \
        -vf "wan_i2v=size=$size:promptfile=$(quote "$parts")/i2v.txt$options"
    printf "file '%s'\n" t2v.mp4 i2v.mp4 > "$parts/list.txt"
    run concat -v warning -f concat -i "$parts/list.txt" -c copy -movflags +faststart "$out"
fi

echo
echo "demo: $out, $(wc -c < "$out") bytes, made in $(($(date +%s) - began)) s"
echo "demo: from the sentence: $prompt"
echo "demo:     $t2v_took s, $(told t2v)"
if [ -n "$more" ]; then
    echo "demo: then from its last frame, $parts/still.png, and: $next"
    echo "demo:     $took s, $(told i2v)"
fi
if [ -z "$model" ]; then
    echo "demo: next, a sentence of your own:"
    echo "    $B/bin/ffmpeg -f lavfi -i \"wan_t2v=prompt=a blue star moves to the right above the sea\" mine.mp4"
    echo "demo: and with a real checkpoint, which docs/models.md says where to get:"
    echo "    make demo MODEL=Wan2.1-T2V-1.3B PROMPT='a lighthouse at dusk' DEMO=size=480x272:frames=5:steps=12"
else
    echo "demo: next, an image from the same model:"
    echo "    $B/bin/ffmpeg -f lavfi -i \"wan_t2v=model=$MODEL:frames=1:prompt=a lighthouse\" image.png"
fi
