#!/bin/sh
# Models as people have them on their disks: each layout gives the frames of
# the plain one.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
need "$ffmpeg"

# clip MODEL [OPTIONS]: hashes of a small clip
clip() { hashes "wan_t2v=model=$(quote "$1"):$small${2-}"; }

# alike NAME MODEL [OPTIONS]: the frames of $plain
alike()
{
    alike_name=$1
    shift
    clip "$@" > "$tmp/frames" 2> "$tmp/messages"
    cat "$tmp/messages" >> "$tmp/frames"
    cmp "$tmp/frames" "$plain" >> "$tmp/log" 2>&1
    report $? "$alike_name" "$tmp/log"
}

# refused NAME PATTERN MODEL [OPTIONS]: with that line
refused()
{
    refused_name=$1 refused_pattern=$2
    shift 2
    ! clip "$@" > /dev/null 2>&1 && grep -Eq -e "$refused_pattern" "$tmp/log"
    report $? "$refused_name" "$tmp/log"
}

t5=models_t5_umt5-xxl-enc-bf16.pth
dit=diffusion_pytorch_model.safetensors
plain=$tmp/plain
clip "$tiny/wan-t2v" > "$plain"
[ -s "$plain" ]
report $? 'the plain layout' "$tmp/log"

# ------------------------------------------------------------ hub's cache

hub=$tmp/home/hub/models--Wan-AI--Wan2.1-T2V-1.3B
mkdir -p "$hub/blobs" "$hub/refs" "$hub/snapshots/37ec512/google/umt5-xxl"
n=0
for f in $dit config.json $t5 Wan2.1_VAE.pth google/umt5-xxl/spiece.model; do
    n=$((n + 1))
    cp "$tiny/wan-t2v/$f" "$hub/blobs/$n"
    case $f in google/*) up=../../../../blobs ;; *) up=../../blobs ;; esac
    ln -s "$up/$n" "$hub/snapshots/37ec512/$f"
done
printf 37ec512 > "$hub/refs/main"
alike "a hub's cache" "$hub"
rm "$hub/refs/main"
alike "a hub's cache without refs" "$hub"
check 'the log says which snapshot' test "$(said 'only one is taken, 37ec512')" -eq 1
HOME=$tmp/home
export HOME
alike 'the home folder' "~/hub/models--Wan-AI--Wan2.1-T2V-1.3B"
WAN_MODEL='~/hub/models--Wan-AI--Wan2.1-T2V-1.3B' \
    hashes "wan_t2v=$small" > "$tmp/frames" 2>&1
cmp "$tmp/frames" "$plain" >> "$tmp/log" 2>&1
report $? 'WAN_MODEL' "$tmp/log"

# --------------------------------------------------------------- ComfyUI

models=$tmp/ComfyUI/models
mkdir -p "$models/diffusion_models" "$models/text_encoders" "$models/vae" \
    "$models/clip_vision" "$models/loras"
cp "$tiny/wan-t2v/$dit" "$models/diffusion_models/wan2.1_t2v.safetensors"
cp "$tiny/wan-t2v/config.json" "$models/diffusion_models"
cp "$tiny/wan-t2v/$t5" "$models/text_encoders/umt5_xxl.pth"
cp "$tiny/wan-t2v/google/umt5-xxl/spiece.model" "$models/text_encoders"
cp "$tiny/wan-t2v/Wan2.1_VAE.pth" "$models/vae/wan.pt"
alike "ComfyUI's models folder" "$models"
alike 'the folder around it' "$tmp/ComfyUI"
alike 'a file in diffusion_models' "$models/diffusion_models/wan2.1_t2v.safetensors"
cp "$tiny/wan-i2v/$dit" "$models/diffusion_models/wan2.1_i2v.safetensors"
refused 'two transformers' 'wan2.1_i2v.safetensors, .*wan2.1_t2v.safetensors\): name one by option model' \
    "$models"
alike 'one of two' "$models/diffusion_models/wan2.1_t2v.safetensors"

# a change of one bias, by its path and by its name
printf '{"blocks.0.self_attn.q.diff_b":{"dtype":"F16","shape":[96],"data_offsets":[0,192]}}' > "$tmp/header"
{
    printf "\\$(printf %o "$(wc -c < "$tmp/header")")"'\0\0\0\0\0\0\0'
    cat "$tmp/header"
    head -c 192 /dev/zero | tr '\0' '\74'
} > "$models/loras/ball.safetensors"
plain=$tmp/lora
clip "$tiny/wan-t2v" ":lora=$(quote "$models/loras/ball.safetensors")" > "$plain"
[ -s "$plain" ] && ! cmp -s "$plain" "$tmp/plain"
report $? 'a LoRA changes the clip' "$tmp/log"
alike 'a LoRA by its name' "$models/diffusion_models/wan2.1_t2v.safetensors" ':lora=ball'
refused 'a LoRA that is not there' 'bell: .*models/loras' \
    "$models/diffusion_models/wan2.1_t2v.safetensors" ':lora=bell'

# ------------------------------------------------------------------ GGUF

g=$tiny/gguf
plain=$tmp/gguf
clip "$g/wan-t2v-q8_0/wan2.1-t2v-Q8_0.gguf" \
    ":text_encoder=$(quote "$g/umt5/umt5-encoder-Q8_0.gguf"):vae=$(quote "$tiny/wan-t2v")" > "$plain"
[ -s "$plain" ]
report $? 'GGUF files, each given' "$tmp/log"
mkdir "$tmp/quants"
cp "$g/wan-t2v-q8_0/wan2.1-t2v-Q8_0.gguf" "$g/wan-t2v-q8_0/config.json" \
    "$g/umt5/umt5-encoder-Q8_0.gguf" "$tiny/wan-t2v/Wan2.1_VAE.pth" "$tmp/quants"
alike 'a directory of GGUF files' "$tmp/quants"
cp "$g/wan-t2v-sdcpp/wan2.1-t2v-sdcpp.gguf" "$tmp/quants"
refused 'two quantisations' 'wan2.1-t2v-Q8_0.gguf, wan2.1-t2v-sdcpp.gguf' "$tmp/quants"
alike 'one of two quantisations' "$tmp/quants/wan2.1-t2v-Q8_0.gguf"

finish
