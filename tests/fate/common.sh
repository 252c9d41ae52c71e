# What the tests of the filter share; sourced by them.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# SRC: the repository; B: the build folder, absolute; WAN_GOLDEN: reference
# data with the tiny checkpoints; FFMPEG_SERIES: of the ffmpeg in B, such as 9.0.
# The minimal one is tested, or that of the folder FATE_BIN. $tmp is a folder of
# this test alone.

bin=${FATE_BIN:-$B/minimal/bin}
[ -x "$bin/ffmpeg" ] || bin=$B/bin
ffmpeg=$bin/ffmpeg ffprobe=$bin/ffprobe
tools=$B/tests/fate
case $WAN_GOLDEN in
/*) ;;
*) WAN_GOLDEN=$PWD/$WAN_GOLDEN ;;
esac
tiny=$WAN_GOLDEN/tiny
series=${FFMPEG_SERIES:-$(sed -n 1p "$B/ffmpeg.series" 2> /dev/null)}
count=0 failed=0
unset WAN_MODEL
export LC_ALL=C

tmp=$(mktemp -d "${TMPDIR:-/tmp}/wan-fate.XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

# need PROGRAM...: without them nothing can be tested, which is a failure
need()
{
    for program; do
        [ -x "$program" ] || { echo "Bail out! no $program"; exit 1; }
    done
}

# have encoders|filters NAME: was it built into ffmpeg?
have() { "$ffmpeg" -hide_banner "-$1" 2> /dev/null | grep -Eq "[ ,]$2[ ,]"; }

# has_cuda: does ffmpeg know CUDA devices? Whether there is one is another matter.
has_cuda() { "$ffmpeg" -hide_banner -init_hw_device list 2> /dev/null | grep -qx cuda; }

# report STATUS NAME [FILE]: one TAP line; on failure the end of the file too
report()
{
    count=$((count + 1))
    if [ "$1" -eq 0 ]; then
        echo "ok $count - $2"
    else
        failed=$((failed + 1))
        [ -z "${3-}" ] || [ ! -f "$3" ] ||
            tail -n 30 "$3" | tr '\r' '\n' | sed 's/^/# /'
        echo "not ok $count - $2"
    fi
}

# check NAME COMMAND...: passes if the command does; its output on failure
check()
{
    check_name=$1
    shift
    "$@" > "$tmp/check.log" 2>&1
    report $? "$check_name" "$tmp/check.log"
}

skip() { count=$((count + 1)); echo "ok $count - $1 # SKIP $2"; }

finish() { echo "1..$count"; [ $failed -eq 0 ]; }

# Text as the value of an option inside a filter graph: ' \ and : are special
# to the parser of options, whose result the graph's parser takes in quotes.
quote()
{
    printf %s "$1" |
        sed -e "s/[\\\\:']/\\\\&/g" -e "s/'/'\\\\''/g" -e "1s/^/'/" -e "\$s/\$/'/"
}

# What is held to exact numbers names this; what is not has the default, which
# hangs on the processor.
exact=precision=f32

# source OPTIONS [FOLDER]: the filter with a tiny checkpoint
source_of()
{
    printf 'wan_t2v=model=%s:%s' "$(quote "$tiny/${2:-wan-t2v}")" "$1"
}

# A small clip: two chunks, quick.
small="prompt=a cat:size=32x32:frames=5:steps=1:seed=7"

# run ARGUMENT...: ffmpeg, its messages in $tmp/log; a hang is a failure. What is
# waited for takes seconds on an idle machine; others may want this one too.
patience=300
run()
{
    timeout $patience "$ffmpeg" -hide_banner -nostdin -y -xerror "$@" \
        > "$tmp/out" 2> "$tmp/log"
}

# good ARGUMENT...: run, with its messages on failure
good() { run "$@" || { cat "$tmp/log"; return 1; }; }

# make SOURCE OUTPUT...: the source through -f lavfi
make_clip()
{
    clip_source=$1
    shift
    run -f lavfi -i "$clip_source" "$@" && return 0
    cat "$tmp/log"
    return 1
}

# make_film SOURCE OUTPUT...: the same in the graph of the output. In 5.1 the
# lavfi device hands on pixels alone, without tags and side data.
make_film()
{
    film_source=$1
    shift
    run -filter_complex "$film_source" "$@" && return 0
    cat "$tmp/log"
    return 1
}

# hashes SOURCE [OPTION...]: a hash a frame, without pts
hashes()
{
    clip_source=$1
    shift
    run -f lavfi -i "$clip_source" "$@" -f framemd5 "$tmp/md5" ||
        { cat "$tmp/log" >&2; return 1; }
    sed -n 's/^[0-9].*, *//p' "$tmp/md5"
}

# said PATTERN: how often the log says it. ffmpeg's threads share lines of its
# log: what one call of av_log writes stays together, but it may begin in the
# middle of another's line, without a prefix, and others may follow it there. So
# nobody counts lines of the log, or looks for what is before a message.
said() { grep -Eo -e "$1" "$tmp/log" | wc -l | tr -d ' '; }

# with_demo FOLDER COMMAND...: with FOLDER/lib/libwan.so, so that the demo
# models are those in FOLDER/share/libwan/demo
with_demo()
{
    [ -e "$1/lib" ] || {
        mkdir -p "$1/lib" && cp "$B"/lib/libwan.so.* "$1/lib" || return 1
    }
    demo_before=${LD_LIBRARY_PATH-}
    LD_LIBRARY_PATH=$1/lib${demo_before:+:$demo_before}
    export LD_LIBRARY_PATH
    shift
    "$@"
    demo_status=$?
    LD_LIBRARY_PATH=$demo_before
    [ -n "$demo_before" ] || unset LD_LIBRARY_PATH
    return $demo_status
}

# tiny_demo: both demo models, out of the tiny ones, in $tmp/demo
tiny_demo()
{
    demo=$tmp/demo/share/libwan/demo
    mkdir -p "$demo/t2v" "$demo/i2v" && ln -s "$tiny/wan-t2v"/* "$demo/t2v" &&
        ln -s "$tiny/wan-i2v"/* "$demo/i2v" || return 1
    for part in models_t5_umt5-xxl-enc-bf16.pth Wan2.1_VAE.pth google; do
        ln -s "$tiny/wan-t2v/$part" "$demo/i2v" || return 1
    done
    cp "$SRC/docs/models.md" "$tmp/demo/share/libwan"
}

# recipe NAME COMMAND...: a check, with the models of tiny_demo
recipe()
{
    recipe_name=$1
    shift
    with_demo "$tmp/demo" check "$recipe_name" "$@"
}

# exif N < JPEG: that JPEG, stored on the Nth of eight sides, as phones have it
exif()
{
    head -c 2
    printf '\377\341\0\042Exif\0\0MM\0\052\0\0\0\010\0\001\001\022\0\003\0\0\0\001\0'
    printf "\\$(printf %o $1)\\0\\0\\0\\0\\0\\0"
    cat
}

# frames FILE: how many decode
frames()
{
    "$ffprobe" -v error -count_frames -select_streams v \
        -show_entries stream=nb_read_frames -of csv=p=0 "$1" | tr -d ,
}

# within SECONDS COMMAND...: it comes true in that time
within()
{
    tries=$(($1 * 10))
    shift
    while ! "$@" > /dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { echo "not in time: $*"; return 1; }
        sleep 0.1
    done
}

# tensor GOLDEN NAME: the bytes of a tensor
tensor()
{
    tensor_file=$WAN_GOLDEN/$1
    n=$(od -An -tu8 -N8 "$tensor_file" | tr -d ' ')
    at=$(head -c $((8 + n)) "$tensor_file" | tail -c +9 |
        sed "s/.*\"$2\": *{[^}]*\"data_offsets\": *\[\([0-9]*\), *\([0-9]*\)\].*/\1 \2/")
    tail -c +$((9 + n + ${at% *})) "$tensor_file" |
        head -c $((${at#* } - ${at% *}))
}

# listening PORT: some process waits for connections; bound PORT: for datagrams
listening() { grep -qi ":$(printf %04X "$1") [0-9A-F:]* 0A " /proc/net/tcp; }
bound() { grep -qi ":$(printf %04X "$1") 00000000:0000 07 " /proc/net/udp; }

# next_ports: servers of a test listen on $port and the two after it, which nobody
# has, and which are not among those the system gives to clients
port=$((20000 + $$ % 10000))
next_ports()
{
    port=$((port + 3))
    while grep -Eqi ":($(printf '%04X|%04X|%04X' $port $((port + 1)) $((port + 2)))) " \
        /proc/net/tcp /proc/net/udp; do
        port=$((port + 3))
    done
}
next_ports

# has_nginx: with its RTMP module, $nginx_rtmp
has_nginx()
{
    nginx=$(PATH=$PATH:/usr/sbin command -v nginx) || return 1
    for nginx_rtmp in /usr/lib/nginx/modules /usr/lib64/nginx/modules; do
        nginx_rtmp=$nginx_rtmp/ngx_rtmp_module.so
        [ ! -f $nginx_rtmp ] || return 0
    done
    return 1
}

# has PATTERN FILE: is the (extended) pattern there? Shows the file if not.
has() { grep -Eq -e "$1" "$2" || { echo "no '$1' in:"; cat "$2"; return 1; }; }
lacks() { ! grep -E -e "$1" "$2"; }
same() { [ "$1" = "$2" ] && [ -n "$1" ] || { echo "'$1' is not '$2'"; return 1; }; }

# tensor GOLDEN NAME: the bytes of a tensor
tensor()
{
    tensor_file=$WAN_GOLDEN/$1
    n=$(od -An -tu8 -N8 "$tensor_file" | tr -d ' ')
    at=$(head -c $((8 + n)) "$tensor_file" | tail -c +9 |
        sed "s/.*\"$2\": *{[^}]*\"data_offsets\": *\[\([0-9]*\), *\([0-9]*\)\].*/\1 \2/")
    tail -c +$((9 + n + ${at% *})) "$tensor_file" |
        head -c $((${at#* } - ${at% *}))
}
