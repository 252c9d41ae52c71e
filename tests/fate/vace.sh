#!/bin/sh
# VACE inside ffmpeg: wan_v2v with control videos, masks and pictures against the
# golden videos, windows that go on from the one before, wan_t2v with pictures, the
# recipes of docs/filters.texi, what is refused.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# LONG=1: 300 frames instead of 40 through small windows.

. "$SRC/tests/fate/common.sh"
. "$SRC/tests/fate/redrawn.sh"
need "$ffmpeg" "$ffprobe"

rest=$(quote "$tiny/wan-t2v")
# vace FILTER OPTIONS: with the tiny VACE
vace()
{
    printf '%s=model=%s:text_encoder=%s:vae=%s:tokenizer=%s:%s' "$1" \
        "$(quote "$tiny/wan-vace")" "$rest" "$rest" "$rest" "$2"
}
quick='prompt=a cat:frames=5:steps=1:guidance=1:seed=7'
pattern() { printf 'testsrc2=s=32x32:r=10:%s' "$1"; }

# ------------------------------------------------------- against the goldens

# raw GOLDEN TENSOR FORMAT SIZE: the arguments of an input with its pixels
raw()
{
    tensor "pipeline-vace-$1.safetensors" "$2" > "$tmp/$1.$2"
    raw_input="-f rawvideo -pix_fmt $3 -video_size $4 -i $tmp/$1.$2"
}
picture()
{
    raw "$1" "$2" rgb24 "$3"
    # shellcheck disable=SC2086
    good $raw_input -frames:v 1 "$tmp/$2.png"
}
compared() { "$tools/compare" "pipeline-vace-$1.safetensors" video "$tmp/clip" --format rgb24 --size "$2"; }

# with_mask NAME SIZE OPTIONS
with_mask()
{
    raw "$1" in.frames_u8 rgb24 "$2"
    with_mask_video=$raw_input
    mkdir -p "$tmp/$1" &&
        "$tools/compare" --arguments "pipeline-vace-$1.safetensors" "$tmp/$1" > "$tmp/options" || return 1
    raw "$1" in.mask_u8 gray "$2"
    # shellcheck disable=SC2086
    good $with_mask_video $raw_input -filter_complex \
        "[0][1]$(vace wan_v2v "$3:rng=cpu:$exact:mask=1:negative_promptfile=$(quote "$tmp/$1/negative")")" -f rawvideo "$tmp/clip" &&
        compared "$1" "$2"
}
train='prompt=a red train crosses a stone bridge:frames=9:steps=4:guidance=5:shift=16:seed=51'
check 'golden of a control video' with_mask control-unipc4 48x48 "$train"
cats='prompt=Two cats in red gloves box on a small stage.:frames=5:steps=5:guidance=4:shift=5:seed=52:sampler=dpm++:context_scale=0.7'
inpaint()
{
    picture inpaint-dpm5 ref0 44x60 &&
        with_mask inpaint-dpm5 64x48 "$cats:reference=$(quote "$tmp/ref0.png")${1-}"
}
check 'golden of a mask and a picture' inpaint
not_so() { ! inpaint :context_scale=1; }
check 'the scale of hints counts' not_so
lake='prompt=a quiet lake:size=64x48:frames=5:steps=3:guidance=5:shift=16:seed=53:rng=cpu:format=rgb24'
lake=$lake:$exact
references()
{
    mkdir -p "$tmp/ref" &&
        "$tools/compare" --arguments pipeline-vace-ref-unipc3.safetensors "$tmp/ref" > "$tmp/options" &&
        picture ref-unipc3 ref0 64x48 && picture ref-unipc3 ref1 100x30 &&
        good -f lavfi -i "$(vace wan_t2v "$lake:negative_promptfile=$(quote "$tmp/ref/negative"):reference=$(quote "$tmp/$1.png|$tmp/$2.png")")" \
            -f rawvideo "$tmp/clip" && compared ref-unipc3 64x48
}
check 'golden of pictures alone, wan_t2v' references ref0 ref1
other_order() { ! references ref1 ref0; }
check 'their order counts' other_order

# ------------------------------------------------ frames in are frames out

# as_many N OPTIONS WINDOWS
as_many()
{
    redrawn "$(pattern d=4)" "trim=end_frame=$1" "$(vace wan_v2v "$quick:$2")" || return 1
    same "$(stamps "$tmp/md5")" "$(stamps "$tmp/in")" &&
        same "$(said 'window [0-9]*: seed 7,')" "$3"
}
check '1 frame' as_many 1 frames=5 1
check '9 frames in windows of 5' as_many 9 frames=5 2
check '10 frames in windows of 5' as_many 10 frames=5 3
check '20 frames in windows of 17' as_many 20 frames=17 2
check '20 frames in windows of 17 that keep 13' as_many 20 frames=17:keep=13 2
check '3 frames in windows of 1' as_many 3 frames=1 3

# The first window is what it is without the second, to its last frame.
first_stays()
{
    redrawn "$(pattern d=4)" 'trim=end_frame=14' "$(vace wan_v2v "$quick:frames=9")" &&
        md5s "$tmp/md5" > "$tmp/both" &&
        redrawn "$(pattern d=4)" 'trim=end_frame=9' "$(vace wan_v2v "$quick:frames=9")" &&
        same "$(md5s "$tmp/md5")" "$(head -n 9 "$tmp/both")"
}
check 'a window keeps what the one before made' first_stays

# The next one is a clip whose first frames are what that made, under a black mask.
frame=$((32 * 32 * 3 * 4))
from() { tail -c +$(($2 * frame + 1)) "$1"; }
kept()
{
    good -f lavfi -i "$(pattern d=4)" -vf trim=end_frame=13,format=gbrpf32le -f rawvideo "$tmp/given" &&
        good -f lavfi -i "$(pattern d=4)" -vf \
            "trim=end_frame=13,format=gbrpf32le,$(vace wan_v2v "$quick:frames=9:keep=5")" \
            -f rawvideo "$tmp/made" || return 1
    { from "$tmp/made" 4 | head -c $((5 * frame)); from "$tmp/given" 9; } > "$tmp/second"
    { head -c $((5 * 1024)) /dev/zero; head -c $((4 * 1024)) /dev/zero | tr '\0' '\377'; } > "$tmp/mask"
    good -f rawvideo -pix_fmt gbrpf32le -video_size 32x32 -i "$tmp/second" \
        -f rawvideo -pix_fmt gray -video_size 32x32 -i "$tmp/mask" \
        -filter_complex "[0][1]$(vace wan_v2v "$quick:frames=9:mask=1")" -f rawvideo "$tmp/alone" || return 1
    from "$tmp/alone" 5 > "$tmp/new" && [ -s "$tmp/new" ] && from "$tmp/made" 9 | cmp - "$tmp/new"
}
check 'and goes on from it' kept

long_frames=40
[ -z "${LONG-}" ] || long_frames=300
long_video()
{
    good -benchmark -f lavfi -i "$(pattern d=40)" -vf \
        "trim=end_frame=$1,$(vace wan_v2v "$quick:frames=17"),signalstats,metadata=print:file=$(quote "$tmp/stats"):key=lavfi.signalstats.YDIF" \
        -f null - && peak "$1" && same "$(grep -c '^frame:' "$tmp/stats")" "$1"
}
seamless() { long_video $long_frames && seams "$tmp/stats" 17 9; }
check "$long_frames frames without a seam" seamless
constant()
{
    long_video 18 || return 1
    echo "$(peak_of 18) and $(peak_of $long_frames) KiB"
    [ "$(peak_of $long_frames)" -lt $(($(peak_of 18) * 11 / 10 + 4096)) ]
}
check 'and in constant memory' constant

# ------------------------------------------------------------------- masks

# masked MASK_SOURCE [OPTIONS]: hashes of 10 frames with that mask
masked()
{
    good -f lavfi -i "$(pattern d=1)" -f lavfi -i "$1" -filter_complex \
        "[0][1]$(vace wan_v2v "$quick:frames=9:mask=1${2-}")" -f framemd5 "$tmp/md5" &&
        same "$(stamps "$tmp/md5" | wc -l | tr -d ' ')" 10 && md5s "$tmp/md5"
}
unmasked()
{
    redrawn "$(pattern d=1)" '' "$(vace wan_v2v "$quick:frames=9")" && md5s "$tmp/md5"
}
white()
{
    unmasked > "$tmp/none" || { cat "$tmp/none"; return 1; }
    for m in color=white:s=32x32:r=10 color=white:s=16x48:r=3 color=white:s=32x32:d=0.04 \
        color=white:s=32x32,format=rgb24 color=white:s=32x32,format=gbrp10le \
        color=white:s=32x32,scale=out_range=full,format=yuv444p,setparams=range=full; do
        same "$(masked "$m")" "$(cat "$tmp/none")" || { echo "$m"; return 1; }
    done
}
check 'a white mask of any kind is none' white
half="color=black:s=32x32:r=10,drawbox=x=16:y=0:w=16:h=32:c=white:t=fill"
sizes()
{
    a=$(masked "$half") && ! same "$a" "$(cat "$tmp/none")" > /dev/null &&
        same "$(masked "$half,format=gray")" "$a" &&
        same "$(masked "$half,trim=end_frame=1")" "$a" &&
        same "$(masked "$half,fps=25")" "$a" &&
        same "$(masked "$half,scale=64:64:flags=neighbor,scale=32:32:flags=neighbor")" "$a"
}
check 'a mask of another format, length or rate' sizes
# colours: luma of YUV, red of RGB
coloured()
{
    same "$(masked 'color=red:s=32x32:r=10,format=rgb24')" "$(cat "$tmp/none")" &&
        same "$(masked 'color=blue:s=32x32:r=10,format=rgb24')" "$(masked 'color=black:s=32x32:r=10')"
}
check 'a coloured mask counts by its red' coloured
in_time()
{
    # black until 0.5 s, white after: the first window has seen frames up to 0.8
    a=$(masked "color=white:s=32x32:r=10,drawbox=c=black:t=fill:enable='lt(t\\,0.5)'") &&
        b=$(masked "color=white:s=32x32:r=30,drawbox=c=black:t=fill:enable='lt(t\\,0.5)'") &&
        same "$a" "$b" && ! same "$a" "$(masked color=black:s=32x32:r=10)" > /dev/null
}
check 'a mask that changes in time' in_time

# ----------------------------------------------- recipes of docs/filters.texi

codec=mpeg4
have encoders libx264 && codec=libx264
good -f lavfi -i testsrc2=s=48x32:r=10:d=0.5 -c:v ffv1 "$tmp/film.mkv" || exit 1
# made GRAPH SIZE: of a film, so many frames of that size
made()
{
    good -i "$tmp/film.mkv" -filter_complex "$1" -c:v ffv1 "$tmp/made.mkv" &&
        same "$(frames "$tmp/made.mkv")" 5 &&
        same "$("$ffprobe" -v error -show_entries stream=width,height -of csv=p=0 "$tmp/made.mkv")" "$2"
}
# level GRAPH KEY: the levels of a mask's frames
levels()
{
    good -i "$tmp/film.mkv" -filter_complex "$1,signalstats,metadata=print:file=$(quote "$tmp/levels")" \
        -f null - && sed -n "s/^lavfi.signalstats.$2=//p" "$tmp/levels" | sort -u | tr '\n' ' '
}
grey='format=gray,format=yuv420p'
edges='edgedetect=low=0.1:high=0.3,format=yuv420p'
check 'recipe: colours for a grey film' made "$grey,$(vace wan_v2v "$quick")" 48,32
check 'recipe: a film after its edges' made "$edges,$(vace wan_v2v "$quick")" 48,32
edges_are_there() { same "$(levels "$edges" YMIN)" '16 ' && same "$(levels "$edges" YMAX)" '235 '; }
check 'its edges are white on black' edges_are_there
box='color=black:s=48x32:d=0.04,drawbox=x=16:y=8:w=16:h=16:c=white:t=fill'
check 'recipe: a box made anew' made \
    "$box[m];[0]drawbox=x=16:y=8:w=16:h=16:c=gray:t=fill[v];[v][m]$(vace wan_v2v "$quick:mask=1")" 48,32
disc="drawbox=c=black:t=fill,geq=lum='if(lt(hypot(X-W/2-W/4*sin(T)\\,Y-H/2)\\,H/4)\\,235\\,16)':cb=128:cr=128"
check 'recipe: a mask that moves' made \
    "split[v][b];[b]$disc[m];[v][m]$(vace wan_v2v "$quick:mask=1")" 48,32
key='format=yuva420p,chromakey=green:0.12,alphaextract,negate'
check 'recipe: another background' made \
    "split[v][b];[b]$key[m];[v][m]$(vace wan_v2v "$quick:mask=1")" 48,32
canvas='pad=96:32:24:0:gray' outside='drawbox=c=black:t=fill,pad=96:32:24:0:white'
check 'recipe: a wider picture' made \
    "split[a][b];[a]$canvas[v];[b]$outside[m];[v][m]$(vace wan_v2v "$quick:mask=1")" 96,32
masks_are_whole()
{
    for m in "$box,null" "$outside" "$disc"; do
        case $m in
        color=*) chain="$m" ;;
        *) chain="[0]$m" ;;
        esac
        same "$(levels "$chain" YMIN) $(levels "$chain" YMAX)" '16  235 ' || return 1
    done
}
check 'their masks are black and white' masks_are_whole

# ----------------------------------------------------------------- wan_i2v

# What a video goes on with is what wan_v2v makes of its last frames, which the
# mask keeps, and of grey ones; in 16 bits, which have the middle.
# redrawn_from FIRST N FRAMES SKIP
redrawn_from()
{
    good -i "$tmp/in.nut" -filter_complex \
        "[0]trim=start_frame=$1:end_frame=$(($1 + $2)),setpts=N,format=gbrp16le[a];
         color=gray:s=32x32:r=10,trim=end_frame=$(($3 - $2)),format=gbrp16le,geq=r=32768:g=32768:b=32768[b];[a][b]concat,setpts=N/10/TB[v];
         color=black:s=32x32:r=10,trim=end_frame=$3,geq=lum='if(lt(N,$2),16,235)':cb=128:cr=128[m];
         [v][m]$(vace wan_v2v "$quick:$exact:frames=$3:mask=1"),trim=start_frame=$4,format=rgb24" -fps_mode passthrough -f rawvideo "$tmp/want"
}
# made FRAMES SKIP OPTIONS: likewise by wan_i2v
made()
{
    good -i "$tmp/in.nut" -vf "$(vace wan_i2v "$quick:$exact:frames=$1:$3"),trim=start_frame=$2,format=rgb24" -f rawvideo "$tmp/made"
}
alike() { "$tools/compare" --bytes "$tmp/made" "$tmp/want" --limit "$1"; }
goes_on()
{
    good -f lavfi -i "$(pattern d=1),format=gbrp" -c:v rawvideo "$tmp/in.nut" &&
        made 9 10 mode=extend:keep=5 && redrawn_from 5 5 9 5 && alike 3 &&
        redrawn_from 9 1 5 1 && ! alike 3 > /dev/null &&
        made 5 10 mode=extend && alike 3
}
check 'a video goes on from the frames that are kept' goes_on
passes()        # and the clips after it; what came in is as it was
{
    good -i "$tmp/in.nut" -f framemd5 "$tmp/in.md5" &&
        good -i "$tmp/in.nut" -vf "$(vace wan_i2v "$quick:frames=9:mode=extend:keep=5:clips=2")" -f framemd5 "$tmp/md5" &&
        same "$(md5s "$tmp/md5" | head -n 10)" "$(md5s "$tmp/in.md5")" &&
        same "$(md5s "$tmp/md5" | tail -n 8 | sort -u | wc -l | tr -d ' ')" 8 &&
        same "$(md5s "$tmp/md5" | wc -l | tr -d ' ')" 18
}
check 'it passes, and clips follow one another' passes
from_picture()
{
    made 5 0 mode=first:size=32x32:format=gbrp && redrawn_from 0 1 5 0 && alike 3 &&
        good -i "$tmp/in.nut" -vf "$(vace wan_i2v "$quick:clips=2:size=32x32")" -f framemd5 "$tmp/md5" &&
        same "$(md5s "$tmp/md5" | wc -l | tr -d ' ')" 9
}
check 'a clip from a picture' from_picture
longer()        # than the input: of 3 frames one is kept
{
    good -i "$tmp/in.nut" -vf "trim=end_frame=3,$(vace wan_i2v "$quick:frames=9:mode=extend:keep=5")" -f framemd5 "$tmp/md5" &&
        same "$(md5s "$tmp/md5" | wc -l | tr -d ' ')" 11
}
check 'an input shorter than what can be kept' longer

# --------------------------------------------------------------- what is wrong

# wrong NAME PATTERN OPTIONS
wrong() { refused "$1" "$2" -f lavfi -i "$(pattern d=0.5)" -vf "$(vace wan_v2v "$quick:$3")"; }
wrong 'a strength' 'strength=0.5: .*VACE checkpoint and takes none' strength=0.5
wrong 'keep that is no 4n+1' 'keep=4: must be 4n\+1' keep=4
wrong 'keep of a whole window' 'keep=5: a window has 5 frames, so 1 at most' keep=5
wrong 'a picture that is not there' 'reference=/nonexistent: cannot read an image' reference=/nonexistent
printf 'x' > "$tmp/bad.png"
wrong 'a picture that is none' 'reference=.*bad.png: cannot read an image' "reference=$(quote "$tmp/bad.png")"
wrong 'an empty list' 'reference=: cannot read an image' 'reference=|'
for o in mask=1 context_scale=0.5 keep=5 "reference=$(quote "$tmp/ref0.png")"; do
    case $o in
    mask=1) in='[0][0]' ;;
    *) in='[0]' ;;
    esac
    refused "${o%%=*} without VACE" "${o%%=*}: Wan2.1 T2V.* takes none, only a VACE checkpoint does" \
        -f lavfi -i "$(pattern d=0.5)" -filter_complex "${in}wan_v2v=model=$rest:$quick:$o"
done
refused 'keep of a whole clip' 'keep=5: a clip has 5 frames, so 1 at most' \
    -f lavfi -i "$(pattern d=0.5)" -vf "$(vace wan_i2v "$quick:mode=extend:keep=5")"
refused 'keep without VACE in wan_i2v' 'keep: Wan2.1 I2V.* takes none' \
    -f lavfi -i "$(pattern d=0.5)" -vf "wan_i2v=model=$(quote "$tiny/wan-i2v"):text_encoder=$rest:vae=$rest:tokenizer=$rest:$quick:keep=1"
late=
[ "$series" != 5.1 ] || late=5.1
refused 'a mask without a frame' 'mask: the second input has no frame' \
    -f lavfi -i "$(pattern d=0.5)" -f lavfi -i color=white:s=32x32:d=1 -filter_complex \
    "[1]trim=start=5[m];[0][m]$(vace wan_v2v "$quick:mask=1")"
late=
refused 'a mask that is not linked' 'mask|input' \
    -f lavfi -i "$(pattern d=0.5)" -vf "$(vace wan_v2v "$quick:mask=1")"
tiny_picture()
{
    good -f lavfi -i color=red:s=2x2,format=rgb24,scale=1:1 -frames:v 1 "$tmp/dot.png" &&
        good -f lavfi -i color=red:s=3000x2 -frames:v 1 "$tmp/line.png" &&
        good -f lavfi -i "$(pattern d=0.5)" -vf \
            "$(vace wan_v2v "$quick:reference=$(quote "$tmp/dot.png|$tmp/line.png")")" -f null -
}
check 'pictures of one pixel and of a line' tiny_picture

finish
