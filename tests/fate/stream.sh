#!/bin/sh
# Streams: what is made ahead, the clock, what is between clips, files that are
# looked at again, and machines that have no thread or the wrong time.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
need "$ffmpeg" "$tools/shim.so" "$tools/joined" "$tools/compare"

# begin ARGUMENT...: ffmpeg in the background, its messages in $tmp/log; what
# others left in the files it may write is gone
begin()
{
    rm -f "$tmp/md5" "$tmp/meta" "$tmp/log"
    "$ffmpeg" -hide_banner -nostdin -y -xerror -v verbose "$@" \
        > "$tmp/out" 2> "$tmp/log" &
    pid=$!
}

# eventually SECONDS COMMAND...: as soon as the command passes
eventually()
{
    tries=$(($1 * 10))
    shift
    while ! "$@" > /dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] && kill -0 $pid 2> /dev/null || return 1
        sleep 0.1
    done
}

# over: end what runs; it does so by itself
over()
{
    kill -INT $pid 2> /dev/null
    tries=$((10 * patience))
    while kill -0 $pid 2> /dev/null; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { kill -9 $pid; echo "it does not end"; return 1; }
        sleep 0.1
    done
    wait $pid
    :
}

# exact_times FILE of framemd5: are they 0, 1, 2, ..., and no frame longer than one?
exact_times()
{
    awk -F', *' '/^[0-9]/ { if ($2 != n || $3 != n || $4 != 1) bad = 1; n++ }
        END { if (bad || !n) { print "times of " n " frames"; exit 1 } }' "$1"
}

md5s() { sed -n 's/^[0-9].*, *//p' "$1"; }
frames_in() { grep -c '^[0-9]' "$1"; }
prompts() { sed -n 's/^lavfi.wan.prompt=//p' "$1" | uniq | tr '\n' ,; }

# --------------------------------------------------------------------- ahead

same_frames()
{
    a=$(hashes "$(source_of "$small:clips=4:ahead=0")") &&
        b=$(hashes "$(source_of "$small:clips=4:ahead=1")") &&
        c=$(hashes "$(source_of "$small:clips=4:ahead=0.01")") &&
        same "$a" "$b" && same "$a" "$c"
}
check 'ahead changes no frame' same_frames

# A consumer that stops reading: 65536 bytes of pipe and some frames in queues
# on the way are read, then the worker pauses.
begun_clips() { said 'clip [0-9]*: seed'; }
paused()
{
    mkfifo "$tmp/fifo" || return 1
    { sleep $((3 * patience)) & echo $! > "$tmp/sleeper"; wait $!; } <> "$tmp/fifo" &
    begin -f lavfi -i "$(source_of "$small:size=64x64:clips=0:ahead=1")" \
        -f rawvideo "$tmp/fifo"
    eventually $patience has 'clip 4: seed' "$tmp/log" && eventually $patience at_rest
    rested=$?
    kill "$(cat "$tmp/sleeper")"
    over
    echo "$a clips"
    [ $rested = 0 ] && [ "$a" -ge 4 ] && [ "$a" -lt 60 ]
}
at_rest()
{
    a=$(begun_clips)
    sleep 2
    [ "$a" = "$(begun_clips)" ]
}
check 'a consumer that stops reading: nothing is made' paused

# 16 + 4 frames wait, so some five clips of 5 have begun, and a command comes to
# one that has not; with ahead=0 it is the next.
command_after()
{
    echo "0 wan_t2v prompt 'a dog';" > "$tmp/commands"
    run -v verbose -filter_complex "$(source_of "$small:clips=10:ahead=$1"),realtime,sendcmd=f=$tmp/commands,metadata=print:file=$tmp/meta" \
        -f null - || { cat "$tmp/log"; return 1; }
    sed -n 's/.*prompt: applies from clip \([0-9]*\)$/\1/p' "$tmp/log" > "$tmp/from"
    from=$(cat "$tmp/from")
    same "$(prompts "$tmp/meta")" 'a cat,a dog,' &&
        same "$(grep -c '^lavfi.wan.prompt=a cat$' "$tmp/meta")" $(((from - 1) * 5)) &&
        same "$(sed -n 's/^lavfi.wan.clip=//p' "$tmp/meta" | uniq | tr '\n' ' ')" \
            '1 2 3 4 5 6 7 8 9 10 '
}
command_next() { command_after 0 && same "$from" 2; }
check 'a command meets the first clip that has not begun' command_after 1
check 'with ahead=0 that is the next one' command_next

too_far()
{
    ! run -f lavfi -i "$(source_of "$small:clips=2:memory=40M:ahead=100000")" -f null - &&
        has 'ahead=100000: [0-9]+ frames that wait take .* make ahead smaller' "$tmp/log"
}
check 'ahead that memory does not allow' too_far

# ----------------------------------------------------------------- the clock

# What repeats is the frame before, what does not are all frames that are made.
slow="prompt=a cat:size=64x64:frames=5:steps=300:seed=7:guidance=1"
by_the_clock()
{
    run -f lavfi -i "$(source_of "$slow:clips=2")" -f framemd5 "$tmp/made" &&
        run -filter_complex "$(source_of "$slow:clips=2:late=repeat"),metadata=print:file=$tmp/meta" \
            -f framemd5 "$tmp/md5" || { cat "$tmp/log"; return 1; }
    exact_times "$tmp/md5" || return 1
    # a line a frame: its hash, and 1 where it repeats
    awk '/^frame:/ { if (n++) print r; r = 0 } /repeated=1$/ { r = 1 } END { print r }' \
        "$tmp/meta" > "$tmp/repeated"
    same "$(md5s "$tmp/md5" | wc -l)" "$(wc -l < "$tmp/repeated")" || return 1
    md5s "$tmp/md5" | paste -d ' ' - "$tmp/repeated" > "$tmp/both"
    same "$(sed -n 's/ 0$//p' "$tmp/both")" "$(md5s "$tmp/made")" &&
        awk 'NR > 1 && $2 == 1 && $1 != last { print "line " NR; bad = 1 }
            { last = $1 } END { exit bad }' "$tmp/both" &&
        lacks '^lavfi.wan.late=.*[^0-9.]' "$tmp/meta" &&
        same "$(grep -c '^lavfi.wan.late=' "$tmp/meta")" "$(wc -l < "$tmp/repeated")"
}
check 'late=repeat: made frames in order, repeats between, exact times' by_the_clock
check 'the stream is not only what was made' [ "$(grep -c '1$' "$tmp/repeated")" -gt 0 ]

now() { date +%s%N | sed 's/......$//'; }
never_early()
{
    start=$(now)
    run -filter_complex "$(source_of "$small:clips=5:late=repeat:ahead=1")" -f framemd5 "$tmp/md5" ||
        { cat "$tmp/log"; return 1; }
    took=$(($(now) - start))
    n=$(frames_in "$tmp/md5")
    echo "$n frames in $took ms"
    [ "$n" -ge 25 ] && [ $took -ge $(((n - 1) * 1000 / 16)) ]
}
check 'frames leave in their own time without -re' never_early

# Stopped for three seconds, it goes on by the clock: never before its time, and
# as soon as it is let, in it.
on_time()
{
    m=$(frames_in "$tmp/md5")
    took=$(($(now) - start))
    shown=$(((m - n) * 1000 / 16))
    [ $shown -gt $((took - 700)) ]
}
stopped()
{
    begin -filter_complex "$(source_of "$small:clips=0:late=repeat")" -flush_packets 1 \
        -f framemd5 "$tmp/md5"
    eventually $patience grep -q '^0' "$tmp/md5" || { cat "$tmp/log"; over; return 1; }
    start=$(now)
    n=$(frames_in "$tmp/md5")
    sleep 1
    kill -STOP $pid
    sleep 3
    kill -CONT $pid
    eventually $patience on_time
    stopped_status=$?
    over || return 1
    echo "$((m - n)) frames, $shown ms of video in $took ms"
    [ $stopped_status = 0 ] && exact_times "$tmp/md5" && [ $shown -lt $((took + 700)) ]
}
check 'stopped and continued: on by the clock' stopped

# ---------------------------------------------------------------- the slate

# first FORMAT OPTIONS: the first frame of a stream whose model takes a while
first()
{
    run -filter_complex "$(source_of "$slow:late=repeat:format=$1$2")" -frames:v 1 \
        -f rawvideo "$tmp/frame" || { cat "$tmp/log"; return 1; }
}

# of_colour: are all pixels of an RGB24 frame this one, to 2 levels?
of_colour()
{
    od -An -v -tu1 -w3 "$1" | awk -v r="$2" -v g="$3" -v b="$4" '
        function off(x, y) { return x > y + 2 || x < y - 2 }
        off($1, r) || off($2, g) || off($3, b) { print NR ": " $0; bad = 1; exit }
        END { exit bad }'
}
"$ffmpeg" -v error -y -f lavfi -i color=c=0xc04020:s=50x50:d=1,format=gbrp -frames:v 1 "$tmp/slate.png"
"$ffmpeg" -v error -y -f lavfi -i color=c=0xc04020:s=40x10:d=1,format=gbrp -frames:v 1 "$tmp/wide.png"
black() { first rgb24 && of_colour "$tmp/frame" 0 0 0; }
slate() { first rgb24 ":slate=$(quote "$tmp/slate.png")" && of_colour "$tmp/frame" 192 64 32; }
wide()
{
    first rgb24 ":slate=$(quote "$tmp/wide.png")" || return 1
    # 64x16 in the middle of 64x64
    head -c $((64 * 3 * 22)) "$tmp/frame" > "$tmp/top" &&
        tail -c +$((64 * 3 * 26 + 1)) "$tmp/frame" | head -c $((64 * 3 * 12)) > "$tmp/middle" &&
        of_colour "$tmp/top" 0 0 0 && of_colour "$tmp/middle" 192 64 32
}
check 'black before the first frame' black
check 'a slate of another size is scaled' slate
check 'a slate of another shape keeps it' wide
# 11x64 and 57x64: black at the sides, whole vectors are wider
narrow()
{
    for w in 11 57; do
        "$ffmpeg" -v error -y -f lavfi -i color=c=0xc04020:s=${w}x64:d=1,format=gbrp \
            -frames:v 1 "$tmp/narrow.png" &&
            first rgb24 ":slate=$(quote "$tmp/narrow.png")" || return 1
        od -An -v -tu1 -w192 "$tmp/frame" | awk -v w=$w '{
            l = int((64 - w) / 2)
            for (x = 0; x < 64; x++) {
                lit = $(3 * x + 1) > 180
                if (lit != (x >= l && x < l + w)) { print NR ": " x; bad = 1 }
            } } END { exit bad }' || return 1
    done
}
check 'a narrow slate has nothing but black beside it' narrow
slate_yuv() { first yuv420p ":slate=$(quote "$tmp/slate.png")" && same "$(od -An -tu1 -N1 "$tmp/frame" | tr -d ' ')" 92; }
check 'a slate in YUV' slate_yuv
slate_on_side()
{
    flat="testsrc2=s=64x32,scale=8:4:flags=area,scale=64:32:flags=neighbor,format=yuvj444p"
    "$ffmpeg" -v error -y -f lavfi -i "$flat" -frames:v 1 -q:v 1 "$tmp/side.jpg" &&
        "$ffmpeg" -v error -y -f lavfi -i "$flat,transpose=clock" -frames:v 1 -q:v 1 "$tmp/seen.jpg" &&
        exif 6 < "$tmp/side.jpg" > "$tmp/side6.jpg" &&
        first rgb24 ":slate=$(quote "$tmp/seen.jpg")" && mv "$tmp/frame" "$tmp/seen" &&
        first rgb24 ":slate=$(quote "$tmp/side6.jpg")" && cmp "$tmp/frame" "$tmp/seen"
}
check 'a slate on its side' slate_on_side

refused()
{
    refused_pattern=$1
    shift
    ! run "$@" -f null - && [ $? -ne 124 ] && has "$refused_pattern" "$tmp/log"
}
echo 'no picture' > "$tmp/text.png"
check 'a slate that is no picture' refused 'slate=.*text.png: cannot read an image' \
    -f lavfi -i "$(source_of "$small:late=repeat:slate=$(quote "$tmp/text.png")")"
check 'a slate that is not there' refused 'slate=.*none.png: cannot read an image: No such file' \
    -f lavfi -i "$(source_of "$small:late=repeat:slate=$(quote "$tmp/none.png")")"
mkfifo "$tmp/pipe.png"
check 'a slate that is a pipe' refused 'slate=.*pipe.png: cannot read an image: a pipe' \
    -f lavfi -i "$(source_of "$small:late=repeat:slate=$(quote "$tmp/pipe.png")")"
check 'a slate that is standard input' refused 'slate=pipe:0: cannot read an image: a pipe' \
    -f lavfi -i "$(source_of "$small:late=repeat:slate=pipe\\\\:0")"
check 'a slate that is never shown' refused 'slate=.*: it is shown with late=repeat only' \
    -f lavfi -i "$(source_of "$small:slate=x.png")"

# ---------------------------------------------------------------- the joins

nine="prompt=a cat:size=32x32:frames=9:steps=1:seed=7:clips=3:format=gbrpf32"
joined()
{
    run -filter_complex "$(source_of "$nine:ahead=$2")" -f rawvideo "$tmp/cut" &&
        run -filter_complex "$(source_of "$nine:join=fade:join_frames=$1:ahead=$2")" -f rawvideo "$tmp/faded" ||
        { cat "$tmp/log"; return 1; }
    "$tools/joined" "$tmp/cut" "$tmp/faded" 32 32 9 "$1"
}
check 'join=fade mixes light: 1 frame' joined 1 0
check 'join=fade: half of each clip' joined 4 0
check 'join=fade with ahead' joined 3 1

# An unmixed frame is what it was to the bit, and so is the length in YUV.
joined_yuv()
{
    eight=$(echo "$nine" | sed 's/:format=gbrpf32//')
    run -filter_complex "$(source_of "$eight")" -f framemd5 "$tmp/cut" &&
        run -filter_complex "$(source_of "$eight:join=fade")" -f framemd5 "$tmp/faded" || return 1
    exact_times "$tmp/faded" && same "$(frames_in "$tmp/faded")" 19 &&
        same "$(md5s "$tmp/cut" | sed -n '1,5p;14p;23,27p')" \
            "$(md5s "$tmp/faded" | sed -n '1,5p;10p;15,19p')"
}
check 'join=fade leaves the other frames' joined_yuv
check 'join_frames longer than half a clip' refused 'join_frames=5: a clip of 9 frames .* 4 at most' \
    -f lavfi -i "$(source_of "$nine:join=fade:join_frames=5")"
one_a_second()
{
    run -filter_complex "$(source_of "$nine:join=fade:rate=1")" -f framemd5 "$tmp/md5" || { cat "$tmp/log"; return 1; }
    same "$(frames_in "$tmp/md5")" 25
}
check 'join_frames at one frame a second' one_a_second
check 'clips of one frame' refused "join=fade: a clip of one frame can't be mixed" \
    -f lavfi -i "$(source_of "prompt=a:frames=1:clips=2:join=fade")"
check 'join_frames=0' refused 'join_frames=0: ' -f lavfi -i "$(source_of "$nine:join=fade:join_frames=0")"

# --------------------------------------------------------------- the reloads

show()
{
    begin -filter_complex "$(source_of "promptfile=$(quote "$tmp/text"):size=32x32:frames=5:steps=1:clips=0:ahead=0:reload=1"),realtime,metadata=print:file=$tmp/meta" \
        -f null -
    eventually $patience has 'clip 1: 5 frames' "$tmp/log"
}
reloaded()
{
    printf 'a cat\n' > "$tmp/text"
    show || { cat "$tmp/log"; return 1; }
    printf 'a dog\n' > "$tmp/text.new" && mv "$tmp/text.new" "$tmp/text"
    eventually $patience has '^lavfi.wan.prompt=a dog$' "$tmp/meta"
    printf 'a \377' > "$tmp/text"       # not UTF-8
    eventually $patience has 'promptfile: invalid UTF-8 at byte 2' "$tmp/log"
    : > "$tmp/text"                     # no text is a text
    eventually $patience has '^lavfi.wan.prompt=$' "$tmp/meta"
    printf 'a bird' > "$tmp/text"
    eventually $patience has '^lavfi.wan.prompt=a bird$' "$tmp/meta"
    rm "$tmp/text"
    eventually $patience has "promptfile: cannot read" "$tmp/log"
    sleep 1
    over
    same "$(prompts "$tmp/meta")" 'a cat,a dog,,a bird,' &&
        same "$(said 'invalid UTF-8')" 1 &&
        same "$(said 'cannot read')" 1 && same "$(said 'has a new text')" 3
}
check 'reload=1: a new text, and what is none' reloaded

# Somebody writes for a second: neither half nor a pause of the stream. Who was
# kept from writing for longer than a file may rest tries again.
write_slowly()
{
    longest=0 begun=$(now) last=$begun
    for word in a dog in the wet green grass; do
        printf '%s ' $word >&3
        sleep 0.05
        this=$(now)
        [ $((this - last)) -le $longest ] || longest=$((this - last))
        last=$this
    done 3> "$tmp/text"
    [ $longest -lt 250 ] && [ $((last - begun)) -lt 1000 ]
}
half_written()
{
    for try in 1 2 3 4 5 6 7 8 9 10; do
        printf 'a cat\n' > "$tmp/text"
        show || { cat "$tmp/log"; return 1; }
        write_slowly
        slow=$?
        eventually $patience has 'grass' "$tmp/meta"
        over
        ! same "$(prompts "$tmp/meta")" 'a cat,a dog in the wet green grass ,' || return 0
        [ $slow != 0 ] || return 1
    done
    echo 'this machine lets nobody write'
    return 1
}
check 'a file that is being written' half_written
mkfifo "$tmp/pipe"
for f in promptfile prompt=a:negative_promptfile; do
    check "reload of a pipe, $f" refused "reload=1: ${f#*:}: '.*pipe' is a pipe or a device" \
        -f lavfi -i "$(source_of "$f=$(quote "$tmp/pipe"):reload=1")"
done
check 'reload without a file' refused 'reload=1: there is neither' \
    -f lavfi -i "$(source_of "$small:reload=1")"

# ------------------------------------------------------- a poorly kept machine

# Whichever thread can't be had: no end by a signal, no waiting for ever.
no_thread()
{
    for n in 1 2 3 4 5 6 7 8; do
        for way in '-f lavfi -i' -filter_complex; do
            # shellcheck disable=SC2086
            SHIM_THREAD=$n LD_PRELOAD=$tools/shim.so timeout -k 1 $patience "$ffmpeg" -hide_banner \
                -nostdin -y -xerror -v error $way "$(source_of "$small:threads=2")" \
                -f framemd5 "$tmp/md5" 2> "$tmp/log"
            status=$?
            [ $status -lt 124 ] || [ $status -gt 140 ] || {
                echo "thread $n, $way: status $status"
                cat "$tmp/log"
                return 1
            }
            ! grep -q 'cannot start a thread' "$tmp/log" || told=$((told + 1))
        done
    done
    echo "told $told times"
    [ $told -ge 2 ]
}
told=0
check 'a thread that can not be had' no_thread

# The wall clock is set back while the graph waits for a step. In 5.1 the graph
# runs in the main thread, whose clock the shim leaves alone.
clock_back()
{
    for n in 1 3 6; do
        rm -f "$tmp/log"                # until the next one has made its own
        SHIM_CLOCK=$n LD_PRELOAD=$tools/shim.so "$ffmpeg" -hide_banner -nostdin -y -v info \
            -filter_complex "$(source_of "prompt=a cat:size=256x256:frames=17:steps=1000")" \
            -f null - > "$tmp/out" 2> "$tmp/log" &
        pid=$!
        eventually $patience has 'step [0-9]+/1000' "$tmp/log"
        sleep 1
        start=$(now)
        kill -INT $pid
        wait $pid
        took=$(($(now) - start))
        left=$(tr '\r' '\n' < "$tmp/log" | sed -n 's/.*step [0-9]*\/1000, .* \([0-9]*\) s left.*/\1/p' | tail -n 1)
        echo "call $n: $took ms, and all steps would have taken $left s more"
        [ $took -lt $((left * 500)) ] &&
            has 'interrupted, 0 frames|received signal 2' "$tmp/log" || return 1
    done
}
if [ "$series" = 5.1 ]; then
    skip 'a clock that is set back: Ctrl-C works' '5.1 has one thread'
else
    check 'a clock that is set back: Ctrl-C works' clock_back
fi

finish
