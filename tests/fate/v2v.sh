#!/bin/sh
# The filter wan_v2v inside ffmpeg: frames against the golden video, as many as
# came in and at their times, windows without seams, colours, what it refuses.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# LONG=1: 300 frames instead of 60 through small windows.

. "$SRC/tests/fate/common.sh"
. "$SRC/tests/fate/redrawn.sh"
need "$ffmpeg" "$ffprobe" "$tools/joined" "$tools/compare"

codec=mpeg4
have encoders libx264 && codec=libx264

# v2v OPTIONS: the filter with a tiny checkpoint
v2v() { printf 'wan_v2v=model=%s:%s' "$(quote "$tiny/wan-t2v")" "$1"; }
quick='prompt=a cat:frames=5:steps=2:strength=0.5:guidance=1:seed=7'

# test pattern OPTIONS
pattern() { printf 'testsrc2=s=64x48:r=10:%s' "$1"; }

# ------------------------------------------------------- against the goldens

# golden NAME SIZE FORMAT OPTIONS
golden()
{
    mkdir -p "$tmp/$1" &&
        "$tools/compare" --arguments "pipeline-v2v-$1.safetensors" "$tmp/$1" > "$tmp/options" &&
        tensor "pipeline-v2v-$1.safetensors" in.frames_u8 > "$tmp/raw" &&
        good -f rawvideo -pix_fmt rgb24 -video_size "$2" -i "$tmp/raw" \
            -vf "format=$3,$(v2v "$4:rng=cpu:$exact:negative_promptfile=$(quote "$tmp/$1/negative")")" -f rawvideo "$tmp/clip" &&
        "$tools/compare" "pipeline-v2v-$1.safetensors" video "$tmp/clip" \
            --format "$3" --size "$2"
}
lake='prompt=a quiet lake at dawn:frames=5:steps=6:strength=0.7:guidance=5:shift=5:seed=61'
leaves='prompt=leaves fall:frames=9:steps=8:strength=0.5:guidance=4:shift=3:sampler=dpm++:seed=62'
check 'golden of unipc, rgb24' golden unipc6 64x48 rgb24 "$lake"
check 'golden of dpm++, gbrp' golden dpm8 48x32 gbrp "$leaves"
unlike() { ! golden unipc6 64x48 rgb24 "$lake:$1"; }
check 'another strength is another video' unlike strength=0.9

# ------------------------------------------------ frames in are frames out

# as_many N OPTIONS
as_many()
{
    redrawn "$(pattern d=4)" "trim=end_frame=$1" "$(v2v "$quick:$2")" || return 1
    same "$(stamps "$tmp/md5" | wc -l | tr -d ' ')" "$1" &&
        same "$(stamps "$tmp/md5")" "$(stamps "$tmp/in")" &&
        same "$(said 'window [0-9]*: seed 7,')" "$3"
}
check '1 frame' as_many 1 frames=5 1
check '4 frames in a window of 5' as_many 4 frames=5 1
check '5 frames in a window of 5' as_many 5 frames=5 1
check '6 frames in windows of 5' as_many 6 frames=5 2
check '9 frames in a window of 9' as_many 9 frames=9 1
check '13 frames in windows of 9' as_many 13 frames=9 2
check '15 frames in windows of 9' as_many 15 frames=9 3
check '3 frames in windows of 1' as_many 3 frames=1 3

# What a window is filled with is not seen, and is the last frame again.
filled()
{
    redrawn "$(pattern d=4)" 'trim=end_frame=3' "$(v2v "$quick")" &&
        md5s "$tmp/md5" > "$tmp/three" &&
        redrawn "$(pattern d=4)" 'trim=end_frame=3,tpad=stop=2:stop_mode=clone' \
            "$(v2v "$quick")" && same "$(md5s "$tmp/md5" | head -n 3)" "$(cat "$tmp/three")"
}
check 'a window is filled with the last frame' filled

variable()
{
    redrawn "$(pattern d=3)" "select='not(mod(n\\,3))+eq(mod(n\\,7)\\,1)',setpts=PTS+5/TB" \
        "$(v2v "$quick:frames=9")" || return 1
    same "$(stamps "$tmp/md5")" "$(stamps "$tmp/in")" &&
        [ "$(stamps "$tmp/md5" | cut -d' ' -f1 | awk 'NR > 1 { print $1 - last } { last = $1 }' |
            sort -u | wc -l)" -gt 1 ]
}
check 'a variable frame rate stays' variable

# packets FILE STREAM: times; of the sound the hashes too
packets()
{
    "$ffprobe" -v error -select_streams "$2" -show_entries "$3" -show_data_hash md5 \
        -of csv=p=0 "$1" | sed 's/,*$//; /^$/d'  # side data
}
with_sound()
{
    good -f lavfi -i testsrc2=s=50x38:r=25:d=0.8 -f lavfi -i sine=r=44100:d=0.8 \
        -c:v $codec -pix_fmt yuv420p -c:a aac "$tmp/film.mp4" &&
        good -i "$tmp/film.mp4" -vf "$(v2v "$quick:frames=9")" -c:v $codec -c:a copy \
            "$tmp/out.mp4" || return 1
    packets "$tmp/film.mp4" v frame=pts_time > "$tmp/want" &&
        packets "$tmp/out.mp4" v frame=pts_time > "$tmp/got" &&
        same "$(wc -l < "$tmp/want" | tr -d ' ')" 20 &&
        same "$(cat "$tmp/got")" "$(cat "$tmp/want")" &&
        same "$(packets "$tmp/out.mp4" a packet=pts_time,data_hash)" \
             "$(packets "$tmp/film.mp4" a packet=pts_time,data_hash)"
}
check 'a film with its sound' with_sound

# ----------------------------------------------------------------- windows

# The same seed in each: in windows of one frame a still picture stays still.
still()
{
    redrawn "$(pattern d=4)" 'trim=end_frame=1,loop=3:1' "$(v2v "$quick:frames=1")" &&
        same "$(md5s "$tmp/md5" | sort -u | wc -l | tr -d ' ')" 1
}
check 'the seed is the same in each window' still

# A window is what a clip of its own would be, but for the frames it shares.
alone()
{
    redrawn "$(pattern d=4)" 'trim=end_frame=14' "$(v2v "$quick:frames=9")" &&
        md5s "$tmp/md5" > "$tmp/both" &&
        redrawn "$(pattern d=4)" 'trim=end_frame=9' "$(v2v "$quick:frames=9")" &&
        same "$(md5s "$tmp/md5" | head -n 5)" "$(head -n 5 "$tmp/both")" &&
        ! same "$(md5s "$tmp/md5" | sed -n 6p)" "$(sed -n 6p "$tmp/both")" > /dev/null &&
        redrawn "$(pattern d=4)" 'trim=start_frame=5:end_frame=14' "$(v2v "$quick:frames=9")" &&
        same "$(md5s "$tmp/md5" | tail -n 5)" "$(tail -n 5 "$tmp/both")"
}
check 'windows are clips, but for what they share' alone

# And that is mixed in light, as clips by join=fade are.
mixed()
{
    : > "$tmp/cut"
    for range in 0:9 5:14 10:19 0:19; do
        good -f lavfi -i testsrc2=s=32x32:r=10:d=4 -vf \
            "trim=start_frame=${range%:*}:end_frame=${range#*:},format=gbrpf32le,$(v2v "$quick:frames=9")" \
            -f rawvideo "$tmp/part" || return 1
        [ $range = 0:19 ] || cat "$tmp/part" >> "$tmp/cut"
    done
    "$tools/joined" "$tmp/cut" "$tmp/part" 32 32 9 4
}
check 'which is mixed in linear light' mixed

long_frames=60
[ -z "${LONG-}" ] || long_frames=300
long_video()
{
    good -benchmark -f lavfi -i "testsrc2=s=32x32:r=10" -vf \
        "trim=end_frame=$1,$(v2v "$quick:frames=17"),signalstats,metadata=print:file=$(quote "$tmp/stats"):key=lavfi.signalstats.YDIF" \
        -f null - && peak "$1" &&
        same "$(grep -c '^frame:' "$tmp/stats")" "$1"
}
seamless() { long_video $long_frames && seams "$tmp/stats" 17 4; }
check "$long_frames frames without a seam" seamless
constant()
{
    long_video 20 || return 1
    echo "$(peak_of 20) and $(peak_of $long_frames) KiB"
    [ "$(peak_of $long_frames)" -lt $(($(peak_of 20) * 11 / 10 + 4096)) ]
}
check 'and in constant memory' constant

# ---------------------------------------------------------- sizes and colours

# shown INPUT_FILTERS OPTIONS WANT: size, shape, format, tags of what comes out
shown()
{
    good -f lavfi -i "$(pattern d=0.3)" -vf "$1,$(v2v "$quick:$2"),showinfo" -f null - &&
        has "$3" "$tmp/log"
}
check 'an odd size comes out as it went in' shown 'scale=50:37' label=1 's:50x37'
check 'and a shape' shown 'scale=50:38,setsar=4/3' label=1 'sar:4/3 s:50x38'
check 'a size that is asked for' shown 'setsar=4/3' size=32x32 'sar:4/3 s:32x32'
made_at()
{
    good -f lavfi -i "$(pattern d=0.1)" -vf "scale=50:37,$(v2v "$quick")" -f null - &&
        has 'T2V.*: 64x48, 5 frames' "$tmp/log"
}
check 'it is made at the next size that can be' made_at
for f in yuv420p10le yuvj420p yuv444p16le gray gbrp10le nv12 rgb24 gbrpf32le; do
    check "$f stays" shown "format=$f" label=1 "fmt:$f"
done
tags()
{
    shown "format=yuv420p10le,setparams=range=pc:colorspace=bt2020nc:color_primaries=bt2020:color_trc=bt2020-10" \
        label=1 'color_range:(pc|JPEG).* color_space:bt2020nc.* color_primaries:bt2020.* color_trc:bt2020-10'
}
check 'tags stay' tags

# alike A B: two raw films of rgb24, 64x48, at less than that
alike()
{
    good -f rawvideo -pix_fmt rgb24 -video_size 64x48 -i "$1" \
        -f rawvideo -pix_fmt rgb24 -video_size 64x48 -i "$2" -lavfi psnr -f null - || return 1
    psnr=$(sed -n 's/.*PSNR.* average:\([0-9]*\|inf\).*/\1/p' "$tmp/log")
    echo "PSNR $psnr" && { [ "$psnr" = inf ] || [ "$psnr" -ge "$3" ]; }
}
# coloured MATRIX RANGE [TAGS]: the video of the same pixels in other numbers
coloured()
{
    good -f lavfi -i "$(pattern d=0.3)" -vf "format=rgb24,scale=out_color_matrix=$1:out_range=$2:flags=accurate_rnd+full_chroma_int+full_chroma_inp,format=yuv444p10le,setparams=colorspace=${3:-$1}:range=$2,$(v2v "$quick:$exact"),scale=in_color_matrix=$1:in_range=$2:flags=accurate_rnd+full_chroma_int+full_chroma_inp,format=rgb24" \
        -f rawvideo "$tmp/$1-$2"
}
colours()
{
    good -f lavfi -i "$(pattern d=0.3)" -vf "format=rgb24,$(v2v "$quick:$exact"),format=rgb24" \
        -f rawvideo "$tmp/plain" || return 1
    for m in bt709 smpte170m; do
        for r in limited full; do
            coloured $m $r && alike "$tmp/plain" "$tmp/$m-$r" 40 || return 1
        done
    done
    coloured bt709 full smpte170m && ! alike "$tmp/plain" "$tmp/bt709-full" 40
}
check 'matrix and range are those of the input' colours

# ------------------------------------------------- labels, commands, passing

labels()
{
    good -f lavfi -i "$(pattern d=0.6)" -vf \
        "metadata=add:key=scene:value=7,sendcmd=c='0.35 wan_v2v prompt dog',$(v2v "$quick"),showinfo,metadata=print:file=$(quote "$tmp/meta")" \
        -f null - || return 1
    same "$(grep -c '^scene=7' "$tmp/meta")" 6 &&
        same "$(grep -c '^lavfi.wan.strength=0.5' "$tmp/meta")" 6 &&
        same "$(grep -c '^lavfi.wan.seed=7' "$tmp/meta")" 6 &&
        same "$(grep -c '^lavfi.wan.generated=1' "$tmp/meta")" 6 &&
        same "$(sed -n 's/^lavfi.wan.clip=//p' "$tmp/meta" | tr '\n' ,)" 1,1,1,2,2,2, &&
        [ "$(said '9ad6c2a1|User Data Unregistered')" -ge 6 ]
}
check 'labels, and what the input had' labels
command()
{
    good -f lavfi -i "$(pattern d=1)" -vf \
        "sendcmd=c='0.8 wan_v2v prompt dog',$(v2v "$quick"),metadata=print:file=$(quote "$tmp/meta")" \
        -f null - &&
        same "$(sed -n 's/^lavfi.wan.prompt=//p' "$tmp/meta" | tr '\n' ,)" \
            'a cat,a cat,a cat,dog,dog,dog,dog,dog,dog,dog,'
}
check 'a command applies to the next window' command
passing()
{
    for f in yuv420p yuva420p rgb48le; do
        redrawn "$(pattern d=0.5)" "format=$f" 'wan_v2v=model=/nonexistent:prompt=a:strength=0' &&
            same "$(md5s "$tmp/md5")" "$(md5s "$tmp/in")" &&
            same "$(stamps "$tmp/md5")" "$(stamps "$tmp/in")" || return 1
    done
}
check 'strength 0 passes the input and needs no model' passing
cut_short()
{
    good -f lavfi -i "$(pattern r=10)" -vf "$(v2v "$quick:frames=9")" -frames:v 7 -f framemd5 \
        "$tmp/md5" && same "$(stamps "$tmp/md5" | wc -l | tr -d ' ')" 7
}
check 'an output that ends early' cut_short
previews()
{
    good -f lavfi -i "$(pattern d=0.6)" -filter_complex \
        "$(v2v "$quick:steps=4:preview=1")[v][p]" -map '[v]' -f framemd5 "$tmp/md5" \
        -map '[p]' -f framemd5 "$tmp/p" &&
        same "$(stamps "$tmp/md5" | wc -l | tr -d ' ')" 6 &&
        same "$(stamps "$tmp/p" | wc -l | tr -d ' ')" 4
}
check 'a preview of each step that is made' previews

# --------------------------------------------------------------- what is wrong

# wrong NAME PATTERN OPTIONS [INPUT FILTERS,]
wrong() { refused "$1" "$2" -f lavfi -i "$(pattern d=0.3)" -vf "${4-}$(v2v "$quick:$3")"; }
wrong 'a strength beyond 1' "'strength'|strength" strength=1.5
wrong 'no number' 'strength' strength=nan
wrong 'a strength of no step' 'option strength: 0.4 of 2 steps is none; 0.5 is the smallest' strength=0.4
wrong 'a rate' "rate.*Option not found|Option 'rate' not found|No option name.*rate|'rate'" rate=25
wrong 'frames that no window has' 'frames=6: must be 4n\+1; the nearest are 5 and 9' frames=6
wrong 'more frames than any window has' 'option frames: 2147483645; .*4n\+1' frames=2147483645
wrong 'a size that no model makes' 'size=50x50: width and height must be multiples of 16' size=50x50
wrong 'too little memory' 'memory' memory=100000
wrong 'a preview of nothing' 'preview=1: with strength=0' preview=1:strength=0
late=
[ "$series" != 5.1 ] || late=5.1
wrong 'a matrix without conversion' 'matrix ycgco has no conversion' label=1 \
    'format=yuv444p,setparams=colorspace=ycgco,'
late=
refused 'an image model' "makes video from an image and a prompt: use the filter wan_i2v" \
    -f lavfi -i "$(pattern d=0.3)" -vf \
    "wan_v2v=model=$(quote "$tiny/wan-i2v"):text_encoder=$(quote "$tiny/wan-t2v"):vae=$(quote "$tiny/wan-t2v"):tokenizer=$(quote "$tiny/wan-t2v"):$quick"
refused 'no prompt' 'no prompt: set prompt or promptfile' -f lavfi -i "$(pattern d=0.3)" \
    -vf "wan_v2v=model=$(quote "$tiny/wan-t2v")"
wrong 'an input larger than any model' 'input: 8200x16; sides up to 8192 can be' label=1 \
    'scale=8200:16,'

empty()
{
    run -f lavfi -i "$(pattern d=1)" -vf "trim=start=5,$(v2v "$quick")" -f null -
    has 'the input has no frame' "$tmp/log"
}
check 'an input without a frame' empty

# Two sizes in one stream: ffmpeg makes the graph anew and drops what waits in it,
# which is said; or it does not, and all frames come, in the first size.
two_sizes()
{
    good -f lavfi -i "$(pattern d=0.7)" -pix_fmt rgb24 "$tmp/%02d.png" &&
        good -f lavfi -i testsrc2=s=32x32:r=10:d=0.3 -pix_fmt rgb24 -start_number 8 \
            "$tmp/%02d.png" || return 1
    run -f image2 -i "$tmp/%02d.png" -vf "$(v2v "$quick")" -c:v rawvideo -f null -
    has '[1-9] frames of the input are lost: the graph was taken down' "$tmp/log" &&
        good -reinit_filter 0 -f image2 -i "$tmp/%02d.png" -vf "$(v2v "$quick")" \
            -f framemd5 "$tmp/md5" &&
        same "$(stamps "$tmp/md5" | wc -l | tr -d ' ')" 10 &&
        same "$(sed -n 's/^0,.*, *\([0-9]*\), [0-9a-f]*$/\1/p' "$tmp/md5" | sort -u)" 9216
}
check 'a size that changes in mid-stream' two_sizes

# A film that breaks off: what was there is made.
broken()
{
    good -f lavfi -i "testsrc2=s=64x48:r=10:d=2" -c:v mpeg4 -g 1 -f mpegts "$tmp/whole.ts" &&
        head -c $(($(wc -c < "$tmp/whole.ts") / 2)) "$tmp/whole.ts" > "$tmp/half.ts" || return 1
    "$ffmpeg" -hide_banner -nostdin -y -i "$tmp/half.ts" -fps_mode passthrough -f framemd5 "$tmp/in" 2> "$tmp/log" &&
        "$ffmpeg" -hide_banner -nostdin -y -i "$tmp/half.ts" -vf "$(v2v "$quick:frames=9")" \
            -fps_mode passthrough -f framemd5 "$tmp/md5" 2> "$tmp/log" || { cat "$tmp/log"; return 1; }
    [ "$(stamps "$tmp/in" | wc -l)" -gt 3 ] && same "$(stamps "$tmp/md5")" "$(stamps "$tmp/in")"
}
check 'a film that breaks off' broken

# SIGTERM while frames are collected, and in a step.
gone() { ! kill -0 "$1" 2> /dev/null; }
# ended PATTERN ARGUMENT...
ended()
{
    ended_pattern=$1
    shift
    rm -f "$tmp/log"
    "$ffmpeg" -hide_banner -nostdin -y "$@" -f null - > "$tmp/out" 2> "$tmp/log" &
    pid=$!
    within $patience has "$ended_pattern" "$tmp/log" && kill -TERM $pid &&
        within $patience gone $pid || kill -KILL $pid
    wait $pid
    same $? 255 && lacks 'window 1: 81 frames' "$tmp/log"
}
check 'SIGTERM while frames are collected' ended 'tokens, needs' \
    -re -f lavfi -i "$(pattern r=10)" -vf "$(v2v "$quick:frames=4001")"
check 'SIGTERM while a window is made' ended 'window 1: seed' \
    -f lavfi -i 'testsrc2=s=832x480' -vf "$(v2v 'prompt=a:frames=81:steps=50:seed=7')"

finish
