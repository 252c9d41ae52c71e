#!/bin/sh
# The tiny VAE in both filters, and the output with a picture of every step.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"

need "$ffmpeg" "$ffprobe"
tae=$tiny/taew2_1
t2v=$(quote "$tiny/wan-t2v")

# t2v OPTIONS, i2v OPTIONS: the filter with a tiny checkpoint
t2v() { source_of "prompt=a cat:size=32x32:seed=7:rng=cpu:$1"; }
i2v()
{
    printf 'wan_i2v=model=%s:text_encoder=%s:tokenizer=%s:%s' \
        "$(quote "$tiny/wan-i2v")" "$t2v" "$t2v" \
        "prompt=a cat:size=32x32:seed=7:rng=cpu:$1"
}

# graph GRAPH ARGUMENT...: run with a complex graph
graph()
{
    graph_text=$1
    shift
    good -filter_complex "$graph_text" "$@"
}

# crcs FILE of framecrc: time, size and checksum of each frame
crcs() { awk -F, '/^0,/ { gsub(/ /, ""); print $3 "," $5 "," $6 }' "$1"; }

# ------------------------------------------------------------ the tiny VAE

# Checksums of the definition, whose bits are the same on all machines.
tae_t2v()
{
    graph "$(t2v "frames=5:steps=1:device=ref:format=rgb24:vae=$(quote "$tae/$1")")" \
        -f framecrc "$tmp/tae.crc" || return 1
    crcs "$tmp/tae.crc" | diff "$SRC/tests/fate/tiny-vae-t2v" -
}
check "wan_t2v with TAEHV, safetensors" tae_t2v taew2_1.safetensors
check "wan_t2v with TAEHV, pth" tae_t2v taew2_1.pth
check "wan_t2v with TAEHV, doubled kernel" tae_t2v \
    taew2_1_doubled_tgrow.safetensors

tae_i2v()
{
    good -f lavfi -i color=red:s=48x48 -vf \
        "$(i2v "frames=5:steps=1:device=ref:format=rgb24:vae=$(quote "$tae/taew2_1.safetensors")")" \
        -f framecrc "$tmp/tae.crc" || return 1
    crcs "$tmp/tae.crc" | diff "$SRC/tests/fate/tiny-vae-i2v" -
}
check "wan_i2v with TAEHV, which encodes too" tae_i2v

# vae_scale, the file's name and its type: what is meant is said.
scale_said()
{
    cp "$tae/taew2_1.safetensors" "$tmp/lighttaew2_1.safetensors"
    cp "$tae/taew2_1.safetensors" "$tmp/small.safetensors"
    for one in "$tmp/lighttaew2_1.safetensors, times .* by its name" \
        "$tmp/small.safetensors, as they are sampled.* by the type it is" \
        "$tmp/small.safetensors:vae_scale=on, times .* option vae_scale"; do
        graph "$(t2v "frames=1:steps=1:vae=${one%%,*}")" -f null - || return 1
        has "takes latents ${one#*, }" "$tmp/log" || return 1
    done
}
has() { grep -Eq -e "$1" "$2" || { cat "$2"; echo "missing: $1"; return 1; }; }
check "which latents a tiny VAE takes" scale_said

# ----------------------------------------------------------------- preview

# A picture a step, a quarter of the video's size, and the video as without.
two_outputs()
{
    graph "$(t2v "$1"frames=5:steps=4)" -f framecrc "$tmp/alone.crc" &&
        graph "$(t2v "$1"frames=5:steps=4:preview=1)[v][p]" \
            -map '[v]' -f framecrc "$tmp/v.crc" \
            -map '[p]' -f framecrc "$tmp/p.crc" || return 1
    cmp "$tmp/alone.crc" "$tmp/v.crc" && has '^#dimensions 0: 8x8' "$tmp/p.crc" &&
        has '^#tb 0: 1/1' "$tmp/p.crc" || return 1
    [ "$(crcs "$tmp/p.crc" | cut -d, -f1,2 | tr '\n' ' ')" = \
        "0,192 1,192 2,192 3,192 " ] &&
        [ "$(crcs "$tmp/p.crc" | cut -d, -f3 | sort -u | wc -l)" = 4 ]
}
check "a picture of every step" two_outputs ""
check "a picture of every step, by TAEHV" two_outputs \
    "vae=$(quote "$tae/taew2_1.safetensors"):"

clips_go_on()
{
    graph "$(t2v frames=1:steps=3:clips=3:"$1"preview=1)[v][p]" \
        -map '[v]' -f null - -map '[p]' -f framecrc "$tmp/p.crc" || return 1
    [ "$(crcs "$tmp/p.crc" | cut -d, -f1 | tr '\n' ' ')" = "0 1 2 3 4 5 6 7 8 " ]
}
check "steps are counted through clips" clips_go_on ""
check "and through clips made ahead" clips_go_on ahead=1:

# What the last step foresees is what comes, as far as a map of each latent
# position can say it: the demo model's picture against a frame of its clip.
resembles()
{
    demo_clip="wan_t2v=model=$(quote "$SRC/share/demo/t2v"):steps=6:seed=1"
    graph "$demo_clip:prompt=a red ball moves right:preview=1[v][p];
        [v]select=eq(n\\,6),scale=40:24:flags=area,format=rgb24,setpts=0[a];
        [p]select=eq(n\\,5),setpts=0[b];[a][b]psnr" -f null - || return 1
    average=$(sed -n 's/.*PSNR.* average:\([0-9]*\).*/\1/p' "$tmp/log")
    echo "PSNR $average" && [ "$average" -ge 24 ]
}
check "a preview resembles the clip" resembles

# Whichever output nobody asks, or that ends before the other. More steps than
# previews can wait, and more frames than the queue holds.
long=frames=21:steps=20:preview=1
drained()
{
    graph "$(t2v $long)[v][p];$1" "$2" "$3" -f framecrc "$tmp/d.crc" || return 1
    [ "$(crcs "$tmp/d.crc" | wc -l)" = "$4" ]
}
drained_late()
{
    graph "$(t2v frames=81:steps=2:preview=1)[v][p];[p]nullsink" -map '[v]' \
        -f framecrc "$tmp/d.crc" && [ "$(crcs "$tmp/d.crc" | wc -l)" = 81 ]
}
check "previews into nullsink" drained '[p]nullsink' -map '[v]' 21
check "previews into nullsink, the last to be asked" drained_late
check "previews that end early" drained '[p]trim=end_frame=2,nullsink' -map '[v]' 21
ends_early()
{
    graph "$(t2v $long)[v][p]" -map '[v]' -frames:v 1 -f framecrc "$tmp/v.crc" \
        -map '[p]' -f framecrc "$tmp/p.crc" || return 1
    [ "$(crcs "$tmp/v.crc" | wc -l)" = 1 ] && [ "$(crcs "$tmp/p.crc" | wc -l)" = 20 ]
}
check "a video that ends early" ends_early

# Side by side: one filter that waits for frames of both.
both_at_once()
{
    graph "$(t2v frames=5:steps=3:preview=1)[v][p];[p]scale=32:32,format=yuv420p,fps=16[q];[v][q]hstack" \
        -f framecrc "$tmp/h.crc" || return 1
    [ "$(crcs "$tmp/h.crc" | wc -l)" -ge 5 ]
}
check "both into one filter" both_at_once

image_previews()
{
    good -f lavfi -i color=red:s=32x32:d=0.2:r=25 -filter_complex \
        "$(i2v "vae=$t2v:frames=5:steps=3:preview=1$1")[v][p]" \
        -map '[v]' -f framecrc "$tmp/v.crc" -map '[p]' -f framecrc "$tmp/p.crc" ||
        return 1
    [ "$(crcs "$tmp/v.crc" | wc -l)" = "$2" ] && [ "$(crcs "$tmp/p.crc" | wc -l)" = 3 ]
}
check "previews of wan_i2v" image_previews "" 5
extend() { i2v "$1" | sed 's/:size=32x32//'; }
extend_previews()
{
    good -f lavfi -i color=red:s=32x32:d=0.2:r=25 -filter_complex \
        "$(extend "vae=$t2v:frames=5:steps=3:preview=1:mode=extend")[v][p]" \
        -map '[v]' -f framecrc "$tmp/v.crc" -map '[p]' -f framecrc "$tmp/p.crc" ||
        return 1
    [ "$(crcs "$tmp/v.crc" | wc -l)" = 9 ] && [ "$(crcs "$tmp/p.crc" | wc -l)" = 3 ]
}
check "previews of an input that goes on" extend_previews

not_linked()
{
    ! run -f lavfi -i color=red:s=32x32 -vf \
        "$(i2v "vae=$t2v:frames=5:steps=1:preview=1")" -f null - &&
        has 'output' "$tmp/log"
}
check "an output that is not linked" not_linked

# What is wrong ends both.
fails()
{
    ! run -filter_complex "$(t2v "$long:memory=100000")[v][p]" -map '[v]' \
        -f null - -map '[p]' -f null - && has 'memory' "$tmp/log"
}
check "a clip that does not fit" fails

finish
