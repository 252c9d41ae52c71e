#!/bin/sh
# The filter wan_i2v inside ffmpeg: frames against the golden video, what its
# input may be, both modes, chains of clips, what it refuses.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"

t2v=$(quote "$tiny/wan-t2v")
parts=text_encoder=$t2v:vae=$t2v:tokenizer=$t2v

# i2v OPTIONS, flf2v OPTIONS: the filter with a tiny checkpoint
i2v() { printf 'wan_i2v=model=%s:%s:%s' "$(quote "$tiny/wan-i2v")" "$parts" "$1"; }
flf2v()
{
    printf 'wan_i2v=model=%s:%s:clip=%s:%s' "$(quote "$tiny/wan-flf2v")" \
        "$parts" "$(quote "$tiny/wan-i2v")" "$1"
}

small="prompt=a cat:size=32x32:frames=5:steps=1:seed=7"
bare="prompt=a cat:frames=5:steps=1:seed=7"

# good ARGUMENT...: run, with its messages on failure
good() { run "$@" || { cat "$tmp/log"; return 1; }; }

# through INPUT FILTERS FILE [OUTPUT OPTION...]: raw video
through()
{
    through_in=$1 through_vf=$2 through_out=$3
    shift 3
    good -i "$through_in" -vf "$through_vf" "$@" -f rawvideo "$through_out"
}

# md5s FILE of framemd5: the hashes alone
md5s() { sed -n 's/^[0-9].*, *//p' "$1"; }

# refused NAME PATTERN ARGUMENT...: exit code of ffmpeg, and a line that says why
refused()
{
    refused_name=$1 refused_pattern=$2
    shift 2
    run -v error "$@" -f null -
    refused_status=$?
    [ $refused_status -ne 0 -o "${late-}" = 5.1 ] && [ $refused_status -ne 124 ] &&
        [ $refused_status -lt 129 -o $refused_status -ge 160 ] &&
        has "$refused_pattern" "$tmp/log" > "$tmp/why"
    report $? "$refused_name" "$tmp/log"
}

# ------------------------------------------------- a frame against the golden

name=pipeline-i2v-dpm6.safetensors
tensor $name image0 > "$tmp/photo.rgb"
same "$(wc -c < "$tmp/photo.rgb" | tr -d ' ')" $((70 * 150 * 3)) > "$tmp/check.log" &&
    run -f rawvideo -pix_fmt rgb24 -video_size 70x150 -i "$tmp/photo.rgb" \
        "$tmp/photo.png" && cp "$tmp/log" "$tmp/check.log"
report $? 'the image of the golden' "$tmp/check.log"
leaves="prompt=leaves fall:negative_prompt=static:size=32x80:frames=5:steps=6"
leaves=$leaves:guidance=3.5:shift=3:sampler=dpm++:seed=6:rng=cpu:$exact

# golden FORMAT INPUT [FILTERS,] [LIMIT]
golden()
{
    through "$2" "${3-}$(i2v "$leaves:format=${1%le}")" "$tmp/clip" || return 1
    "$tools/compare" $name video "$tmp/clip" --format "$1" --size 32x80 \
        ${4:+--limit $4}
}
for f in gbrpf32le gbrp rgb24 yuv444p yuv420p nv12 yuv420p10le p010le; do
    check "golden in $f" golden $f "$tmp/photo.png"
done
golden rgb24 "$tmp/photo.png" > /dev/null && cp "$tmp/clip" "$tmp/clip.rgb"

unlike() { ! golden "$@"; }
check 'a flipped image is another video' unlike gbrpf32le "$tmp/photo.png" hflip,

# ---------------------------------------------------------- any pixel format

# exactly FORMAT: RGB of 8 bits in any order gives the same bytes, and an alpha
# that hides nothing is not spoken of
exactly()
{
    through "$tmp/photo.png" "format=$1,$(i2v "$leaves:format=rgb24")" \
        "$tmp/clip" && cmp "$tmp/clip" "$tmp/clip.rgb" && lacks 'alpha' "$tmp/log"
}
for f in gbrp bgr24 rgba argb bgr0 gbrap; do
    check "exact from $f" exactly $f
done

# bytes AWK_PROGRAM: of the photo's pixels $1 $2 $3; put(v) and put16(v) print
bytes()
{
    printf "$(od -An -v -tu1 -w3 "$tmp/photo.rgb" | awk '
        function put(v)   { printf "\\%03o", v }
        function put16(v) { put(v % 256); put(int(v / 256)) }
        '"$1")"
}

# raw FORMAT FILTERS LIMIT: the clip of raw frames in $tmp/raw
raw()
{
    good -f rawvideo -pix_fmt "$1" -video_size 70x150 -i "$tmp/raw" \
        -vf "$2$(i2v "$leaves:format=gbrpf32")" -f rawvideo "$tmp/clip" &&
        lacks auto_scale "$tmp/log" &&
        "$tools/compare" $name video "$tmp/clip" --format gbrpf32le \
            --size 32x80 --limit $3
}

bytes '{ put16($1 * 257); put16($2 * 257); put16($3 * 257) }' > "$tmp/raw"
check 'exact from rgb48le' raw rgb48le '' 5e-5
bytes '{ v[NR] = $3; u[NR] = $1; put($2) }
       END { for (i = 1; i <= NR; i++) put(v[i])
             for (i = 1; i <= NR; i++) put(u[i]) }' > "$tmp/raw"
check 'exact from raw gbrp' raw gbrp '' 5e-5

# yuv MATRIX RANGE: 16-bit YUV 4:4:4 of the same picture, computed in double
yuv()
{
    case $1 in
    smpte170m) k='kr = 0.299;  kb = 0.114' ;;
    bt709)     k='kr = 0.2126; kb = 0.0722' ;;
    bt2020nc)  k='kr = 0.2627; kb = 0.0593' ;;
    esac
    case $2 in
    limited) k="$k; zero = 4096; luma = 56064; half = 32768; chroma = 57344" ;;
    full)    k="$k; zero = 0; luma = chroma = 65535; half = 32768" ;;
    esac
    bytes 'function level(v) { put16(v < 0 ? 0 : v > 65535 ? 65535 : int(v + 0.5)) }
           BEGIN { '"$k"' }
           { y = kr * $1 + (1 - kr - kb) * $2 + kb * $3
             u[NR] = half + chroma * ($3 - y) / 255 / (2 - 2 * kb)
             v[NR] = half + chroma * ($1 - y) / 255 / (2 - 2 * kr)
             level(zero + luma * y / 255) }
           END { for (i = 1; i <= NR; i++) level(u[i])
                 for (i = 1; i <= NR; i++) level(v[i]) }' > "$tmp/raw"
}
tagged_as() { raw yuv444p16le "setparams=colorspace=$1:range=$2," 1e-4; }
not_as()    { ! tagged_as "$@"; }
for m in smpte170m bt709 bt2020nc; do
    for r in limited full; do
        yuv $m $r
        check "the same clip from YUV of $m, $r" tagged_as $m $r
    done
done
check 'and not with a wrong range'  not_as bt2020nc limited
check 'and not with a wrong matrix' not_as bt709 full
yuv smpte170m limited
check 'untagged YUV is BT.601, limited' raw yuv444p16le '' 1e-4
# Files as they come: all of them near the clip of the photo.
file()
{
    good -i "$tmp/photo.png" $3 "$tmp/$1" && golden gbrpf32le "$tmp/$1" '' $2 &&
        lacks auto_scale "$tmp/log"
}
check 'a JPEG of 4:4:4' file photo.jpg 0.02 '-q:v 1 -pix_fmt yuvj444p'
check 'a JPEG of 4:2:0' file half.jpg 0.15 '-q:v 1 -pix_fmt yuvj420p'
check 'a PNG of 16 bits' file deep.png 2e-2 '-pix_fmt rgb48be'

# A palette is as good as what it holds, for either image.
palette()
{
    good -i "$tmp/photo.png" -vf 'split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=0' \
        "$tmp/palette.png" &&
        good -i "$tmp/palette.png" -pix_fmt rgb24 "$tmp/plain.png" &&
        through "$tmp/palette.png" "$(i2v "$leaves:format=rgb24")" "$tmp/clip" &&
        lacks auto_scale "$tmp/log" &&
        through "$tmp/plain.png" "$(i2v "$leaves:format=rgb24")" "$tmp/plain" &&
        cmp "$tmp/clip" "$tmp/plain"
}
check 'a palette' palette
mono()
{
    for f in monob monow; do
        through "$tmp/photo.png" "format=$f,format=gray,$(i2v "$leaves:format=rgb24")" "$tmp/plain" &&
            through "$tmp/photo.png" "format=$f,$(i2v "$leaves:format=rgb24")" "$tmp/clip" &&
            cmp "$tmp/clip" "$tmp/plain" || return 1
    done
}
check 'black and white' mono

# Half the chroma: the clip of 4:2:0 and that of its own enlargement agree.
subsampled()
{
    for r in limited full; do
        golden gbrpf32le "$tmp/photo.png" \
            "scale=out_color_matrix=bt709:out_range=$r:flags=accurate_rnd+full_chroma_int,format=yuv420p,setparams=colorspace=bt709:range=$r," 0.15 ||
            return 1
    done
}
check 'yuv420p, both ranges' subsampled

# Grey of any kind is grey RGB.
grey()
{
    bytes '{ put($2); put($2); put($2) }' > "$tmp/raw"
    good -f rawvideo -pix_fmt rgb24 -video_size 70x150 -i "$tmp/raw" \
        -vf "$(i2v "$leaves:format=rgb24")" -f rawvideo "$tmp/grey" || return 1
    for f in gray gray16le ya8; do
        case $f in
        gray)     bytes '{ put($2) }' ;;
        gray16le) bytes '{ put16($2 * 257) }' ;;
        ya8)      bytes '{ put($2); put(NR % 256) }' ;;
        esac > "$tmp/raw"
        good -f rawvideo -pix_fmt $f -video_size 70x150 -i "$tmp/raw" \
            -vf "$(i2v "$leaves:format=rgb24")" -f rawvideo "$tmp/clip" &&
            cmp "$tmp/grey" "$tmp/clip" || return 1
    done
}
check 'grey of 8 and 16 bits and with alpha' grey

# The colour under the alpha counts, as in the reference; and it is said.
alpha()
{
    bytes '{ put($1); put($2); put($3); put(NR % 256) }' > "$tmp/raw"
    raw rgba '' 5e-5 && has 'input: rgba: alpha is dropped' "$tmp/log"
}
check 'alpha is dropped with a warning' alpha

# What is opaque has no alpha to be dropped, whatever its format; one pixel that
# is not is enough.
opaque()
{
    for f in ya8 yuva420p yuva444p10le rgba64le gbrapf32le; do
        good -i "$tmp/photo.png" -vf "format=$f,$(i2v "$small")" -f null - &&
            lacks 'alpha is' "$tmp/log" || return 1
    done
    good -i "$tmp/photo.png" "$tmp/photo.gif" &&
        good -i "$tmp/photo.gif" -vf "$(i2v "$small")" -f null - && lacks 'alpha is' "$tmp/log"
}
check 'opaque pictures of formats with alpha' opaque
almost_opaque()
{
    bytes '{ put($1); put($2); put($3); put(NR == 777 ? 254 : 255) }' > "$tmp/raw"
    raw rgba '' 5e-5 && has 'input: rgba: alpha is dropped' "$tmp/log" &&
        good -f rawvideo -pix_fmt rgba -video_size 70x150 -i "$tmp/raw" \
            -vf 'format=rgba,split[a][b];[a]palettegen=reserve_transparent=1[p];[b][p]paletteuse=alpha_threshold=255' \
            -c:v rawvideo -pix_fmt pal8 "$tmp/pal.nut" &&
        good -i "$tmp/pal.nut" -vf "$(i2v "$small")" -f null - &&
        has 'input: pal8: alpha is dropped' "$tmp/log"
}
check 'a pixel that is not opaque' almost_opaque

# Colours that were multiplied by alpha are divided by it.
premultiplied()
{
    bytes '{ put($1); put($2); put($3); put(NR % 4 ? 255 : 51) }' > "$tmp/straight"
    bytes 'function x(v) { put16(NR % 4 ? v * 257 : int(v * 257 / 5 + 0.5)) }
           { x($1); x($2); x($3); put16(NR % 4 ? 65535 : 13107) }' > "$tmp/raw"
    raw rgba64le setparams=alpha_mode=premultiplied, 3e-4 && ! raw rgba64le '' 3e-4 &&
        mv "$tmp/straight" "$tmp/raw" && raw rgba setparams=alpha_mode=straight, 5e-5
}
case $series in
5.1 | 7.1) skip 'premultiplied alpha' 'frames of this FFmpeg do not tell' ;;
*) check 'premultiplied alpha' premultiplied ;;
esac

# ------------------------------------------------------------------ any size

# fit INPUT_SIZE SAR SIZE [OPTIONS]: logged before the memory is refused
fit()
{
    run -f lavfi -i "color=s=16x16,scale=$1,setsar=$2" -vf "$(i2v "$bare:memory=1000${4-}")" -f null -
    has "(^|[^0-9])$3 for the input of $1" "$tmp/log"
}
check 'size of a square'       fit 512x512 1 '624x624'
check 'size of 16:9'           fit 1280x720 1 '832x464'
check 'size of 9:16'           fit 720x1280 1 '464x832'
check 'size of 4:3 anamorphic' fit 720x576 16/15 '720x544'
check 'size of 16:9 anamorphic' fit 720x576 64/45 '832x464'
check 'size of 32:1'           fit 1024x32 1 '3568x96'
check 'size of 1:32'           fit 32x1024 1 '96x3568'
check 'size of one pixel'      fit 1x1 1 '624x624'
check 'an output SAR of 2'     fit 512x512 1 '432x880' :sar=2
refused 'an aspect without end' 'too narrow|multiples of 16' \
    -f lavfi -i color=s=16x16,scale=16000x1,setsar=1 -vf "$(i2v "$bare")"

# a clip from any size: one of the video's
shape()
{
    good -f lavfi -i "color=red:s=16x16:d=1,scale=$1" -vf "$(i2v "$small")" -f framecrc \
        "$tmp/crc" && has '^#dimensions 0: 32x32$' "$tmp/crc" &&
        has '^#sar 0: 1/1$' "$tmp/crc" && has '^#tb 0: 1/16$' "$tmp/crc" &&
        same "$(grep -c '^0' "$tmp/crc")" 5
}
for s in 1x1 3x2 640x20 20x640 31x33; do
    check "clip from $s" shape $s
done
refused 'size 33x32' 'size=33x32.*multiples of 16.*32x32' \
    -i "$tmp/photo.png" -vf "$(i2v "$bare:size=33x32")"

# ---------------------------------------------------------------- mode=first

# first INPUT ARGUMENT...: 5 frames, whatever follows the first
first()
{
    good "$@" -vf "$(i2v "$small")" -f framecrc "$tmp/crc" &&
        awk -F, '/^0/ { if ($2 + 0 != n || $4 + 0 != 1) bad = 1; n++ }
                 END { if (bad || n != 5) exit 1 }' "$tmp/crc" ||
        { cat "$tmp/crc"; return 1; }
}
check 'one image' first -i "$tmp/photo.png"
check 'an image shown for ever' first -loop 1 -i "$tmp/photo.png"
check 'a long video' first -f lavfi -i testsrc2=s=32x32:d=36000
animated()
{
    good -f lavfi -i testsrc2=s=40x30:r=5:d=1 "$tmp/anim.gif" &&
        first -i "$tmp/anim.gif"
}
check 'an animated GIF' animated
start_pts()
{
    good -f lavfi -i testsrc2=s=32x32:r=25 -vf "setpts=PTS+2/TB,$(i2v "$small")" \
        -copyts -f framecrc "$tmp/crc" && has '^0, *32, *32, *1,' "$tmp/crc"
}
check 'starts at the time of its input' start_pts

# Also where that is no multiple of a frame's time. 5.1 keeps the encoder's grid.
exact_start()
{
    for rate in 16 1 24000/1001; do
        good -f lavfi -i testsrc2=s=32x32:r=25 -vf "setpts=PTS+0.4/TB,$(i2v "$small:rate=$rate"),showinfo" \
            -f null - && has 'n: *0 pts: *[0-9]+ +pts_time:0\.4 ' "$tmp/log" || return 1
    done
}
check 'starts at exactly that time' exact_start

# A time that can't be told in the output's ticks.
far_start()
{
    for t in 'settb=1/1,setpts=2^61' 'settb=1/1,setpts=-2^61'; do
        good -f lavfi -i testsrc2=s=32x32:r=25 -vf "$t,$(i2v "$small"),showinfo" -f null - &&
            has "input: its time, -?2305843009213693952 of 1/1 s, can't be told in 1/16 s" "$tmp/log" &&
            same "$(grep -Eo 'n: *[0-9]+ pts: *[0-9]+' "$tmp/log" | sed 's/.*pts: *//' | tr '\n' ' ')" '0 1 2 3 4 ' ||
            return 1
    done
}
check 'starts at 0 where its input has no usable time' far_start

# What says how bright the input was does not hold for the clip.
hdr_side_data()
{
    good -f lavfi -i testsrc2=s=64x48:d=0.2 -c:v libx265 -pix_fmt yuv420p10 -x265-params \
        'log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400' \
        -tag:v hvc1 "$tmp/hdr.mp4" &&
        good -i "$tmp/hdr.mp4" -vf "$(i2v "$bare:size=64x48")" -c:v libx264 "$tmp/sdr.mkv" || return 1
    "$ffprobe" -v error -show_frames "$tmp/hdr.mp4" > "$tmp/probe" &&
        has 'max_content=1000' "$tmp/probe" || return 1
    "$ffprobe" -v error -show_entries stream_side_data "$tmp/sdr.mkv" > "$tmp/probe" &&
        lacks 'max_content|luminance' "$tmp/probe"
}
if have encoders libx265 && have encoders libx264; then
    check 'no HDR side data on the clip' hdr_side_data
else
    skip 'no HDR side data on the clip' 'no libx265 or no libx264'
fi
closing()
{
    good -i "$tmp/photo.png" -vf "$(i2v "$small")" -f null - &&
        has 'clip 1: 5 frames in .*text [0-9.e+-]+, image [0-9.e+-]+, steps' "$tmp/log"
}
check 'the image has its place in the closing line' closing
one()
{
    good -i "$tmp/photo.png" -vf "$(i2v "$small:frames=1")" -f framecrc "$tmp/crc" &&
        same "$(grep -c '^0' "$tmp/crc")" 1
}
check 'frames=1' one
tags()
{
    good -i "$tmp/photo.png" -vf "$(i2v "$small"),showinfo" -f null - || return 1
    for t in range:tv space:bt709 primaries:bt709 trc:bt709; do
        same "$(said "color_$t")" 5 || { cat "$tmp/log"; return 1; }
    done
    has 'User Data Unregistered' "$tmp/log"
}
check 'colour tags and label' tags

# ------------------------------------------------- the model when none is given

d=$tmp/demo/share/libwan/demo/i2v
mkdir -p "$d" && ln -s "$tiny/wan-i2v"/* "$d" &&
    for part in models_t5_umt5-xxl-enc-bf16.pth Wan2.1_VAE.pth google; do
        ln -s "$tiny/wan-t2v/$part" "$d"
    done
demo()
{
    good -i "$tmp/photo.png" -vf "$(i2v "$small")" -f framemd5 "$tmp/md5" &&
        with_demo "$tmp/demo" good -v repeat+info -i "$tmp/photo.png" \
            -vf "wan_i2v=$small" -f framemd5 "$tmp/md5.demo" &&
        same "$(said 'no model was given, so this is .*/demo/i2v; for others')" 1 &&
        same "$(md5s "$tmp/md5")" "$(md5s "$tmp/md5.demo")"
}
check 'the demo model, and one line that says so' demo

# A default size stands for its area.
mkdir "$tmp/own" && ln -s "$d"/* "$tmp/own" && rm "$tmp/own/config.json" &&
    sed 's/"dim"/"size": "64x32", "frames": 5, "steps": 1, &/' \
        "$tiny/wan-i2v/config.json" > "$tmp/own/config.json"
own_size()
{
    own="wan_i2v=model=$(quote "$tmp/own"):prompt=a cat"
    good -f lavfi -i color=s=512x512 -vf "$own" -f framecrc "$tmp/crc" &&
        has '^#dimensions 0: 32x32$' "$tmp/crc" &&
        same "$(grep -c '^0' "$tmp/crc")" 5 &&
        good -f lavfi -i color=s=512x512 -vf "$own:size=64x32" -f framecrc "$tmp/crc" &&
        has '^#dimensions 0: 64x32$' "$tmp/crc"
}
check 'size and frames of the config.json' own_size

# --------------------------------------------------------------- mode=extend

demux=demux                     # the time base of the input
[ "$series" != 5.1 ] || demux=-1

# extend FORMAT RATE [FILTERS]: 10 frames pass, 4 follow
extend()
{
    good -f lavfi -i "testsrc2=s=64x48:r=$2:d=9" -vf "format=$1${3:+,$3}" \
        -frames:v 10 -c:v rawvideo "$tmp/in.nut" &&
        good -i "$tmp/in.nut" -f framemd5 "$tmp/in.md5" &&
        good -i "$tmp/in.nut" -vf "$(i2v "$bare:mode=extend")" \
            -enc_time_base $demux -fps_mode passthrough -f framemd5 "$tmp/out.md5" &&
        lacks auto_scale "$tmp/log" || return 1
    same "$(md5s "$tmp/out.md5" | head -n 10)" "$(md5s "$tmp/in.md5")" &&
        same "$(md5s "$tmp/out.md5" | tail -n 4 | sort -u | wc -l | tr -d ' ')" 4 &&
        same "$(grep '^#dim' "$tmp/in.md5")" "$(grep '^#dim' "$tmp/out.md5")" || return 1
    # each frame at its multiple of the frame duration, to one tick
    awk -F, '/^#tb/ { split($0, t, /[ \/]+/); tick = t[3] / t[4] }
             /^0/ { e = $3 * tick - n * d; if (e > tick || e < -tick) bad = 1
                    e = $4 * tick - d; if (e > tick || e < -tick) bad = 1; n++ }
             END { if (bad || n != 14) exit 1 }' d="$(echo "$2" |
        awk -F/ '{ print ($2 ? $2 : 1) / $1 }')" "$tmp/out.md5" ||
        { cat "$tmp/out.md5"; return 1; }
}
for f in yuv420p nv12 yuv444p yuv420p10le p010le yuv422p gray rgb24 bgr0 gbrp12le; do
    check "extend $f" extend $f 25
done
check 'extend full range' extend yuv420p 25 scale=out_range=full
check 'extend 29.97'      extend yuv420p 30000/1001

# pts of the whole are those of one video
stamps()
{
    good -f lavfi -i "testsrc2=s=32x32:r=25:d=0.4" -vf "setpts=PTS+1/TB,$(i2v "$bare:mode=extend")" \
        -fps_mode passthrough -copyts -f framecrc "$tmp/crc" &&
        has '^#tb 0: 1/25$' "$tmp/crc" &&
        awk -F, '/^0/ { if ($3 + 0 != 25 + n || $4 + 0 != 1) bad = 1; n++ }
                 END { if (bad || n != 14) exit 1 }' "$tmp/crc" ||
        { cat "$tmp/crc"; return 1; }
}
check 'extend goes on in time' stamps

# What follows is the clip from the last frame, but for its first frame.
goes_on()
{
    good -f lavfi -i testsrc2=s=32x32:r=16:d=0.5 -vf format=rgb24 -c:v rawvideo "$tmp/in.nut" &&
        good -i "$tmp/in.nut" -vf "$(i2v "$bare:mode=extend")" -f framemd5 "$tmp/md5" &&
        good -i "$tmp/in.nut" -vf "trim=start_frame=7,$(i2v "$small:format=rgb24")" \
            -f framemd5 "$tmp/md5.clip" &&
        same "$(md5s "$tmp/md5" | tail -n +9)" "$(md5s "$tmp/md5.clip" | tail -n +2)"
}
check 'extend is the clip of the last frame without it' goes_on

# with the tags of the input: back in RGB it is the same clip again
tagged()    # MATRIX RANGE
{
    input="scale=out_color_matrix=$1:out_range=$2:flags=accurate_rnd+full_chroma_int,format=yuv444p,setparams=colorspace=$1:range=$2"
    through "$tmp/in.nut" "$input,$(i2v "$bare:mode=extend"),trim=start_frame=8,scale=flags=accurate_rnd+full_chroma_int,format=rgb24" \
        "$tmp/extended" || return 1
    through "$tmp/in.nut" "$input,trim=start_frame=7,$(i2v "$small:format=rgb24"),trim=start_frame=1" \
        "$tmp/clip" && "$tools/compare" --bytes "$tmp/extended" "$tmp/clip" --limit 3
}
for m in smpte170m bt709; do
    for r in limited full; do
        check "extend of $m, $r" tagged $m $r
    done
done
only_new()
{
    good -i "$tmp/in.nut" -vf "$(i2v "$bare:mode=extend"),metadata=print:file=$(quote "$tmp/meta")" -f null - &&
        same "$(grep -c '^lavfi.wan.generated' "$tmp/meta")" 4
}
check 'only what is generated is labelled' only_new

refused 'extend of 70x150' 'mode=extend: .*70x150.*scale=64:144|mode=extend: .*70x150.*scale=64:160|mode=extend: .*70x150.*scale=[0-9]*:[0-9]*' \
    -i "$tmp/photo.png" -vf "$(i2v "$bare:mode=extend")"
refused 'extend with another size' 'size=48x48: mode=extend' \
    -i "$tmp/in.nut" -vf "$(i2v "$bare:mode=extend:size=48x48")"
refused 'extend with another rate' 'rate=25: mode=extend' \
    -i "$tmp/in.nut" -vf "$(i2v "$bare:mode=extend:rate=25")"
refused 'extend with a format' 'format=gbrp: mode=extend' \
    -i "$tmp/in.nut" -vf "$(i2v "$bare:mode=extend:format=gbrp")"
refused 'extend with CUDA frames' 'hwframes=1: mode=extend .*hwupload' \
    -i "$tmp/in.nut" -vf "$(i2v "$bare:mode=extend:hwframes=1")"
refused 'extend by one frame' 'frames=1: ' \
    -i "$tmp/in.nut" -vf "$(i2v "prompt=a cat:frames=1:steps=1:mode=extend")"

# A size that no clip can have passes in mid-stream; it counts at the end.
size_in_between()
{
    n=0
    for size in 32x32 50x34 64x32; do
        n=$((n + 1))
        good -f lavfi -i testsrc2=s=$size:d=0.1:r=10 -frames:v 1 -update 1 "$tmp/size$n.png" ||
            return 1
    done
    good -v repeat+warning -framerate 10 -i "$tmp/size%d.png" -vf "$(i2v "$bare:mode=extend")" \
        -noautoscale -c:v rawvideo -f framecrc "$tmp/crc" || return 1
    same "$(said 'mode=extend: the input is 50x34')" 1 &&
        same "$(sed -n 's/^0, .*, *\([0-9]*\), 0x.*/\1/p' "$tmp/crc" | tail -n 4 | uniq)" 6144 &&
        same "$(grep -c '^0' "$tmp/crc")" 7
}
check 'extend: an odd size in mid-stream' size_in_between

# Frames of 5 s in a time base of nanoseconds are longer than 2^31 ticks.
long_frames()
{
    good -filter_complex "testsrc2=s=32x32:r=1/5:d=10,settb=1/1000000000,$(i2v "$bare:mode=extend")" \
        -fps_mode passthrough -enc_time_base 1/10 -f framecrc "$tmp/crc" || return 1
    same "$(sed -n 's/^0, *-*[0-9]*, *\([0-9]*\),.*/\1/p' "$tmp/crc" | tr '\n' ' ')" '0 50 100 150 200 250 '
}
check 'extend: frames of more than 2^31 ticks' long_frames

# -------------------------------------------------------------------- chains

# clip 2 starts from the last frame of clip 1, with the next seed
chain()
{
    good -i "$tmp/photo.png" -vf "$(i2v "$small:format=rgb24:clips=2")" -f framemd5 "$tmp/md5" &&
        good -i "$tmp/photo.png" -vf "$(i2v "$small:format=rgb24")" -c:v rawvideo "$tmp/one.nut" &&
        good -i "$tmp/one.nut" -f framemd5 "$tmp/md5.1" &&
        good -i "$tmp/one.nut" -vf "trim=start_frame=4,$(i2v "$small:seed=8:format=rgb24")" \
            -f framemd5 "$tmp/md5.2" || return 1
    same "$(md5s "$tmp/md5")" "$(md5s "$tmp/md5.1"; md5s "$tmp/md5.2" | tail -n +2)"
}
check 'clips=2' chain
endless()
{
    good -i "$tmp/photo.png" -vf "$(i2v "$small:clips=0")" -frames:v 14 -f framecrc "$tmp/crc" &&
        same "$(grep -c '^0' "$tmp/crc")" 14
}
check 'clips=0 goes on' endless
extend_chain()
{
    good -i "$tmp/in.nut" -vf "$(i2v "$bare:mode=extend:clips=2")" -f framemd5 "$tmp/md5" &&
        same "$(md5s "$tmp/md5" | wc -l | tr -d ' ')" 16 &&
        same "$(md5s "$tmp/md5" | tail -n 8 | sort -u | wc -l | tr -d ' ')" 8
}
check 'extend by clips=2' extend_chain
new_prompt()
{
    echo "0.1 wan_i2v prompt 'a dog';" > "$tmp/commands"
    good -i "$tmp/photo.png" -vf "$(i2v "$small:clips=2"),sendcmd=f=$(quote "$tmp/commands"),metadata=print:file=$(quote "$tmp/meta")" -f null - &&
        same "$(grep '^lavfi.wan.prompt=' "$tmp/meta" | uniq -c | tr -s ' ')" \
            " 5 lavfi.wan.prompt=a cat
 4 lavfi.wan.prompt=a dog"
}
check 'prompt changes at the next clip' new_prompt

# ----------------------------------------------------------- first and last

flf()
{
    tensor pipeline-flf2v-unipc4.safetensors image0 > "$tmp/0.rgb"
    tensor pipeline-flf2v-unipc4.safetensors image1 > "$tmp/1.rgb"
    for i in 0 1; do
        good -f rawvideo -pix_fmt rgb24 -video_size 60x40 -i "$tmp/$i.rgb" "$tmp/$i.png"
    done
    for last in 0 1; do
        good -i "$tmp/0.png" -vf "$(flf2v "$small:last_image=$(quote "$tmp/$last.png")")" \
            -f framemd5 "$tmp/md5.$last" &&
            same "$(md5s "$tmp/md5.$last" | wc -l | tr -d ' ')" 5 || return 1
    done
    ! cmp -s "$tmp/md5.0" "$tmp/md5.1"
}
check 'first and last frame' flf
# An image of any format: the last one goes the same way as the first.
good -i "$tmp/1.png" -pix_fmt rgba "$tmp/alpha.png" > /dev/null
last_alpha()
{
    good -i "$tmp/0.png" -vf "$(flf2v "$small:last_image=$(quote "$tmp/alpha.png")")" \
        -f framemd5 "$tmp/md5" && cmp "$tmp/md5" "$tmp/md5.1"
}
check 'a last image with alpha' last_alpha

# Blocks of one colour each, so that a JPEG of them turned is the JPEG turned.
flat='scale=6:5:flags=area,scale=48:40:flags=neighbor,format=yuvj444p'
good -i "$tmp/0.png" -vf "$flat" -q:v 1 "$tmp/side.jpg" > /dev/null
# shown FILTERS: as they are to be seen
shown() { good -i "$tmp/0.png" -vf "$flat,$1" -q:v 1 "$tmp/seen.jpg"; }
# last_is_seen FILE: as a last image it is the clip of seen.jpg
last_is_seen()
{
    for last in "$1" seen.jpg; do
        good -i "$tmp/0.png" -vf "$(flf2v "$small:last_image=$(quote "$tmp/$last")")" \
            -f framemd5 "$tmp/md5.$last" && lacks 'orientation|turned' "$tmp/log" || return 1
    done
    same "$(md5s "$tmp/md5.$1")" "$(md5s "$tmp/md5.seen.jpg")"
}
last_on_side()
{
    : > "$tmp/sides"
    for n in 1 2 3 4 5 6 7 8; do
        case $n in
        1) to=null ;;
        2) to=hflip ;;
        3) to=transpose=clock,transpose=clock ;;
        4) to=transpose=clock,transpose=cclock_flip ;;
        5) to=transpose=cclock_flip ;;
        6) to=transpose=clock ;;
        7) to=transpose=clock_flip ;;
        8) to=transpose=cclock ;;
        esac
        exif $n < "$tmp/side.jpg" > "$tmp/side$n.jpg" && shown $to && last_is_seen side$n.jpg ||
            { echo "side $n"; return 1; }
        md5s "$tmp/md5.side$n.jpg" | tail -n 1 >> "$tmp/sides"
    done
    same "$(sort -u "$tmp/sides" | wc -l | tr -d ' ')" 8
}
check 'a last image on any side' last_on_side
# of a video, whose container says it
last_of_video()
{
    # shellcheck disable=SC2086
    good $1 -i "$tmp/side.jpg" $2 -c:v copy "$tmp/side.mov" && shown transpose=cclock &&
        last_is_seen side.mov
}
case $series in
5.1) check 'a last image of a video on its side' last_of_video '' '-metadata:s:v rotate=90' ;;
*) check 'a last image of a video on its side' last_of_video '-display_rotation 90' '' ;;
esac
# at an angle that no frame has
last_askew()
{
    good $1 -i "$tmp/side.jpg" $2 -c:v copy "$tmp/askew.mov" &&
        good -i "$tmp/0.png" -vf "$(flf2v "$small:last_image=$(quote "$tmp/askew.mov")")" -f null - &&
        has 'last_image=.*askew.mov: it is to be turned by -?30 degrees, which is not done' "$tmp/log"
}
case $series in
5.1) skip 'a last image at another angle' 'this FFmpeg writes none' ;;
*) check 'a last image at another angle' last_askew '-display_rotation 30' '' ;;
esac

flf_extend()
{
    good -i "$tmp/in.nut" -vf "$(flf2v "$bare:mode=extend:last_image=$(quote "$tmp/1.png")")" \
        -f framemd5 "$tmp/md5" && same "$(md5s "$tmp/md5" | wc -l | tr -d ' ')" 12
}
check 'extend up to a last image' flf_extend

head -c 300 "$tmp/1.png" > "$tmp/cut.png"
: > "$tmp/empty.png"
echo 'not an image' > "$tmp/text.png"
last() { flf2v "$small:last_image=$(quote "$tmp/$1")"; }
for f in none cut empty text; do
    refused "last image: $f" "last_image=.*$f.png: cannot read" \
        -i "$tmp/0.png" -vf "$(last $f.png)"
done
mkfifo "$tmp/pipe.png"
for f in "$tmp/pipe.png" "file:$tmp/pipe.png" pipe:0 fd: /dev/zero; do
    refused "last image: $(basename "$f")" 'last_image=.*: cannot read an image: a pipe' \
        -i "$tmp/0.png" -vf "$(flf2v "$small:last_image=$(quote "$f")")"
done
refused 'no last image' 'no last_image: .*first-last-frame' \
    -i "$tmp/0.png" -vf "$(flf2v "$small")"
refused 'a last image for image-to-video' 'last_image=.*takes none, only a first-last-frame checkpoint' \
    -i "$tmp/0.png" -vf "$(i2v "$small:last_image=$(quote "$tmp/1.png")")"
refused 'first and last, clips=2' 'clips=2: must be 1, .* ends with last_image' \
    -i "$tmp/0.png" -vf "$(last 1.png | sed 's/$/:clips=2/')"

# ----------------------------------------------------------------- bad input

refused 'a large input and little memory' 'option image: with its 4000x4000 pixels the job needs .* by option memory' \
    -f lavfi -i color=s=4000x4000:d=0.1,format=rgb24 -vf "$(i2v "$small:memory=150M")"
refused 'no frame' 'the input has no frame' \
    -f lavfi -i testsrc2=s=32x32:d=1 -vf "trim=start=5,$(i2v "$small")"
refused 'no frame to extend' 'the input has no frame' \
    -f lavfi -i testsrc2=s=32x32:d=1 -vf "trim=start=5,$(i2v "$bare:mode=extend")"
for f in empty text; do
    refused "image: $f" "$f.png|Invalid (data|PNG)" -i "$tmp/$f.png" -vf "$(i2v "$small")"
done
head -c 300 "$tmp/photo.png" > "$tmp/cut.png"
refused 'image: cut off' 'cut.png|png' -i "$tmp/cut.png" -vf "$(i2v "$small")"

# damaged NAME FILE: it makes no clip. The tool of 5.1 ends by itself at a frame
# that its decoder refuses, not always with a line, and with 0 after ours.
cut='undamaged frame|Invalid data'
damaged()
{
    if [ "$series" = 5.1 ]; then
        check "$1" fails -i "$2" -vf "$(i2v "$small")"
    else
        refused "$1" "$cut" -i "$2" -vf "$(i2v "$small")"
    fi
}
fails()
{
    run -v error "$@" -f null -
    status=$?
    echo "exit status $status"
    [ $status -ne 124 ] && [ $status -lt 129 ] &&
        { [ $status -ne 0 ] || has "$cut" "$tmp/log"; }
}

# Half a picture is none, as the first image and as the last; but of a video that
# begins with one the next frame is taken.
for f in jpg gif bmp ppm; do
    good -i "$tmp/photo.png" "$tmp/whole.$f" > /dev/null ||
        case $f in
        ppm) { printf 'P6 70 150 255\n'; cat "$tmp/photo.rgb"; } > "$tmp/whole.ppm" ;;
        bmp) bytes 'function le(v) { put16(v % 65536); put16(int(v / 65536)) }
                BEGIN { put(66); put(77); le(31854); le(0); le(54); le(40); le(70); le(-150 + 4294967296)
                        put16(1); put16(24); for (i = 0; i < 6; i++) le(0) }
                { put($3); put($2); put($1); if (NR % 70 == 0) put16(0) }' > "$tmp/whole.bmp" ;;
        esac
    n=$(wc -c < "$tmp/whole.$f")
    for part in 50 98; do
        head -c $((n * part / 100)) "$tmp/whole.$f" > "$tmp/part$part.$f"
        damaged "a $f cut at $part %" "$tmp/part$part.$f"
        refused "a last image in $f cut at $part %" "last_image=.*part$part.$f: cannot read" \
            -i "$tmp/0.png" -vf "$(last part$part.$f)"
    done
    check "a whole $f" good -i "$tmp/whole.$f" -vf "$(i2v "$small")" -f null -
done
after_damage()
{
    cp "$tmp/part50.jpg" "$tmp/film1.jpg" && cp "$tmp/whole.jpg" "$tmp/film2.jpg" &&
        timeout $patience "$ffmpeg" -hide_banner -nostdin -y -i "$tmp/film%d.jpg" \
            -vf "$(i2v "$small")" -f framemd5 "$tmp/md5" 2> "$tmp/log" &&
        good -i "$tmp/whole.jpg" -vf "$(i2v "$small")" -f framemd5 "$tmp/md5.whole" &&
        same "$(md5s "$tmp/md5")" "$(md5s "$tmp/md5.whole")" &&
        good -i "$tmp/whole.jpg" -f null -
}
check 'a damaged frame is not the first' after_damage
# A progressive JPEG of 8x8 grey pixels, whose first scan is all there is; without
# the end mark others may be missing.
progressive()
{
    printf '\377\330\377\333\0\103\0'
    head -c 64 /dev/zero | tr '\0' '\1'
    printf '\377\302\0\013\010\0\010\0\010\1\1\021\0'
    printf '\377\304\0\024\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
    printf '\377\332\0\010\1\1\0\0\0\0\177'
}
progressive > "$tmp/early.jpg"
{ progressive; printf '\377\331'; } > "$tmp/ended.jpg"
check 'a progressive JPEG' good -i "$tmp/ended.jpg" -vf "$(i2v "$small")" -f null -
damaged 'a progressive JPEG without its end' "$tmp/early.jpg"
refused 'a last image in progressive JPEG without its end' 'last_image=.*early.jpg: cannot read' \
    -i "$tmp/0.png" -vf "$(last early.jpg)"
refused 'a text-to-video checkpoint' 'wan-t2v: .*prompt alone: use the filter wan_t2v' \
    -i "$tmp/0.png" -vf "wan_i2v=model=$t2v:$small"
refused 'an image-to-video checkpoint for wan_t2v' 'wan-i2v: .*an image and a prompt: use the filter wan_i2v' \
    -f lavfi -i "wan_t2v=model=$(quote "$tiny/wan-i2v"):$parts:$small"
mkdir "$tmp/noclip" && for f in "$tiny/wan-i2v"/*; do
    case $f in *clip*) ;; *) ln -s "$f" "$tmp/noclip" ;; esac
done
refused 'no image encoder' 'noclip.*(clip|image encoder)' \
    -i "$tmp/0.png" -vf "wan_i2v=model=$(quote "$tmp/noclip"):$parts:$small"
late=$series        # 5.1 exits with 0 when a graph fails that was running
refused 'a YUV matrix without conversion' 'input: YUV of matrix ycgco' \
    -f lavfi -i testsrc2=s=32x32:d=1 -vf "format=yuv444p,setparams=colorspace=ycgco,$(i2v "$small")"
late=
# a source that says it has such frames is enough: nothing of it is ever asked
for m in first extend; do
    refused "frames on a device, mode=$m" \
        'input: cuda frames lie on a device: put the filters hwdownload,format=nv12 before' \
        -filter_complex "nullsrc=s=32x32:d=1,format=cuda,$(i2v "$bare:mode=$m")"
done
refused 'mode=last' 'mode' -i "$tmp/0.png" -vf "$(i2v "$small:mode=last")"

# A change of size in mid-stream, which makes ffmpeg build the graph anew:
# nobody sees it after the first frame; when extending, both sizes pass and the
# clip goes on in the last.
for i in 1 2 3 4; do
    size=32x32
    [ $i -lt 3 ] || size=64x48
    good -f lavfi -i testsrc2=s=$size -frames:v 1 "$tmp/seq$i.png"
done
resized()
{
    good -i "$tmp/seq%d.png" -vf "$(i2v "$2")" -f framecrc "$tmp/crc" &&
        same "$(grep -c '^0' "$tmp/crc")" $1 && lacks 'stopped' "$tmp/log"
}
check 'a change of size' resized 5 "$small"
check 'a change of size in what is extended' resized 8 "$bare:mode=extend"
good -f lavfi -i testsrc2=s=40x48 -frames:v 1 "$tmp/seq4.png"
refused 'a change to a size that cannot be' 'mode=extend: .*40x48.*scale=48:48|mode=extend: .*40x48' \
    -i "$tmp/seq%d.png" -vf "$(i2v "$bare:mode=extend")"

finish
