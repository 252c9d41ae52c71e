#!/bin/sh
# Step caching inside ffmpeg: the official runs' bytes, what is said of it, a
# table of one's own.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
info=$B/bin/wan-info
need "$ffmpeg" "$tools/compare" "$info"

t2v=$(quote "$tiny/wan-t2v")
parts=text_encoder=$t2v:vae=$t2v:tokenizer=$t2v
lake="size=48x32:frames=9:guidance=5:shift=5:negative_prompt=blurry:rng=cpu:$exact:format=rgb24"

# table GOLDEN MODEL: its ratios as a file that cache_table takes
table()
{
    tensor "stepcache-$1.safetensors" ratios | od -An -v -tf8 -w16 |
        awk -v model="$2" '
            { c = c (NR > 1 ? ", " : "") $1; u = u (NR > 1 ? ", " : "") $2 }
            END { printf "{\"wan_cache_table\": 1, \"model\": \"%s\", \"cond\": " \
                         "[%s], \"uncond\": [%s]}\n", model, c, u }' > "$tmp/$1.json"
    [ -s "$tmp/$1.json" ]
}

# same_bytes GOLDEN SKIPPED: what was made against the golden's frames
same_bytes()
{
    has "cache: $2 calls of the transformer skipped" "$tmp/log" &&
        tensor "stepcache-$1.safetensors" frames_u8 > "$tmp/want" &&
        "$tools/compare" --bytes "$tmp/want" "$tmp/video"
}

# t2v_golden NAME SKIPPED OPTIONS
t2v_golden()
{
    make_clip "$(source_of "$3:$lake")" -f rawvideo "$tmp/video" &&
        same_bytes "$1" "$2"
}
check 'cache=easy' t2v_golden easycache '10 of 40' \
    'prompt=a cat:steps=20:seed=301:cache=easy:cache_threshold=0.5'
check 'cache=easy, cache_retain' t2v_golden easycache-2 '14 of 32' \
    'prompt=a quiet lake at dawn:steps=16:seed=302:cache=easy:cache_threshold=0.7:cache_retain=4'

tiny_name='Wan2.1 T2V (width 96, 2 layers)'
mag()
{
    table "$1" "$tiny_name" &&
        t2v_golden "$1" "$2" "$3:cache=mag:cache_table=$(quote "$tmp/$1.json")"
}
check 'cache=mag' mag magcache '22 of 40' \
    'prompt=a cat:steps=20:seed=303:cache_threshold=0.12:cache_run=4:cache_retain=0.2'
check 'cache=mag, a longer table of its own' mag magcache-2 '12 of 24' \
    'prompt=a cat:steps=12:seed=305:cache_threshold=0.25:cache_retain=0.25'

mag_i2v()
{
    table magcache-i2v 'Wan2.1 I2V (width 96, 2 layers)' &&
        tensor stepcache-magcache-i2v.safetensors image0 > "$tmp/image" &&
        good -f rawvideo -pix_fmt rgb24 -s 64x48 -i "$tmp/image" -vf \
            "wan_i2v=model=$(quote "$tiny/wan-i2v"):$parts:prompt=leaves fall:negative_prompt=static:size=32x32:frames=5:steps=12:guidance=5:shift=3:seed=306:rng=cpu:$exact:format=rgb24:cache=mag:cache_threshold=0.24:cache_run=6:cache_retain=0.2:cache_table=$(quote "$tmp/magcache-i2v.json")" \
            -f rawvideo "$tmp/video" &&
        same_bytes magcache-i2v '16 of 24'
}
check 'cache=mag from an image' mag_i2v

# Each clip begins anew and says so.
two_clips()
{
    make_clip "$(source_of "$small:steps=14:clips=2:cache=easy:cache_threshold=100")" \
        -f null - && same "$(said 'cache: 6 of 28 calls')" 2
}
check 'a line for each clip' two_clips

silent()
{
    make_clip "$(source_of "$small")" -f null - && same "$(said 'cache:')" 0
}
check 'no cache, no line' silent

calibrated()
{
    "$info" "$tiny/wan-t2v" --calibrate "$tmp/own.json" --prompt 'a cat' \
        --size 32x32 --frames 5 --steps 8 2> "$tmp/info" || { cat "$tmp/info"; return 1; }
    make_clip "$(source_of "$small:steps=16:cache=mag:cache_threshold=5:cache_table=$(quote "$tmp/own.json")")" \
        -f null - && has 'cache: [1-9][0-9]* of 32 calls' "$tmp/log"
}
check 'a table of wan-info --calibrate' calibrated

# fails PATTERN ARGUMENT...: of wan-info
fails()
{
    fails_pattern=$1
    shift
    ! "$info" "$@" > "$tmp/info" 2>&1 && has "$fails_pattern" "$tmp/info" &&
        same "$(wc -l < "$tmp/info" | tr -d ' ')" 1
}
printf 'P6\n9 9\n255\nshort' > "$tmp/short.ppm"
printf 'P3\n1 1\n255\n1 1 1\n' > "$tmp/text.ppm"
i2v="$tiny/wan-i2v --vae $tiny/wan-t2v --text-encoder $tiny/wan-t2v --tokenizer $tiny/wan-t2v"
check 'a table is not written over' fails 'own.json: File exists' \
    "$tiny/wan-t2v" --calibrate "$tmp/own.json" --prompt 'a cat'
check 'a table in no folder' fails 'nowhere/t.json: No such file' \
    "$tiny/wan-t2v" --calibrate "$tmp/nowhere/t.json" --prompt 'a cat'
check 'calibrating without a prompt' fails 'needs a MODEL and a --prompt' \
    "$tiny/wan-t2v" --calibrate "$tmp/t.json"
check 'an image without calibrating' fails 'belong to --calibrate' \
    "$tiny/wan-t2v" --image "$tmp/short.ppm"
check 'an image that is cut off' fails 'short.ppm: 9x9 pixels are not all there' \
    $i2v --calibrate "$tmp/t.json" --prompt 'a cat' --image "$tmp/short.ppm"
check 'an image of another kind' fails 'text.ppm: not a PPM' \
    $i2v --calibrate "$tmp/t.json" --prompt 'a cat' --image "$tmp/text.ppm"
from_image()
{
    { printf 'P6\n# a comment\n64 48 255\n'; cat "$tmp/image"; } > "$tmp/image.ppm"
    "$info" $i2v --calibrate "$tmp/t.json" --prompt 'leaves fall' --size 32x32 \
        --frames 5 --steps 3 --image "$tmp/image.ppm" 2> "$tmp/info" ||
        { cat "$tmp/info"; return 1; }
    has '"uncond"' "$tmp/t.json"
}
check 'calibrating from an image' from_image

# What wan-bench --clip compares is what it was asked to.
bench()
{
    "$info" "$SRC/share/demo/t2v" --calibrate "$tmp/demo.json" --prompt 'a cat' --size 32x32 \
        --frames 5 --steps 12 > "$tmp/log" 2>&1 &&
        "$B/bin/wan-bench" --clip="$SRC/share/demo/t2v" --steps=12 --size=32x32 --frames=5 \
            --cache=mag:0.2,easy --cache-table "$tmp/demo.json" > "$tmp/bench" 2> "$tmp/log" ||
        { cat "$tmp/log"; return 1; }
    same "$(awk '/ of / { print $1 }' "$tmp/bench" | tr '\n' ' ')" 'mag:0.2 easy '
}
check 'wan-bench --cache' bench

finish
