#!/bin/sh
# Wan 2.2's two experts inside ffmpeg: frames against the golden videos, pairs
# in folders and in files, guidance of both, what is refused.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"

need "$ffmpeg" "$tools/compare"

t2v=$(quote "$tiny/wan-t2v")
parts=text_encoder=$t2v:vae=$t2v:tokenizer=$t2v
pair=$tiny/wan22-t2v-a14b
file=diffusion_pytorch_model.safetensors

# experts FILTER MODEL OPTIONS
experts() { printf '%s=model=%s:%s:%s' "$1" "$(quote "$2")" "$parts" "$3"; }

# refused NAME PATTERN ARGUMENT...: exit code of ffmpeg, and a line that says why
refused()
{
    refused_name=$1 refused_pattern=$2
    shift 2
    ! run -v error "$@" -f null - && has "$refused_pattern" "$tmp/log" > "$tmp/why"
    report $? "$refused_name" "$tmp/log"
}

# ------------------------------------------------------------ text to video

name=pipeline-wan22-t2v-edge3.safetensors
"$tools/compare" --arguments $name "$tmp" > "$tmp/arguments"
cats="$(cat "$tmp/arguments"):$exact:promptfile=$(quote "$tmp/prompt")"
cats="$cats:negative_prompt=$(quote "$(cat "$tmp/negative")")"

# The step whose timestep is the boundary is the high-noise expert's.
golden_text()
{
    good -f lavfi -i "$(experts wan_t2v "$pair" "$cats:format=${1%le}")" \
        -f rawvideo "$tmp/clip" &&
        "$tools/compare" $name video "$tmp/clip" --format "$1" \
            --size "$(sed 's/size=\([^:]*\).*/\1/' "$tmp/arguments")"
}
check 'text: golden in gbrpf32le' golden_text gbrpf32le
check 'text: golden in rgb24' golden_text rgb24

# clip MODEL OPTIONS: the checksum of a small one
small=prompt=x:size=32x32:frames=5:steps=4:seed=3
clip()
{
    run -v info -f lavfi -i "$(experts wan_t2v "$1" "$small:$2")" -f md5 "$tmp/md5" ||
        cat "$tmp/log" >&2
    cat "$tmp/md5"
}

sum=$(clip "$pair" guidance=4:guidance2=3)
check 'the steps of both are told' has \
    'high-noise expert: 3, guidance 4; for the low-noise one: 1, guidance 3' "$tmp/log"
check 'the defaults of the pair' same "$(clip "$pair" steps=4)" "$sum"
both=$(clip "$pair" guidance=3)
check 'guidance alone sets both' same "$(clip "$pair" guidance=3:guidance2=3)" "$both"
check 'and is another video' lacks "$sum" "$tmp/md5"

# The same pair as single files: by names, and as given.
mkdir "$tmp/files"
for i in high low; do
    ln -s "$pair/${i}_noise_model/$file" "$tmp/files/t2v_${i}_noise.safetensors"
    ln -s "$pair/${i}_noise_model/$file" "$tmp/files/$i.safetensors"
done
ln -s "$pair/high_noise_model/config.json" "$tmp/files"
check 'a pair by names' same "$(clip "$tmp/files/t2v_low_noise.safetensors" steps=4)" "$sum"
check 'a pair as given' same \
    "$(clip "$tmp/files/high.safetensors" "model2=$(quote "$tmp/files/low.safetensors")")" "$sum"
check 'what was assumed is told' has 'high.safetensors is taken for the high-noise' "$tmp/log"

alone=$(clip "$tmp/files/high.safetensors" guidance=3:shift=12)
check 'boundary 0 leaves the high-noise expert all steps' same \
    "$(clip "$pair" guidance=3:boundary=0)" "$alone"

# From the second clip on a command's guidance is both's.
commanded()
{
    run -f lavfi -i "$(experts wan_t2v "$pair" "$small:guidance2=7:clips=2"),sendcmd=c='0 wan_t2v guidance 3'" \
        -vf trim=start_frame=5 -f md5 "$tmp/commanded" &&
    run -f lavfi -i "$(experts wan_t2v "$pair" "$small:guidance=3:clips=2")" \
        -vf trim=start_frame=5 -f md5 "$tmp/asked" &&
        same "$(cat "$tmp/commanded")" "$(cat "$tmp/asked")"
}
check 'a command' commanded

# ----------------------------------------------------------- image to video

i2v=$tiny/wan22-i2v-a14b
name=pipeline-wan22-i2v-dpm4.safetensors
tensor $name image0 > "$tmp/photo.rgb"
check 'the image of the golden' good -f rawvideo -pix_fmt rgb24 \
    -video_size 60x100 -i "$tmp/photo.rgb" "$tmp/photo.png"
leaves="prompt=leaves fall:negative_prompt=static:frames=5:steps=4:guidance=4.5"
leaves=$leaves:guidance2=3:shift=3:sampler=dpm++:seed=6:rng=cpu:size=32x64:$exact

golden_image()
{
    good -i "$tmp/photo.png" \
        -vf "$(experts wan_i2v "$1" "$leaves:format=gbrpf32")" \
        -f rawvideo "$tmp/clip" &&
        "$tools/compare" $name video "$tmp/clip" --format gbrpf32le --size 32x64
}
check 'image: golden' golden_image "$i2v"
check "image: golden from Diffusers' folders" golden_image "$i2v-diffusers"

name=pipeline-wan22-flf2v-unipc4.safetensors
for i in 0 1; do
    tensor $name image$i > "$tmp/door$i.rgb"
    run -f rawvideo -pix_fmt rgb24 -video_size 60x40 -i "$tmp/door$i.rgb" "$tmp/door$i.png"
done
door="prompt=a door opens:negative_prompt=blurry:frames=9:steps=4:guidance=4.5"
door=$door:guidance2=3:shift=8:seed=81:rng=cpu:size=64x32:$exact

golden_door()
{
    good -i "$tmp/door0.png" -vf "$(experts wan_i2v "$i2v" \
        "$door:last_image=$(quote "$tmp/door1.png"):format=gbrpf32")" \
        -f rawvideo "$tmp/clip" &&
        "$tools/compare" $name video "$tmp/clip" --format gbrpf32le --size 64x32
}
check 'first and last image: golden' golden_door

# ------------------------------------------------------------------ refused

refused 'a boundary above 1' 'boundary.*(out of range|must be from 0 to 1)' \
    -f lavfi -i "$(experts wan_t2v "$pair" prompt=x:boundary=1.5)"
refused 'a boundary without experts' 'option boundary: 0.5, but .* has one transformer' \
    -f lavfi -i "wan_t2v=model=$t2v:prompt=x:boundary=0.5"
refused 'a second guidance without experts' 'option guidance2: 3, but .* has one transformer' \
    -f lavfi -i "wan_t2v=model=$t2v:prompt=x:guidance2=3"
refused 'experts exchanged' 'option model2: .*t2v_high_noise.* belongs to option model' -f lavfi \
    -i "$(experts wan_t2v "$tmp/files/t2v_low_noise.safetensors" \
        "prompt=x:model2=$(quote "$tmp/files/t2v_high_noise.safetensors")")"
refused 'experts of other shapes' 'are no pair of experts' -f lavfi \
    -i "$(experts wan_t2v "$tmp/files/high.safetensors" "prompt=x:model2=$t2v")"
mkdir "$tmp/half"
ln -s "$pair/low_noise_model" "$tmp/half"
refused 'one expert alone' 'only low_noise_model is here' -f lavfi \
    -i "$(experts wan_t2v "$tmp/half" prompt=x)"

finish
