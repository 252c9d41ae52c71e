#!/bin/sh
# The commands of docs/live.md, taken from the page and run as they stand there,
# but with a tiny model, on the loopback interface, and for seconds.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
need "$ffmpeg" "$ffprobe" "$tools/wire"

page=$(cd "$SRC" && pwd)/docs/live.md
tiny_demo
work=$tmp/work          # where the commands run
url=/live/KEY           # of the page's RTMP streams
seconds=3               # of a stream that are looked at

# Whatever a test left running ends with the script; nothing runs for longer
# than $patience anyway.
started=
trap 'kill $started 2> /dev/null; wait; rm -rf "$tmp"' EXIT

# block NAME: the block of the page behind the comment with that name
block()
{
    awk -v name="<!-- test: $1 -->" '
        $0 == name { here = 1; next }
        here && /^```/ { if (inside) exit; inside = 1; next }
        inside' "$page"
}

# small BLOCK: it with a model, places and times as tests have them. Frames tell
# their prompts in the file meta.
shape=size=32x32:frames=5:steps=1:seed=7
small()
{
    block "$1" | sed -e "s/wan_t2v=/&$shape:/; s/wan_i2v=/&size=32x32:frames=5:steps=1:/" \
        -e 's/wan_t2v=[^"]*/&,metadata=print:file=meta:direct=1/' \
        -e 's/scale=832:480/scale=32:32/; s/https:/http:/' \
        -e "s,//live\.example\.com/,//127.0.0.1:$port/,g" \
        -e "s/live\.example\.com:[0-9]*/127.0.0.1:$port/; s/0\.0\.0\.0:9000/127.0.0.1:$port/" \
        -e "s/0\.0\.0\.0:9001/127.0.0.1:$((port + 1))/; s/127\.0\.0\.1\(\\\\*\):5555/127.0.0.1\1:$((port + 1))/" \
        -e 's/^ffmpeg/exec &/' > "$tmp/command"
    [ -s "$tmp/command" ] && lacks 'example' "$tmp/command"
}

# fresh: other ports, and a folder with what the page's commands name
fresh()
{
    next_ports
    rm -rf "$work" "$tmp/got.mkv" && mkdir "$work" && echo 'a cat' > "$work/prompt.txt" &&
        block timeline-file > "$work/timeline.txt" &&
        good -f lavfi -i sine=d=1 "$work/music.flac"
}

# stream BLOCK: that command, as $sender; ended: the stream is stopped. By one
# signal, where timeout would send one to the group too: the second makes ffmpeg
# leave files as they are.
stream()
{
    small "$1" || return 1
    rm -f "$tmp/log"
    (cd "$work" && PATH=$B/bin:$PATH && exec timeout --foreground $patience sh "$tmp/command") \
        < /dev/null > "$tmp/out" 2> "$tmp/log" &
    sender=$!
    started="$started $sender"
}
ended()
{
    kill -TERM $sender 2> /dev/null
    wait $sender
    [ $? -ne 124 ] || { echo 'the stream did not end'; cat "$tmp/log"; return 1; }
}

# receive INPUT...: another ffmpeg keeps what comes, at its end, in $tmp/got.mkv
receive()
{
    timeout $patience "$ffmpeg" -hide_banner -nostdin -y -v error -analyzeduration 1000000 "$@" \
        -c copy "$tmp/got.mkv" > "$tmp/receiver" 2>&1 &
    receiver=$!
    started="$started $receiver"
}

# steady N: $tmp/got.mkv is a stream of at least N frames, 16 a second, without a
# hole; FLV rounds to milliseconds
steady()
{
    "$ffprobe" -v error -select_streams v -show_entries packet=pts_time \
        -of csv=p=0 "$tmp/got.mkv" | tr -d , | sort -n > "$tmp/times"
    awk -v min="$1" 'NR > 1 && ($1 - last < 0.06 || $1 - last > 0.065) { print last, $1; bad = 1 }
        { last = $1 }
        END { print NR " frames"; exit bad || NR < min }' "$tmp/times" &&
        same "$(frames "$tmp/got.mkv")" "$(wc -l < "$tmp/times" | tr -d ' ')"
}

# got [COMMAND...]: so is what the receiver has when the stream is stopped after
# COMMAND has passed; the logs of both sides if not. shown: some seconds of it
got()
{
    "$@"
    got_status=$?
    ended || got_status=1
    wait $receiver
    [ $got_status = 0 ] && steady $((16 * seconds - 8)) ||
        { cat "$tmp/receiver" "$tmp/log"; return 1; }
}
shown() { within $patience has_shown; }
has_shown() { [ "$(grep -c '^frame:' "$work/meta")" -ge $((16 * seconds)) ]; }

# over_rtmp BLOCK COMMAND...: the stream of that block reaches a server while
# COMMAND passes
over_rtmp()
{
    fresh
    rtmp_block=$1
    shift
    receive -listen 1 -i "rtmp://127.0.0.1:$port$url"
    within $patience listening $port && stream "$rtmp_block" && got "$@"
}

# prompts: those of the frames so far
prompts() { sed -n 's/^lavfi.wan.prompt=//p' "$work/meta" | uniq; }
prompted() { prompts | grep -Fqx -e "$1"; }

# probed STREAM ENTRIES VALUE: what the receiver has
probed()
{
    same "$("$ffprobe" -v error -select_streams "$1" -show_entries "stream=$2" \
        -of csv=p=0 "$tmp/got.mkv")" "$3"
}

# ------------------------------------------------------------------------ RTMP

rtmp() { over_rtmp rtmp shown; }

# start_nginx IDLE: nginx as the page has it; what it gets it records, into a
# folder for each start, and who is silent for so long is dropped
starts=0
start_nginx()
{
    starts=$((starts + 1))
    mkdir -p "$tmp/recorded/$starts"
    {
        echo "load_module $nginx_rtmp; daemon off; master_process off;"
        echo "pid $tmp/nginx.pid; events {}"
        block rtmp-server | sed -e "s/listen 1935;/listen 127.0.0.1:$port;/" \
            -e "s/drop_idle_publisher 10s/drop_idle_publisher $1/" \
            -e "s,live on;,& record all; record_path $tmp/recorded/$starts;,"
    } > "$tmp/nginx.conf"
    timeout $((3 * patience)) "$nginx" -e "$tmp/nginx.log" -c "$tmp/nginx.conf" > "$tmp/nginx.out" 2>&1 &
    server=$!
    started="$started $server"
    within $patience listening $port || { cat "$tmp/nginx.out" "$tmp/nginx.log"; return 1; }
}
stop_nginx() { kill -QUIT $server; wait $server; }
records() { find "$tmp/recorded" -type f -size +8k | wc -l | tr -d ' '; }
has_records() { [ "$(records)" = "$1" ]; }

# A server that comes late, and goes, and comes again: the stream goes on.
fifo()
{
    fresh
    rm -rf "$tmp/recorded"
    stream fifo && within $patience has 'Connection refused' "$tmp/log" && start_nginx 10s &&
        within $patience has_records 1 && stop_nginx && start_nginx 10s && within $patience has_records 2
    fifo_status=$?
    kill -0 $sender || fifo_status=1
    ended || fifo_status=1
    stop_nginx
    [ $fifo_status = 0 ] || { cat "$tmp/log" "$tmp/nginx.log"; return 1; }
}

# A generator that stalls: a clip takes seconds, and the server drops who is silent
# for three. One session carries black, the first clip, its last frame again and
# the second clip, without a hole.
stall()
{
    fresh
    rm -rf "$tmp/recorded"
    start_nginx 3s && shape=size=128x128:frames=5:steps=1000:seed=7 stream rtmp &&
        within $patience grep -q 'clip 2: 5 frames' "$tmp/log" && sleep 1
    stall_status=$?
    kill -0 $sender || stall_status=1
    ended || stall_status=1
    stop_nginx
    has_records 1 && mv "$tmp/recorded/$starts"/* "$tmp/got.mkv" && [ $stall_status = 0 ] && steady 48 &&
        same "$(sed -n 's/^lavfi.wan.seed=//p' "$work/meta" | uniq | head -n 2 | tr '\n' ,)" 7,8, &&
        [ "$(grep -c '^lavfi.wan.repeated=1' "$work/meta")" -gt 32 ] ||
        { cat "$tmp/log" "$tmp/nginx.log"; return 1; }
}

# ------------------------------------------------------------------------- SRT

srt()
{
    fresh
    receive -i "srt://127.0.0.1:$port?mode=listener"
    within $patience bound $port && stream srt && got shown
}
srt_listener()
{
    fresh
    stream srt-listener && within $patience bound $port && receive -i "srt://127.0.0.1:$port" &&
        got shown
}

# Somebody's picture comes by SRT, and moves.
from_obs()
{
    fresh
    stream from-obs && within $patience bound $port || return 1
    run -re -f lavfi -i testsrc2=s=64x64:d=$patience -c:v libx264 -g 8 -tune zerolatency \
        -f mpegts "srt://127.0.0.1:$port" &
    obs=$!
    started="$started $obs"
    wait $sender
    same $? 0 && same "$(frames "$work/obs.mp4")" 5
    obs_status=$?
    kill $obs 2> /dev/null
    wait $obs
    return $obs_status
}

# ---------------------------------------------------------------- HTTP and UDP

hls_lines() { grep -c '^live[0-9]*.m4s' "$work/live.m3u8"; }
hls_has() { [ "$(hls_lines)" -ge "$1" ]; }
hls()
{
    fresh
    stream hls && within $patience hls_has 4
    hls_status=$?
    ended && [ $hls_status = 0 ] || { cat "$tmp/log"; return 1; }
    list=$work/live.m3u8
    has '^#EXT-X-TARGETDURATION:1$' "$list" && has '^#EXT-X-MAP:URI="init.mp4"' "$list" &&
        has '^#EXT-X-INDEPENDENT-SEGMENTS' "$list" &&
        has '^#EXT-X-PROGRAM-DATE-TIME:' "$list" && lacks 'EXT-X-PART' "$list" &&
        same "$(grep '^#EXTINF' "$list" | sed \$d | sort -u)" '#EXTINF:1.000000,' &&
        [ "$(frames "$list" | sed -n 1p)" -ge 48 ]
}

# To an nginx that takes PUT.
dash()
{
    fresh
    mkdir -p "$work/www/dash"
    cat > "$tmp/nginx.conf" <<CONF
daemon off;
master_process off;
pid $tmp/nginx.pid;
events {}
http {
    access_log off;
    client_body_temp_path $tmp/body;
    proxy_temp_path $tmp/proxy;
    fastcgi_temp_path $tmp/fastcgi;
    uwsgi_temp_path $tmp/uwsgi;
    scgi_temp_path $tmp/scgi;
    server {
        listen 127.0.0.1:$port;
        root $work/www;
        dav_methods PUT DELETE;
        dav_access user:rw;
    }
}
CONF
    timeout $((3 * patience)) "$nginx" -e "$tmp/nginx.log" -c "$tmp/nginx.conf" > "$tmp/nginx.out" 2>&1 &
    server=$!
    started="$started $server"
    mpd=$work/www/dash/live.mpd
    within $patience listening $port && stream dash &&
        within $patience test -s "$work/www/dash/chunk-stream0-00002.m4s" &&
        has 'availabilityTimeComplete="false"' "$mpd" && has '<Latency target="2000"' "$mpd" &&
        has "<UTCTiming .*http://127.0.0.1:$port/time" "$mpd" &&
        has 'availabilityTimeOffset="1.9' "$mpd" && has ' duration="2000000"' "$mpd"
    dash_status=$?
    ended && [ $dash_status = 0 ] || { cat "$tmp/log" "$tmp/nginx.log"; dash_status=1; }
    stop_nginx
    return $dash_status
}

# The offer is what a server wants to see; one that refuses it ends the stream.
whip_refused()
{
    fresh
    printf 'HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' > "$tmp/403"
    "$tools/wire" listen $port 'msid:FFmpeg video' "$tmp/403" > "$tmp/offer" &
    server=$!
    started="$started $server"
    within $patience listening $port && stream whip && wait $server && has '^POST /whip/room ' "$tmp/offer"
    whip_status=$?
    wait $sender
    whip_exit=$?
    [ $whip_exit != 0 ] && [ $whip_exit != 124 ] && [ $whip_status = 0 ] &&
        has '403' "$tmp/log" && has '^Authorization: Bearer TOKEN' "$tmp/offer" &&
        has '^Content-Type: application/sdp' "$tmp/offer" && has '^m=video' "$tmp/offer" &&
        has '^a=rtpmap:[0-9]+ H264/90000' "$tmp/offer" &&
        has 'profile-level-id=42' "$tmp/offer" && lacks '^m=audio' "$tmp/offer" ||
        { cat "$tmp/log"; return 1; }
}
whip_nobody()
{
    fresh
    stream whip || return 1
    wait $sender
    whip_exit=$?
    [ $whip_exit != 0 ] && [ $whip_exit != 124 ] && has 'Connection refused' "$tmp/log"
}

udp()
{
    fresh
    receive -i "udp://127.0.0.1:$port?timeout=10000000"
    within $patience bound $port && stream udp && got shown
}

# --------------------------------------------------------------------- prompts

timeline()
{
    over_rtmp timeline eval "within $patience prompted 'noon over a harbour' && shown" &&
        same "$(prompts | head -n 2 | tr '\n' ,)" 'a cat,noon over a harbour,'
}

change_file()
{
    within $patience prompted 'a cat' && small file-change &&
        (cd "$work" && sh "$tmp/command") &&
        within $patience prompted 'night over a harbour, lanterns on the water' && shown
}
by_file() { over_rtmp file change_file; }

send_prompt()
{
    within $patience listening $((port + 1)) && small zmq-send &&
        (PATH=$B/bin:$PATH timeout $patience sh "$tmp/command" > "$tmp/answer") &&
        same "$(cat "$tmp/answer")" '0 Success' && within $patience prompted 'night over a harbour' && shown
}
by_zmq() { over_rtmp zmq send_prompt; }

# ----------------------------------------------------------------------- sound

silence() { over_rtmp silence shown && probed a codec_name,sample_rate,channels aac,48000,2; }
music()
{
    over_rtmp music shown && probed a codec_name,channels aac,1
}
call()
{
    within $patience bound $((port + 1)) || return 1
    run -re -f lavfi -i sine=d=$patience -c:a aac -f mpegts "srt://127.0.0.1:$((port + 1))" &
    caller=$!
    started="$started $caller"
    shown
}
live_sound()
{
    over_rtmp live-sound call
    sound_status=$?
    kill $caller 2> /dev/null
    wait $caller
    [ $sound_status = 0 ] && probed a codec_name aac
}

# -------------------------------------------------------------------- watching

watch()
{
    over_rtmp watch shown && has '^lavfi.wan.late=' "$work/late.txt" &&
        has '^frame=[0-9]' "$work/progress.txt"
}

# ------------------------------------------------------------------------ runs

# Each block of the page that can be run or written to a file has a name, and
# each name is here.
names()
{
    grep -B 1 '^```[a-z]' "$page" | grep -c '^<!-- test: ' > "$tmp/named"
    same "$(cat "$tmp/named")" "$(grep -c '^```[a-z]' "$page")" || return 1
    sed -n 's/^<!-- test: \(.*\) -->$/\1/p' "$page" | sort > "$tmp/names"
    for name in $(cat "$tmp/names"); do
        grep -Eq "(block|stream|small|over_rtmp) $name\\b" "$0" || { echo "$name is not run"; return 1; }
    done
    same "$(uniq "$tmp/names" | wc -l)" "$(wc -l < "$tmp/names")"
}
check 'every command of the page is run' names

# on WHAT WHY NAME COMMAND...: the recipe, or skipped WHY if not WHAT
on()
{
    on_what=$1
    on_why=$2
    shift 2
    if $on_what; then recipe "$@"; else skip "$1" "$on_why"; fi
}
has_x264() { have encoders libx264; }
has_srt() { has_x264 && "$ffmpeg" -hide_banner -protocols 2> /dev/null | grep -q '^ *srt$'; }
has_zmq() { has_x264 && [ -x "$B/bin/zmqsend" ] && have filters zmq; }
nginx_here() { has_x264 && has_nginx; }
has_tls() { "$ffmpeg" -hide_banner -protocols 2> /dev/null | grep -q '^ *https$'; }
has_whip() { has_x264 && have muxers whip; }

on has_x264 'no libx264' 'RTMP' rtmp
no_nginx='no nginx with its RTMP module: tools/packages.sh tests'
on nginx_here "$no_nginx" 'the server goes away and comes again' fifo
on nginx_here "$no_nginx" 'a generator that stalls' stall
on has_srt 'no libsrt' 'SRT, we call' srt
on has_srt 'no libsrt' 'SRT, we listen' srt_listener
on has_srt 'no libsrt' 'from OBS' from_obs
on has_x264 'no libx264' 'HLS with short segments' hls
on nginx_here "$no_nginx" 'DASH with low delay' dash
case $series in
5.1 | 7.1) skip 'WHIP' 'this FFmpeg has none' ;;
*) on has_tls 'no OpenSSL' 'WHIP is there' has_whip ;;
esac
on has_whip 'no WHIP' 'WHIP, refused' whip_refused
on has_whip 'no WHIP' 'WHIP, nobody listens' whip_nobody
on has_x264 'no libx264' 'MPEG-TS over UDP' udp
on has_x264 'no libx264' 'a timeline of prompts' timeline
on has_x264 'no libx264' 'prompts by a file' by_file
on has_zmq 'no libzmq' 'prompts by zmq' by_zmq
on has_x264 'no libx264' 'silence' silence
on has_x264 'no libx264' 'music' music
on has_srt 'no libsrt' 'live sound' live_sound
on has_x264 'no libx264' 'watching it' watch

finish
