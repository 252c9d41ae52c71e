#!/bin/sh
# What bad input gets: one clear line, an exit status, no crash, no file.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
need "$ffmpeg" "$ffprobe" "$tools/damage"

# What FFmpeg, and the count of frames, add to the line that says what is wrong.
# Where only "Error setting option" names the option, as in 7.1, it is that line.
echoes='stopped in clip|Failed to configure output pad|\[Eval @'
echoes="$echoes|Error setting option|Unable to parse option value"
echoes="$echoes|Error applying options to the filter"

# Is there no file, or one without frames? ffmpeg opens the output only when
# the graph is set up; what fails later leaves a header.
unwritten()
{
    [ ! -e "$1" ] && return 0
    [ "${late-}" = 1 ] || { echo 'a file is left'; return 1; }
    "$ffprobe" -v quiet -show_packets "$1" > "$tmp/packets"
    lacks PACKET "$tmp/packets"
}

# bad NAME PATTERN GRAPH: ffmpeg refuses the graph with one line of the filter
bad()
{
    bad_name=$1 bad_pattern=$2
    shift 2
    rm -f "$tmp/bad.mkv"
    run -v error -f lavfi -i "$1" -c:v ffv1 "$tmp/bad.mkv"
    bad_status=$?
    grep -Eo '\[[A-Za-z_]*wan_t2v.*' "$tmp/log" | grep -Ev "$echoes" > "$tmp/ours" ||
        grep -Eo '\[[A-Za-z_]*wan_t2v.*Error setting option.*' "$tmp/log" > "$tmp/ours"
    bad_lines=$(wc -l < "$tmp/ours")
    echo "exit status $bad_status, $bad_lines lines of ours, wanted one with:" \
         "$bad_pattern" >> "$tmp/log"
    [ $bad_status -ne 0 ] && [ $bad_status -lt 124 -o $bad_status -ge 160 ] &&
        [ "$bad_lines" -eq 1 ] && grep -Eq -e "$bad_pattern" "$tmp/ours" &&
        unwritten "$tmp/bad.mkv" >> "$tmp/log"
    report $? "$bad_name" "$tmp/log"
}

# option NAME PATTERN OPTIONS: with the good checkpoint
option() { bad "$1" "$2" "$(source_of "$3")"; }

# Options that come twice take the last value.
rest="prompt=a cat:size=32x32:frames=5:steps=1:seed=7"

# ------------------------------------------------------------- the options

option 'size not a multiple' 'size=100x64.*multiples of 16.*96x64' \
    "$rest:size=100x64"
option 'size zero' 'size' "$rest:size=0x0"
option 'size negative' 'size' "$rest:size=-16x16"
option 'size no size' 'size' "$rest:size=foo"
option 'size too large' 'size' "$rest:size=16384x16"
option 'size huge' 'size' "$rest:size=2147483632x2147483632"
option 'size overflowing' 'size' "$rest:size=99999999999x16"
option 'frames not 4n+1' 'frames=6.*4n\+1.* 5 and 9' "$rest:frames=6"
option 'frames zero' 'frames=0.*4n\+1' "$rest:frames=0"
option 'frames negative' 'frames' "$rest:frames=-5"
option 'frames huge' 'frames' "$rest:frames=2147483645"
option 'frames overflowing' 'frames' "$rest:frames=99999999999"
option 'frames and duration' 'frames and duration' "$rest:duration=1"
option 'duration zero' 'duration' "$rest:frames=-1:duration=0"
option 'duration negative' 'duration' "$rest:frames=-1:duration=-3"
option 'duration huge' 'duration|frames' "$rest:frames=-1:duration=99999999"
option 'steps zero' 'steps=0.*from 1 to 1000' "$rest:steps=0"
option 'steps negative' 'steps' "$rest:steps=-2"
option 'steps too many' 'steps' "$rest:steps=1001"
option 'steps no number' 'steps' "$rest:steps=many"
option 'guidance negative' 'guidance' "$rest:guidance=-0.5"
option 'guidance too large' 'guidance' "$rest:guidance=101"
option 'guidance NaN' 'guidance' "$rest:guidance=nan"
option 'shift zero' 'shift=0.*0\.01' "$rest:shift=0"
option 'shift too large' 'shift' "$rest:shift=1000"
option 'shift NaN' 'shift' "$rest:shift=nan"
option 'sampler unknown' 'sampler' "$rest:sampler=heun"
option 'preset unknown' 'option preset: turbo is none' "$rest:preset=turbo"
few="prompt=a cat:size=32x32:frames=5:seed=7:preset"
option 'timesteps empty' 'timesteps=: must be numbers' "$few=lightx2v:timesteps="
option 'timesteps no numbers' 'timesteps=1000.x: must be numbers' \
    "$few=lightx2v:timesteps=1000|x"
option 'timesteps with a hole' 'timesteps=1000.*must be numbers' \
    "$few=lightx2v:timesteps=1000||500"
option 'timesteps that rise' 'option timesteps: number 3 is 800' \
    "$few=lightx2v:timesteps=1000|750|800"
option 'timesteps that end at 0' 'option timesteps: number 3 is 0;' \
    "$few=lightx2v:timesteps=1000|500|0"
option 'timesteps with NaN' 'option timesteps: number 2 is -?nan' \
    "$few=lightx2v:timesteps=1000|nan"
option 'timesteps above 1000' 'option timesteps: number 1 is 1001' \
    "$few=lightx2v:timesteps=1001"
option 'timesteps one too many' 'option timesteps: 4; preset fastwan has 3 at most' \
    "$few=fastwan:timesteps=1000|757|522|250"
option 'timesteps and steps' 'option steps: 4, but timesteps lists 3' \
    "$few=lightx2v:timesteps=1000|757|522:steps=4"
option 'timesteps of unipc' 'option timesteps: sampler unipc has steps' \
    "$few=none:timesteps=1000|500"
option 'timesteps of rcm' 'option timesteps: sampler rcm has steps' \
    "$few=rcm:timesteps=1000|500"
option 'rcm with 5 steps' 'option steps: 5; sampler rcm has 4 at most' \
    "$few=none:sampler=rcm:steps=5"
option 'warp no switch' 'warp' "$few=lightx2v:warp=2"
option 'sigma_max too small' 'sigma_max=2: must be from 15' "$few=rcm:sigma_max=2"
option 'sigma_max NaN' 'sigma_max' "$few=rcm:sigma_max=nan"
option 'rng unknown' 'rng' "$rest:rng=mps"
option 'fp8 unknown' 'fp8' "$rest:fp8=e5m2"
option 'precision unknown' 'precision' "$rest:precision=f16"
option 'precision no number of one' 'precision' "$rest:precision=7"
option 'precision that the device has not' \
    'option precision: bf16; device ref of this build has f32' "$rest:device=ref:precision=bf16"
option 'int8 on the device ref' 'option precision: int8; device ref' "$rest:device=ref:precision=int8"
option 'a precision as a device' 'device=cpu-bf16: must be auto, cpu' "$rest:device=cpu-bf16"
option 'dither unknown' 'dither' "$rest:dither=floyd"
option 'rng_threads no multiple' 'rng_threads' "$rest:rng_threads=1000"
option 'seed no number' 'seed=x7.*whole' "$rest:seed=x7"
option 'seed negative' 'seed=-7.*whole' "$rest:seed=-7"
option 'seed too large' 'seed=' "$rest:seed=18446744073709551616"
option 'rate no rate' 'rate' "$rest:rate=fast"
option 'rate zero' 'rate' "$rest:rate=0"
option 'format unknown' 'format' "$rest:format=yuv411"
option 'format not ours' 'format=yuyv422.*yuv420p' "$rest:format=yuyv422"
for f in rgb24 yuv420p10 none; do
    option "CUDA frames, format=$f" \
        "format=$f(le)?: must be one of yuv420p, nv12, yuv444p, p010le with hwframes=1" \
        "$rest:format=$f:hwframes=1"
done
for d in cpu ref; do
    option "CUDA frames, device=$d" "device=$d: with hwframes=1 it must be auto, cuda" \
        "$rest:device=$d:hwframes=1"
done
if has_cuda; then
    option 'CUDA frames without a device' \
        'hwframes=1: the graph has no CUDA device: use -init_hw_device' \
        "$rest:hwframes=1"
else
    option 'CUDA frames of an FFmpeg without CUDA' \
        'hwframes=1: this FFmpeg was built without CUDA' "$rest:hwframes=1"
fi
option 'device unknown' "device=tpu.*auto" "$rest:device=tpu"
option 'device cuda:x' 'device=cuda:x' "$rest:device=cuda\\\\:x"
option 'device cuda:3-1' 'device cuda:3-1: it is no list of cards; cuda:0-3' "$rest:device=cuda\\\\:3-1"
option 'CUDA frames of several cards' 'device=cuda:0-1: with hwframes=1 it must be auto, cuda' \
    "$rest:device=cuda\\\\:0-1:hwframes=1"
if grep -q 'WAN_HAVE_CUDA=1' "$B/../config.mak" 2>/dev/null; then
    skip 'device cuda without CUDA' 'CUDA is built in'
else
    option 'device cuda without CUDA' "device 'cuda'.*no CUDA" \
        "$rest:device=cuda"
fi
option 'memory too small' 'need.* GB.* GB' "$rest:memory=1M"
option 'memory negative' 'memory' "$rest:memory=-1"
option 'option unknown' 'flavour' "$rest:flavour=sweet"

# ---------------------------------------------------------- step caching

option 'cache unknown' 'cache' "$rest:cache=teacache"
option 'cache_threshold negative' 'cache_threshold' "$rest:cache=easy:cache_threshold=-0.5"
option 'cache_threshold zero' 'cache_threshold=0' "$rest:cache=easy:cache_threshold=0"
option 'cache_threshold NaN' 'cache_threshold' "$rest:cache=easy:cache_threshold=nan"
option 'cache_threshold without a cache' 'cache_threshold: there is no cache' \
    "$rest:cache_threshold=0.1"
option 'cache_retain of more steps' 'cache_retain: 2;.*0 to 1' \
    "$rest:cache=easy:cache_retain=2"
option 'cache_retain of more than all' 'cache_retain: 1.5; .*share' \
    "$rest:cache=mag:cache_retain=1.5"
option 'cache_retain NaN' 'cache_retain' "$rest:cache=easy:cache_retain=nan"
option 'cache_run zero' 'cache_run=0' "$rest:cache=mag:cache_run=0"
option 'cache_run with easy' 'cache_run: only cache mag' "$rest:cache=easy:cache_run=2"
option 'cache=mag without a table' \
    'cache: mag needs a table.*none is known for Wan2.1 T2V .width 96, 2 layers.: measure one with wan-info --calibrate' \
    "$rest:cache=mag"
table=$tmp/table.json
of_table() { option "$1" "$2" "$rest:cache=mag:cache_table=$(quote "$table")"; }
of_table 'cache_table that is not there' 'table.json: No such file'
: > "$table"
of_table 'cache_table that is empty' 'table.json'
head -c 3000 "$tiny/wan-t2v/config.json" > "$table"
of_table 'cache_table of other JSON' 'table.json: no table of wan-info --calibrate'
echo '{"wan_cache_table": 1, "model": "Wan2.1 T2V 1.3B", "cond": [1, 1], "uncond": [1, 1]}' > "$table"
of_table 'cache_table of another model' \
    'cache_table: .*table.json was measured with Wan2.1 T2V 1.3B, the model is Wan2.1 T2V .width'
echo '{"wan_cache_table": 1, "model": "Wan2.1 T2V (width 96, 2 layers)", "cond": [1, 1]}' > "$table"
of_table 'cache_table without the other branch' 'measured without guidance'
echo '{"wan_cache_table": 1, "model": "Wan2.1 T2V (width 96, 2 layers)", "cond": [1, 1], "uncond": [1]}' > "$table"
of_table 'cache_table of two lengths' '"uncond" has 1 ratios, "cond" 2'

# --------------------------------------------------------------- the prompt

option 'prompt none' 'prompt' "size=32x32"
option 'prompt and promptfile' 'prompt and promptfile' \
    "$rest:promptfile=$(quote "$SRC/README.md")"
option 'negative_prompt and negative_promptfile' \
    'negative_prompt and negative_promptfile' \
    "$rest:negative_prompt=x:negative_promptfile=$(quote "$SRC/README.md")"
option 'promptfile missing' "promptfile.*nowhere.*No such file" \
    "size=32x32:promptfile=$(quote "$tmp/nowhere")"
option 'promptfile a directory' "promptfile" \
    "size=32x32:promptfile=$(quote "$tmp")"
option 'promptfile a device without end' 'promptfile: longer than 65536' \
    "size=32x32:promptfile=/dev/zero"
mkfifo "$tmp/pipe"
: > "$tmp/pipe" &
option 'promptfile a pipe that has nothing' "promptfile: '.*pipe' is a pipe that has nothing" \
    "size=32x32:promptfile=$(quote "$tmp/pipe")"
printf 'caf\351' > "$tmp/pipe" &
option 'promptfile a pipe, not UTF-8' 'promptfile: invalid UTF-8 at byte 3' \
    "size=32x32:promptfile=$(quote "$tmp/pipe")"
printf 'a caf\351 in Paris' > "$tmp/latin1"
option 'promptfile not UTF-8' 'promptfile.*UTF-8 at byte 5' \
    "size=32x32:promptfile=$(quote "$tmp/latin1")"
printf 'a\0b' > "$tmp/nul"
option 'promptfile with NUL' 'promptfile.*NUL' \
    "size=32x32:promptfile=$(quote "$tmp/nul")"
option 'prompt not UTF-8' 'prompt.*UTF-8' \
    "size=32x32:prompt=$(printf 'caf\351')"
i=0
while [ $i -lt 1000 ]; do
    echo 'A hundred bytes of prompt, which is not much, but there are a thousand of such lines in this file. '
    i=$((i + 1))
done > "$tmp/long"
option 'promptfile of 100 kB' 'promptfile.*longer than' \
    "size=32x32:promptfile=$(quote "$tmp/long")"
head -c 60000 "$tmp/long" > "$tmp/cut"
check 'prompt of 60 kB is cut, with a warning' sh -c '"$1" -hide_banner -nostdin \
    -v warning -xerror -f lavfi -i "$2" -f null - 2> "$3" && grep "prompt: .* cut off" "$3"' \
    sh "$ffmpeg" "$(source_of "size=32x32:frames=1:steps=1:promptfile=$(quote "$tmp/cut")")" \
    "$tmp/log"

# -------------------------------------------------------------- the folders

t2v=$tiny/wan-t2v
dit=diffusion_pytorch_model.safetensors

# A fresh copy of the checkpoint in $m; only what is changed takes room.
fresh()
{
    m=$tmp/model
    rm -rf "$m"
    mkdir -p "$m/google/umt5-xxl"
    for f in "$t2v"/*.*; do
        ln -s "$f" "$m"
    done
    ln -s "$t2v"/google/umt5-xxl/* "$m/google/umt5-xxl"
}

# own FILE: make it a copy that may be damaged
own()
{
    rm "$m/$1"
    cp "$t2v/$1" "$m/$1"
    chmod u+w "$m/$1"
}

# folder NAME PATTERN: with $m as the model
folder() { bad "$1" "$2" "wan_t2v=model=$(quote "$m"):$rest"; }

# damaged NAME PATTERN COMMAND...: own copy of the transformer, damaged
damaged()
{
    damaged_name=$1 damaged_pattern=$2
    shift 2
    fresh
    own $dit
    if "$tools/damage" "$m/$dit" "$@" > "$tmp/log" 2>&1; then
        folder "$damaged_name" "$damaged_pattern"
    else
        report 1 "$damaged_name" "$tmp/log"
    fi
}

installed=$(sed -n 's/^DATADIR = //p' config.mak)/demo/t2v
if [ -d "$installed" ]; then
    skip 'no model at all' "the demo model is installed in $installed"
else
    with_demo "$tmp/bare" bad 'no model at all' \
        "no model: .*WAN_MODEL.*not installed.*$installed" "wan_t2v=$rest"
fi
mkdir -p "$tmp/bare/share/libwan/demo/t2v"
with_demo "$tmp/bare" bad 'an empty demo model' \
    'libwan/demo/t2v: no transformer here' "wan_t2v=$rest"
m=$tmp/nowhere
folder 'model not there' 'nowhere.*No such file.*model'
WAN_MODEL=$m bad 'WAN_MODEL not there' \
    'nowhere: No such file.*model' "wan_t2v=$rest"
m=$tmp/void
mkdir "$m"
folder 'model an empty directory' 'void.*no transformer.*diffusion_pytorch'
fresh; rm "$m/$dit"
folder 'no transformer' 'model: no transformer'
fresh; rm "$m"/models_t5*
folder 'no text encoder' 'model: no text encoder.*text_encoder'
fresh; rm "$m"/Wan2.1_VAE.pth
folder 'no VAE' 'model: no VAE.*option vae'
fresh; rm "$m"/google/umt5-xxl/spiece.model
folder 'no tokenizer' 'no tokenizer.*option tokenizer'
for part in vae text_encoder tokenizer; do
    option "$part not there" "nowhere.*No such file.*$part" \
        "$rest:$part=$(quote "$tmp/nowhere")"
    option "$part an empty directory" "void: no .* here" \
        "$rest:$part=$(quote "$tmp/void")"
done
fresh; rm "$m/$dit"; ln -s "$m/gone" "$m/$dit"
folder 'transformer a broken link' 'model: no transformer'
fresh; rm "$m/$dit"; mkdir "$m/$dit"
folder 'transformer a directory' 'model: no transformer'
fresh; rm "$m/$dit"; mkfifo "$m/$dit"
folder 'transformer a pipe' 'not a file'
fresh; own $dit; chmod 0 "$m/$dit"
if [ -r "$m/$dit" ]; then
    skip 'transformer not readable' 'root reads all'
else
    folder 'transformer not readable' 'Permission denied'
fi

# ------------------------------------------------------------- safetensors

# instead NAME PATTERN: with $tmp/in as the transformer
instead()
{
    fresh
    rm "$m/$dit"
    mv "$tmp/in" "$m/$dit"
    folder "$1" "$2"
}

: > "$tmp/in"
instead 'safetensors empty' "$dit: .*empty"
printf x > "$tmp/in"
instead 'safetensors of one byte' "$dit: not a safetensors file"
head -c 20000 "$SRC/Makefile" > "$tmp/in"
instead 'safetensors a text' "$dit: not a safetensors file"
head -c 100000 "$ffmpeg" > "$tmp/in"
instead 'safetensors a program' "$dit: "
head -c 1000 "$t2v/$dit" > "$tmp/in"
instead 'safetensors cut in the header' "$dit: not a safetensors file, or cut off"
head -c 100000 "$t2v/$dit" > "$tmp/in"
instead 'safetensors cut in the data' "$dit: tensor .* out of"
head -c 1281951 "$t2v/$dit" > "$tmp/in"
instead 'safetensors cut by a byte' "$dit: tensor .* out of"
{ cat "$t2v/$dit"; printf more; } > "$tmp/in"
instead 'safetensors with more behind' "$dit: .*end at byte"
printf '\2\0\0\0\0\0\0\0{}' > "$tmp/in"
instead 'safetensors without tensors' "$dit: no Wan transformer"
printf '\2\0\0\0\0\0\0\0[]' > "$tmp/in"
instead 'safetensors header not an object' "$dit: .*not a JSON object"
printf '\4\0\0\0\0\0\0\0{"a"' > "$tmp/in"
instead 'safetensors header not JSON' "$dit: .*not JSON"
{ printf '\240\206\1\0\0\0\0\0'; head -c 100000 /dev/zero | tr '\0' '['; } > "$tmp/in"
instead 'safetensors header nested deep' "$dit: "
printf 'GGUF\3\0\0\0' > "$tmp/in"
instead 'GGUF cut in the header' "$dit: the header reaches out of the file"
{ printf 'GGUF\3\0\0\0'; head -c 16 /dev/zero; } > "$tmp/in"
instead 'GGUF without tensors' "$dit: no Wan transformer"
{ printf 'GGUF\1\0\0\0'; head -c 16 /dev/zero; } > "$tmp/in"
instead 'GGUF version 1' "$dit: GGUF version 1 is not read"
{ printf 'GGUF\0\0\0\3'; head -c 16 /dev/zero; } > "$tmp/in"
instead 'GGUF of a big-endian machine' "$dit: a GGUF file in big-endian order"
{ printf 'GGUF\3\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
  printf '\0\0\0\0\0\0\0\020'; head -c 999 /dev/zero; } > "$tmp/in"
instead 'GGUF with a name of 2^60 bytes' "$dit: the list of tensors reaches out"
echo 'version https://git-lfs.github.com/spec/v1' > "$tmp/in"
instead 'LFS pointer' "$dit: .*LFS pointer"

damaged 'header over the file' "$dit: .*header of .* bytes in a file" \
    bytes 0 ffffffff00000000
damaged 'header of 2^64 - 1' "$dit: .*header of .* bytes in a file" \
    bytes 0 ffffffffffffffff
damaged 'header too short' "$dit: .*JSON" bytes 0 1000000000000000
k=blocks.0.cross_attn.k
damaged 'offsets overlapping' "$dit: tensor blocks.0.cross_attn.norm_k.weight begins .*inside" \
    replace '[37248,37632]' '[37152,37536]'
damaged 'offsets with a gap' "$dit: tensor $k.bias begins .*with a gap" \
    replace '"data_offsets":[0,384]' '"data_offsets":[4,388]'
damaged 'offsets out of the file' "$dit: tensor $k.bias: data_offsets .* out of" \
    replace '"data_offsets":[0,384]' '"data_offsets":[0,9e8]'
damaged 'offsets backwards' "$dit: tensor $k.bias: data_offsets" \
    replace '"data_offsets":[0,384]' '"data_offsets":[9,  4]'
damaged 'offsets negative' "$dit: tensor $k.bias: data_offsets" \
    replace '"data_offsets":[0,384]' '"data_offsets":[-4,38]'
damaged 'shape and offsets differ' "$dit: tensor $k.bias: its shape takes" \
    replace '"shape":[96],' '"shape":[97],'
damaged 'shape overflowing' "$dit: tensor $k.weight: " \
    replace '[96,96]' '[9e9,4]'
damaged 'shape negative' "$dit: tensor $k.bias: dimension 0" \
    replace '"shape":[96],' '"shape":[-6],'
damaged 'wrong shape' "$dit: tensor $k.weight: expected .*96.*96.*found .*9216" \
    replace '[96,96]' '[ 9216]'
damaged 'wrong type' "$dit: tensor $k.bias: expected F32.*found I32" \
    replace '"F32"' '"I32"'
damaged 'unknown type' "$dit: tensor $k.bias: unknown dtype 'Q77'" \
    replace '"F32"' '"Q77"'
damaged 'tensor missing' "$dit: tensor $k.bias is missing" \
    replace "\"$k.bias\"" "\"$k.bios\""
damaged 'tensor there twice' "$dit: tensor $k.weight is there twice|$dit: .*$k" \
    replace 'blocks.0.cross_attn.q.weight' 'blocks.0.cross_attn.k.weight'
damaged 'block missing' "$dit: " replace '"blocks.1.ffn.0.weight"' '"blocks.7.ffn.0.weight"'
late=1
damaged 'NaN in the weights' 'step 1 of 1: the latent is not finite' float $k.bias nan
damaged 'infinity in the weights' 'step 1 of 1: the latent is not finite' float patch_embedding.bias inf
late=

fresh; rm "$m/config.json"
sed 's/"dim": 96/"dim": 80/' "$t2v/config.json" > "$m/config.json"
folder 'config.json against the tensors' 'config.json says dim 80.* 96'
sed 's/"num_heads": 2/"num_heads": 7/' "$t2v/config.json" > "$m/config.json"
folder 'config.json with odd heads' 'heads'
echo '{"dim": -5}' > "$m/config.json"
folder 'config.json with a wrong number' 'config.json: "dim"'
for value in '"size": "160x90"' '"size": 160' '"frames": 16' '"frames": "all"' \
             '"steps": 1001' '"guidance": -1' '"shift": 0'; do
    echo "{\"num_heads\": 2, $value}" > "$m/config.json"
    folder "config.json with $value" "model/config.json: ${value%:*} "
done
echo 'dim = 96' > "$m/config.json"
folder 'config.json not JSON' 'config.json: '
: > "$m/config.json"
folder 'config.json empty' 'config.json: '

# -------------------------------------------------------------------- index

hd128=$tiny/wan-t2v-hd128
index=diffusion_pytorch_model.safetensors.index.json
# indexed: fresh copy of the sharded model
indexed()
{
    fresh
    rm "$m/$dit" "$m/config.json"
    ln -s "$hd128"/* "$m"
}

indexed; rm "$m"/*-00002-of-00003.safetensors
folder 'shard missing' '00002-of-00003.safetensors: No such file'
indexed; rm "$m"/*-00002-of-00003.safetensors
head -c 99999 "$hd128/diffusion_pytorch_model-00002-of-00003.safetensors" \
    > "$m/diffusion_pytorch_model-00002-of-00003.safetensors"
folder 'shard cut off' '00002-of-00003.safetensors: '
indexed; rm "$m"/*-00002-of-00003.safetensors
ln -s "$hd128/diffusion_pytorch_model-00001-of-00003.safetensors" \
    "$m/diffusion_pytorch_model-00002-of-00003.safetensors"
folder 'shard another' 'tensor .* twice|not in its shard'
indexed; rm "$m/$index"
sed 's,"diffusion_pytorch_model-00003,"../wan-t2v-hd128/diffusion_pytorch_model-00003,' \
    "$hd128/$index" > "$m/$index"
folder 'index with ..' 'index.json: tensor .*not a file name'
sed 's,"diffusion_pytorch_model-00003,"/etc/diffusion_pytorch_model-00003,' \
    "$hd128/$index" > "$m/$index"
folder 'index with an absolute path' 'index.json: tensor .*not a file name'
echo '{"weight_map": {}}' > "$m/$index"
folder 'index without tensors' 'index.json: .*no weight_map'
head -c 500 "$hd128/$index" > "$m/$index"
folder 'index cut off' 'index.json: .*not JSON'
: > "$m/$index"
folder 'index empty' 'index.json: .*empty'

# ------------------------------------------------------------------- pickle

vae=Wan2.1_VAE.pth
fresh; rm "$m/$vae"
cp "$SRC/tests/fuzz/corpus/torch_zip/foreign" "$m/$vae"
folder 'pickle that calls system' "$vae: data.pkl, byte .*system"
fresh; own $vae
"$tools/damage" "$m/$vae" replace _rebuild_tensor_v2 _rebuild_tensor_v9
folder 'pickle with a foreign callable' "$vae: data.pkl, byte .*_v9"
fresh; rm "$m/$vae"
head -c 1000000 "$t2v/$vae" > "$m/$vae"
folder 'pth cut off' "$vae: damaged zip"
: > "$m/$vae"
folder 'pth empty' "$vae: .*empty"
head -c 1000000 "$t2v/$vae" | tail -c 999000 > "$m/$vae"
folder 'pth garbage' "$vae: "
fresh; own $vae; size=$(wc -c < "$m/$vae")
"$tools/damage" "$m/$vae" bytes $((size - 12)) ffffffff
folder 'zip directory too large' "$vae: damaged zip"
fresh; own $vae
"$tools/damage" "$m/$vae" bytes $((size - 6)) ffffff7f
folder 'zip directory elsewhere' "$vae: damaged zip"
fresh; rm "$m/$vae"; cp "$SRC/tests/fuzz/corpus/torch_zip/one" "$m/$vae"
folder 'pth of something else' "$vae: no Wan VAE"
option 'text encoder that is a VAE' "$vae: no UMT5" \
    "$rest:text_encoder=$(quote "$t2v/$vae")"

# ---------------------------------------------------------------- tokenizer

sp=google/umt5-xxl/spiece.model
fresh; rm "$m/$sp"; : > "$m/$sp"
folder 'tokenizer empty' 'spiece.model: 0 bytes'
head -c 30001 "$t2v/$sp" > "$m/$sp"
folder 'tokenizer cut off' 'spiece.model: not a usable'
head -c 30000 "$SRC/Makefile" > "$m/$sp"
folder 'tokenizer a text' 'spiece.model: not a usable'
# 100 pieces more, each a field of the file: more ids than the encoder has rows
fresh; rm "$m/$sp"; cp "$t2v/$sp" "$m/$sp"
i=100
while [ $i -lt 200 ]; do
    printf '\012\014\012\005zz%03d\025\000\000\200\277' $i
    i=$((i + 1))
done >> "$m/$sp"
folder 'vocabulary too large' 'spiece.model: the tokenizer has 3472 ids, the text encoder .* 3456'

# ------------------------------------------------------------------- output

run -v error -f lavfi -i "$(source_of "$rest")" -c:v ffv1 "$tmp/void/none/a.mkv"
status=$?
[ $status -ne 0 ] && [ $status -lt 124 -o $status -ge 160 ] &&
    has 'none/a.mkv.*No such file' "$tmp/log"
report $? 'output in no directory' "$tmp/log"
if [ -c /dev/full ]; then
    run -v error -f lavfi -i "$(source_of "$rest")" -f rawvideo /dev/full
    status=$?
    [ $status -ne 0 ] && [ $status -lt 124 -o $status -ge 160 ] &&
        has 'No space left' "$tmp/log"
    report $? 'disk full' "$tmp/log"
else
    skip 'disk full' 'no /dev/full'
fi

finish
