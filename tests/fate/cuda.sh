#!/bin/sh
# CUDA frames, hwframes=1: the pixels of host frames without the way through the
# host, in all formats, from both filters, into NVENC.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# Wants an ffmpeg of tools/build-ffmpeg.sh --cuda, libwan with CUDA and a card;
# what is missing is said in what is skipped. What is refused without a card is
# in badinput.sh and i2v.sh.

. "$SRC/tests/fate/common.sh"
need "$ffmpeg" "$ffprobe"

t2v=$(quote "$tiny/wan-t2v")
i2v="wan_i2v=model=$(quote "$tiny/wan-i2v"):text_encoder=$t2v:vae=$t2v:tokenizer=$t2v"

# card ARGUMENT...: run with a CUDA device, with its messages on failure
card()
{
    run -init_hw_device cuda=c -filter_hw_device c "$@" || { cat "$tmp/log"; return 1; }
}

# What is not there, or nothing.
missing()
{
    has_cuda || { echo 'this ffmpeg was built without CUDA'; return; }
    card -f lavfi -i color=s=32x32:d=0.1 -f null - > /dev/null 2>&1 ||
        { echo 'no CUDA device'; return; }
    run -f lavfi -i "$(source_of "$small:frames=1:device=cuda")" -f null - ||
        sed -n "s/.*\(device '*cuda.*\)/\1/p" "$tmp/log" | head -n 1
}
missing=$(missing)

# on_card NAME COMMAND...: a check, where there is a card
on_card()
{
    if [ -n "$missing" ]; then
        skip "$1" "$missing"
    else
        check "$@"
    fi
}

# same_pixels GRAPH FORMAT [INPUT]: hwdownload against the host's frames. A
# graph ends with the options of one of our filters.
same_pixels()
{
    card ${3+-i "$3"} -filter_complex "$1:format=${2%le}:hwframes=1,hwdownload,format=$2" \
        -fps_mode passthrough -f framemd5 "$tmp/card.md5" &&
        card ${3+-i "$3"} -filter_complex "$1:format=${2%le}" \
            -fps_mode passthrough -f framemd5 "$tmp/host.md5" || return 1
    lacks auto_scale "$tmp/log" && cmp "$tmp/card.md5" "$tmp/host.md5" &&
        grep -q '^0' "$tmp/card.md5"
}
card_source=$(source_of "prompt=a cat:steps=2:seed=7:device=cuda")
for f in nv12 p010le yuv444p yuv420p; do
    on_card "hwdownload of $f" same_pixels "$card_source:size=96x48:frames=9" $f
done
# more frames than are ever in flight: buffers of the pool come again
on_card 'hwdownload of many frames' \
    same_pixels "$card_source:size=32x32:frames=21:clips=3" nv12

picture()
{
    run -f lavfi -i testsrc2=s=48x32 -frames:v 1 "$tmp/picture.png" &&
        same_pixels "$i2v:prompt=a cat:size=48x32:steps=1:seed=7:device=cuda:frames=5:clips=2" \
            "$1" "$tmp/picture.png"
}
for f in nv12 p010le yuv444p; do
    on_card "wan_i2v, a clip from the last frame of another, $f" picture $f
done

tags()
{
    card -filter_complex "$card_source:size=32x32:frames=1:format=nv12:hwframes=1,showinfo=checksum=0,hwdownload,format=nv12" \
        -f null - && has 'fmt:cuda' "$tmp/log" && has 'color_range:tv' "$tmp/log" &&
        has 'color_space:bt709' "$tmp/log"
}
on_card 'tags of CUDA frames' tags

# nvenc ENCODER FORMAT PIX_FMT: five frames that decode, near the host's
nvenc()
{
    card -filter_complex "$card_source:size=256x256:frames=5:format=$2:hwframes=1" \
        -c:v "$1" -rc constqp -qp 10 -udu_sei 1 "$tmp/nvenc.nut" &&
        "$ffprobe" -v error -count_frames -show_entries \
            stream=nb_read_frames,width,height,color_space -of csv=p=0 \
            "$tmp/nvenc.nut" > "$tmp/probe" && has '256,256,.*bt709.*,5' "$tmp/probe" &&
        card -i "$tmp/nvenc.nut" -filter_complex \
            "$card_source:size=256x256:frames=5:format=$2[a];[0:v]format=$3[b];[a][b]psnr" \
            -f null - && psnr=$(sed -n 's/.*average:\([0-9]*\).*/\1/p' "$tmp/log") &&
        [ "${psnr:-0}" -ge 30 ] || { cat "$tmp/log"; return 1; }
}
# Not every card has encoders: an H100 has none.
for e in 'h264_nvenc nv12 nv12' 'h264_nvenc yuv420p yuv420p' 'hevc_nvenc p010 p010le'; do
    if [ -n "$missing" ] || { have decoders "${e%%_*}" &&
        run -f lavfi -i testsrc2=s=256x256 -frames:v 2 -pix_fmt "${e##* }" \
            -c:v "${e%% *}" -f null -; }; then
        # shellcheck disable=SC2086
        on_card "into ${e% *}" nvenc $e
    else
        skip "into ${e% *}" "no ${e%% *} in this ffmpeg and card, or no decoder"
    fi
done

# refused_there PATTERN ARGUMENT...: with a card, and one line that says why
refused_there()
{
    pattern=$1
    shift
    ! card "$@" > /dev/null && has "$pattern" "$tmp/log"
}
on_card 'another card than the one of the device' \
    refused_there "device '?cuda:(1|99).*(another|has cuda)" \
    -filter_complex "$(source_of "$small:device=cuda\\\\:99:hwframes=1"),hwdownload,format=yuv420p" -f null -
on_card 'frames on a device for wan_i2v' \
    refused_there 'input: cuda frames lie on a device: .*hwdownload,format=yuv420p' \
    -f lavfi -i testsrc2=s=32x32:d=1 -filter_complex \
    "format=yuv420p,hwupload,$i2v:$small" -f null -

finish
