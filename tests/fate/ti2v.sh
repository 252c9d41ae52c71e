#!/bin/sh
# One TI2V checkpoint in both filters inside ffmpeg: frames against the golden
# videos, the size for an image, what is refused.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"

need "$ffmpeg" "$tools/compare"

t2v=$(quote "$tiny/wan-t2v")
parts=text_encoder=$t2v:tokenizer=$t2v

# ti2v FILTER OPTIONS: the filter with the tiny checkpoint
ti2v() { printf '%s=model=%s:%s:%s' "$1" "$(quote "$tiny/wan22-ti2v-5b")" "$parts" "$2"; }

good() { run "$@" || { cat "$tmp/log"; return 1; }; }

# refused NAME PATTERN ARGUMENT...: exit code of ffmpeg, and a line that says why
refused()
{
    refused_name=$1 refused_pattern=$2
    shift 2
    ! run -v error "$@" -f null - && has "$refused_pattern" "$tmp/log" > "$tmp/why"
    report $? "$refused_name" "$tmp/log"
}

# ------------------------------------------------------------ text to video

name=pipeline-wan22-ti2v-unipc5.safetensors
"$tools/compare" --arguments $name "$tmp" > "$tmp/arguments"
train=$(cat "$tmp/arguments"):$exact
train="$train:promptfile=$(quote "$tmp/prompt")"
train="$train:negative_prompt=$(quote "$(cat "$tmp/negative")")"

golden_text()
{
    good -f lavfi -i "$(ti2v wan_t2v "$train:rng=cpu:format=${1%le}")" \
        -f rawvideo "$tmp/clip" &&
        "$tools/compare" $name video "$tmp/clip" --format "$1" --size 64x32
}
for f in gbrpf32le rgb24 yuv420p; do
    check "text: golden in $f" golden_text $f
done

# ----------------------------------------------------------- image to video

name=pipeline-wan22-ti2v-i2v-dpm5.safetensors
tensor $name image0 > "$tmp/photo.rgb"
check 'the image of the golden' good -f rawvideo -pix_fmt rgb24 \
    -video_size 75x40 -i "$tmp/photo.rgb" "$tmp/photo.png"
leaves="prompt=leaves fall:negative_prompt=static:frames=9:steps=5"
leaves=$leaves:guidance=3:shift=3:sampler=dpm++:seed=23:rng=cpu:$exact

# golden_image FORMAT [FILTERS,]
golden_image()
{
    good -i "$tmp/photo.png" \
        -vf "${2-}$(ti2v wan_i2v "$leaves:size=64x32:format=${1%le}")" \
        -f rawvideo "$tmp/clip" &&
        "$tools/compare" $name video "$tmp/clip" --format "$1" --size 64x32
}
for f in gbrpf32le rgb24 yuv420p; do
    check "image: golden in $f" golden_image $f
done
unlike() { ! golden_image "$@"; }
check 'a flipped image is another video' unlike gbrpf32le hflip,

# The same sides as the official rule has for 16:9 in that many pixels, at the
# model's rate.
sized()
{
    good -f lavfi -i color=gray:s=1280x720 -vf "$(ti2v wan_i2v \
        "prompt=x:frames=1:steps=1:guidance=1")" -f framecrc "$tmp/crc" &&
        has '#dimensions 0: 1248x704' "$tmp/crc" && has '#tb 0: 1/24' "$tmp/crc"
}
check 'size and rate for an image' sized

# ------------------------------------------------------------------ refused

refused 'a size of 16' 'multiples of 32' \
    -f lavfi -i "$(ti2v wan_t2v prompt=x:size=48x32)"
refused 'a last image' 'last_image=.*takes none' -i "$tmp/photo.png" \
    -vf "$(ti2v wan_i2v "prompt=x:last_image=$(quote "$tmp/photo.png")")"
refused 'the VAE of Wan 2.1' 'Wan2.1_VAE.pth: the Wan 2.1 VAE.*16 channels' \
    -f lavfi -i "$(ti2v wan_t2v "prompt=x:vae=$t2v")"
refused 'the VAE of Wan 2.2 for Wan 2.1' \
    'Wan2.2_VAE.pth: the Wan 2.2 VAE.*48 channels' -f lavfi \
    -i "wan_t2v=model=$t2v:prompt=x:vae=$(quote "$tiny/wan22-ti2v-5b")"

finish
