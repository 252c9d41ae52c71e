#!/bin/sh
# What the README tells people to do, with tiny models: pictures, sound, more
# than one source, prompts from outside, servers, chains, the demo itself.
# (mp4, HLS, MPEG-TS over UDP and sendcmd are in filter.sh.)
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
need "$ffmpeg" "$ffprobe"

codec=mpeg4
have encoders libx264 && codec=libx264
tiny_demo
t2v=wan_t2v=$small
i2v="wan_i2v=prompt=it turns:frames=5:steps=1:seed=8"

# md5s INPUT...: a hash a frame of what FFmpeg reads
md5s()
{
    good "$@" -f framemd5 "$tmp/md5" && sed -n 's/^[0-9].*, *//p' "$tmp/md5"
}

# ---------------------------------------------------------- pictures and sound

picture()
{
    good -f lavfi -i "$t2v:frames=1:format=rgb24" -frames:v 1 "$tmp/a.png" &&
        same "$(md5s -i "$tmp/a.png")" \
             "$(md5s -f lavfi -i "$t2v:frames=1:format=rgb24")"
}
pictures()
{
    good -f lavfi -i "$t2v:format=rgb24" "$tmp/a%02d.png" &&
        same "$(md5s -i "$tmp/a%02d.png")" "$(md5s -f lavfi -i "$t2v:format=rgb24")" &&
        [ -f "$tmp/a05.png" ] && [ ! -e "$tmp/a06.png" ]
}
if have encoders png; then
    recipe 'a picture' picture
    recipe 'a picture a frame' pictures
else
    skip 'a picture' 'no png encoder'
    skip 'a picture a frame' 'no png encoder'
fi

sound()
{
    good -f lavfi -i sine=frequency=440:duration=3 "$tmp/music.wav" &&
        good -f lavfi -i "$t2v" -i "$tmp/music.wav" -shortest -c:v $codec \
            "$tmp/music.mp4" &&
        same "$(frames "$tmp/music.mp4")" 5 &&
        "$ffprobe" -v error -select_streams a -show_entries \
            stream=codec_name,duration -of csv=p=0 "$tmp/music.mp4" > "$tmp/probe" &&
        awk -F, '{ print } $1 != "aac" || $2 < 0.25 || $2 > 1 { bad = 1 }
                 END { exit bad || NR != 1 }' "$tmp/probe"
}
recipe 'with sound' sound

# -------------------------------------------------------------- two sources

two="$t2v:format=rgb24[a];$t2v:seed=9:format=rgb24[b];[a][b]"
side_by_side()
{
    a=$(md5s -f lavfi -i "$t2v:format=rgb24") &&
        b=$(md5s -f lavfi -i "$t2v:seed=9:format=rgb24") && [ "$a" != "$b" ] &&
        same "$a" "$(md5s -filter_complex "${two}hstack,format=rgb24,crop=32:32:0:0")" &&
        same "$b" "$(md5s -filter_complex "${two}hstack,format=rgb24,crop=32:32:32:0")"
}
recipe 'side by side' side_by_side
in_turn()
{
    same "$(md5s -f lavfi -i "$t2v:format=rgb24" &&
            md5s -f lavfi -i "$t2v:seed=9:format=rgb24")" \
        "$(md5s -filter_complex "${two}concat")"
}
recipe 'one after the other' in_turn

# -------------------------------------------------------- prompts from outside

# zmq_server COMMAND...: does it while a stream listens for commands; what is
# answered goes to $tmp/answers, a command that fails leaves its reason.
zmq_server()
{
    at=tcp://127.0.0.1:$port
    : > "$tmp/answers"
    rm -f "$tmp/meta"
    "$ffmpeg" -hide_banner -nostdin -y -f lavfi -i \
        "$t2v:clips=0,zmq=bind_address=$(quote "$at"),metadata=print:direct=1:file=$(quote "$tmp/meta")" \
        -f null - > "$tmp/out" 2> "$tmp/log" &
    pid=$!
    within $patience listening $port && "$@"
    ok=$?
    kill -TERM $pid
    wait $pid
    same $? 255 && [ $ok = 0 ] || { cat "$tmp/answers" "$tmp/log"; return 1; }
}

# send TEXT: by zmqsend, as a printf format
send()
{
    # shellcheck disable=SC2059
    printf "$1" | timeout $patience "$B/bin/zmqsend" -b $at >> "$tmp/answers" 2>&1
}

# errors: the numbers that were answered, 'no' for all but 0
errors() { sed -n 's/^0 .*/0/p; s/^[1-9-][0-9]* .*/no/p' "$tmp/answers" | tr '\n' ,; }

# changes PROMPT: frames that are made of it come
changes()
{
    send "wan_t2v prompt '$1'" && within $patience has "^lavfi.wan.prompt=$1" "$tmp/meta"
}
prompts() { sed -n 's/^lavfi.wan.prompt=//p' "$tmp/meta" | uniq | tr '\n' ,; }

# Two commands; the filter refuses the first, and answers so. The prompt becomes
# another; a signal ends what has no end.
by_zmq()
{
    zmq_server eval "send 'wan_t2v guidance 200' && changes 'a dog'" &&
        same "$(errors)" no,0, && same "$(prompts)" 'a cat,a dog,'
}

# Every message has an answer that says what is wrong with it, and the next one
# is heard.
malformed()
{
    send '' && send '  \n' && send wan_t2v && send 'wan_t2v prompt night over a harbour' &&
        send 'nobody prompt x' && head -c 2000000 /dev/zero | tr '\0' x > "$tmp/long" &&
        timeout $patience "$B/bin/zmqsend" -b $at -i "$tmp/long" >> "$tmp/answers" 2>&1 &&
        changes 'a dog'
}
by_zmq_malformed()
{
    zmq_server malformed && same "$(errors)" no,no,no,no,no,no,0, &&
        same "$(grep -c '^No target' "$tmp/answers")" 2 &&
        has '^No command' "$tmp/answers" && has '^Text after' "$tmp/answers" &&
        has '^Message of more than 1048576 bytes' "$tmp/answers" &&
        same "$(prompts)" 'a cat,a dog,'
}

# What zmqsend can't send. ZMTP 3.0: a greeting of 64 bytes, for whose answer
# we wait, the type of our socket, an empty frame as every request has it, then
# its own frames.
# zmtp FORMAT UNTIL: of those frames; true if that was in the answer
zmtp()
{
    {
        printf '\377\0\0\0\0\0\0\0\0\177\3\0NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
        head -c 31 /dev/zero
        sleep 0.5
        printf '\4\31\5READY\13Socket-Type\0\0\0\3REQ\1\0'
        # shellcheck disable=SC2059
        printf "$1"
    } | "$tools/wire" connect $port "$2" > "$tmp/answer"
    zmtp_status=$?
    tr '\0' '\n' < "$tmp/answer" >> "$tmp/answers"
    return $zmtp_status
}
hostile()
{
    zmtp '\0\22wan_t2v\0prompt \0xx' 'Message with a NUL byte' &&
        zmtp '\1\7wan_t2v\0\10prompt x' 'Message of 2 parts' &&
        ! zmtp '\2\0\0\0\1\0\0\0\0' Message &&              # 4 GiB
        ! zmtp '\2\377\377\377\377\377\377\377\377' Message &&
        zmtp '\0\25wan_t2v guidance 200\0' 'out of range' && changes 'a dog'
}
by_zmq_hostile()
{
    zmq_server hostile && same "$(prompts)" 'a cat,a dog,'
}
if [ -x "$B/bin/zmqsend" ] && have filters zmq; then
    recipe 'prompts by zmq' by_zmq
    recipe 'malformed messages by zmq' by_zmq_malformed
    recipe 'messages that no zmqsend sends' by_zmq_hostile
else
    skip 'prompts by zmq' 'FFmpeg was built without libzmq'
    skip 'malformed messages by zmq' 'FFmpeg was built without libzmq'
    skip 'messages that no zmqsend sends' 'FFmpeg was built without libzmq'
fi

# -------------------------------------------------------------------- servers

# publish URL: nine frames, as a stream
publish()
{
    good -re -f lavfi -i "$t2v:frames=9" -c:v libx264 -preset veryfast \
        -tune zerolatency -g 8 -f flv "$1"
}

# FFmpeg itself can wait for one stream.
rtmp()
{
    url=rtmp://127.0.0.1:$((port + 1))/live/wan
    timeout $patience "$ffmpeg" -hide_banner -nostdin -y -v error -listen 1 -i $url \
        -f framecrc "$tmp/crc" 2> "$tmp/receiver" &
    receiver=$!
    within $patience listening $((port + 1)) && publish $url
    sent=$?
    wait $receiver
    cat "$tmp/receiver"
    [ $sent = 0 ] && same "$(grep -c '^0' "$tmp/crc")" 9
}

# nginx records what it gets.
rtmp_nginx()
{
    mkdir "$tmp/recorded"
    cat > "$tmp/nginx.conf" <<CONF
load_module $nginx_rtmp;
daemon off;
master_process off;
pid $tmp/nginx.pid;
events {}
rtmp {
    server {
        listen 127.0.0.1:$((port + 2));
        application live {
            live on;
            record all;
            record_path $tmp/recorded;
        }
    }
}
CONF
    "$nginx" -e "$tmp/nginx.log" -c "$tmp/nginx.conf" > "$tmp/nginx.out" 2>&1 &
    server=$!
    within $patience listening $((port + 2)) &&
        publish rtmp://127.0.0.1:$((port + 2))/live/wan &&
        within $patience test -s "$tmp/recorded/wan.flv"
    sent=$?
    kill -QUIT $server
    wait $server
    cat "$tmp/nginx.out" "$tmp/nginx.log"
    [ $sent = 0 ] && same "$(frames "$tmp/recorded/wan.flv")" 9
}
if [ $codec = libx264 ]; then
    recipe 'RTMP to a listening ffmpeg' rtmp
    if has_nginx; then
        recipe 'RTMP to nginx' rtmp_nginx
    else
        skip 'RTMP to nginx' 'no nginx with its RTMP module: tools/packages.sh tests'
    fi
else
    skip 'RTMP to a listening ffmpeg' 'no libx264'
    skip 'RTMP to nginx' 'no libx264'
fi

# --------------------------------------------------------------------- chains

# A clip goes on, and what comes of it goes on again; files without loss.
chain()
{
    good -f lavfi -i "$t2v" -c:v ffv1 "$tmp/1.mkv" &&
        good -i "$tmp/1.mkv" -vf "$i2v:mode=extend" -c:v ffv1 "$tmp/2.mkv" &&
        good -i "$tmp/2.mkv" -vf "$i2v:mode=extend" -c:v ffv1 "$tmp/3.mkv" || return 1
    for i in 1 2 3; do
        md5s -i "$tmp/$i.mkv" > "$tmp/md5.$i" || return 1
    done
    same "$(md5s -f lavfi -i "$t2v")" "$(cat "$tmp/md5.1")" &&
        same "$(cat "$tmp/md5.1")" "$(head -n 5 "$tmp/md5.2")" &&
        same "$(cat "$tmp/md5.2")" "$(head -n 9 "$tmp/md5.3")" &&
        same "$(sort -u "$tmp/md5.3" | wc -l | tr -d ' ')" 13
}
recipe 'a clip goes on, and on' chain
still()
{
    good -i "$tmp/1.mkv" -frames:v 1 "$tmp/still.png" &&
        good -i "$tmp/still.png" -vf "$i2v:size=32x32" -c:v $codec "$tmp/still.mp4" &&
        same "$(frames "$tmp/still.mp4")" 5
}
if have encoders png; then
    recipe 'a picture moves' still
else
    skip 'a picture moves' 'no png encoder'
fi

# --------------------------------------------------------------------- the demo

# in a folder of its own, with the build folder as the script wants it
demo()
{
    script=$(cd "$SRC" && pwd)/tools/demo.sh
    [ -e "$tmp/demo/bin" ] || ln -s "$B/bin" "$tmp/demo/bin"
    rm -rf "$tmp/there" && mkdir "$tmp/there" &&
        (cd "$tmp/there" && B=$tmp/demo sh "$script") \
            > "$tmp/said" 2>&1 || { cat "$tmp/said"; return 1; }
}
small_demo=size=32x32:frames=5:steps=1
demo_alone()
{
    DEMO=$small_demo demo && same "$(frames "$tmp/there/demo.mp4")" 10 &&
        same "$(grep -c '^demo:     [0-9]* s, 5 frames in .*: load .*, decode [0-9.e-]*$' "$tmp/said")" 2 &&
        has '^demo: demo.mp4, [1-9][0-9]* bytes' "$tmp/said" &&
        same "$(grep -Eoc 'this is the small demo model /.*/demo/t2v' "$tmp/said")" 1 &&
        same "$(grep -Eoc 'this is the small demo model /.*/demo/i2v' "$tmp/said")" 1
}
demo_of()
{
    MODEL=$tiny/wan-t2v DEMO=$small_demo demo &&
        same "$(frames "$tmp/there/demo.mp4")" 5 && has 'an image from the same model' "$tmp/said"
}
if [ $codec = libx264 ] && have encoders png; then
    recipe 'make demo' demo_alone
    recipe 'make demo MODEL=DIR' demo_of
else
    skip 'make demo' 'no libx264 or no png encoder'
    skip 'make demo MODEL=DIR' 'no libx264 or no png encoder'
fi

finish
