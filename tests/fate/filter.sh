#!/bin/sh
# The source wan_t2v inside ffmpeg: frames against the golden videos, formats,
# time stamps, labels, files and streams, commands.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
need "$ffmpeg" "$ffprobe" "$tools/compare"

# ------------------------------------------------ frames against the goldens

# golden NAME FOLDER [OPTIONS]: sets $options and $size from its metadata
arguments()
{
    mkdir -p "$tmp/$1"
    options=$("$tools/compare" --arguments "pipeline-t2v-$1.safetensors" \
        "$tmp/$1") || return 1
    size=${options%%:*}
    size=${size#size=}
    options=$options:$exact:promptfile=$(quote "$tmp/$1/prompt")
    options=$options:negative_promptfile=$(quote "$tmp/$1/negative")
}

# golden NAME FORMAT FOLDER [OPTIONS]: the whole run again
golden()
{
    arguments "$1" || return 1
    make_clip "$(source_of "$options:format=${2%le}${4:+:$4}" "$3")" \
        -f rawvideo -pix_fmt "$2" "$tmp/$1.$2" || return 1
    grep -c 'auto_scale' "$tmp/log" && return 1     # nobody else converted
    "$tools/compare" "pipeline-t2v-$1.safetensors" video "$tmp/$1.$2" \
        --format "$2" --size "$size"
}

parts=$(quote "$tiny/wan-t2v")
parts=text_encoder=$parts:vae=$parts:tokenizer=$parts
for f in gbrpf32le rgb24; do
    check "unipc4 in $f"    golden unipc4 $f wan-t2v
    check "dpm4 in $f"      golden dpm4 $f wan-t2v
    check "image in $f"     golden image $f wan-t2v
    check "hd128 in $f, parts elsewhere" golden hd128 $f wan-t2v-hd128 "$parts"
done
check 'unipc4 on device ref' golden unipc4 gbrpf32le wan-t2v device=ref
check 'unipc4, Diffusers directory' \
    golden unipc4 gbrpf32le wan-t2v-diffusers
for f in gbrp yuv444p yuv420p nv12 yuv420p10le p010le; do
    check "dpm4 in $f" golden dpm4 $f wan-t2v
done
check 'image in yuv420p' golden image yuv420p wan-t2v

# another seed is another video: the comparison can fail
arguments dpm4
make_clip "$(source_of "$options:seed=124:format=gbrpf32")" -f rawvideo "$tmp/other" &&
    ! "$tools/compare" pipeline-t2v-dpm4.safetensors video "$tmp/other" \
        --format gbrpf32le --size "$size" > "$tmp/check.log"
report $? 'another seed is another video' "$tmp/check.log"

for d in wan-t2v wan-t2v-diffusers; do
    make_clip "wan_t2v=model=$tiny/$d:prompt='a red ball':size=96x64:frames=9:steps=4:seed=7:rng=cpu:format=rgb24" \
        -f rawvideo "$tmp/out.rgb" > "$tmp/check.log" &&
        same "$(wc -c < "$tmp/out.rgb" | tr -d ' ')" $((96 * 64 * 9 * 3)) >> "$tmp/check.log"
    report $? "the line of the README with $d" "$tmp/check.log"
done

# ------------------------------------------------------------------ precision

# precise OPTIONS LINE: said once, of two clips
precise()
{
    make_clip "$(source_of "$small:clips=2$1")" -f null - &&
        same "$(said "precision: $2")" 1 && same "$(said 'precision: ')" 1
}
check 'the precision that is chosen' precise '' \
    '(bf16, which this processor multiplies|f32, as this processor does not multiply bf16)'
check 'precision=f32' precise :precision=f32 'f32, as option precision says'
for p in bf16 int8; do
    check "precision=$p" precise :precision=$p \
        "$p(, as option precision says| works, but slower than f32: this processor does not multiply it)"
done
check 'precision of device ref' precise :device=ref 'f32, as device ref has no other'
for f in wan_t2v wan_i2v wan_v2v; do
    "$ffmpeg" -hide_banner -h filter=$f > "$tmp/help" 2>&1 &&
        has '^ *precision +<int> .*default auto' "$tmp/help" > "$tmp/check.log" &&
        for p in auto f32 bf16 int8; do
            has "^ *$p +[0-3] " "$tmp/help" >> "$tmp/check.log" || break
        done
    report $? "option precision of $f" "$tmp/check.log"
done

# --------------------------------------------------------------- one process

same_twice()
{
    a=$(hashes "$(source_of "$small")") && b=$(hashes "$(source_of "$small")") &&
        same "$a" "$b" && same "$(echo "$a" | wc -l | tr -d ' ')" 5
}
check 'same seed, same bytes' same_twice

other_seed()
{
    a=$(hashes "$(source_of "$small")") &&
        b=$(hashes "$(source_of "$small:seed=8")") && [ "$a" != "$b" ]
}
check 'other seed, other bytes' other_seed

other_prompt()
{
    a=$(hashes "$(source_of "$small")") &&
        b=$(hashes "$(source_of "$small:prompt=a dog")") && [ "$a" != "$b" ]
}
check 'other prompt, other bytes' other_prompt

random_seed()
{
    a=$(hashes "$(source_of "$small:seed=-1")") || return 1
    seed=$(sed -n 's/.*clip 1: seed \([0-9]*\),.*/\1/p' "$tmp/log")
    b=$(hashes "$(source_of "$small:seed=-1")") && [ "$a" != "$b" ] || return 1
    echo "seed $seed"
    same "$a" "$(hashes "$(source_of "$small:seed=$seed")")"
}
check 'seed=-1 says which, and that gives the same frames' random_seed

large_seed()
{
    make_clip "$(source_of "$small:frames=1:seed=18446744073709551615")" \
        -f null - && has 'seed 18446744073709551615,' "$tmp/log"
}
check 'seed of 64 bits' large_seed

threads()
{
    arguments dpm4
    for n in 1 2; do
        make_clip "$(source_of "$options:format=rgb24:threads=$n")" \
            -f rawvideo "$tmp/threads$n" || return 1
    done
    "$tools/compare" --bytes "$tmp/threads1" "$tmp/threads2"
}
check 'threads=1 and threads=2' threads

stacked()
{
    one=$(hashes "$(source_of "$small:format=rgb24"),format=rgb24") || return 1
    graph="$(source_of "$small:format=rgb24")[a];"
    graph="$graph$(source_of "$small:seed=8:format=rgb24")[b];[a][b]hstack,format=rgb24"
    run -filter_complex "$graph" -f framecrc "$tmp/crc" || { cat "$tmp/log"; return 1; }
    has '#dimensions 0: 64x32' "$tmp/crc" &&
        same "$(grep -c '^0' "$tmp/crc")" 5 || return 1
    run -filter_complex "$graph,crop=32:32:0:0" -f framemd5 "$tmp/md5" &&
        same "$one" "$(sed -n 's/^[0-9].*, *//p' "$tmp/md5")"
}
check 'two sources in one graph' stacked

environment()
{
    WAN_MODEL=$tiny/wan-t2v make_clip "wan_t2v=$small" -f null -
}
check 'model from $WAN_MODEL' environment

# ------------------------------------------------- the model when none is given

mkdir -p "$tmp/demo/share/libwan/demo/t2v"
ln -s "$tiny/wan-t2v"/* "$tmp/demo/share/libwan/demo/t2v"
cp "$SRC/docs/models.md" "$tmp/demo/share/libwan"
line='no model was given, so this is the small demo model'
demo()
{
    a=$(hashes "$(source_of "$small")") && same "$(said "$line")" 0 &&
        b=$(with_demo "$tmp/demo" hashes "wan_t2v=$small" -v repeat+info) &&
        same "$a" "$b" &&
        same "$(said "$line")" 1 && has \
            "$line /.*/demo/t2v; for others see /.*/libwan/models.md\$" "$tmp/log"
}
check 'the demo model, and one line that says so' demo
demo_in_graph()
{
    with_demo "$tmp/demo" run -v repeat+info -filter_complex "wan_t2v=$small" \
        -f null - &&
        same "$(said "$line")" 1 || { cat "$tmp/log"; return 1; }
}
check 'the demo model in -filter_complex' demo_in_graph
not_demo()
{
    WAN_MODEL=$tiny/wan-t2v with_demo "$tmp/demo" make_clip "wan_t2v=$small" -f null - &&
        same "$(said "$line")" 0 &&
        with_demo "$tmp/demo" make_clip "$(source_of "$small")" -f null - &&
        same "$(said "$line")" 0
}
check 'a model that is given is not the demo model' not_demo

# --------------------------------------------------- defaults in a config.json

mkdir "$tmp/own" && ln -s "$tiny/wan-t2v"/* "$tmp/own" && rm "$tmp/own/config.json" &&
    sed 's/"dim"/"size": "48x32", "frames": 5, "steps": 2, "guidance": 3, "shift": 2, &/' \
        "$tiny/wan-t2v/config.json" > "$tmp/own/config.json"
own="wan_t2v=model=$(quote "$tmp/own"):prompt=a cat:seed=7"
own_defaults()
{
    a=$(hashes "$own") &&
        has 'clip 1: seed 7, 2 steps of unipc, guidance 3, shift 2$' "$tmp/log" &&
        has '48x32, 5 frames, 2 steps' "$tmp/log" &&
        b=$(hashes "$own:size=48x32:frames=5:steps=2:guidance=3:shift=2") &&
        same "$a" "$b" && same "$(echo "$a" | wc -l | tr -d ' ')" 5
}
check 'defaults of the config.json' own_defaults
over_defaults()
{
    make_clip "$own:size=32x32:frames=1:steps=1:guidance=1:shift=4" -f null - &&
        has '32x32, 1 frames, 1 steps' "$tmp/log" &&
        has 'clip 1: seed 7, 1 steps of unipc, guidance 1, shift 4$' "$tmp/log"
}
check 'options are stronger than the config.json' over_defaults
told_defaults()
{
    "$B/bin/wan-info" "$tmp/own" > "$tmp/info" &&
        has 'defaults +48x32, 5 frames at 16 a second, 2 steps, guidance 3, shift 2$' \
            "$tmp/info" && has '^48x32, 5 frames, 2 steps, guidance 3$' "$tmp/info"
}
check 'wan-info tells them' told_defaults

# -------------------------------------------------------------------- prompt

odd="it's 50:50, [really]; \"a \\ b\" = %{c} ' é 猫 \\' end"
escaped()
{
    printf '%s\r\n\n' "$odd" > "$tmp/odd"
    rest=size=32x32:frames=1:steps=1:seed=7
    a=$(hashes "$(source_of "$rest:promptfile=$(quote "$tmp/odd")")") &&
        b=$(hashes "$(source_of "$rest:prompt=$(quote "$odd")")") &&
        same "$a" "$b" || return 1
    make_clip "$(source_of "$rest:prompt=$(quote "$odd")"),metadata=print:file=$(quote "$tmp/meta")" \
        -f null - &&
        same "lavfi.wan.prompt=$odd" "$(grep '^lavfi.wan.prompt=' "$tmp/meta")"
}
check 'prompt by file and by escaping' escaped

long_prompt()       # metadata=print gives it whole, and the lines after it
{
    long=$(printf 'a cat on the roof and %.0s' 1 2 3 4 5 6 7 8 9 10 11 12)
    make_clip "$(source_of "$small:prompt=${long}a dog"),metadata=print:file=$(quote "$tmp/meta")" \
        -f null - &&
        same "$(grep -c "^lavfi.wan.prompt=${long}a dog\$" "$tmp/meta")" "$(grep -c '^frame:' "$tmp/meta")"
}
check 'a long prompt in the metadata' long_prompt

bom()
{
    printf '\357\273\277a cat\n' > "$tmp/bom"
    same "$(hashes "$(source_of "$small")")" \
        "$(hashes "$(source_of "size=32x32:frames=5:steps=1:seed=7:promptfile=$(quote "$tmp/bom")")")"
}
check 'prompt file with a byte order mark' bom

# An empty text is a text, wherever it comes from, and blanks are none.
prompt_rest=size=32x32:frames=5:steps=1:seed=7
empty_texts()
{
    : > "$tmp/empty"
    printf ' \t\n\n' > "$tmp/blank"
    a=$(hashes "$(source_of "prompt=:$prompt_rest")") &&
        same "$a" "$(hashes "$(source_of "prompt='  ':$prompt_rest")")" &&
        same "$a" "$(hashes "$(source_of "promptfile=$(quote "$tmp/empty"):$prompt_rest")")" &&
        same "$a" "$(hashes "$(source_of "promptfile=$(quote "$tmp/blank"):$prompt_rest")")" &&
        same "$a" "$(hashes "$(source_of "promptfile=/dev/null:$prompt_rest")")" || return 1
    b=$(hashes "$(source_of "$small:negative_prompt=")") &&
        same "$b" "$(hashes "$(source_of "$small:negative_promptfile=$(quote "$tmp/empty")")")" &&
        [ "$a" != "$b" ] && [ "$b" != "$(hashes "$(source_of "$small")")" ]
}
check 'an empty text is a text' empty_texts

# pipe OPTION: that text from a pipe, under each of its names
pipe()
{
    as=$(quote "$tmp/fifo")
    printf 'a cat\n' | hashes "$(source_of "$1=/dev/stdin:$prompt_rest")" &&
        printf 'a cat\n' | hashes "$(source_of "$1=/dev/fd/3:$prompt_rest")" 3<&0 &&
        { { printf 'a '; sleep 0.3; printf 'cat\n'; } > "$tmp/fifo" & } &&
        hashes "$(source_of "$1=$as:$prompt_rest")" &&
        { printf 'a cat\n' > "$tmp/fifo" & } &&
        run -filter_complex "$(source_of "$1=$as:$prompt_rest")" -f framemd5 "$tmp/md5" &&
        sed -n 's/^[0-9].*, *//p' "$tmp/md5"
}
four_times() { for i in 1 2 3 4; do echo "$1"; done; }
pipes()
{
    mkfifo "$tmp/fifo" &&
        same "$(pipe promptfile)" "$(four_times "$(hashes "$(source_of "$small")")")" &&
        same "$(pipe "prompt=a dog:negative_promptfile")" \
            "$(four_times "$(hashes "$(source_of "$small:prompt=a dog:negative_prompt=a cat")")")"
}
check 'prompts from pipes' pipes

# ----------------------------------------------------------- formats and tags

# tagged FORMAT PIX_FMT CHROMA RANGE MATRIX: what ffprobe says of frames, and
# for 5.1, whose lavfi device drops tags, what showinfo says, without chroma
tagged()
{
    if [ "$series" = 5.1 ]; then
        make_film "$(source_of "$small:frames=1:format=$1"),showinfo" \
            -f rawvideo "$tmp/raw" || return 1
        for t in "fmt:$2 " "color_range:$4" "color_space:$5" \
                 color_primaries:bt709 color_trc:bt709; do
            same "$t $(said "$t")" "$t 1" || { cat "$tmp/log"; return 1; }
        done
        return 0
    fi
    "$ffprobe" -v error -f lavfi -i "$(source_of "$small:frames=1:format=$1")" \
        -show_frames -show_entries \
        frame=pix_fmt,color_range,color_space,color_primaries,color_transfer,chroma_location \
        -of default=nw=1:nk=0 | grep -v '^TAG:' | grep -v side_data | sort | tr '\n' ' ' \
        > "$tmp/tags" || return 1
    same "$(cat "$tmp/tags")" "chroma_location=$3 color_primaries=bt709 color_range=$4 color_space=$5 color_transfer=bt709 pix_fmt=$2 "
}
for f in yuv420p nv12 yuv420p10 p010; do
    p=$f
    case $f in *10) p=${f}le ;; esac
    check "format=$f and its tags" tagged $f $p left tv bt709
done
check 'format=yuv444p and its tags' tagged yuv444p yuv444p unspecified tv bt709
for f in gbrp rgb24; do
    check "format=$f and its tags" tagged $f $f unspecified pc gbr
done
check 'format=gbrpf32 and its tags' tagged gbrpf32 gbrpf32le unspecified pc gbr
check 'default format' tagged none yuv420p left tv bt709
none_offers()
{
    for f in yuv444p gbrpf32 rgb24 yuv420p10 nv12 p010; do
        make_clip "$(source_of "$small:frames=1:format=none"),format=$f" \
            -f null - || return 1
        lacks 'auto_scale' "$tmp/log" || return 1
    done
    make_clip "$(source_of "$small:frames=1:format=none"),format=rgb24" \
        -f rawvideo "$tmp/none" &&
        make_clip "$(source_of "$small:frames=1:format=rgb24")" \
            -f rawvideo "$tmp/rgb" && cmp "$tmp/none" "$tmp/rgb"
}
check 'format=none offers all' none_offers

# RGB is agreed on by those who ask for its matrix and range, without a filter
# between.
rgb_agreed()
{
    for f in gbrp rgb24 gbrpf32; do
        run -noauto_conversion_filters -filter_complex \
            "$(source_of "$small:frames=1:format=$f"),format=pix_fmts=$f:color_spaces=gbr:color_ranges=pc" \
            -f null - || { cat "$tmp/log"; return 1; }
    done
}
case $series in
5.1) skip 'RGB has its own matrix and range' '5.1 does not agree on them' ;;
*) check 'RGB has its own matrix and range' rgb_agreed ;;
esac

# dithered FORMAT: other bytes than without, at most one level away (compare
# counts in bytes, so 8 bits); what is none is the default
dithered()
{
    for d in none bayer; do
        make_clip "$(source_of "$small:format=$1:dither=$d")" -f rawvideo \
            "$tmp/$d" || return 1
    done
    make_clip "$(source_of "$small:format=$1")" -f rawvideo "$tmp/default" &&
        cmp "$tmp/none" "$tmp/default" && ! cmp "$tmp/none" "$tmp/bayer" &&
        "$tools/compare" --bytes "$tmp/none" "$tmp/bayer" --limit 1
}
for f in yuv420p nv12 yuv444p gbrp rgb24; do
    check "dither=bayer in $f" dithered $f
done
dithered_float()
{
    same "$(hashes "$(source_of "$small:format=gbrpf32")")" \
        "$(hashes "$(source_of "$small:format=gbrpf32:dither=bayer")")"
}
check 'dither=bayer in gbrpf32 changes nothing' dithered_float

# ----------------------------------------------------------------------- time

# a line of showinfo; that of 5.1 has a file position and no duration
shown='n: *([0-9]+) pts: *\1 +pts_time:[^ ]+ +(pos:|duration: *1 )'

# stamps OPTIONS TIMEBASE FRAMES [SAR]: pts 0, 1, 2, ..., duration 1
stamps()
{
    make_clip "$(source_of "prompt=a cat:size=32x32:steps=1:seed=7:$1"),showinfo" \
        -f framecrc "$tmp/crc" || return 1
    # what the filter says; ffmpeg counts durations anew from the rate
    same "$(said "$shown")" "$3" || { cat "$tmp/log"; return 1; }
    has "^#tb 0: $2\$" "$tmp/crc" && has "^#sar 0: ${4-1/1}\$" "$tmp/crc" ||
        return 1
    awk -F, '/^0/ { if ($2 + 0 != n || $3 + 0 != n || $4 + 0 != 1) bad = 1; n++ }
             END { if (bad || n != want) { print n " frames"; exit 1 } }' \
        want="$3" "$tmp/crc" || { cat "$tmp/crc"; return 1; }
}
check 'time base 1/16, pts, durations' stamps frames=9 1/16 9
check 'rate=25'             stamps frames=5:rate=25 1/25 5
check 'r=ntsc'              stamps frames=5:r=ntsc 1001/30000 5
check 'duration=0.3: 5 frames up to 5'  stamps duration=0.3 1/16 5
check 'duration=0.3125: exactly 5'      stamps duration=0.3125 1/16 5
check 'd=0.313: 6 frames up to 9'       stamps d=0.313 1/16 9
check 'duration=00:00:01 at rate 8'     stamps duration=00\\\\:00\\\\:01:rate=8 1/8 9
check 'duration of less than a frame'   stamps duration=0.001 1/16 1
check 'sar=4/3'             stamps frames=1:sar=4/3 1/16 1 4/3
check 'clips=3 go on in time'           stamps frames=5:clips=3 1/16 15
check 's=64x32'             stamps s=64x32:frames=1 1/16 1
default_seconds()
{
    same "$("$ffprobe" -v error -f lavfi -i "$(source_of "$small")" -show_entries \
        stream=r_frame_rate,time_base,sample_aspect_ratio,width,height \
        -of csv=p=0)" '32,32,1:1,16/1,1/16'
}
check 'rate, time base, aspect of the stream' default_seconds

# -t ends it early: chunks leave one by one, the rest is never made
early()
{
    make_clip "$(source_of "prompt=a cat:size=64x64:frames=401:steps=1:seed=7")" \
        -t 0.25 -f framecrc "$tmp/crc" &&
        same "$(grep -c '^0' "$tmp/crc")" 4 && lacks 'frames in' "$tmp/log"
}
check '-t cuts early' early

# ------------------------------------------------------------------- commands

# clip 1 with the old prompt, clips 2 and 3 with the new one, seeds count up
runtime_prompt()
{
    echo "0.1 wan_t2v prompt 'a dog, running';" > "$tmp/commands"
    a=$(hashes "$(source_of "$small:clips=3"),sendcmd=f=$(quote "$tmp/commands")") &&
        b=$(for p in 'a cat:seed=7' 'a dog\, running:seed=8' 'a dog\, running:seed=9'; do
                hashes "$(source_of "$small:prompt=$p")"
            done) && same "$a" "$b"
}
check 'prompt changes at the next clip' runtime_prompt

runtime_guidance()
{
    echo "0.1 wan_t2v guidance 1, 0.15 wan_t2v negative_prompt 'blurry';" |
        tr , '\n' | sed '1s/$/;/' > "$tmp/commands"
    a=$(hashes "$(source_of "$small:clips=2"),sendcmd=f=$(quote "$tmp/commands")") &&
        b=$(hashes "$(source_of "$small")"
            hashes "$(source_of "$small:seed=8:guidance=1")") && same "$a" "$b"
}
check 'guidance changes at the next clip' runtime_guidance

refused_command()
{
    printf '%s\n' "0.05 wan_t2v guidance 200;" "0.1 wan_t2v prompt '$(printf 'caf\351')';" \
        "0.1 wan_t2v frames 9;" > "$tmp/commands"
    a=$(hashes "$(source_of "$small:clips=2"),sendcmd=f=$(quote "$tmp/commands")")
    has 'guidance.*0 to 100|guidance.*out of range' "$tmp/log" &&
        has 'prompt: invalid UTF-8 at byte 3' "$tmp/log" &&
        same "$a" "$(hashes "$(source_of "$small:clips=2")")"
}
check 'commands that are refused change nothing' refused_command

empty_command()
{
    echo "0.1 wan_t2v prompt '';" > "$tmp/commands"
    a=$(hashes "$(source_of "$small:clips=2"),sendcmd=f=$(quote "$tmp/commands")") &&
        same "$a" "$(hashes "$(source_of "$small")"
            hashes "$(source_of "$small:prompt=:seed=8")")"
}
check 'a command with an empty prompt' empty_command

# --------------------------------------------------------------------- labels

metadata()
{
    make_clip "$(source_of "$small:clips=2:label=$1"),metadata=print:file=$(quote "$tmp/meta")" \
        -f null - || return 1
    same "$(grep -c '^lavfi.wan.seed=7$' "$tmp/meta") $(grep -c '^lavfi.wan.seed=8$' "$tmp/meta")" \
        '5 5' &&
        same "$(grep -c '^lavfi.wan.steps=1$' "$tmp/meta")" 10 &&
        has '^lavfi.wan.model=Wan2.1 T2V' "$tmp/meta" &&
        has '^lavfi.wan.version=[0-9]+\.[0-9]+\.[0-9]+$' "$tmp/meta" &&
        has '^lavfi.wan.prompt=a cat$' "$tmp/meta" &&
        has "^lavfi.wan.prompt_digest=$(printf 'a cat' | sha256sum | cut -c 1-64)\$" "$tmp/meta" &&
        same "$(grep -c '^lavfi.wan.generated=1$' "$tmp/meta") $(grep -c \
            '^lavfi.wan.digital_source_type=http.*/trainedAlgorithmicMedia$' "$tmp/meta")" "$2"
}
check 'metadata of frames, label=1' metadata 1 '10 10'
check 'metadata of frames, label=0' metadata 0 '0 0'

# precision_of OPTIONS: of the frames, once, and of the log
precision_of()
{
    make_clip "$(source_of "$small$1"),metadata=print:file=$(quote "$tmp/meta")" -f null - &&
        same "$(grep -c '^lavfi.wan.precision=' "$tmp/meta")" 5 &&
        sed -n 's/^lavfi.wan.precision=//p' "$tmp/meta" | uniq &&
        sed -n 's/.*precision: \([a-z0-9]*\).*/\1/p' "$tmp/log"
}
made_in() { same "$(precision_of "$1" | tr '\n' ' ')" "$2 $2 "; }
for p in f32 bf16 int8; do
    check "metadata of frames, precision=$p" made_in :precision=$p $p
done
chosen=$("$B/bin/wan-info" --device cpu "$tiny/wan-t2v" | sed -n 's/^  precision     \([a-z0-9]*\).*/\1/p')
check 'metadata of frames, the precision that was chosen' made_in :precision=auto "$chosen"

# The label as text, and the identifier before it, in an H.264 stream.
uuid=9ad6c2a16fcd46cf8095e421a0818903
sei()
{
    make_film "$(source_of "$small:label=$1")" -c:v libx264 -udu_sei 1 \
        "$tmp/sei.h264" || return 1
    text=$(tr -c '[:print:]' '\n' < "$tmp/sei.h264" |
        grep -c 'AI-generated by libwan .*trainedAlgorithmicMedia')
    id=$(od -An -v -tx1 "$tmp/sei.h264" | tr -d ' \n' | grep -o $uuid | wc -l)
    same "$((text)) $((id))" "$2 $2"
}
if have encoders libx264; then
    check 'label in the stream' sei 1 5
    check 'no label with label=0' sei 0 0
else
    skip 'label in the stream' 'no libx264'
    skip 'no label with label=0' 'no libx264'
fi

# ---------------------------------------------------------- files and streams

codec=mpeg4
have encoders libx264 && codec=libx264

# file NAME OPTION...: five frames that decode, with our colours
file()
{
    name=$1
    shift
    make_film "$(source_of "$small")" -c:v $codec "$@" "$tmp/$name" || return 1
    "$ffprobe" -v error -count_frames -show_entries \
        stream=nb_read_frames,width,height -of csv=p=0 "$tmp/$name" \
        > "$tmp/probe" && has '^32,32,5' "$tmp/probe"
}
check 'mp4' file a.mp4
mp4_tags()
{
    "$ffprobe" -v error -show_entries \
        stream=pix_fmt,color_range,color_space,color_transfer,color_primaries,r_frame_rate,duration \
        -of default=nw=1 "$tmp/a.mp4" > "$tmp/probe"
    has '^color_space=bt709' "$tmp/probe" && has '^r_frame_rate=16/1' "$tmp/probe" &&
        has '^duration=0.312' "$tmp/probe" && has '^pix_fmt=yuv420p$' "$tmp/probe" &&
        has '^color_range=tv' "$tmp/probe" && has '^color_primaries=bt709' "$tmp/probe"
}
check 'colour tags and duration in mp4' mp4_tags
check 'mkv' file a.mkv
check 'nut, lossless' file a.nut -c:v ffv1
hls()
{
    file a.m3u8 -f hls -hls_time 0.1 -g 2 && has '^#EXTM3U' "$tmp/a.m3u8" &&
        has '^#EXT-X-ENDLIST' "$tmp/a.m3u8" &&
        [ "$(grep -c '\.ts$' "$tmp/a.m3u8")" -ge 2 ]
}
check 'hls' hls
lossless()
{
    a=$(hashes "$(source_of "$small")") &&
        run -i "$tmp/a.nut" -f framemd5 "$tmp/md5" &&
        same "$a" "$(sed -n 's/^[0-9].*, *//p' "$tmp/md5")"
}
check 'lossless file gives the same frames' lossless

image()
{
    make_clip "$(source_of "$small:frames=1:format=rgb24")" -update 1 "$tmp/a.png" &&
        "$ffprobe" -v error -show_entries stream=codec_name,width,height,pix_fmt \
            -of csv=p=0 "$tmp/a.png" > "$tmp/probe" &&
        has '^png,32,32,rgb24' "$tmp/probe"
}
if have encoders png; then
    check 'one frame as PNG' image
else
    skip 'one frame as PNG' 'no png encoder'
fi

# A receiver that gives up after 10 s without a packet.
udp()
{
    timeout $patience "$ffmpeg" -hide_banner -nostdin -y -v error \
        -i "udp://127.0.0.1:$port?timeout=10000000" -f framecrc "$tmp/crc" \
        2> "$tmp/receiver" &
    receiver=$!
    within $patience bound $port && make_clip "$(source_of "$small:frames=9")" -c:v $codec -f mpegts \
        "udp://127.0.0.1:$port?pkt_size=1316"
    sent=$?
    wait $receiver
    cat "$tmp/receiver"
    [ $sent -eq 0 ] && same "$(grep -c '^0' "$tmp/crc")" 9
}
check 'mpegts over UDP' udp

# -------------------------------------------------------------------- the log

progress()
{
    make_clip "$(source_of "prompt=a cat:size=64x64:frames=5:steps=2:seed=7:shift=3:sampler=dpm++")" \
        -f null - || return 1
    has '64x64, 5 frames, 2 steps: 32 tokens, needs .* GB of memory .*of .* GB' "$tmp/log" &&
        has 'clip 1: seed 7, 2 steps of dpm\+\+, guidance 5, shift 3$' "$tmp/log" &&
        has 'clip 1: 5 frames in [0-9.e-]+ s: load [0-9.e-]+, text [0-9.e-]+, steps [0-9.e-]+, decode [0-9.e-]+$' "$tmp/log"
}
check 'what is made, and the times at the end' progress

# a few seconds on device ref, for a line a second; a machine that is too fast
# for that shows the first alone
progress_lines()
{
    make_clip "$(source_of "prompt=a cat:size=96x96:frames=9:steps=40:seed=7:device=ref")" \
        -f null - || return 1
    has 'step [0-9]+/40, [0-9.e-]+ s a step, [0-9]+ s left$' "$tmp/log" || return 1
    seconds=$(sed -n 's/.*, decode \([0-9]*\)[0-9.]*$/\1/p' "$tmp/log")
    [ "$seconds" -lt 2 ] ||
        has 'decode [1-3]/3, [0-9.e-]+ s a chunk, [0-9]+ s left$' "$tmp/log"
}
check 'progress lines' progress_lines

quiet()
{
    make_clip "$(source_of "$small")" -v warning -f null - && same "x$(cat "$tmp/log")" x
}
check 'silent at -v warning' quiet

finish
