#!/bin/sh
#
# Build ffmpeg and ffprobe with the wan filters, and zmqsend, which sends
# commands to them; the whole one has ffplay too.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# usage: build-ffmpeg.sh SOURCE BUILD PKGCONFIG [--whole] [--cuda[=auto]]
#                        [CONFIGURE OPTION...]
#
#   SOURCE     FFmpeg source tree (tools/get-ffmpeg.sh); it is not changed
#   BUILD      libwan's build folder, with lib/; gets ffmpeg-SERIES/ with the
#              patched source and the objects, and the tools in minimal/bin/,
#              to which bin/ has links while there is no whole one
#   PKGCONFIG  folder with libwan's wan.pc
#   --whole    all that FFmpeg has, and the libraries of tools/ffmpeg-libraries
#              that are there and the release takes, into bin/; without it what
#              the documented recipes use, which is built in minutes
#   --cuda     GPU frames and NVENC in the minimal one; wants FFmpeg's
#              nv-codec-headers; with =auto only where they are, of a version
#              that FFmpeg takes
#
# Further options go to FFmpeg's configure, after ours. JOBS=N: parallel jobs.
# What has not changed is not done again: changing vf_wan.c costs seconds.

set -eu

fail() { echo "build-ffmpeg: $*" >&2; exit 1; }
say()  { echo "build-ffmpeg: $*"; }

[ $# -ge 3 ] || fail "usage: build-ffmpeg.sh SOURCE BUILD PKGCONFIG" \
    "[--whole] [--cuda[=auto]] [CONFIGURE OPTION...]"

root=$(cd "$(dirname "$0")/.." && pwd)
src=$(cd "$1" 2>/dev/null && pwd)   || fail "no FFmpeg source in '$1'"
mkdir -p "$2" || exit 1
build=$(cd "$2" && pwd)
pcdir=$(cd "$3" 2>/dev/null && pwd) || fail "no folder '$3' with wan.pc"
shift 3
whole=no
[ "${1-}" != --whole ] || { whole=yes; shift; }

[ -f "$pcdir/wan.pc" ] || fail "'$pcdir' has no wan.pc: build libwan first"
[ -f "$src/configure" ] && [ -f "$src/libavfilter/allfilters.c" ] ||
    fail "'$src' is not an FFmpeg source tree"
filter=$root/libavfilter/vf_wan.c
[ -f "$filter" ] || fail "'$filter' is missing"
command -v pkg-config >/dev/null || fail "pkg-config is missing"

series=$(sed -n '1s/^\([0-9][0-9]*\.[0-9][0-9]*\).*/\1/p' "$src/RELEASE" 2>/dev/null) || :
patches=$root/patches/ffmpeg-$series
[ -n "$series" ] && [ -d "$patches" ] ||
    fail "no patches for FFmpeg '${series:-of unknown release}', only for:" \
         "$(cd "$root/patches" && echo ffmpeg-*)"

shared=$build/ffmpeg-$series
tree=$shared/source
if [ $whole = yes ]; then
    obj=$shared/whole bin=$build/bin
else
    obj=$shared bin=$build/minimal/bin
fi
mkdir -p "$obj" "$build/bin" "$bin"

# one NAME COMMAND...: run it with its output in a log, on failure show the end
one()
{
    log=$obj/$1.log
    shift
    if ! "$@" >"$log" 2>&1 </dev/null; then
        echo "build-ffmpeg: '$1' failed, the last lines of $log:" >&2
        tail -n 25 "$log" >&2
        exit 1
    fi
}

# changed STAMP TEXT: true if the stamp does not hold the text
changed() { [ "$(cat "$1.stamp" 2>/dev/null)" != "$2" ]; }
stamp()   { printf '%s\n' "$2" >"$1.stamp"; }

# ---- the patched copy of the source: made aside, then renamed

# apply NUMBER FILE WORD: the patch, if the file does not have the word of it yet
apply()
{
    grep -q "$3" "$2" || patch -p1 -N -i "$(echo "$patches/$1"-*.patch)"
}

copy_source()
{
    rm -rf "$tree.part"
    mkdir "$tree.part" || return 1
    (cd "$src" && tar -cf - --exclude=./.git --exclude=./config.h .) |
        (cd "$tree.part" && tar -xf -) || return 1
    [ -f "$tree.part/Makefile" ] || return 1
    cd "$tree.part" || return 1
    apply 0001 libavfilter/allfilters.c ff_vf_wan_v2v &&
        apply 0002 libavfilter/filters.h FF_FILTER_INTERRUPT &&
        apply 0003 libavfilter/f_zmq.c MAX_MESSAGE &&
        apply 0004 libavcodec/gifdec.c gif_has_all_blocks &&
        apply 0005 libavcodec/libx264.c ai_label &&
        apply 0006 libavcodec/pngenc.c png_xmp_size &&
        apply 0007 libavformat/movenc.c AIGC &&
        apply 0008 fftools/ffmpeg_mux.c TAG_PREFIX &&
        apply 0009 libavdevice/lavfi.c set_interrupt_callback &&
        apply 0010 fftools/ffmpeg_filter.c set_interrupt_callback &&
        apply 0011 libavfilter/f_metadata.c avio_vprintf &&
        apply 0012 libavcodec/libsvtav1.c ai_label || return 1
    cd "$shared" || return 1
    rm -rf "$tree"
    mv "$tree.part" "$tree"
}

long=no     # worth a line before make runs
want="$src $(cat "$src/RELEASE") $(cat "$patches"/*.patch | cksum)"
if changed "$shared/source" "$want" || [ ! -d "$tree" ]; then
    say "patching FFmpeg $(cat "$src/RELEASE")"
    rm -f "$shared/source.stamp" "$shared/configure.stamp" "$shared/whole/configure.stamp"
    one patch copy_source
    stamp "$shared/source" "$want"
fi

# renew FROM TO: copy if different, so that make sees only real changes
renew() { cmp -s "$1" "$2" || { cp "$1" "$2" && long=yes; }; }

for file in "$root"/libavfilter/*; do
    renew "$file" "$tree/libavfilter/${file##*/}"
done
for ref in "$root"/tests/fate/filter-wan-*; do
    [ ! -f "$ref" ] || renew "$ref" "$tree/tests/ref/fate/${ref##*/}"
done

# ---- configuration: what the documented recipes use, little else

PKG_CONFIG_PATH=$pcdir${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
export PKG_CONFIG_PATH
have() { pkg-config --exists "$1"; }

filters=null,anull,format,aformat,scale,aresample,fps,setpts,asetpts,settb,setsar,setparams
filters=$filters,sendcmd,metadata,showinfo,sidedata,select,psnr,ssim,signalstats,realtime
filters=$filters,hstack,vstack,xstack,overlay,concat,split,loop,trim,atrim,tpad,crop,pad,fade,xfade
filters=$filters,edgedetect,geq,chromakey,alphaextract,negate,lut
filters=$filters,drawbox,minterpolate,transpose,hflip,reverse,palettegen,paletteuse
filters=$filters,testsrc,testsrc2,color,nullsrc,nullsink,anullsrc,sine,volume,amix,afade
for name in wan_i2v wan_t2v wan_v2v; do     # what vf_wan.c has, and no more
    grep -q "ff_v[a-z]*_$name\>" "$filter" && filters=$filters,$name
done
encoders=mpeg4,ffv1,png,mjpeg,gif,rawvideo,wrapped_avframe,aac,flac,pcm_s16le
decoders=h264,hevc,mpeg4,ffv1,png,mjpeg,gif,webp,bmp,ppm,rawvideo,wrapped_avframe
decoders=$decoders,aac,mp3float,flac,pcm_u8,pcm_s16le,pcm_s24le,pcm_f32le
parsers=h264,hevc,mpeg4video,png,mjpeg,gif,webp,bmp,pnm,aac,mpegaudio,flac
demuxers=mov,matroska,mpegts,flv,hls,nut,rawvideo,yuv4mpegpipe,h264,hevc,gif,concat,ffmetadata
demuxers=$demuxers,image2,image2pipe,image_png_pipe,image_jpeg_pipe,image_webp_pipe
demuxers=$demuxers,image_bmp_pipe,image_ppm_pipe,wav,mp3,aac,flac
muxers=mp4,mov,matroska,mpegts,flv,avi,hls,dash,segment,stream_segment,tee,fifo,nut,rawvideo
muxers=$muxers,yuv4mpegpipe,h264,hevc,gif,image2,image2pipe,wav,flac,adts,ffmetadata
muxers=$muxers,null,crc,md5,framecrc,framemd5,framehash
bsfs=h264_mp4toannexb,hevc_mp4toannexb,h264_metadata,hevc_metadata,aac_adtstoasc
bsfs=$bsfs,extract_extradata,dump_extra,setts,trace_headers,null
protocols=file,pipe,fd,tcp,udp,unix,http,rtmp

libs=
missing=
tools="ffmpeg ffprobe"
if have x264; then
    libs="$libs --enable-gpl --enable-libx264"
    encoders=$encoders,libx264,libx264rgb
else
    missing="$missing x264"
fi
if have x265; then
    libs="$libs --enable-gpl --enable-libx265"
    encoders=$encoders,libx265
else
    missing="$missing x265"
fi
if have libzmq; then
    libs="$libs --enable-libzmq"
    filters=$filters,zmq
    tools="$tools tools/zmqsend"
else
    missing="$missing libzmq"
fi
if have 'srt >= 1.3.0'; then
    libs="$libs --enable-libsrt"
    protocols=$protocols,libsrt
else
    missing="$missing srt"
fi
# Beside the GPL, FFmpeg takes OpenSSL from 3.0 on, and then version 3 of both.
if have 'openssl >= 3.0.0'; then
    libs="$libs --enable-version3 --enable-openssl"
    protocols=$protocols,tls,https,rtmps
    ! grep -q ff_whip_muxer "$tree/libavformat/allformats.c" || muxers=$muxers,whip
else
    missing="$missing openssl-3"
fi
if have opus; then
    libs="$libs --enable-libopus"
    encoders=$encoders,libopus
else
    missing="$missing opus"
fi
if have zlib; then
    libs="$libs --enable-zlib"
else
    missing="$missing zlib"
fi
case $(uname -m) in
i?86|x86_64|amd64)
    command -v nasm >/dev/null || {
        libs="$libs --disable-x86asm"
        missing="$missing nasm"
    } ;;
esac
# does this FFmpeg take the nv-codec-headers that are there?
cuda_headers()
{
    case $series in
    5.1) have 'ffnvcodec >= 9.1.23.1' && have 'ffnvcodec < 12' ;;
    *)   have 'ffnvcodec >= 12.1.14.0' ;;
    esac
}
cuda=no
case ${1-} in
--cuda)
    shift
    cuda=yes
    have ffnvcodec || fail "--cuda wants FFmpeg's nv-codec-headers (ffnvcodec.pc)" ;;
--cuda=auto)
    shift
    cuda_headers && cuda=yes || missing="$missing nv-codec-headers" ;;
esac
if [ $cuda = yes ]; then
    libs="$libs --enable-ffnvcodec --enable-cuda --enable-nvenc"
    encoders=$encoders,h264_nvenc,hevc_nvenc
    filters=$filters,hwupload,hwdownload
fi

# $ORIGIN/../lib is the same place for the tools' folder and for that of the
# minimal one's objects, where FATE runs the tool. configure evaluates the
# backslashes, make one $, and the quotes save the other from the shell.
rpath="-Wl,-rpath,'\\\$\\\$ORIGIN/../lib'"
if [ $whole = yes ]; then
    . "$root/tools/ffmpeg-whole.sh"
    whole_libraries
    missing=
    ccache=$(command -v ccache || :)
    set -- --disable-doc --disable-debug --enable-libwan \
        --extra-ldexeflags="$rpath" --cc="${ccache:+ccache }${CC:-cc}" "$@"
    want="$libs "
else
    set -- --disable-everything --disable-autodetect --disable-doc --disable-ffplay \
        --disable-debug --enable-libwan $libs --enable-indev=lavfi \
        --enable-protocol=$protocols --enable-filter=$filters \
        --enable-encoder=$encoders --enable-decoder=$decoders \
        --enable-parser=$parsers --enable-bsf=$bsfs \
        --enable-demuxer=$demuxers --enable-muxer=$muxers \
        --extra-ldexeflags="$rpath" ${CC:+"--cc=$CC"} "$@"
    want=
fi

want="$want$* $(cat "$pcdir/wan.pc" "$tree/configure" "$tree/libavfilter/allfilters.c" | cksum)"
if changed "$obj/configure" "$want" || [ ! -f "$obj/ffbuild/config.mak" ]; then
    say "configuring${missing:+, without:$missing}"
    rm -f "$obj/configure.stamp"
    cd "$obj"
    if [ $whole = yes ]; then
        configure_whole "$@"
        left_out >left-out
        while read -r line; do say "$line"; done <left-out
    else
        one configure "$tree/configure" "$@"
        # with headers of a version it does not like, configure drops CUDA silently
        [ $cuda = no ] || grep -q 'CONFIG_H264_NVENC_ENCODER 1' config_components.h ||
            fail "--cuda: FFmpeg $series does not take nv-codec-headers" \
                 "$(pkg-config --modversion ffnvcodec), 12.1 is good for 7.1 and later"
    fi
    stamp "$obj/configure" "$want"
    long=yes
fi

# ---- the build

if [ $whole = yes ]; then
    tools="ffmpeg ffprobe"
    ! grep -q '^#define CONFIG_FFPLAY 1' "$obj/config.h" || tools="$tools ffplay"
    ! grep -q '^#define CONFIG_LIBZMQ 1' "$obj/config.h" || tools="$tools tools/zmqsend"
fi
: "${JOBS:=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)}"
unset MAKEFLAGS MFLAGS MAKELEVEL || :
cd "$obj"
[ -x ffmpeg ] && [ -x ffprobe ] && [ $long = no ] ||
    say "building, log in $obj/make.log"
# shellcheck disable=SC2086
one make make -j"$JOBS" $tools

replace() { mv -f "$1.part" "$1"; }     # a running one stays whole
for tool in $tools; do
    name=${tool##*/}
    [ ! -L "$bin/$name" ] && cmp -s "$tool" "$bin/$name" || {
        cp "$tool" "$bin/$name.part"
        replace "$bin/$name"
    }
    # While there is no whole one, bin/ has this one too.
    [ $whole = yes ] || [ -x "$shared/whole/ffmpeg" ] || {
        ln -sf "../minimal/bin/$name" "$build/bin/$name.part"
        replace "$build/bin/$name"
    }
done
if [ $whole = yes ]; then
    say "$bin/ffmpeg is up to date"
else
    ln -sfn ../lib "$build/minimal/lib"
    say "$bin/ffmpeg is up to date; what it has is what the documents use," \
        "'make ffmpeg' builds all of FFmpeg"
fi
