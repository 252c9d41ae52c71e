#!/bin/sh
# wan-convert as people use it: what is said, what the filters make of the
# file, and that nothing half is left, whatever happens.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
convert=$B/bin/wan-convert info=$B/bin/wan-info
need "$ffmpeg" "$convert" "$info" "$tools/shim.so"
mkdir "$tmp/d"
one=$tmp/d/wan.gguf

# made ARGUMENT...: it works, and says in $tmp/out what it did; a hang is a
# failure
made()
{
    rm -f "$one"
    timeout $patience "$convert" "$@" > "$tmp/out" 2> "$tmp/log" ||
        { cat "$tmp/log"; return 1; }
}

# refused STATUS PATTERN ARGUMENT...: it fails, says why in one line, and leaves
# no file behind
refused()
{
    wanted=$1 pattern=$2
    shift 2
    timeout $patience "$convert" "$@" > "$tmp/out" 2> "$tmp/log"
    status=$?
    same "$status" "$wanted" && same "$(wc -l < "$tmp/log" | tr -d ' ')" 1 &&
        has "$pattern" "$tmp/log" && nothing_left
}
nothing_left() { [ -z "$(ls -A "$tmp/d")" ] || { ls -A "$tmp/d"; return 1; }; }

t2v=$tiny/wan-t2v

# ------------------------------------------------------------ what it makes

# frames_of MODEL [OPTIONS]: hashes of a small clip, in floats
frames_of() { hashes "wan_t2v=model=$(quote "$1"):$small:format=gbrpf32le${2-}" -pix_fmt gbrpf32le -c:v rawvideo; }

in_filter()
{
    made "$t2v" "$1" --transformer f32 --text-encoder f32 --vae f32 &&
        has "^$1: 0.006 GB, written and read back\$" "$tmp/out" &&
        has '^  transformer +69 tensors, .*: F32 ' "$tmp/out" &&
        has '^  tokenizer ' "$tmp/out" &&
        same "$(frames_of "$1")" "$(frames_of "$t2v")" && rm "$1"
}
check 'GGUF in a filter' in_filter "$one"
ti2v()
{
    ti2v=$tiny/wan22-ti2v-5b
    made "$ti2v" "$one" --text-encoder "$t2v" --tokenizer "$t2v" \
        --transformer f32 --text-encoder f32 --vae f32 &&
        "$info" "$ti2v" --text-encoder "$t2v" --convert > "$tmp/info" &&
        "$info" --shapes ti2v-5B --convert > "$tmp/info" &&
        same "$(frames_of "$one" :size=64x32)" \
            "$(frames_of "$ti2v" ":size=64x32:text_encoder=$(quote "$t2v")")" && rm "$one"
}
check 'TI2V with the VAE of Wan 2.2' ti2v
a14b=$tiny/wan22-t2v-a14b
# Each expert into a file, which find each other.
experts()
{
    for i in low high; do
        made "$a14b" "$tmp/d/w_${i}_noise.gguf" --text-encoder "$t2v" --vae "$t2v" \
            --tokenizer "$t2v" --transformer f32 --text-encoder f32 --vae f32 || return 1
        has '^  transformer ' "$tmp/out" || return 1
        [ $i = high ] || lacks '^  (text encoder|VAE|tokenizer) ' "$tmp/out" || return 1
    done
    rest=text_encoder=$(quote "$t2v"):vae=$(quote "$t2v"):tokenizer=$(quote "$t2v")
    same "$(frames_of "$tmp/d/w_high_noise.gguf")" "$(frames_of "$a14b" ":$rest")" &&
        rm "$tmp/d/w_high_noise.gguf" "$tmp/d/w_low_noise.gguf"
}
check 'two experts' experts
check 'two experts and a name that tells neither' refused 1 'the model has two experts' \
    "$a14b" "$one" --text-encoder "$t2v" --vae "$t2v" --tokenizer "$t2v"
check 'safetensors in a filter' in_filter "$tmp/d/wan.safetensors"

with_lora()
{
    q=diffusion_model.blocks.0.self_attn.q
    # one pair of rank 1: A [1, 96], B [96, 1], all 1/64
    head='{"'$q'.lora_A.weight":{"dtype":"F32","shape":[1,96],"data_offsets":[0,384]},"'$q'.lora_B.weight":{"dtype":"F32","shape":[96,1],"data_offsets":[384,768]}}'
    {
        printf "\\$(printf %o ${#head})\\0\\0\\0\\0\\0\\0\\0%s" "$head"
        i=0
        while [ $i -lt 192 ]; do printf '\0\0\200\074'; i=$((i + 1)); done
    } > "$tmp/lora.safetensors"
    made "$t2v" "$one" --lora "$tmp/lora.safetensors=2" &&
        same "$(frames_of "$one")" "$(frames_of "$t2v" ":lora=$(quote "$tmp/lora.safetensors=2")")" &&
        [ "$(frames_of "$one")" != "$(frames_of "$t2v")" ] && rm "$one"
}
check 'a LoRA inside' with_lora

# keeps PRESET MODEL LORA STEPS SHIFT: a family that names tell is told by the
# file itself
keeps()
{
    made "$2" "$one" ${3:+--lora "$3"} && "$info" "$one" > "$tmp/info" &&
        has "^  preset +$1, recognised as" "$tmp/info" &&
        has "^  defaults .* $4 steps, guidance 1, shift $5" "$tmp/info" && rm "$one"
}
keeps_all()
{
    mkdir -p "$tmp/FastWan2.1" && cp -r "$t2v/." "$tmp/FastWan2.1" &&
        cp "$tmp/lora.safetensors" "$tmp/lightx2v_4step.safetensors" &&
        keeps fastwan "$tmp/FastWan2.1" '' 3 8 &&
        keeps lightx2v "$t2v" "$tmp/lightx2v_4step.safetensors" 4 5 &&
        made "$t2v" "$one" &&
        "$ffmpeg" -hide_banner -v info -f lavfi -i \
            "wan_t2v=model=$(quote "$one"):lora=$(quote "$tmp/lightx2v_4step.safetensors"):size=32x32:frames=5:prompt=x" \
            -f null - 2> "$tmp/log" && has 'clip 1: seed [0-9]+, 4 steps of euler, guidance 1, shift 5' "$tmp/log" &&
        made "$t2v" "$one" && "$info" "$one" > "$tmp/info" &&
        lacks preset "$tmp/info" && rm "$one"
}
check 'a few-step family is kept' keeps_all

smaller()
{
    made "$t2v" "$one" --transformer q8_0 --text-encoder q4_k --vae f16 &&
        has '^  transformer .*Q8_0 [0-9.]+ GB \(error 0\.[0-9]+ %\)' "$tmp/out" &&
        has '^  [0-9]+ matrices are in another type' "$tmp/out" &&
        "$info" "$one" > "$tmp/info" && has 'Q8_0' "$tmp/info" &&
        make_clip "wan_t2v=model=$(quote "$one"):$small" -f null - && rm "$one"
}
check 'types by part' smaller

# Files of the parts, and types, by the same options.
parts_and_types()
{
    made "$tiny/wan-t2v-hd128" "$one" --text-encoder "$t2v" --text-encoder bf16 \
        --vae f16 --vae "$t2v" --tokenizer "$t2v" --transformer q4_k &&
        has '^  text encoder .*BF16' "$tmp/out" && has '^  VAE .*F16' "$tmp/out" &&
        rm "$one"
}
check 'parts from other places' parts_and_types

dry()
{
    made "$t2v" "$one" --transformer q8_0 --dry-run &&
        has 'GB it would be$' "$tmp/out" && nothing_left
}
check 'a dry run' dry

would_be()
{
    "$info" --shapes t2v-1.3B --convert > "$tmp/info" &&
        has 'transformer q8_0, text encoder q4_k, the rest f16 +5\.[0-9]* GB' "$tmp/info" &&
        "$info" "$t2v" --convert > "$tmp/info" && has 'as one file' "$tmp/info"
}
check 'wan-info --convert' would_be

help() { "$convert" --help > "$tmp/out" && has '^usage: wan-convert MODEL OUT' "$tmp/out"; }
check 'help' help

# ------------------------------------------------------------- what it refuses

check 'no OUT' refused 2 'MODEL and OUT, not less' "$t2v"
check 'an unknown type' refused 2 '--transformer q9: no type' "$t2v" "$one" --transformer q9
check 'blocks for the VAE' refused 2 '--vae q8_0: f32, f16 and bf16' "$t2v" "$one" --vae q8_0
check 'another name' refused 1 'a name that ends in .gguf or .safetensors' "$t2v" "$tmp/d/a.bin"
check 'blocks in safetensors' refused 1 'safetensors has no type Q8_0' \
    "$t2v" "$tmp/d/a.safetensors" --transformer q8_0
check 'no source' refused 1 'nowhere: No such file' "$tmp/nowhere" "$one"
check 'a missing part' refused 1 'no text encoder here' "$tiny/wan-t2v-hd128" "$one"
check 'no such folder' refused 1 'nowhere/wan.gguf.*No such file' "$t2v" "$tmp/nowhere/wan.gguf"

# taken COMMAND...: that OUT is there, and stays as it is
taken()
{
    before=$(cksum < "$one")
    timeout $patience "$convert" "$@" > "$tmp/out" 2> "$tmp/log" && return 1
    has "$one: is there already, and is not overwritten" "$tmp/log" &&
        same "$(ls -A "$tmp/d")" wan.gguf && same "$(cksum < "$one")" "$before"
}
echo precious > "$one"
check 'nothing is overwritten' taken "$t2v" "$one"
made "$t2v" "$one"
check 'the source as OUT' taken "$one" "$one"
rm "$one"
dangling()
{
    ln -s nowhere "$one" && timeout $patience "$convert" "$t2v" "$one" 2> "$tmp/log"
    same $? 1 && has 'is there already' "$tmp/log" && [ -L "$one" ] && rm "$one"
}
check 'a link that leads nowhere' dangling

if [ "$(id -u)" = 0 ]; then
    skip 'a folder that may not be written' 'root may write anywhere'
else
    chmod a-w "$tmp/d"
    check 'a folder that may not be written' refused 1 'Permission denied' "$t2v" "$one"
    chmod u+w "$tmp/d"
fi

# A checkpoint cut short is refused before anything is written, or while it is.
cut_short()
{
    cp -r "$t2v" "$tmp/cut" && chmod -R u+w "$tmp/cut" &&
        head -c 1000000 "$t2v/diffusion_pytorch_model.safetensors" \
            > "$tmp/cut/diffusion_pytorch_model.safetensors" &&
        refused 1 'reach out of the' "$tmp/cut" "$one"
}
check 'a damaged source' cut_short

# --------------------------------------------------------- what may go wrong

# shimmed VARIABLE=N [OUT]: with that fault
shimmed() { env "$1" LD_PRELOAD="$tools/shim.so" timeout $patience "$convert" "$t2v" "${2-$one}" > "$tmp/out" 2> "$tmp/log"; }

full()
{
    for n in 1 2 17 200; do
        shimmed SHIM_FULL=$n
        same $? 1 && has 'part: No space left on device' "$tmp/log" &&
            nothing_left || return 1
    done
    shimmed SHIM_SYNC=1
    same $? 1 && has 'part: Input/output error' "$tmp/log" && nothing_left
}
check 'a disk that is full, or fails' full

limited()
{
    (
        ulimit -f 1000
        exec timeout $patience "$convert" "$t2v" "$one" > "$tmp/out" 2> "$tmp/log"
    )
    same $? 1 && has 'part: File too large' "$tmp/log" && nothing_left
}
check 'a limit to the size of files' limited

# In a small file system nothing is even begun.
small_disk()
{
    unshare -rm sh -c 'mount -t tmpfs -o size=1m none "$1" && cd "$1" && shift &&
        { "$@"; status=$?; ls -A > "$0"; exit $status; }' \
        "$tmp/left" "$tmp/d" timeout $patience "$convert" "$t2v" wan.gguf \
        > "$tmp/out" 2> "$tmp/log"
    same $? 1 && has 'wan.gguf: 0.00[0-9] GB are needed, 0.001 GB are free' "$tmp/log" &&
        [ ! -s "$tmp/left" ]
}
if unshare -rm sh -c "mount -t tmpfs none '$tmp/d'" 2> /dev/null; then
    check 'a small disk' small_disk
else
    skip 'a small disk' 'nothing can be mounted here'
fi

# A bit that is not what was written is seen: in the head, in data. (Not in
# what GGUF has between tensors, so in the other format.)
damaged()
{
    for n in 1 2 40 200 286 287; do
        shimmed SHIM_DAMAGE=$n "$tmp/d/wan.safetensors"
        same $? 1 && same "$(wc -l < "$tmp/log" | tr -d ' ')" 1 &&
            has 'wan.safetensors.*part' "$tmp/log" && nothing_left || return 1
    done                        # the last one is of the tokenizer
    has 'reads back differently from what was written' "$tmp/log"
}
check 'damage on the way' damaged

# The process ends by the signal, as a shell sees it, and leaves nothing.
interrupted()
{
    for n in 1 2 100; do
        # without timeout, which has signals of its own; a job in the background
        # has SIGINT ignored
        env --default-signal=$1 SHIM_$1=$n LD_PRELOAD="$tools/shim.so" "$convert" "$t2v" "$one" \
            > "$tmp/out" 2> "$tmp/log"
        same $? "$2" && lacks wan-convert "$tmp/log" && [ ! -s "$tmp/out" ] &&
            nothing_left || return 1
    done
}
check 'SIGINT' interrupted INT 130
check 'SIGTERM' interrupted TERM 143

finish
